"""Shows events to a person: bars and lines on a terminal, plain lines in a file or a pipe.

It never breaks the work: once nobody reads any more, it is silent. What the events are about is not known here.
"""

import math
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TextIO, cast

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.text import Text as Styled

from yuan_events import Checkpoint, Event, Message, Metrics, Progress, Text, event_to_json
from yuan_events.printing import duration, without_controls
from yuan_jobs.failures import silence

SECONDS_BETWEEN_LINES = 10.0
"""How often a task's progress (where there are no bars) and a run's metrics become a line."""

_STYLES = {"info": "", "warning": "yellow", "error": "bold red"}


class _Lasting:
    """A stream that takes what is written when nobody reads any more (and drops it), also from rich's thread."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Writes, or drops."""
        try:
            return self._stream.write(text)
        except (OSError, ValueError):  # ValueError is what a closed file raises
            silence(self._stream)
            return len(text)

    def flush(self) -> None:
        """Flushes, or does nothing."""
        try:
            self._stream.flush()
        except (OSError, ValueError):
            silence(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class TerminalSink:
    """An event sink for a terminal, a pipe or a file. A context manager, which takes the bars down at its end."""

    def __init__(self, stream: TextIO, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Args: stream: where to write, stdout. clock: seconds; decides only how often a line is written."""
        self._stream = cast("TextIO", _Lasting(stream))
        self._clock = clock
        self._console = Console(file=self._stream, highlight=False, markup=False, emoji=False, soft_wrap=True)
        self._is_terminal = self._console.is_terminal and not self._console.is_dumb_terminal
        self._bars: Bars | None = None
        self._tasks: dict[str, TaskID] = {}
        self._progress_shown: dict[str, float] = {}
        self._progress_ended: set[str] = set()
        self._unshown: Metrics | None = None
        self._detail = ""
        self._metrics_shown = -math.inf
        self._in_text = False

    def emit(self, event: Event) -> None:
        """Shows an event."""
        match event:
            case Progress():
                self._show_progress(event)
            case Metrics():
                self._show_metrics(event)
            case Message():
                self._show_last_metrics()
                self._line(event.text, _STYLES[event.level], event.level)
            case Checkpoint():
                self._line(f"checkpoint after step {event.step}: {event.path}", "dim")
            case Text():
                self._show_text(event)

    def close(self) -> None:
        """Takes the bars down and shows the last metrics, if they were not shown; what comes after is shown below."""
        self._show_last_metrics()
        self._end_text()
        self._take_bars_down()
        self._stream.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- one kind of event each -----------------------------------------------------------------------------------

    def _show_progress(self, event: Progress) -> None:
        if self._is_terminal:
            self._show_bar(event)
            return
        now = self._clock()
        is_over = event.total is not None and event.done >= event.total
        if is_over:
            # A task may say several times that it is over; when it starts again it may say so again.
            if event.task in self._progress_ended:
                return
            self._progress_ended.add(event.task)
        else:
            self._progress_ended.discard(event.task)
            if now - self._progress_shown.setdefault(event.task, now) < SECONDS_BETWEEN_LINES:
                return
        self._progress_shown[event.task] = now
        self._line(_progress_line(event))

    def _show_bar(self, event: Progress) -> None:
        self._end_text()
        if self._bars is None:
            self._bars = Bars(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TextColumn("{task.fields[amount]}", markup=False),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[detail]}", style="dim", markup=False),
                console=self._console,
                refresh_per_second=5,
            )
            self._tasks = {}
            self._bars.start()
        amount, detail = _amount(event), without_controls(event.detail or self._detail)
        if event.task not in self._tasks:
            self._tasks[event.task] = self._bars.add_task(
                without_controls(event.task), total=event.total, amount=amount, detail=detail
            )
        self._bars.update(
            self._tasks[event.task], completed=event.done, total=event.total, amount=amount, detail=detail
        )

    def _show_metrics(self, event: Metrics) -> None:
        self._unshown = event
        self._detail = _metrics_line(event, with_step=False)
        now = self._clock()
        if now - self._metrics_shown >= SECONDS_BETWEEN_LINES:
            self._metrics_shown = now
            self._unshown = None
            self._line(_metrics_line(event))

    def _show_last_metrics(self) -> None:
        if self._unshown is not None:
            self._line(_metrics_line(self._unshown))
            self._unshown = None

    def _show_text(self, event: Text) -> None:
        self._take_bars_down()
        text = without_controls(event.text) if self._is_terminal else event.text
        match event.kind:
            case "prompt":
                self._end_text()
                self._console.print(Styled(text, style="bold"), end="")
                self._in_text = True
            case "text":
                self._stream.write(text)
                self._in_text = True
            case "end":
                self._end_text()
                self._console.print(Styled(f"[{text}]", style="dim"))
        self._stream.flush()

    # --- lines ----------------------------------------------------------------------------------------------------

    def _line(self, text: str, style: str = "", level: str = "info") -> None:
        self._end_text()
        folded = without_controls(" ".join(text.split("\n")))
        prefix = "" if level == "info" else f"{level}: "
        self._console.print(Styled(prefix + folded, style=style if self._is_terminal else ""))
        self._stream.flush()

    def _end_text(self) -> None:
        if self._in_text:
            self._stream.write("\n")
            self._in_text = False

    def _take_bars_down(self) -> None:
        if self._bars is not None:
            bars, self._bars = self._bars, None
            bars.stop()


class JsonLinesSink:
    """An event sink for programs: one line of JSON an event. Like the terminal's, it never breaks the work."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = _Lasting(stream)

    def emit(self, event: Event) -> None:
        """Writes an event."""
        self._stream.write(event_to_json(event) + "\n")
        self._stream.flush()

    def close(self) -> None:
        """Does nothing: every line is whole."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


def _amount(event: Progress) -> str:
    size = event.done if event.total is None else event.total
    # Parts of a small whole (0.01/0.04 MB) would all be 0.
    digits = 0 if size >= 100 or size == int(size) else 1 if size >= 1 else 2
    done = f"{event.done:,.{digits}f}"
    unit = f" {event.unit}" if event.unit else ""
    return f"{done}{unit}" if event.total is None else f"{done}/{event.total:,.{digits}f}{unit}"


def _progress_line(event: Progress) -> str:
    share = f" ({event.done / event.total:.0%})" if event.total else ""
    detail = f", {event.detail}" if event.detail else ""
    return f"{event.task}: {_amount(event)}{share}{detail}"


def _metrics_line(event: Metrics, *, with_step: bool = True) -> str:
    parts = [f"step {event.step}"] if with_step else []
    parts += [_metric(name, value) for name, value in event.values.items()]
    return "  ".join(parts)


def _metric(name: str, value: float) -> str:
    """Returns `loss 5.312`, `learning rate 9.8e-04`, `12,345 tokens/s`, `MFU 41.2%`, `memory 1.20 GiB`."""
    words = name.replace("_", " ")
    if name == "mfu":
        return f"MFU {value:.1%}"
    if name == "seconds_left":
        return f"{duration(value)} left"
    if words.endswith(" gib"):
        return f"{words.removesuffix(' gib')} {value:.2f} GiB"
    if words.endswith(" per second"):
        return f"{_number(value)} {words.removesuffix(' per second')}/s"
    return f"{words} {_number(value)}"


def _number(value: float) -> str:
    size = abs(value)
    if not math.isfinite(value) or (value == int(value) and size < 1e4):
        return f"{value:g}"
    if size >= 1e3:
        return f"{value:,.0f}"
    return f"{value:.3f}" if size >= 1e-2 else f"{value:.1e}"
