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
# As strict, of what is said in a docstring, which may be on copyright: what its paragraph makes part of a licence.
_STATEMENT = re.compile(
    r"copyright\s*(?:\(c\)|©|:|by\b|(?:19|20)\d\d)|(?:\(c\)|©) ?(?:copyright|(?:19|20)\d\d)|all rights reserved"
    r"|spdx-licen[cs]e"
    r"|^:?\s*@?licen[cs]e\s*[:=]|licen[cs]ed (?:under|to)\b|(?:under|see) the (?:terms|licen[cs]e)"
    r"|you may not use this file"
    r"|permission is hereby granted|redistributions? (?:and use|in|of)\b|unless required by applicable law"
    r"|without (?:any )?(?:express or implied )?warrant|without even the implied|provided [\"']?as[ -]is"
    r"|in no event shall"
    r"|neither the names? of|the above copyright|free software[;:]|received a copy of|www\.(?:apache|gnu)\.org/licenses"
    rf"|\b(?:the )?{_NAMES}\b[^\n]{{0,20}} licen[cs]e\b[^\n]{{0,20}}$|版权所有|许可证|许可协议",
    re.IGNORECASE | re.MULTILINE,
)
# What stands before comments and stays: #! and coding lines, the beginning of PHP and XML.
_PREAMBLE = re.compile(r"(?:#![^\[\n][^\n]*\n|#[^\n]*coding[:=][^\n]*\n|<\?[^\n]*\n)*")
# Blocks of C, D, markup, ML, Haskell, Lua, Ruby, MATLAB, Julia, PowerShell, templates; then lines of #, //, --, %, ;
# but for C's directives and Rust's attributes; of Fortran, Visual Basic, Vim, batch files and m4.
_DIRECTIVE = r"(?:include|define|ifn?def|if|endif|pragma|undef|import)\b|!?\["
_COMMENT = re.compile(
    r"[ \t]*(?:/\*.*?\*/|/\+.*?\+/|<!--.*?-->|\(\*.*?\*\)|\{-.*?-\}|\{#.*?#\}|--\[(=*)\[.*?\]\1\]|#=.*?=#|<#.*?#>"
    r"|%\{\n.*?\n%\}"
    r"|=begin\b.*?\n=end\b[^\n]*)[ \t]*(?:\n|$)"
    rf"|(?:[ \t]*(?:#(?!{_DIRECTIVE}|=)|//|--(?!\[=*\[)|%(?!\{{\n)|;|!(?![=\[])|dnl\b|(?i:@?rem\b)|::(?=\s)"
    r"|'(?=[ \t])(?![^\n]*'\s)"
    r"|\"(?=[ \t])(?![^\n]*\"))[^\n]*(?:\n|$))+",
    re.DOTALL,
)
_DOCSTRING = re.compile(r"([ \t]*[rRuU]?(\"{3}|'{3}))(.*?)(\2[ \t]*;?[ \t]*(?:\n|$))", re.DOTALL)
_PARAGRAPH_END = re.compile(r"(\n[ \t]*\n\s*)")
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
    """Removes, of the comments that a source file begins with, those that speak of copyright or a licence.

    Of a string that stands there as a comment (a docstring), the paragraphs that are of a licence.
    """

    def clean(self, text: str) -> str | Dropped:
        """Returns the text without them."""
        preamble = _PREAMBLE.match(text)
        position = begin = preamble.end() if preamble else 0
        kept: list[str] = [text[:begin]]
        found = False
        while True:
            gap = _EMPTY_LINES.match(text, position)
            start = gap.end() if gap else position
            comment = _DOCSTRING.match(text, start) or _COMMENT.match(text, start)
            if comment is None or comment.end() == start:
                break
            left = _without_licence(comment)
            found = found or left is not None
            if left is None:
                kept.append(text[position : comment.end()])
            elif left:
                kept.append(text[position:start] + left)
            position = comment.end()
        if not found:
            return text
        rest = "".join([*kept, text[position:].lstrip("\n")])
        return rest if rest.strip() else Dropped("nothing but a licence")


def _without_licence(comment: re.Match[str]) -> str | None:
    """Returns what stays of a comment; None: all of it, for it speaks of no licence."""
    if comment.re is not _DOCSTRING:
        return "" if _LICENCE.search(comment.group()) else None
    begin, _, inside, end = comment.groups()
    parts = _PARAGRAPH_END.split(inside)  # paragraphs, and between them what parts them
    stays = [not _STATEMENT.search(part) for part in parts[::2]]
    if all(stays):
        return None
    whole = [part + gap for part, gap, kept in zip(parts[::2], [*parts[1::2], ""], stays, strict=True) if kept]
    text = "".join(whole)
    if not text.strip():
        return ""
    return begin + (text if stays[-1] else text.rstrip() + ("\n" if "\n" in text.strip() else "")) + end
