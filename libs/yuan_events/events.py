"""Events of running work, as frozen values with one JSON form, and the sinks that take them.

An event says what happened, never how it is to be shown; it carries no clock, since whoever stores it stamps it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol


@dataclass(frozen=True)
class Progress:
    """How far a task of known or unknown length has come.

    Attributes:
        task: what is done, in the user's words; one bar a task.
        done: units finished so far (not the increment).
        total: units in all, or None where that is not known yet.
        unit: the unit's plural name, `documents` or `steps`.
        detail: a few words that stand beside the bar (`loss 5.31`).
    """

    task: str
    done: float
    total: float | None = None
    unit: str = ""
    detail: str = ""
    type: Literal["progress"] = "progress"


@dataclass(frozen=True)
class Metrics:
    """Numbers measured at one training step (or another counter), by name.

    Attributes:
        step: the step that the numbers belong to; the first step is 1.
        values: names are snake_case with their unit (`tokens_per_second`, `learning_rate`, `loss`).
    """

    step: int
    values: Mapping[str, float]
    type: Literal["metrics"] = "metrics"


@dataclass(frozen=True)
class Message:
    """One line for the user's eyes."""

    text: str
    level: Literal["info", "warning", "error"] = "info"
    type: Literal["message"] = "message"


@dataclass(frozen=True)
class Checkpoint:
    """A training state was written whole and can be resumed from.

    Attributes:
        step: the number of steps that it contains.
        path: its folder.
    """

    step: int
    path: str
    type: Literal["checkpoint"] = "checkpoint"


@dataclass(frozen=True)
class Text:
    """A piece of generated text, as soon as it is known.

    Attributes:
        stream: which text it belongs to (the prompt's number from 0).
        text: the piece; joined in order the pieces are the whole.
        kind: `prompt` opens a stream, `text` continues it, `end` closes it (its text is the finish reason).
    """

    stream: int
    text: str
    kind: Literal["prompt", "text", "end"] = "text"
    type: Literal["text"] = "text"


Event = Progress | Metrics | Message | Checkpoint | Text

_CLASSES: dict[str, type[Event]] = {
    "progress": Progress,
    "metrics": Metrics,
    "message": Message,
    "checkpoint": Checkpoint,
    "text": Text,
}


def event_to_json(event: Event) -> str:
    """Returns the event as one line of JSON, without the line end."""
    return json.dumps(asdict(event), ensure_ascii=False)


def event_from_json(line: str) -> Event:
    """Reads what `event_to_json` wrote.

    Raises:
        ValueError: if the line is not JSON or not an event.
    """
    data: Any = json.loads(line)
    try:
        return _CLASSES[data["type"]](**data)
    except (KeyError, TypeError) as error:
        raise ValueError(f"not an event: {line[:200]}") from error


class EventSink(Protocol):
    """Takes the events of running work, from one thread at a time."""

    def emit(self, event: Event) -> None:
        """Takes one event; must not raise for an event that it has no use for."""
        ...


class NullSink:
    """Forgets every event."""

    def emit(self, event: Event) -> None:
        """Does nothing."""


@dataclass
class RecordingSink:
    """Keeps every event in order, for tests and for callers that look afterwards."""

    events: list[Event] = field(default_factory=list[Event])

    def emit(self, event: Event) -> None:
        """Appends the event."""
        self.events.append(event)


@dataclass(frozen=True)
class TeeSink:
    """Gives every event to several sinks, in order."""

    sinks: Sequence[EventSink]

    def emit(self, event: Event) -> None:
        """Passes the event on."""
        for sink in self.sinks:
            sink.emit(event)
