"""LoRA adapters by name: each request has the tokens of its own merged model, whatever shares its step."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tests.yuan_inference.engines import Asked

from yuan_events import InputError
from yuan_inference.engine import Engine, EngineOptions, UnknownAdapter
from yuan_inference.loaded import LoadedModel
from yuan_model import NativeUnavailable, native_library

TARGETS = ["self_attn.qk_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.gate_proj", "mlp.down_proj"]


@pytest.fixture(autouse=True)
def _native() -> None:
    try:
        native_library()
    except NativeUnavailable as error:
        pytest.skip(str(error))


def make_adapter(folder: Path, loaded: LoadedModel, targets: list[str], seed: int) -> LoadedModel:
    """Writes an adapter and returns the model with it merged in."""
    generator = torch.Generator().manual_seed(seed)
    merged = copy.deepcopy(loaded.model)
    tensors: dict[str, torch.Tensor] = {}
    for number in range(len(merged.layers)):
        for target in targets:
            name = f"model.layers.{number}.{target}"
            weight = merged.get_submodule(name).weight
            a = torch.randn(3, weight.shape[1], generator=generator) * 0.3
            b = torch.randn(weight.shape[0], 3, generator=generator) * 0.3
            tensors |= {f"{name}.lora_a": a, f"{name}.lora_b": b}
            with torch.no_grad():
                weight += 2.0 * b @ a
    folder.mkdir()
    save_file(tensors, folder / "adapter.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"method": "lora", "rank": 3, "alpha": 6.0}))
    return LoadedModel(merged, loaded.tokenizer)


def test_requests_for_several_adapters_share_steps_and_have_their_merged_models_tokens(
    loaded: LoadedModel, tmp_path: Path
) -> None:
    models = {"": loaded}
    models["all"] = make_adapter(tmp_path / "all", loaded, TARGETS, 1)
    models["up"] = make_adapter(tmp_path / "up", loaded, ["mlp.up_proj"], 2)
    expected = {}
    prompt = list(range(20, 45))
    for name, model in models.items():
        with Engine("merged", model) as engine:
            expected[name] = Asked(engine, prompt, max_tokens=20, ignore_eos=True).tokens
    assert len({tuple(tokens) for tokens in expected.values()}) == 3
    with Engine("tiny", loaded, EngineOptions(max_batch=6)) as engine:
        engine.set_adapters({"all": tmp_path / "all"})
        engine.set_adapters({"all": tmp_path / "all", "up": tmp_path / "up"})
        assert engine.adapters == ("all", "up")
        for _ in range(2):  # the second time from the prefix cache, which keeps them apart
            asked = {name: Asked(engine, prompt, max_tokens=20, ignore_eos=True, adapter=name) for name in models}
            assert {name: one.tokens for name, one in asked.items()} == expected
        engine.set_adapters({"all": tmp_path / "all", "up": tmp_path / "all"})
        assert Asked(engine, prompt, max_tokens=20, ignore_eos=True, adapter="up").tokens == expected["all"]
        engine.set_adapters({"all": tmp_path / "all"})
        assert engine.adapters == ("all",)
        with pytest.raises(UnknownAdapter):
            Asked(engine, prompt, adapter="up")
        assert Asked(engine, prompt, max_tokens=20, ignore_eos=True, adapter="all").tokens == expected["all"]


def test_who_asks_while_an_adapter_is_replaced_has_the_new_one(
    loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_adapter(tmp_path / "old", loaded, TARGETS, 1)
    merged = make_adapter(tmp_path / "new", loaded, TARGETS, 2)
    prompt = list(range(20, 45))
    with Engine("merged", merged) as engine:
        expected = Asked(engine, prompt, max_tokens=20, ignore_eos=True).tokens
    with Engine("tiny", loaded) as engine:
        engine.set_adapters({"it": tmp_path / "old"})
        begin = engine._first_sequence

        def interrupted(*arguments: Any) -> Any:
            first = begin(*arguments)
            engine.set_adapters({"it": tmp_path / "new"})
            return first

        monkeypatch.setattr(engine, "_first_sequence", interrupted)
        assert Asked(engine, prompt, max_tokens=20, ignore_eos=True, adapter="it").tokens == expected


def test_what_is_no_adapter_of_the_model_is_refused(loaded: LoadedModel, tmp_path: Path) -> None:
    make_adapter(tmp_path / "good", loaded, ["mlp.up_proj"], 2)
    with Engine("tiny", loaded) as engine:
        with pytest.raises(InputError, match="holds no LoRA adapter"):
            engine.set_adapters({"none": tmp_path})
        save_file({"model.layers.9.mlp.up_proj.lora_a": torch.ones(3, 32)}, tmp_path / "good" / "adapter.safetensors")
        with pytest.raises(InputError, match="belongs to no matrix of this model"):
            engine.set_adapters({"other": tmp_path / "good"})
        save_file({"model.layers.0.mlp.up_proj.lora_a": torch.ones(3, 31)}, tmp_path / "good" / "adapter.safetensors")
        with pytest.raises(InputError, match=r"expected lora_b \[48, r\] and lora_a \[r, 32\]"):
            engine.set_adapters({"other": tmp_path / "good"})
        assert engine.adapters == ()
