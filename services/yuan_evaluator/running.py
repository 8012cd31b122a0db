"""The tasks of a suite from their questions to verdicts: what is asked, what was answered, what counts as right.

All tasks are asked together, so that the batch of the inference service is full until the last of them; programs run
afterwards, in the sandbox.
"""

import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from yuan_evaluator import scores
from yuan_evaluator.asking import AnswerStore, Ask, Asked, Likelihood, Reply, Sampling
from yuan_evaluator.benchmark_data import TaskData
from yuan_evaluator.endpoint import Endpoint
from yuan_evaluator.generating import Telling, generate_all
from yuan_evaluator.likelihood import Judged, judge_replies
from yuan_evaluator.sandbox.limits import Limits
from yuan_evaluator.sandbox.pool import Sandbox
from yuan_evaluator.task import Answer, Choices, Item, Rules, Task
from yuan_events import EventSink, Message, Progress
from yuan_manifest.schema import Answering, EvaluateSection

_TELL_SECONDS = 0.5
IN_FLIGHT = 64
"""Requests at one time where nothing else is said: a batch and what waits for a place in it."""


@dataclass
class Sample:
    """One answer to a question, and what became of it."""

    reply: Reply
    extracted: str | None = None
    rule: str = ""
    right: bool = False
    detail: str = ""
    tests_passed: int = 0

    def plain(self) -> dict[str, Any]:
        """Returns it as JSON's types."""
        found: dict[str, Any] = {
            "text": self.reply.text,
            "tokens": self.reply.tokens,
            "cut": self.reply.cut,
            "extracted": self.extracted,
            "rule": self.rule,
            "right": self.right,
        }
        extras = {"detail": self.detail, "error": self.reply.error, "tests_passed": self.tests_passed}
        return found | {name: value for name, value in extras.items() if value}


@dataclass
class Question:
    """An item, as it was asked.

    Attributes:
        item: as the task's rules have it (options may be shuffled).
        prompt: what the model went on from.
        samples: its answers, in order.
        chosen: index of the one that stands for them all (majority, unit tests); None: none does.
        unit_tests: what the model wrote as tests.
        choices: what is compared by likelihood; None: the model writes.
        judged: what that came to, once it is answered.
    """

    item: Item
    prompt: str
    samples: list[Sample] = field(default_factory=list[Sample])
    chosen: int | None = None
    unit_tests: list[str] = field(default_factory=list[str])
    choices: Choices | None = None
    judged: Judged | None = None

    @property
    def share(self) -> float:
        """Part of its samples that are right; chosen by likelihood it is right or not."""
        if self.judged is not None:
            return float(self.judged.right)
        return sum(sample.right for sample in self.samples) / len(self.samples)

    @property
    def has_own_examples(self) -> bool:
        """Whether its prompt begins with examples that belong to it."""
        return self.choices is not None and self.choices.has_examples

    @property
    def chosen_right(self) -> float:
        """Whether the chosen one is."""
        return float(self.chosen is not None and self.samples[self.chosen].right)

    def plain(self) -> dict[str, Any]:
        """Returns it as JSON's types: a line of the task's file of details."""
        found: dict[str, Any] = {
            "item": self.item.id,
            "category": self.item.category,
            "question": self.item.question,
            "gold": self.item.gold,
            "prompt": self.prompt,
            "samples": [sample.plain() for sample in self.samples],
            "right": self.share,
        }
        if self.item.choices:
            found["choices"] = list(self.item.choices)
        if self.judged is not None:
            gold = " / ".join(self.item.choices[index] for index in sorted(self.item.right))
            found |= {"gold": gold, "likelihood": self.judged.plain()}
        if len(self.samples) > 1:
            found["chosen"] = self.chosen
            found["chosen_right"] = self.chosen_right
        if self.unit_tests:
            found["unit_tests"] = self.unit_tests
        return found


