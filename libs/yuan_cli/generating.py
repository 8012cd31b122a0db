"""`yuan generate`: the stack's inference service goes on from a prompt, or a process of our own that loads the model.

Which of the two is decided here. In the foreground the inference service's process loads the model and prints the text.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from yuan_jobs.processes import STOP_NOTICE, StopRequest
from yuan_stack import run_service


def generate(
    model: str | None, prompt: str, options: Mapping[str, object], flags: Mapping[str, bool], cluster: Path | None
) -> int:
    """Prints what a model adds to a prompt; returns the exit code.

    Args:
        model: name of a served model, a model artifact or a folder; None: what the stack serves.
        prompt: the text to go on from.
        options: values by option name; None: the default.
        flags: `stream` and `json`.
        cluster: the cluster's file.

    Raises:
        InputError: if what was given is wrong.
        RpcFailed: if the stack does not answer, or refuses.
    """
    is_folder = model is not None and model.startswith(("/", ".", "~"))
    if not is_folder and options.get("tokenizer") is None:
        # These load gRPC and OmegaConf, which a folder needs not.
        from yuan_cli.inference import generate_over_grpc, served_model, served_model_or_none  # noqa: PLC0415
        from yuan_manifest import load_cluster  # noqa: PLC0415

        stack = load_cluster(cluster).cluster
        if model is None or ":" in model:  # an adapter is one of a served model
            served = served_model(stack, model or "")
        else:
            served = served_model_or_none(stack, model)
        if served is not None:
            with served:
                return generate_over_grpc(served, prompt, options, flags)
    given = [f"--{name}" for name, is_set in flags.items() if is_set]
    return generate_in_foreground(model or "", prompt, options, given, cluster)


def generate_in_foreground(
    model: str, prompt: str, options: Mapping[str, object], flags: Sequence[str], cluster: Path | None
) -> int:
    """Runs `python -m yuan_inference generate MODEL PROMPT`; returns its exit code.

    Args:
        model: a model artifact or a folder.
        prompt: the text to go on from.
        options: values by option name; None: the service's default.
        flags: `--stream`, `--json`.
        cluster: the cluster's file.
    """
    values = [f"--{name}={value}" for name, value in options.items() if value is not None]
    place = [] if cluster is None else ["-f", str(cluster)]
    with StopRequest(STOP_NOTICE, insistent=False) as stop:
        return run_service("inference", ["generate", *values, *flags, *place, "--", model, prompt], stop)
