"""Where a run's metrics go beside its history: TensorBoard's event files, and Weights & Biases if the manifest says so.

Both are written by the process that starts the ranks, as the ranks' events pass it.
"""

import importlib.util
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from yuan_events import Event, EventSink, InputError, Metrics, TeeSink
from yuan_manifest.schema import TrackingSection, WandbSection

TENSORBOARD_FOLDER = "tensorboard"
"""Below the run folder, and of the model that the run makes."""


def check_tracking(section: TrackingSection) -> None:
    """Checks that what is asked for is installed.

    Raises:
        InputError: if it is not.
    """
    if section.wandb is not None and importlib.util.find_spec("wandb") is None:
        raise InputError(
            "tracking.wandb: Weights & Biases is not installed here; install it with "
            "`pip install 'yuan-stack[tracking]'`, or set tracking.wandb=null"
        )


@contextmanager
def tracked(
    sink: EventSink, section: TrackingSection, *, run: Path, name: str, recipe: Mapping[str, Any]
) -> Generator[EventSink, None, None]:
    """Gives a sink that passes every event on and its metrics to what the manifest names.

    Args:
        sink: takes every event.
        section: of the manifest.
        run: the run's folder; event files lie in `tensorboard` and `wandb` in it.
        name: of the job.
        recipe: of the job, shown with the run.
    """
    sinks: list[EventSink] = [sink]
    trackers: list[_TensorBoard | _Wandb] = []
    if section.tensorboard:
        trackers.append(_TensorBoard(run / TENSORBOARD_FOLDER))
    if section.wandb is not None:
        trackers.append(_Wandb(section.wandb, run, name, recipe))
    try:
        yield TeeSink([*sinks, *trackers])
    finally:
        for tracker in trackers:
            tracker.close()


class _TensorBoard:
    """Writes scalars, one tag a metric, where `tensorboard --logdir` finds them."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter  # noqa: PLC0415 - a second, and some runs want none

        self._make: Callable[..., Any] = SummaryWriter
        self._folder = folder
        self._writer: Any = None
        self._last = -1

    def emit(self, event: Event) -> None:
        if not isinstance(event, Metrics):
            return
        if self._writer is None or event.step < self._last:
            # A run that was taken up or has gone back measures steps anew: what lies there is shown no more.
            self.close()
            self._writer = self._make(str(self._folder), purge_step=event.step)
        self._last = event.step
        for name, value in event.values.items():
            self._writer.add_scalar(name, value, event.step)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


class _Wandb:
    """Logs to a run of Weights & Biases, the same one in every attempt."""

    def __init__(self, section: WandbSection, run: Path, name: str, recipe: Mapping[str, Any]) -> None:
        import wandb  # noqa: PLC0415 - optional  # pyright: ignore[reportMissingImports]

        self._run: Any = wandb.init(
            project=section.project,
            name=section.name or name,
            id=run.name,
            resume="allow",
            mode=section.mode,
            dir=str(run),
            config=dict(recipe),
        )

    def emit(self, event: Event) -> None:
        if isinstance(event, Metrics):
            self._run.log({**event.values, "step": event.step}, step=event.step)

    def close(self) -> None:
        self._run.finish()
