"""The stages of `cleaning`, one dataclass each with its options; what they do is in `yuan_corpus.cleaning`.

The item of a list names its class with `stage`; OmegaConf knows no such unions, so items are kept as mappings whose
keys and types `conform` checks against these classes. `module:Class` is a stage of the user's own: its options are
its class's parameters, which only the worker can know.
"""

import dataclasses
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

from omegaconf import MISSING

from yuan_manifest import rules
from yuan_manifest.rules import Problem

OWN_STAGE = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


@dataclass
class StageOptions:
    """Any stage. stage: its name."""

    stage: str = MISSING


@dataclass
class UnicodeOptions(StageOptions):
    """normalization: NFC, NFKC or none; most_empty_lines: in a row that stay."""

    normalization: str = "NFC"
    most_empty_lines: int = 2


@dataclass
class LengthOptions(StageOptions):
    """In characters; null: no bound."""

    min_characters: int = 1
    max_characters: int | None = None


@dataclass
class GopherRepetitionOptions(StageOptions):
    """Shares of lines and of characters; ngram_factor: the paper's n-gram thresholds times this."""

    max_duplicate_lines: float = 0.3
    max_duplicate_line_characters: float = 0.2
    ngram_factor: float = 1.0


@dataclass
class GopherQualityOptions(StageOptions):
    """Words are characters in Chinese; max_… and min_alphabetic are shares."""

    min_words: int = 50
    max_words: int = 100_000
    min_mean_word: float = 3.0
    max_mean_word: float = 10.0
    max_symbols: float = 0.1
    max_bullet_lines: float = 0.9
    max_ellipsis_lines: float = 0.3
    min_alphabetic: float = 0.8
    min_stop_words: int = 2


@dataclass
class C4Options(StageOptions):
    """line_ends: only lines that end as sentences do; curly_brackets, lorem_ipsum: documents with them are dropped."""

    min_sentences: int = 5
    min_words_per_line: int = 3
    line_ends: bool = True
    curly_brackets: bool = True
    lorem_ipsum: bool = True


@dataclass
class LanguageOptions(StageOptions):
    """keep: ISO 639 codes, code; min_confidence: 0 to 1; sample_characters: of a document that are looked at."""

    keep: list[str] = MISSING
    min_confidence: float = 0.0
    sample_characters: int = 2000


@dataclass
class ExactDuplicatesOptions(StageOptions):
    """normalize: letter case and whitespace make no difference."""

    normalize: bool = True


@dataclass
class NearDuplicatesOptions(StageOptions):
    """threshold: Jaccard similarity; permutations: of MinHash; ngram: words, in Chinese twice as many characters."""

    threshold: float = 0.8
    permutations: int = 128
    ngram: int = 5
    seed: int = 1


@dataclass
class RepeatedSpansOptions(StageOptions):
    """sentences: of a run; all but the first of equal runs are removed."""

    sentences: int = 3


@dataclass
class WordsOptions(StageOptions):
    """words, files (one word a line): a document with more than max_hits of them is dropped."""

    words: list[str] = field(default_factory=list[str])
    files: list[str] = field(default_factory=list[str])
    max_hits: int = 0


@dataclass
class PiiOptions(StageOptions):
    """kinds: what is masked, of email, id, card, phone, ip; private_addresses: keep or mask, of ip."""

    kinds: list[str] = field(default_factory=lambda: ["email", "id", "card", "phone", "ip"])
    private_addresses: str = "keep"


@dataclass
class PythonCompilesOptions(StageOptions):
    """None."""


@dataclass
class LicenceHeaderOptions(StageOptions):
    """None."""


@dataclass
class DecontaminationOptions(StageOptions):
    """files: of benchmarks, as in inputs.text; ngram: Han characters or other words."""

    files: list[str] = MISSING
    ngram: int = 13


@dataclass
class FormulasOptions(StageOptions):
    r"""What becomes LaTeX. mathml: `<math>`; signs: Unicode's, `<sup>`, `<sub>`; delimiters: `\(…\)` becomes `$…$`."""

    mathml: bool = True
    signs: bool = True
    delimiters: bool = True


STAGE_OPTIONS: dict[str, type[StageOptions]] = {
    "unicode": UnicodeOptions,
    "length": LengthOptions,
    "gopher_repetition": GopherRepetitionOptions,
    "gopher_quality": GopherQualityOptions,
    "c4": C4Options,
    "language": LanguageOptions,
    "exact_duplicates": ExactDuplicatesOptions,
    "near_duplicates": NearDuplicatesOptions,
    "repeated_spans": RepeatedSpansOptions,
    "words": WordsOptions,
    "pii": PiiOptions,
    "python_compiles": PythonCompilesOptions,
    "licence_header": LicenceHeaderOptions,
    "decontamination": DecontaminationOptions,
    "formulas": FormulasOptions,
}


