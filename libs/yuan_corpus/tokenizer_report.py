"""How well tokenizers cut the same text, language by language: `report.json` and `report.svg` of a tokenizer.

Bytes per token: UTF-8 bytes of the text over its tokens. Fertility: tokens a word, a word being a Han character or a
run of other letters and digits. Unknown rate: the share of tokens that stand for no character of the vocabulary, which
are `<unk>` and bytes; the bytes of line ends and tabs, for which there are no pieces by design, are not counted.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import sentencepiece

from yuan_corpus.charts import bar_chart
from yuan_corpus.cleaning.characters import code_points, kinds_of, unit_words
from yuan_corpus.errors import TokenizerError
from yuan_corpus.files import write_text_durably
from yuan_corpus.languages import language_of
from yuan_corpus.tokenizer import Tokenizer

REPORT_FILE_NAME = "report.json"
PLOT_FILE_NAME = "report.svg"

ALL, OTHER = "all", "other"
_MOST_LANGUAGES = 8
_LINE_BYTES = ("<0x0A>", "<0x0D>", "<0x09>")


@dataclass(frozen=True)
class Contender:
    """A tokenizer to measure. unknown: ids that stand for no character of its vocabulary."""

    name: str
    encode: Callable[[str], Sequence[int]]
    unknown: frozenset[int]

    @classmethod
    def of(cls, name: str, tokenizer: Tokenizer) -> "Contender":
        """A tokenizer of the Yuan family."""
        ids = range(tokenizer.piece_count)
        pieces = {token: tokenizer.piece(token) for token in ids if tokenizer.is_byte(token)}
        unknown = {token for token, piece in pieces.items() if piece not in _LINE_BYTES} | {0}
        return cls(name, tokenizer.encode, frozenset(unknown))

    @classmethod
    def of_model(cls, name: str, model: bytes) -> "Contender":
        """Any SentencePiece model.

        Raises:
            TokenizerError: if it is none.
        """
        processor = sentencepiece.SentencePieceProcessor()
        try:
            processor.load_from_serialized_proto(model)
        except (RuntimeError, ValueError, TypeError):
            raise TokenizerError(f"{name}: not a SentencePiece model") from None
        ids = range(processor.vocab_size())
        unknown = {
            token
            for token in ids
            if processor.is_unknown(token)
            or (processor.is_byte(token) and processor.id_to_piece(token) not in _LINE_BYTES)
        }
        return cls(name, processor.encode, frozenset(unknown))


@dataclass(frozen=True)
class Measure:
    """How one tokenizer cuts the text of one language; the module's head says what is what."""

    tokens: int
    bytes_per_token: float
    fertility: float
    unknown_rate: float


@dataclass(frozen=True)
class Comparison:
    """What was measured.

    Attributes:
        text: of each language, documents, bytes and words; `all` is their sum.
        measures: by language, then by tokenizer.
    """

    text: Mapping[str, Mapping[str, int]]
    measures: Mapping[str, Mapping[str, Measure]]

    def write(self, folder: Path, more: Mapping[str, Any]) -> None:
        """Writes `report.json`, with `more` in it, and `report.svg`."""
        tables = {
            language: {name: asdict(measure) for name, measure in row.items()}
            for language, row in self.measures.items()
        }
        report = {"text": self.text, "measures": tables, **more}
        write_text_durably(folder / REPORT_FILE_NAME, json.dumps(report, indent=2, ensure_ascii=False) + "\n")
        write_text_durably(folder / PLOT_FILE_NAME, self.plot())

    def plot(self) -> str:
        """Returns bytes per token by language and tokenizer, as SVG."""
        names = list(next(iter(self.measures.values())))
        return bar_chart(
            "Compression by language",
            list(self.measures),
            {name: [row[name].bytes_per_token for row in self.measures.values()] for name in names},
            "bytes a token, more is better",
        )


def compare(documents: Iterable[tuple[str, str]], contenders: Sequence[Contender]) -> Comparison:
    """Measures tokenizers on documents.

    Args:
        documents: text, and the name of the file that it is from; languages beyond the eight with most text are one.
        contenders: at least one; their names differ.
    """
    texts: dict[str, Counter[str]] = {}
    tokens: dict[str, dict[str, Counter[str]]] = {}
    for text, file_name in documents:
        language = language_of(text, file_name)
        points = code_points(text)
        counts = {"documents": 1, "bytes": len(text.encode()), "words": len(unit_words(points, kinds_of(points)))}
        texts.setdefault(language, Counter()).update(counts)
        row = tokens.setdefault(language, {contender.name: Counter() for contender in contenders})
        for contender in contenders:
            ids = contender.encode(text)
            row[contender.name].update(tokens=len(ids), unknown=sum(map(contender.unknown.__contains__, ids)))
    order = sorted(texts, key=lambda language: (-texts[language]["bytes"], language))
    groups = {ALL: order, **{language: [language] for language in order[:_MOST_LANGUAGES]}}
    if order[_MOST_LANGUAGES:]:
        groups[OTHER] = order[_MOST_LANGUAGES:]
    summed = {group: _sum(texts[language] for language in members) for group, members in groups.items()}
    return Comparison(
        {group: dict(counts) for group, counts in summed.items()},
        {
            group: {
                contender.name: _measure(summed[group], _sum(tokens[language][contender.name] for language in members))
                for contender in contenders
            }
            for group, members in groups.items()
        },
    )


def _sum(counters: Iterable[Counter[str]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for counter in counters:
        total.update(counter)
    return total


def _measure(text: Counter[str], counts: Counter[str]) -> Measure:
    tokens = counts["tokens"]
    return Measure(
        tokens,
        round(text["bytes"] / max(1, tokens), 4),
        round(tokens / max(1, text["words"]), 4),
        round(counts["unknown"] / max(1, tokens), 6),
    )
