"""Which language a document is in: by py3langid, whose model is in its package; source code by its name or lines."""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false

import re
from functools import lru_cache
from typing import Any

from yuan_corpus.sources import format_suffix

CODE = "code"
UNKNOWN = "unknown"
_NO_LANGUAGE = "zxx"
_LEAST_CONFIDENCE = 0.2
"""Of a language that is not one of `_OFTEN`: of a few words, numbers and symbols py3langid guesses any at less."""
_CODE_SUFFIXES = frozenset(
    f".{name}"
    for name in (
        "py", "pyi", "c", "h", "cc", "cpp", "hpp", "java", "js", "jsx", "ts", "tsx",
        "go", "rs", "rb", "php", "cs", "swift", "kt", "scala", "sh", "sql", "lua", "jl",
    )
)  # fmt: skip
# Lines that are statements, brackets or comments of common languages of programming, and hardly ever prose.
_CODE_LINE = re.compile(
    r"[ \t]*(?:(?:async )?def \w+\(.*|class \w+[(:{ ].*[:{]|(?:from [\w.]+ )?import [\w.*,{} ]+;?|@\w[\w.]*(?:\(.*)?"
    r"|(?:if|elif|for|while|with|except|else|try|finally|switch|catch|match|case)\b.*[:{]|return\b[^.?!]*|raise \w+.*"
    r"|#(?:include|define|if|endif|ifdef|ifndef|pragma)\b.*|(?:const|let|var|val|fn|func|function|package|using)\b.*"
    r"|(?:public|private|protected|static|export|struct|enum|interface|impl|typedef|extern|int|void|char)\b.*[({;,]"
    r"|[\w.\[\]\"'*&>-]+(?: ?: ?[\w.\[\], |]+)? (?:[-+*/|&%:]?=|:=|<-|->|=>) ?\S.*|[\w.:>-]+\(.*|.*[;{}]"
    r"|[\])}].*|.*[(\[{,]|(?://|/\*|\*/|\* |--|;;).*|\"{3}|'{3}|File \".*\", line \d+.*|</?\w[^>]*>.*)[ \t]*\r?"
)
_CODE_SIGNS = re.compile(r"[(){}\[\];=<>_]|::|->|\w\.\w|\"[^\"]*\"")
# Of them, those that a solution in mathematics or a page of markup has too.
_OTHERS_LINE = re.compile(r"[ \t]*(?:[^={};]*=[^={};]*|<.*>)[ \t]*")
_LEAST_CODE_LINES, _LEAST_CODE_SIGNS, _FEWEST_LINES = 0.5, 0.04, 3
_LEAST_OF_RARE = 0.25
_OFTEN = frozenset({"zh", "en"})
_SAMPLE = 2000
"""Characters of a document that are looked at."""


@lru_cache(maxsize=1)
def identifier() -> Any:
    """Returns the model, which takes a second to load and never changes."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier  # noqa: PLC0415

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def classify(text: str) -> tuple[str, float]:
    """Returns an ISO 639 code and how sure it is; written Cantonese and Wu count as Chinese."""
    language, confidence = identifier().classify(text)
    return ("zh" if language in ("yue", "wuu") else str(language)), float(confidence)


def code_share(text: str) -> float:
    """Returns the share of lines of source code at the beginning of a text; 0 where signs of it are rare.

    Of a few lines nothing is said.
    """
    sample = text[:_SAMPLE]
    lines = [line for line in sample.split("\n") if line.strip()]
    signs = sum(1 for _ in _CODE_SIGNS.finditer(sample))
    if len(lines) < _FEWEST_LINES or signs < _LEAST_CODE_SIGNS * len("".join(sample.split())):
        return 0
    found = [line for line in lines if _CODE_LINE.fullmatch(line)]
    return len(found) / len(lines) if not all(map(_OTHERS_LINE.fullmatch, found)) else 0


def language_of(text: str, file_name: str = "") -> str:
    """Returns a document's language: an ISO 639 code; `code`, by its lines or its file's suffix; or `unknown`."""
    if format_suffix(file_name) in _CODE_SUFFIXES:
        return CODE
    language, confidence = classify(text[:_SAMPLE])
    if (language := or_code(language, text)) in (CODE, *_OFTEN):
        return language
    return UNKNOWN if language == _NO_LANGUAGE or confidence < _LEAST_CONFIDENCE else language


def or_code(language: str, text: str) -> str:
    """Returns the language that `classify` finds in a text, or `code`.

    Code that is mostly comments is in their language. Where that is neither Chinese nor English, which py3langid takes
    code for that it does not know, fewer lines will do.
    """
    return CODE if code_share(text) >= (_LEAST_CODE_LINES if language in _OFTEN else _LEAST_OF_RARE) else language