def defaults_of(cls: type[StageOptions]) -> dict[str, Any]:
    """Returns the options that a manifest need not name."""
    plain = {item.name: getattr(cls(), item.name) for item in dataclasses.fields(cls)}
    return {name: value for name, value in plain.items() if value != MISSING}


def files_of_stage(item: dict[str, Any]) -> list[str]:
    """Returns the files and patterns that a stage's `files` names; none where a stage of a user's own means another."""
    files: Any = item.get("files")
    patterns = cast("list[Any]", files) if isinstance(files, list) else [files]
    return patterns if all(isinstance(pattern, str) for pattern in patterns) else []


def check_stage(item: dict[str, Any]) -> Iterator[Problem]:
    """Yields what is wrong with a stage's values, keys relative to it."""
    cls = STAGE_OPTIONS.get(item.get("stage", ""))
    if cls is None:
        return
    for name in (entry.name for entry in dataclasses.fields(cls)):
        if name not in item:
            yield name, "missing; it has no default"
            return
    options = cls(**item)
    yield from rules.at_least(options, 0, *(name for name, value in item.items() if type(value) is int))
    yield from _RULES.get(cls, lambda _: iter(()))(options)


def _unicode(options: UnicodeOptions) -> Iterator[Problem]:
    yield from rules.one_of("normalization", options.normalization, ("NFC", "NFKC", "none"))


def _length(options: LengthOptions) -> Iterator[Problem]:
    yield from _in_order(options, "min_characters", "max_characters")


def _in_order(options: StageOptions, least: str, most: str) -> Iterator[Problem]:
    """No document is between a lower bound and an upper one below it."""
    lower, upper = getattr(options, least), getattr(options, most)
    if upper is not None and upper < lower:
        yield most, f"expected at least {least} ({lower}), found {upper}"


def _gopher_repetition(options: GopherRepetitionOptions) -> Iterator[Problem]:
    yield from rules.share(options, "max_duplicate_lines", "max_duplicate_line_characters")
    yield from rules.above_zero(options, "ngram_factor")


def _gopher_quality(options: GopherQualityOptions) -> Iterator[Problem]:
    yield from rules.share(options, "max_symbols", "max_bullet_lines", "max_ellipsis_lines", "min_alphabetic")
    yield from _in_order(options, "min_words", "max_words")
    yield from _in_order(options, "min_mean_word", "max_mean_word")


def _language(options: LanguageOptions) -> Iterator[Problem]:
    yield from rules.filled(options, "keep")
    yield from rules.share(options, "min_confidence")
    yield from rules.at_least(options, 1, "sample_characters")


def _near_duplicates(options: NearDuplicatesOptions) -> Iterator[Problem]:
    if not 0.1 <= options.threshold <= 1:
        yield "threshold", f"expected 0.1 to 1, found {options.threshold}"
    yield from rules.at_least(options, 2, "permutations")
    yield from rules.at_least(options, 1, "ngram")
    yield from rules.seed(options, rules.LARGEST_SHUFFLE_SEED)


def _repeated_spans(options: RepeatedSpansOptions) -> Iterator[Problem]:
    yield from rules.at_least(options, 1, "sentences")


def _words(options: WordsOptions) -> Iterator[Problem]:
    if not options.words and not options.files:
        yield "words", "no word is listed; give words or files"


def _pii(options: PiiOptions) -> Iterator[Problem]:
    yield from rules.filled(options, "kinds")
    for index, kind in enumerate(options.kinds):
        yield from rules.one_of(f"kinds[{index}]", kind, ("email", "id", "card", "phone", "ip"))
    yield from rules.one_of("private_addresses", options.private_addresses, ("keep", "mask"))


def _decontamination(options: DecontaminationOptions) -> Iterator[Problem]:
    yield from rules.filled(options, "files")
    yield from rules.at_least(options, 2, "ngram")


_RULES: dict[type, Callable[[Any], Iterator[Problem]]] = {
    UnicodeOptions: _unicode,
    LengthOptions: _length,
    GopherRepetitionOptions: _gopher_repetition,
    GopherQualityOptions: _gopher_quality,
    LanguageOptions: _language,
    NearDuplicatesOptions: _near_duplicates,
    RepeatedSpansOptions: _repeated_spans,
    WordsOptions: _words,
    PiiOptions: _pii,
    DecontaminationOptions: _decontamination,
}
