"""What a task is: data, and three small functions: prompt, extract, score. `tasks/` has one file each.

A task knows nothing of models, files and queues; what drives it is `running.py`.
"""

import hashlib
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from yuan_manifest.schema import Profile

INSTRUCTED = "<sep>"
"""Ends a question in the original's format: what follows is the answer."""


@dataclass(frozen=True)
class Item:
    """One question.

    Attributes:
        id: within the task.
        question: as it stands in the data.
        gold: the right answer as text.
        choices: answers to choose from; empty where there are none.
        right: indices of the right ones.
        category: for tables; empty: none.
        more: what else the task's functions need.
    """

    id: str
    question: str
    gold: str
    choices: tuple[str, ...] = ()
    right: frozenset[int] = frozenset()
    category: str = ""
    more: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class Answer:
    """What a model wrote.

    Attributes:
        text: without the prompt.
        cut: whether it ended because it had become too long.
    """

    text: str
    cut: bool = False


@dataclass(frozen=True)
class Extracted:
    """What was taken from an answer.

    Attributes:
        value: as text; None: nothing was found.
        rule: how it was found, for who reads the details.
    """

    value: str | None
    rule: str = ""


@dataclass(frozen=True)
class Rules:
    """How a task is asked: the manifest's `evaluate`, as far as tasks look at it."""

    profile: Profile = Profile.yuan
    seed: int = 1234

    @property
    def strict(self) -> bool:
        """Whether the original's holes are closed."""
        return self.profile == Profile.strict

    def random(self, *names: str) -> random.Random:
        """Returns a generator that depends on the seed and names alone."""
        text = json.dumps([self.seed, *names])
        return random.Random(hashlib.sha256(text.encode()).digest())


@dataclass(frozen=True)
class DataFile:
    """A file of a task.

    Attributes:
        path: relative to `inputs.data`.
        sha256: of the versions that are known, hex.
        read: turns its bytes into items; raises BadRow for a line that is none.
        optional: whether the task does without.
    """

    path: str
    sha256: Sequence[str]
    optional: bool = False


class BadRow(ValueError):
    """A line of a benchmark's file is not what it should be; the text says why."""


Prompt = Callable[[Item, Rules], str]
Extract = Callable[[Item, Answer, Rules], Extracted]
Score = Callable[[Item, Extracted, Rules], bool]


@dataclass(frozen=True)
class Task:
    """A benchmark.

    Attributes:
        name: what a suite calls it; the name of its file.
        title: for reports.
        files: what it reads; the first is the questions, and its lines are given to `read`.
        read: a line of the first file to an item; further arguments: the line's number from 0, and the bytes of the
            other files by path.
        prompt: the text that a model goes on from.
        extract: takes the answer out of what it wrote.
        score: whether that is right; for a task of programs it is not called.
        max_tokens: of an answer.
        example: an item with its answer, as it stands in few-shot prompts.
        read_example: a line of a file of worked examples, and its number, to an item; None: as `read` does.
        vote: what answers must share to be the same answer; None: they are not voted on.
        program: a task of programs: the program that passes where the answer is right.
        unit_tests: prompt that asks the model for unit tests, and the program of a candidate under them.
        ignore_eos: whether the original went on beyond `<eod>`, and the id that ended it instead.
        likelihood: prompt and continuations whose likelihood chooses the answer; None: it is generated only.
        items: in the known version.
        source: the job's input artifact whose folder has the files; empty: `inputs.data` has them.
    """

    name: str
    title: str
    files: Sequence[DataFile]
    read: Callable[[str, int, Mapping[str, bytes]], Item]
    prompt: Prompt
    extract: Extract
    score: Score
    max_tokens: int
    items: int
    example: Callable[[Item, Rules], str]
    read_example: Callable[[str, int], Item] | None = None
    vote: Callable[[str], str] | None = None
    program: Callable[[Item, str], str] | None = None
    unit_tests: "UnitTests | None" = None
    ignore_eos: int | None = None
    likelihood: "Callable[[Item, Rules], Choices] | None" = None
    prepare: Callable[[Item, Rules], Item] = lambda item, rules: item
    source: str = ""

    @property
    def metric(self) -> str:
        """What its score is."""
        return "pass@1" if self.program else "accuracy"


@dataclass(frozen=True)
class UnitTests:
    """How candidates are chosen by tests that the model writes.

    Attributes:
        prompt: asks for them.
        program: a candidate and what the model wrote, as a program that passes where the candidate does.
        max_tokens: of the tests.
    """

    prompt: Callable[[Item], str]
    program: Callable[[Item, str, str], str | None]
    max_tokens: int = 512


@dataclass(frozen=True)
class Choices:
    """What is compared by likelihood.

    Attributes:
        prompt: the text before.
        continuations: one for each of the item's choices.
        right: indices of the right ones.
        all_continuations: right and wrong ones whose shares of the probability are compared (MC2); empty: none are.
        all_right: indices of the right ones among these.
        has_examples: whether the prompt begins with examples of its own, so that none are put before it.
    """

    prompt: str
    continuations: tuple[str, ...]
    right: frozenset[int]
    all_continuations: tuple[str, ...] = ()
    all_right: frozenset[int] = frozenset()
    has_examples: bool = False
