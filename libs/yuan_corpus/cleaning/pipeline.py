"""Stages applied in order, in two halves: workers clean documents, one collector judges what depends on order.

A worker does all stages of a document, those behind a duplicate filter too, and hands on what each did; the collector
then leaves out duplicates, and with them what later stages did. So text is read once, nothing waits, and the outcome
depends on the input alone; the price is work on documents that turn out to be duplicates. Of a document that a stage
changes by those before it (its text comes along), the collector does the later stages anew.
"""

import importlib.util
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from yuan_corpus.cleaning.stage import Dropped, EditingStage, OrderedStage, Stage
from yuan_corpus.documents import SkipLog
from yuan_corpus.errors import CorpusError
from yuan_corpus.files import write_text_durably
from yuan_events.printing import counted

REPORT_FILE_NAME = "cleaning.json"
SAMPLES = 5
"""Documents that a report shows of those a stage dropped, and of those it changed: the first."""
_EXCERPT = 160
"""Characters of a document in a report."""
NOTHING_LEFT = Dropped("nothing is left")
"""The verdict on a document that a stage makes empty: as when they are read, there is none without text."""

STAGES: Mapping[str, str] = {
    "unicode": "repair:UnicodeRepair",
    "length": "filters:LengthFilter",
    "gopher_repetition": "quality:GopherRepetition",
    "gopher_quality": "quality:GopherQuality",
    "c4": "quality:C4Quality",
    "language": "filters:LanguageFilter",
    "exact_duplicates": "duplicates:ExactDuplicates",
    "near_duplicates": "duplicates:NearDuplicates",
    "repeated_spans": "spans:RepeatedSpans",
    "words": "filters:WordFilter",
    "pii": "private:PiiMasking",
    "python_compiles": "code:PythonCompiles",
    "licence_header": "code:LicenceHeader",
    "decontamination": "contamination:Decontamination",
    "formulas": "formulas:FormulasToLatex",
}
"""Modules of this package and classes: what a stage needs is loaded only where it works."""


@dataclass(frozen=True)
class StageSpec:
    """A stage as a manifest names it. name: of STAGES, or `module:Class`; options: its class's parameters."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])


def build_stages(specs: Sequence[StageSpec]) -> list[Stage | OrderedStage | EditingStage]:
    """Returns the stages, ready to work.

    Raises:
        CorpusError: if one cannot be imported or made as asked.
    """
    stages: list[Stage | OrderedStage | EditingStage] = []
    for number, spec in enumerate(specs):
        where = f"cleaning[{number}]"
        try:
            stage = stage_class(spec.name)(**spec.options)
        except CorpusError as error:
            raise CorpusError(f"{where}.{error}") from None
        except Exception as error:  # a user's own class may raise anything
            raise CorpusError(f"{where}.stage: {spec.name} cannot be made ({type(error).__name__}: {error})") from error
        if not isinstance(stage, Stage | OrderedStage | EditingStage):
            raise CorpusError(f"{where}.stage: {spec.name} has no method `clean(text)`")
        stages.append(stage)
    return stages


def stage_class(name: str) -> type:
    """Returns the class of a stage.

    Raises:
        CorpusError: if it cannot be imported.
    """
    place = f"yuan_corpus.cleaning.{STAGES[name]}" if name in STAGES else name
    module, _, attribute = place.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        mend = "install yuan-stack[data]" if name in STAGES else "is its folder in PYTHONPATH?"
        raise CorpusError(f"stage: {name} cannot be imported ({error}); {mend}") from None


def module_file(name: str) -> Path | None:
    """Returns the file of a module's code, without running it; None: it has none, or cannot be found."""
    try:
        spec = importlib.util.find_spec(name)
    except Exception:  # noqa: BLE001 - packages above it are imported, and a user's own may raise anything
        return None
    found = Path(spec.origin) if spec is not None and spec.origin else None
    return found if found is not None and found.is_file() else None


