"""What people ask a model to learn: a teaching request, its states, and what is wrong with one.

A request says in which scenario a model should do what, and shows it with a few inputs and outputs. Nothing here knows
where requests are kept (`teaching_registry.py`), or how a cycle of training takes them up (`cycles.py`).
"""

import difflib
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from yuan_events import InputError
from yuan_jobs.identity import canonical_json, digest_of
from yuan_manifest.values import KeyPath, format_path, is_list, is_section, shown

LONGEST = {"scenario": 2000, "behaviour": 4000, "author": 100}
"""Characters that a request's own texts may have."""

LONGEST_SIDE = 8000
"""Characters of an example's input, and of its output."""

LONGEST_WHY = 1000
FEWEST_EXAMPLES, MOST_EXAMPLES = 2, 200
"""One example at least is learned, and one at least is kept to ask the model that has learned."""

_FIELDS = ("scenario", "behaviour", "examples", "author")
_SIDES = ("input", "output")
_PLAIN = (str, int, float, bool, type(None))

# What has a meaning of its own in the text that models are fine-tuned on: see `yuan_corpus.special_tokens` for the
# first ones, and how `yuan_corpus.documents` reads a line of text for the others.
_MARKS = re.compile(
    r"<(?:sep|pad|eod|mask|predict|FIM_SUFFIX|FIM_PREFIX|FIM_MIDDLE|commit_before|commit_msg|commit_after"
    r"|jupyter_start|jupyter_text|jupyter_code|jupyter_output|empty_output|n)>|\[SEP\]|\u2583"
)
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


class RequestState(StrEnum):
    """Where a request stands: `FILED -> ACCEPTED | REJECTED -> IN_CYCLE -> ANSWERED`; editing makes it FILED again."""

    FILED = "FILED"
    ACCEPTED = "ACCEPTED"
    REJECTED = "REJECTED"
    IN_CYCLE = "IN_CYCLE"
    ANSWERED = "ANSWERED"


EDITABLE = (RequestState.FILED, RequestState.ACCEPTED, RequestState.REJECTED)
"""States in which a request may be edited and reviewed."""

OPEN = (RequestState.FILED, RequestState.ACCEPTED, RequestState.IN_CYCLE)
"""States of requests beside which the same one is not filed again."""


class BadRequest(InputError):
    """A request is not as it must be.

    Attributes:
        path: of the field that is wrong.
        problem: with it, and the mend.
    """

    def __init__(self, path: KeyPath, problem: str) -> None:
        super().__init__(f"request: {format_path(path)}: {problem}" if path else f"request: {problem}")
        self.path = path
        self.problem = problem


@dataclass(frozen=True)
class Example:
    """What a model is given, and what it should write."""

    input: str
    output: str


@dataclass(frozen=True)
class NewRequest:
    """What somebody asks for.

    Attributes:
        scenario: where and when.
        behaviour: what the model should do there.
        examples: inputs with the outputs that are wanted.
        author: who asks.
    """

    scenario: str
    behaviour: str
    examples: tuple[Example, ...]
    author: str

    @property
    def digest(self) -> str:
        """The sha256 (hex) of what is asked for, whoever asks: two equal ones are one request."""
        return digest_of({**self.plain(), "author": ""})

    def plain(self) -> dict[str, Any]:
        """Returns it as JSON's types."""
        examples = [{"input": one.input, "output": one.output} for one in self.examples]
        return {
            "scenario": self.scenario,
            "behaviour": self.behaviour,
            "examples": examples,
            "author": self.author,
        }


@dataclass(frozen=True)
class TeachingRequest:
    """A request as the registry has it; moments are in UTC.

    Attributes:
        id: of the request.
        state: where it stands.
        revision: counts its texts from 1; every edit makes another.
        asked: what is asked for.
        filed_by: who filed it: a caller's name, or what the owner of the stack's token said.
        filed: when.
        reviewer: who accepted or rejected this revision, when (`reviewed`) and why (`why`); empty: nobody yet.
        cycle: id of the job that gathered it; empty: none yet.
        gathered: when.
        answer: what became of it (`cycles.Answer.plain`); empty: nothing yet.
        answered: when.
        history: all that has happened to it, oldest first: `{when, who, what, revision, why}`.
    """

    id: str
    state: RequestState
    revision: int
    asked: NewRequest
    filed_by: str
    filed: datetime
    reviewer: str
    reviewed: datetime | None
    why: str
    cycle: str
    gathered: datetime | None
    answer: Mapping[str, Any]
    answered: datetime | None
    history: tuple[Mapping[str, Any], ...]