@dataclass(frozen=True)
class Plan:
    """A task that is to be run: its questions, and how answers are drawn."""

    task: Task
    data: TaskData
    questions: list[Question]
    section: EvaluateSection
    rules: Rules
    vocabulary: int

    @property
    def by_likelihood(self) -> bool:
        """Whether answers are chosen by likelihood instead of written."""
        return _by_likelihood(self.task, self.section)

    def asks(self) -> Iterator[tuple[Question, list[Asked]]]:
        """Yields every question with its requests; by likelihood one for each text that is compared."""
        for question in self.questions:
            if question.choices is None:
                yield question, [self._ask(question, index) for index in range(self.section.samples)]
            else:
                texts = (*question.choices.continuations, *question.choices.all_continuations)
                yield question, [Likelihood(question.prompt, text) for text in texts]

    def test_asks(self) -> Iterator[tuple[Question, list[Asked]]]:
        """Yields what asks for unit tests, where candidates are chosen by them."""
        if self.task.unit_tests is None or self.by_likelihood:
            return
        for question in self.questions:
            prompt = self.task.unit_tests.prompt(question.item)
            sampling = [
                Sampling(
                    self.task.unit_tests.max_tokens,
                    0.0 if self.section.unit_tests == 1 else 0.5,
                    1.0 if self.section.unit_tests == 1 else 0.95,
                    seed=None if self.section.unit_tests == 1 else self._seed(question, index, "tests"),
                )
                for index in range(self.section.unit_tests)
            ]
            yield question, [Ask(prompt, one) for one in sampling]

    def _ask(self, question: Question, index: int) -> Ask:
        several = self.section.samples > 1
        usual = (0.8 if self.task.program else 0.5) if several else 0.0
        temperature = usual if self.section.temperature is None else self.section.temperature
        top_p = (0.95 if several else 1.0) if self.section.top_p is None else self.section.top_p
        drawn = temperature > 0
        goes_on = self.task.ignore_eos is not None and not self.rules.strict
        stops = (self.task.ignore_eos,) if goes_on and self.task.ignore_eos in range(self.vocabulary) else ()
        return Ask(
            question.prompt,
            Sampling(
                max_tokens=self.section.max_tokens or self.task.max_tokens,
                temperature=temperature,
                top_p=top_p if drawn else 1.0,
                top_k=self.section.top_k if drawn else 0,
                seed=self._seed(question, index) if drawn else None,
                stop_token_ids=tuple(token for token in stops if token is not None),
                ignore_eos=goes_on,
            ),
        )

    def _seed(self, question: Question, index: int, *more: str) -> int:
        """Returns a seed of a sample's own: with one for all they would be the same (as in the original)."""
        text = json.dumps([self.section.seed, self.task.name, question.item.id, index, *more])
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7])


def plan(task: Task, data: TaskData, section: EvaluateSection, vocabulary: int) -> Plan:
    """Returns a task's questions as they will be asked, with their few-shot examples."""
    rules = Rules(section.profile, section.seed)
    everything = [task.prepare(item, rules) for item in data.items]
    examples = [task.prepare(item, rules) for item in data.examples]
    items = everything if section.limit is None else everything[: section.limit]
    questions = [
        _question(task, item, _shots(task, item, examples or everything, section, rules), section, rules)
        for item in items
    ]
    return Plan(task, data, questions, section, rules, vocabulary)


def _by_likelihood(task: Task, section: EvaluateSection) -> bool:
    return section.answering == Answering.likelihood and task.likelihood is not None


def _question(task: Task, item: Item, shots: str, section: EvaluateSection, rules: Rules) -> Question:
    if task.likelihood is None or not _by_likelihood(task, section):
        return Question(item, shots + task.prompt(item, rules))
    choices = task.likelihood(item, rules)
    return Question(item, choices.prompt if choices.has_examples else shots + choices.prompt, choices=choices)


def _shots(task: Task, item: Item, among: Sequence[Item], section: EvaluateSection, rules: Rules) -> str:
    """Returns worked examples: which ones depends on seed and item alone; the question itself is none of them."""
    if not section.few_shot:
        return ""
    others = [other for other in among if other.question != item.question]
    chosen = rules.random("few-shot", task.name, item.id).sample(others, min(section.few_shot, len(others)))
    return "".join(f"{task.example(other, rules)}\n\n" for other in chosen)


def ask_all(
    plans: Sequence[Plan], endpoint: Endpoint, store: AnswerStore, sink: EventSink, should_stop: Any
) -> dict[str, float]:
    """Fills the questions of all plans with answers.

    Returns:
        Facts on the generation: seconds, tokens, requests.

    Raises:
        Interrupted, WorkFailed: as `generate_all`; what is answered by then is kept.
    """
    totals = {plan.task.name: sum(1 for _ in _flat(plan)) for plan in plans}
    done = dict.fromkeys(totals, 0)
    pending: dict[str, tuple[Asked, list[str]]] = {}
    for plan in plans:
        for ask in _flat(plan):
            if store.find(ask) is not None:
                done[plan.task.name] += 1
            else:
                # Two questions may be the same text: it is asked once.
                pending.setdefault(ask.key(""), (ask, []))[1].append(plan.task.name)
    facts = {"seconds": 0.0, "requests": float(len(pending)), "tokens": 0.0, "prompt_tokens": 0.0}
    if found := sum(done.values()):
        kept = f"{store.cached} of them in the cache" if store.cached else "of this job's earlier attempt"
        sink.emit(Message(f"{found} of {sum(totals.values())} answers are known already ({kept})"))
    if not pending:
        return facts
    began = time.monotonic()
    told = 0.0

    def answered(ask: Asked, reply: Reply) -> None:
        nonlocal told
        store.keep(ask, reply)
        names = pending[ask.key("")][1]
        facts["tokens"] += reply.tokens
        facts["prompt_tokens"] += reply.prompt_tokens
        for name in names:
            done[name] += 1
        now = time.monotonic()
        if now - told > _TELL_SECONDS or any(done[name] == totals[name] for name in names):
            told = now
            # Where nothing is written, what is read tells how fast it goes.
            rate = f"{(facts['tokens'] or facts['prompt_tokens']) / (now - began):.0f} tokens/s"
            for name, total in totals.items():
                sink.emit(Progress(name, done[name], total, "answers", rate))

    def away(reason: str) -> None:
        text = f"waiting for the inference service: {reason}" if reason else "the inference service answers again"
        sink.emit(Message(text, level="warning" if reason else "info"))

    in_flight = plans[0].section.in_flight or max(IN_FLIGHT, 4 * endpoint.max_batch)
    generate_all(
        endpoint.connect,
        endpoint.name,
        (ask for ask, _ in pending.values()),
        Telling(answered, away, should_stop),
        in_flight=min(in_flight, len(pending)),
    )
    facts["seconds"] = time.monotonic() - began
    return facts