class Size(NamedTuple):
    """Characters of a text, and its bytes in UTF-8."""

    characters: int
    bytes: int

    @classmethod
    def of(cls, text: str) -> "Size":
        """Returns a text's size."""
        return cls(len(text), len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass")))


@dataclass(frozen=True)
class Step:
    """What one stage did to one document.

    Attributes:
        reason: why it was dropped; None: it was not.
        size: after it.
        sample: excerpts for the report.
        signature: of a stage that judges in order; and the text, if it changes texts.
    """

    reason: str | None
    size: Size
    sample: Mapping[str, str] | None = None
    signature: Any = None


Trace = tuple[Size, Sequence[Step | None]]
"""Of a document: its size as read, and a step a stage up to the one that dropped it; None: left as it was."""


class Verdict(NamedTuple):
    """Whether a document stays, and what a stage that goes in order made of it; None: it is as the worker has it."""

    stays: bool
    text: str | None = None


class Cleaner:
    """The workers' half. stages: ready to work; seconds: that each took."""

    def __init__(self, specs: Sequence[StageSpec]) -> None:
        self._names = [spec.name for spec in specs]
        self.stages = build_stages(specs)
        self.seconds = [0.0] * len(specs)

    def clean(self, text: str, first: int = 0) -> tuple[str | None, Trace]:
        """Returns a document as it leaves the stages from the first one on, None if one dropped it; what each did."""
        whole = size = Size.of(text)
        steps: list[Step | None] = []
        for number, stage in enumerate(self.stages[first:], first):
            began = time.perf_counter()
            try:
                if isinstance(stage, OrderedStage | EditingStage):
                    signature = stage.sign(text)
                    known = (signature, text) if isinstance(stage, EditingStage) else (signature,)
                    steps.append(Step(None, size, {"text": _excerpt(text)}, known))
                    continue
                result = stage.clean(text)
            except CorpusError:
                raise
            except (Exception, SystemExit) as error:  # which stage and which text must be said
                problem = f"failed with {type(error).__name__}: {error}; its text begins {_excerpt(text)[:40]!r}"
                raise CorpusError(f"cleaning[{number}].stage: {self._names[number]} {problem}") from error
            finally:
                self.seconds[number] += time.perf_counter() - began
            if isinstance(result, str) and not result.strip():
                result = NOTHING_LEFT
            if isinstance(result, Dropped):
                steps.append(Step(result.reason, Size(0, 0), {"text": _excerpt(text)}))
                return None, (whole, steps)
            if type(result) is not str:
                raise _unexpected(number, self._names[number], "clean", "text or Dropped(reason)", result)
            if result == text:
                steps.append(None)
                continue
            size = Size.of(result)
            steps.append(Step(None, size, _difference(text, result)))
            text = result
        return text, (whole, steps)


@dataclass
class _Counts:
    documents: int = 0
    dropped: int = 0
    changed: int = 0
    characters_in: int = 0
    characters_out: int = 0
    bytes_in: int = 0
    reasons: Counter[str] = field(default_factory=Counter[str])
    dropped_samples: list[Mapping[str, str]] = field(default_factory=list[Mapping[str, str]])
    changed_samples: list[Mapping[str, str]] = field(default_factory=list[Mapping[str, str]])


class CleaningReport:
    """The collector's half: takes the traces in input order, says which documents stay, and counts."""

    def __init__(self, specs: Sequence[StageSpec]) -> None:
        self._specs = specs
        self._cleaner = Cleaner(specs)  # of what a stage that goes in order changed
        self._counts = [_Counts() for _ in specs]
        self._documents = 0
        self.seconds = [0.0] * len(specs)

    def take(self, trace: Trace) -> bool:
        """Counts the next document and says whether it stays."""
        return self.judge(trace).stays

    def judge(self, trace: Trace) -> Verdict:
        """Counts the next document and says whether it stays, and as what."""
        size, steps = trace[0], list(trace[1])
        text: str | None = None
        self._documents += 1
        for number, counts in enumerate(self._counts):
            step = steps[number]
            counts.documents += 1
            counts.characters_in += size.characters
            counts.bytes_in += size.bytes
            reason = step.reason if step is not None else None
            if step is not None and step.signature is not None:
                result = self._judged(number, step.signature)
                reason = result.reason if isinstance(result, Dropped) else None
                if isinstance(result, str):
                    sample = _difference(step.signature[1], result)
                    step = Step(None, Size.of(result), sample)
                    text, (_, rest) = self._cleaner.clean(result, number + 1)
                    steps[number:] = [step, *rest]
            if reason is not None:
                counts.dropped += 1
                counts.reasons[reason] += 1
                if step is not None and len(counts.dropped_samples) < SAMPLES:
                    counts.dropped_samples.append({"reason": reason, **(step.sample or {})})
                return Verdict(False)
            if step is not None:
                if step.signature is None:
                    counts.changed += 1
                    if len(counts.changed_samples) < SAMPLES:
                        counts.changed_samples.append(step.sample or {})
                size = step.size
            counts.characters_out += size.characters
        return Verdict(True, text)

    def _judged(self, number: int, known: Sequence[Any]) -> str | Dropped | None:
        """Returns what a stage that goes in order makes of the next document; None: it stays as it is."""
        stage = self._cleaner.stages[number]
        began = time.perf_counter()
        if isinstance(stage, EditingStage):
            method, expected = "edit", "text or Dropped(reason)"
            result: Any = stage.edit(known[1], known[0], self._documents - 1)
            found = NOTHING_LEFT if isinstance(result, str) and not result.strip() else result
            right = isinstance(result, str | Dropped)
            result = None if found == known[1] else found
        else:
            assert isinstance(stage, OrderedStage)  # noqa: S101 - no other has a signature
            method, expected = "admit", "None or Dropped(reason)"
            result = stage.admit(known[0], self._documents - 1)
            right = isinstance(result, Dropped | None)
        self.seconds[number] += time.perf_counter() - began
        if not right:
            raise _unexpected(number, self._specs[number].name, method, expected, result)
        return result

    @property
    def ordered(self) -> bool:
        """Whether some stage judges a document by those before it."""
        return any(isinstance(stage, OrderedStage | EditingStage) for stage in self._cleaner.stages)

    def absorb(self, table: Mapping[str, Any], seconds: Sequence[float]) -> None:
        """Adds the `table` of a report on the documents that come next; none of its stages judges in order."""
        self._documents += table["documents_read"]
        for number, (counts, stage) in enumerate(zip(self._counts, table["stages"], strict=True)):
            self.seconds[number] += seconds[number]
            for name in ("documents", "dropped", "changed", "characters_in", "characters_out", "bytes_in"):
                setattr(counts, name, getattr(counts, name) + stage[name])
            counts.reasons.update(stage["reasons"])
            for samples, more in (
                (counts.dropped_samples, stage["dropped_samples"]),
                (counts.changed_samples, stage["changed_samples"]),
            ):
                samples.extend(more[: SAMPLES - len(samples)])

    def table(self, skipped: SkipLog) -> dict[str, Any]:
        """Returns the report as JSON's types; it depends on the input alone."""
        return {"documents_read": self._documents, "skipped": skipped.count, "stages": self.table_of_stages()}

    def table_of_stages(self) -> list[dict[str, Any]]:
        """Returns what each stage did."""
        return [
            {
                "stage": spec.name,
                "options": dict(spec.options),
                "documents": counts.documents,
                "dropped": counts.dropped,
                "changed": counts.changed,
                "characters_in": counts.characters_in,
                "characters_out": counts.characters_out,
                "bytes_in": counts.bytes_in,
                "reasons": dict(sorted(counts.reasons.items(), key=lambda item: (-item[1], item[0]))),
                "dropped_samples": counts.dropped_samples,
                "changed_samples": counts.changed_samples,
            }
            for spec, counts in zip(self._specs, self._counts, strict=True)
        ]

    def write(self, folder: Path, skipped: SkipLog) -> None:
        """Writes `cleaning.json`."""
        text = json.dumps(self.table(skipped), indent=2, ensure_ascii=False)
        write_text_durably(folder / REPORT_FILE_NAME, text + "\n")

    def lines(self) -> list[str]:
        """Returns a line a stage for people: what it did, and how fast."""
        lines: list[str] = []
        for spec, counts, seconds in zip(self._specs, self._counts, self.seconds, strict=True):
            speed = f"{counts.bytes_in / 1e6 / seconds:.1f} MB/s" if seconds else "unused"
            done = f"{counted(counts.documents, 'document')}, {counts.dropped:,} dropped, {counts.changed:,} changed"
            lines.append(f"cleaning, {spec.name}: {done}; {speed}")
        return lines


def _unexpected(number: int, name: str, method: str, expected: str, found: object) -> CorpusError:
    """Returns the error for a stage of the user's own that returns what no stage does."""
    return CorpusError(f"cleaning[{number}].stage: {name}.{method} returned {type(found).__name__}, not {expected}")


def _excerpt(text: str) -> str:
    return text[:_EXCERPT]


def _difference(before: str, after: str) -> Mapping[str, str]:
    """Returns both texts around their first difference."""
    first = next((place for place, pair in enumerate(zip(before, after, strict=False)) if pair[0] != pair[1]), None)
    start = max(0, (min(len(before), len(after)) if first is None else first) - _EXCERPT // 4)
    return {"before": before[start : start + _EXCERPT], "after": after[start : start + _EXCERPT]}
