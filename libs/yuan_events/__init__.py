"""The seam between work and whoever runs it: events, the sink that takes them, and errors of one line.

Work (tokenizing, training, converting) reports what it does through an `EventSink` and fails with a
`YuanError`. Who listens, a terminal, a file, or a job's worker, is not known here, nor is what an event is about.
"""

from yuan_events.errors import AttemptLost, InputError, Interrupted, WorkFailed, YuanError, one_line
from yuan_events.events import (
    Checkpoint,
    Event,
    EventSink,
    Message,
    Metrics,
    NullSink,
    Progress,
    RecordingSink,
    TeeSink,
    Text,
    event_from_json,
    event_to_json,
)

__all__ = [
    "AttemptLost",
    "Checkpoint",
    "Event",
    "EventSink",
    "InputError",
    "Interrupted",
    "Message",
    "Metrics",
    "NullSink",
    "Progress",
    "RecordingSink",
    "TeeSink",
    "Text",
    "WorkFailed",
    "YuanError",
    "event_from_json",
    "event_to_json",
    "one_line",
]