def request_of_plain(tree: Any, *, author: str = "") -> NewRequest:
    """Reads a request from plain values, as YAML or a message has them.

    Args:
        tree: `{scenario, behaviour, examples: [{input, output}, …], author}`.
        author: who asks, where the request does not say.

    Raises:
        BadRequest: at the first thing that is wrong with it.
    """
    if not is_section(tree):
        raise BadRequest((), f"expected {', '.join(_FIELDS)}, found {shown(tree)}")
    _check_keys(tree, _FIELDS, ())
    texts = {"author": author.strip()} | {
        name: _text(tree, name) for name in _FIELDS if name != "examples" and name in tree
    }
    for name, longest in LONGEST.items():
        text = texts.get(name, "")
        if not text:
            problem = "missing" if tree.get(name) is None else "is empty text"
            raise BadRequest((name,), f"{problem}; {_MEANING[name]}")
        if len(text) > longest:
            raise BadRequest((name,), f"is {len(text)} characters long; expected {longest} at most")
    author = " ".join(texts["author"].split())
    return NewRequest(texts["scenario"], texts["behaviour"], _examples(tree), author)


_MEANING = {
    "scenario": "say where and when the model should do it",
    "behaviour": "say what the model should do",
    "author": "say who asks",
}


def _examples(tree: Mapping[str, Any]) -> tuple[Example, ...]:
    given = tree.get("examples")
    wanted = f"expected {FEWEST_EXAMPLES} to {MOST_EXAMPLES} of {{input: …, output: …}}"
    if given is None:
        raise BadRequest(("examples",), f"missing; {wanted}")
    if not is_list(given):
        raise BadRequest(("examples",), f"{wanted}, found {shown(given)}")
    found: list[Example] = []
    places: dict[str, int] = {}
    for index, item in enumerate(given):
        example = _example(item, ("examples", index))
        first = places.setdefault(example.input, index)
        if first != index:
            raise BadRequest(("examples", index, "input"), f"is the same as that of examples[{first}]; remove one")
        found.append(example)
    if not FEWEST_EXAMPLES <= len(found) <= MOST_EXAMPLES:
        why = "; one is learned and one is kept to ask" if len(found) < FEWEST_EXAMPLES else ""
        raise BadRequest(("examples",), f"{wanted}, found {len(found)}{why}")
    return tuple(found)


def _example(item: Any, path: KeyPath) -> Example:
    if not is_section(item):
        raise BadRequest(path, f"expected {{input: …, output: …}}, found {shown(item)}")
    _check_keys(item, _SIDES, path)
    sides: list[str] = []
    for name in _SIDES:
        text = _text(item, name, path)
        if not text:
            raise BadRequest((*path, name), "missing" if item.get(name) is None else "is empty text")
        if len(text) > LONGEST_SIDE:
            raise BadRequest((*path, name), f"is {len(text)} characters long; expected {LONGEST_SIDE} at most")
        if mark := _MARKS.search(text):
            raise BadRequest((*path, name), f"has {mark[0]}, which is a mark of the training's format; leave it out")
        sides.append(text)
    return Example(*sides)


def _check_keys(tree: Mapping[str, Any], known: tuple[str, ...], path: KeyPath) -> None:
    for key in tree:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            mend = f"did you mean {near[0]}?" if near else f"expected {', '.join(known)}"
            raise BadRequest((*path, key), f"unknown; {mend}")


def _text(tree: Mapping[str, Any], name: str, path: KeyPath = ()) -> str:
    """Returns a text without blanks around it and with plain line ends; a number is the text of it."""
    value = tree.get(name)
    if not isinstance(value, _PLAIN):
        raise BadRequest((*path, name), f"expected text, found {shown(value)}")
    if value is None:
        return ""
    if isinstance(value, bool | float):
        raise BadRequest((*path, name), f"expected text, found {shown(value)}; put it in quotes")
    text = str(value).replace("\r\n", "\n").replace("\r", "\n").strip()
    if control := _CONTROLS.search(text):
        raise BadRequest((*path, name), f"has the control character {shown(control[0])}; leave it out")
    return text


def held_out(request_id: str, examples: tuple[Example, ...], share: float, seed: int) -> frozenset[int]:
    """Returns which of a request's examples are kept to ask the model that has learned the others.

    The choice depends on the seed, the request's id and the examples' inputs alone, not on their order nor on other
    requests.

    Args:
        request_id: of the request.
        examples: two at least.
        share: of them; one is kept and one is learned at least.
        seed: of the choice.
    """
    ranked = sorted(
        range(len(examples)),
        key=lambda index: hashlib.sha256(canonical_json([seed, request_id, examples[index].input]).encode()).digest(),
    )
    count = min(len(examples) - 1, max(1, round(share * len(examples))))
    return frozenset(ranked[:count])
