"""`~` inside `${name:…}`: OmegaConf's grammar refuses it bare, users write it all the same.

`${oc.env:YUAN_HOME,~/.yuan}` becomes `${oc.env:YUAN_HOME,'~/.yuan'}` before OmegaConf sees it. This is no parser of
its grammar: it only finds where an argument begins and ends.
"""

import re

_ESCAPES = re.compile(r"\\+(?=\$\{)")
_CALL = re.compile(r"\$\{\s*[\w.]+\s*:")


def with_quoted_tildes(text: str) -> str:
    """Returns the text with quotes around arguments of `${name:…}` that have a bare `~`.

    Arguments that are quoted, a list or a mapping are left alone, and so is all that stands outside.
    """
    return _Quoter(text).whole() if "~" in text and "${" in text else text


class _Quoter:
    """Walks once over a string; `at` is how far it has come. Every method returns what it walked over, mended."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def whole(self) -> str:
        result = ""
        while self.at < len(self.text):
            escapes = _ESCAPES.match(self.text, self.at)
            if escapes:
                result += self._take(len(escapes.group()))
                if len(escapes.group()) % 2:
                    result += self._take(2)
            elif self.text.startswith("${", self.at):
                result += self._interpolation()
            else:
                result += self._take(1)
        return result

    def _take(self, count: int) -> str:
        piece = self.text[self.at : self.at + count]
        self.at += count
        return piece

    def _interpolation(self) -> str:
        """From `${` to its `}`, or to the text's end."""
        call = _CALL.match(self.text, self.at)
        result = self._take(len(call.group()) if call else 2)
        while self.at < len(self.text):
            result += self._argument(quote=call is not None)
            end = self._take(1)
            result += end
            if end == "}":
                break
        return result

    def _argument(self, *, quote: bool) -> str:
        """Up to the comma or brace that ends it."""
        result = ""
        depth = 0
        bare_tilde = False
        while self.at < len(self.text):
            character = self.text[self.at]
            if depth == 0 and character in ",}":
                break
            if self.text.startswith("${", self.at):
                result += self._interpolation()
            elif character in "'\"":
                result += self._quoted(character)
            else:
                depth += (character in "[{") - (character in "]}")
                bare_tilde = bare_tilde or (character == "~" and depth == 0)
                result += self._take(1)
        core = result.strip()
        if quote and bare_tilde and core[0] not in "'\"[{":
            return result.replace(core, f"'{core}'" if "'" not in core else f'"{core}"', 1)
        return result

    def _quoted(self, mark: str) -> str:
        result = self._take(1)
        while self.at < len(self.text):
            character = self.text[self.at]
            if character == "\\":
                result += self._take(2)
            elif self.text.startswith("${", self.at):
                result += self._interpolation()
            else:
                result += self._take(1)
                if character == mark:
                    break
        return result
