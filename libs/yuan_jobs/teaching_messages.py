"""Teaching requests as messages of `yuan.cotraining.v1`, and back."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, cast

from yuan_events import InputError
from yuan_jobs.messages import moment_of
from yuan_jobs.teaching import NewRequest, RequestState
from yuan_rpc.cotraining.v1 import cotraining_pb2

if TYPE_CHECKING:  # a client has no database
    from collections.abc import Iterable, Mapping

    from yuan_jobs.teaching import TeachingRequest

_PREFIX = "REQUEST_STATE_"


def request_message(record: TeachingRequest) -> cotraining_pb2.TeachingRequest:
    """Returns a request as a message."""
    message = cotraining_pb2.TeachingRequest(
        id=record.id,
        state=_state_number(record.state),
        revision=record.revision,
        text=text_message(record.asked),
        filed_by=record.filed_by,
        filed_at=moment_of(record.filed),
        reviewer=record.reviewer,
        reviewed_at=moment_of(record.reviewed),
        why=record.why,
        cycle=record.cycle,
        gathered_at=moment_of(record.gathered),
        answered_at=moment_of(record.answered),
        history=[_happening(entry) for entry in record.history],
    )
    if record.answer:
        message.answer.CopyFrom(_answer(record.answer))
    return message


def text_message(asked: NewRequest) -> cotraining_pb2.Text:
    """Returns what is asked for as a message."""
    examples = [cotraining_pb2.Example(input=one.input, output=one.output) for one in asked.examples]
    return cotraining_pb2.Text(
        scenario=asked.scenario, behaviour=asked.behaviour, examples=examples, author=asked.author
    )


def plain_text(text: cotraining_pb2.Text) -> dict[str, Any]:
    """Returns what is asked for as plain values, still to be checked (`request_of_plain`)."""
    examples = [{"input": one.input, "output": one.output} for one in text.examples]
    found = {"scenario": text.scenario, "behaviour": text.behaviour, "examples": examples}
    return found | ({"author": text.author} if text.author else {})


def request_state_of(number: cotraining_pb2.RequestState) -> RequestState:
    """Returns a message's state.

    Raises:
        InputError: for one that is unspecified or unknown.
    """
    try:
        return RequestState(cotraining_pb2.RequestState.Name(number).removeprefix(_PREFIX))
    except ValueError:
        raise InputError(f"no state {number}; expected one of {', '.join(RequestState)}") from None


def request_state_numbers(states: Iterable[RequestState]) -> list[cotraining_pb2.RequestState]:
    """Returns states as messages have them."""
    return [_state_number(state) for state in states]


def _state_number(state: RequestState) -> cotraining_pb2.RequestState:
    return cast("cotraining_pb2.RequestState", cotraining_pb2.RequestState.Value(f"{_PREFIX}{state.value}"))


def _answer(answer: Mapping[str, Any]) -> cotraining_pb2.Answer:
    return cotraining_pb2.Answer(
        published=answer["published"],
        model=answer["model"],
        why=answer["why"],
        changelog=answer["changelog"],
        examples=[cotraining_pb2.Said(**said) for said in answer["examples"]],
    )


def _happening(entry: Mapping[str, Any]) -> cotraining_pb2.Happening:
    return cotraining_pb2.Happening(
        at=moment_of(datetime.fromisoformat(entry["when"])),
        who=entry["who"],
        what=entry["what"],
        revision=entry["revision"],
        why=entry.get("why", ""),
    )
