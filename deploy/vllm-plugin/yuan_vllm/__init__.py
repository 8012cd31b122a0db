"""Tells vLLM where the Yuan architecture is; the network is in `model.py`, which is imported when one is loaded."""


def register() -> None:
    """Adds the architecture; vLLM calls this in every one of its processes."""
    from vllm import ModelRegistry  # noqa: PLC0415 - vLLM loads plugins while it is being imported itself

    if "YuanForCausalLM" not in ModelRegistry.get_supported_archs():
        ModelRegistry.register_model("YuanForCausalLM", "yuan_vllm.model:YuanForCausalLM")
