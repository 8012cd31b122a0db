"""Source code: whether it compiles, and its licence header."""

import re
import warnings

from yuan_corpus.cleaning.stage import Dropped

_NAMES = r"(?:apache|bsd|mit|gnu|gpl|lgpl|mozilla|mpl|eclipse|isc|public|commons)"
_LICENCE = re.compile(
    r"copyright|©|\(c\) ?(?:19|20)\d\d|all rights reserved|spdx-|@licen[cs]e|licen[cs]ed (?:under|to)"
    rf"|under the (?:terms|licen[cs]e)|\b{_NAMES}\b[^\n]{{0,40}}licen[cs]e|licen[cs]e[^\n]{{0,20}}\b{_NAMES}\b"
    r"|permission is hereby granted|redistribution and use|版权所有|许可证",
    re.IGNORECASE,
)
# What stands before comments and stays: #! and coding lines, the beginning of PHP and XML.
_PREAMBLE = re.compile(r"(?:#![^\[\n][^\n]*\n|#[^\n]*coding[:=][^\n]*\n|<\?[^\n]*\n)*")
# Lines of #, //, --, % or ;, but for C's directives and Rust's attributes; blocks of C, markup, ML and Haskell.
_DIRECTIVE = r"(?:include|define|ifn?def|if|endif|pragma|undef|import)\b|!?\["
_COMMENT = re.compile(
    rf"(?:[ \t]*(?:#(?!{_DIRECTIVE})|//|--|%|;)[^\n]*(?:\n|$))+"
    r"|[ \t]*(?:/\*.*?\*/|<!--.*?-->|\(\*.*?\*\)|\{-.*?-\})[ \t]*(?:\n|$)",
    re.DOTALL,
)
_EMPTY_LINES = re.compile(r"\s*\n|")


class PythonCompiles:
    """Leaves out what is no Python of this interpreter's version; nothing of it is run."""

    def clean(self, text: str) -> str | Dropped:
        """Returns the text or why it is left out."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                compile(text.removeprefix("\ufeff"), "document", "exec", dont_inherit=True)
            except (SyntaxError, ValueError):
                return Dropped("does not compile")
            except (RecursionError, MemoryError, OverflowError):
                return Dropped("nested too deeply to compile")
        return text


class LicenceHeader:
    """Removes, of the comments that a source file begins with, those that speak of copyright or a licence."""

    def clean(self, text: str) -> str | Dropped:
        """Returns the text without them."""
        preamble = _PREAMBLE.match(text)
        position = begin = preamble.end() if preamble else 0
        kept: list[str] = [text[:begin]]
        found = False
        while True:
            gap = _EMPTY_LINES.match(text, position)
            start = gap.end() if gap else position
            comment = _COMMENT.match(text, start)
            if comment is None or comment.end() == start:
                break
            if _LICENCE.search(comment.group()):
                found = True
            else:
                kept.append(text[position : comment.end()])
            position = comment.end()
        if not found:
            return text
        rest = "".join([*kept, text[position:].lstrip("\n")])
        return rest if rest.strip() else Dropped("nothing but a licence")
