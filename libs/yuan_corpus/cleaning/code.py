"""Source code: whether it compiles, and its licence header."""

import re
import warnings

from yuan_corpus.cleaning.stage import Dropped

_LICENCE = re.compile(r"copyright|licen[cs]e|all rights reserved|spdx-", re.IGNORECASE)
# The first comment, behind a #! or coding line: lines of # or //, or a block of /* */.
_HEADER = re.compile(
    r"((?:#![^\n]*\n|#[^\n]*coding[:=][^\n]*\n)*)\s*((?:[ \t]*(?:#|//)[^\n]*(?:\n|$))+|/\*.*?\*/[ \t]*(?:\n|$))",
    re.DOTALL,
)


class PythonCompiles:
    """Leaves out what is no Python of this interpreter's version; nothing of it is run."""

    def clean(self, text: str) -> str | Dropped:
        """Returns the text or why it is left out."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                compile(text, "document", "exec", dont_inherit=True)
            except (SyntaxError, ValueError):
                return Dropped("does not compile")
            except (RecursionError, MemoryError, OverflowError):
                return Dropped("nested too deeply to compile")
        return text


class LicenceHeader:
    """Removes the first comment of a source file where it speaks of copyright or a licence."""

    def clean(self, text: str) -> str | Dropped:
        """Returns the text without it."""
        header = _HEADER.match(text)
        if header is None or not _LICENCE.search(header.group(2)):
            return text
        rest = header.group(1) + text[header.end() :].lstrip("\n")
        return rest if rest.strip() else Dropped("nothing but a licence")
