"""Which language a document is in: by py3langid, whose model is in its package; source code by its file's name."""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false

from functools import lru_cache
from typing import Any

from yuan_corpus.sources import format_suffix

CODE = "code"
_CODE_SUFFIXES = frozenset(
    f".{name}"
    for name in (
        "py", "pyi", "c", "h", "cc", "cpp", "hpp", "java", "js", "jsx", "ts", "tsx",
        "go", "rs", "rb", "php", "cs", "swift", "kt", "scala", "sh", "sql", "lua", "jl",
    )
)  # fmt: skip
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


def language_of(text: str, file_name: str = "") -> str:
    """Returns a document's language: an ISO 639 code, or `code` by the suffix of the file that it comes from."""
    return CODE if format_suffix(file_name) in _CODE_SUFFIXES else classify(text[:_SAMPLE])[0]
