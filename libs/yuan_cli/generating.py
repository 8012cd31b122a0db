"""`yuan generate`: in the foreground, the inference service's process loads the model and prints the text."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from yuan_jobs.processes import STOP_NOTICE, StopRequest
from yuan_stack import run_service


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