def _flat(plan: Plan) -> Iterator[Asked]:
    for _, asks in (*plan.asks(), *plan.test_asks()):
        yield from asks


def collect(plan: Plan, store: AnswerStore) -> None:
    """Puts the answers of a plan to its questions, and takes out of them what is scored."""
    for question, asks in plan.asks():
        replies = [store.find(ask) or Reply(error="not answered") for ask in asks]
        if question.choices is None:
            question.samples = [_extracted(plan, question, reply) for reply in replies]
        else:
            count = len(question.choices.continuations)
            question.judged = judge_replies(question.choices, replies[:count], replies[count:])
    for question, asks in plan.test_asks():
        question.unit_tests = [(store.find(ask) or Reply()).text for ask in asks]


def _extracted(plan: Plan, question: Question, reply: Reply) -> Sample:
    sample = Sample(reply)
    if reply.error:
        sample.rule = "not answered"
        return sample
    found = plan.task.extract(question.item, Answer(reply.text, reply.cut), plan.rules)
    sample.extracted, sample.rule = found.value, found.rule
    if plan.task.program is None:
        sample.right = plan.task.score(question.item, found, plan.rules)
    return sample


def run_programs(plan: Plan, sandbox: Sandbox, limits: Limits, sink: EventSink, stop_if_asked: Any) -> None:
    """Runs a task's programs in the sandbox: the same program once, candidates under the model's own tests first."""
    make = plan.task.program
    assert make is not None  # noqa: S101 - for the type checker
    verdicts: dict[str, tuple[bool, str]] = {}
    wanted = [text for question in plan.questions for text in _programs(plan, question)]
    unique = list(dict.fromkeys(wanted))
    for number, (text, verdict) in enumerate(zip(unique, sandbox.map(unique, limits, stop_if_asked), strict=True), 1):
        verdicts[text] = verdict.passed, verdict.detail
        if number % 20 == 0 or number == len(unique):
            sink.emit(Progress(f"{plan.task.name} programs", number, len(unique), "programs"))
    for question in plan.questions:
        for sample in question.samples:
            if sample.extracted is None:
                continue
            sample.right, sample.detail = verdicts[make(question.item, sample.extracted)]
            under = _under_tests(plan, question, sample)
            sample.tests_passed = sum(verdicts[text][0] for text in under)


def _programs(plan: Plan, question: Question) -> Iterator[str]:
    for sample in question.samples:
        if sample.extracted is not None and plan.task.program is not None:
            yield plan.task.program(question.item, sample.extracted)
            yield from _under_tests(plan, question, sample)


def _under_tests(plan: Plan, question: Question, sample: Sample) -> list[str]:
    if plan.task.unit_tests is None or sample.extracted is None:
        return []
    make = plan.task.unit_tests.program
    programs = (make(question.item, sample.extracted, written) for written in question.unit_tests)
    return [program for program in programs if program is not None]


def choose(plan: Plan) -> bool:
    """Chooses one of several samples of each question: by unit tests, or by majority; says whether that was done."""
    if plan.section.samples == 1 or plan.by_likelihood:
        return False
    by_tests = plan.task.program is not None and plan.section.unit_tests > 0
    if not by_tests and plan.task.vote is None:
        return False
    for question in plan.questions:
        if by_tests:
            # The candidate that passes most of the model's tests; of equals the one that came first.
            with_program = [i for i, sample in enumerate(question.samples) if sample.extracted is not None]
            question.chosen = max(with_program, key=lambda i: (question.samples[i].tests_passed, -i), default=None)
        elif plan.task.vote is not None:
            question.chosen = scores.majority([sample.extracted for sample in question.samples], plan.task.vote)
    return True


def categories(values: Iterable[tuple[str, float]], seed: int) -> dict[str, scores.Estimate]:
    """Returns the mean of each category that has a name, by name."""
    by_name: dict[str, list[float]] = {}
    for name, value in values:
        by_name.setdefault(name or "other", []).append(value)
    if set(by_name) == {"other"}:
        return {}
    return {name: scores.estimate(found, 0, seed) for name, found in sorted(by_name.items())}
