r"""Formulas written as LaTeX, whatever they were written in.

Three ways of writing them are known: MathML (`<math>…</math>`, presentation elements), HTML's `<sup>` and `<sub>`, and
Unicode's signs (`x²+y²≤√2`). A formula of signs begins and ends where terms do: numbers, variables of at most two
letters or three capitals, names of functions, Greek letters, brackets, parted by operators; it is one only if it holds
a sign that prose does not have. What is LaTeX already, and code between backticks, stays; `\(…\)` and `\[…\]` become
`$…$` and `$$…$$`.
"""

import html
import re
import unicodedata
from xml.etree import ElementTree

from yuan_corpus.cleaning.stage import Dropped

_MACROS = {
    "×": r"\times", "÷": r"\div", "±": r"\pm", "∓": r"\mp", "·": r"\cdot", "⋅": r"\cdot", "∙": r"\cdot", "∘": r"\circ",
    "≤": r"\le", "≥": r"\ge", "≦": r"\le", "≧": r"\ge", "⩽": r"\le", "⩾": r"\ge", "≠": r"\ne", "≈": r"\approx",
    "≡": r"\equiv", "∼": r"\sim", "≅": r"\cong", "∝": r"\propto", "≪": r"\ll", "≫": r"\gg", "∈": r"\in", "∉": r"\notin",
    "∋": r"\ni", "⊂": r"\subset", "⊆": r"\subseteq", "⊃": r"\supset", "⊇": r"\supseteq", "∪": r"\cup", "∩": r"\cap",
    "∅": r"\emptyset", "∖": r"\setminus", "∧": r"\wedge", "∨": r"\vee", "¬": r"\neg", "⊕": r"\oplus", "⊗": r"\otimes",
    "→": r"\to", "←": r"\leftarrow", "↔": r"\leftrightarrow", "⇒": r"\Rightarrow", "⇐": r"\Leftarrow",
    "⇔": r"\Leftrightarrow", "↦": r"\mapsto", "∀": r"\forall", "∃": r"\exists", "∞": r"\infty", "∂": r"\partial",
    "∇": r"\nabla", "∑": r"\sum", "∏": r"\prod", "∫": r"\int", "∬": r"\iint", "∮": r"\oint", "∠": r"\angle",
    "⊥": r"\perp", "∥": r"\parallel", "△": r"\triangle", "∴": r"\therefore", "∵": r"\because", "…": r"\ldots",
    "⋯": r"\cdots", "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "ℕ": r"\mathbb{N}", "ℚ": r"\mathbb{Q}", "ℂ": r"\mathbb{C}",
    "−": "-", "＋": "+", "－": "-", "＝": "=", "＜": "<", "＞": ">", "′": "'", "″": "''", "≮": r"\not<", "≯": r"\not>",
}  # fmt: skip
_GREEK = {
    "α": r"\alpha", "β": r"\beta", "γ": r"\gamma", "δ": r"\delta", "ε": r"\varepsilon", "ζ": r"\zeta", "η": r"\eta",
    "θ": r"\theta", "ι": r"\iota", "κ": r"\kappa", "λ": r"\lambda", "μ": r"\mu", "ν": r"\nu", "ξ": r"\xi",
    "π": r"\pi", "ρ": r"\rho", "σ": r"\sigma", "ς": r"\varsigma", "τ": r"\tau", "υ": r"\upsilon", "φ": r"\varphi",
    "χ": r"\chi", "ψ": r"\psi", "ω": r"\omega", "Γ": r"\Gamma", "Δ": r"\Delta", "Θ": r"\Theta", "Λ": r"\Lambda",
    "Ξ": r"\Xi", "Π": r"\Pi", "Σ": r"\Sigma", "Υ": r"\Upsilon", "Φ": r"\Phi", "Ψ": r"\Psi", "Ω": r"\Omega",
    "ϵ": r"\epsilon", "ϑ": r"\vartheta", "ϕ": r"\phi",
}  # fmt: skip
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿⁱ", "0123456789+-=()ni")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎ₙₖₘₐₑₓᵢⱼ", "0123456789+-=()nkmaexij")
_RAISED, _LOWERED = "".join(map(chr, _SUPERSCRIPTS)), "".join(map(chr, _SUBSCRIPTS))
_FRACTIONS = "½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞"
_ROOTS = {"√": r"\sqrt", "∛": r"\sqrt[3]", "∜": r"\sqrt[4]"}
_FUNCTIONS = (
    "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh", "sin", "cos", "tan", "cot", "sec", "csc",
    "log", "ln", "lg", "lim", "max", "min", "exp", "gcd", "det",
)  # fmt: skip

_OPERATORS = "×÷±∓·⋅≤≥≦≧⩽⩾≠≈≡∼≅∝≪≫∈∉∋⊂⊆⊃⊇∪∩∖∧∨⊕⊗→←↔⇒⇐⇔↦⊥∥−＋－＝＜＞≮≯"
_OTHERS = "".join(sign for sign in _MACROS if sign not in _OPERATORS and sign not in "…")
_SIGNS = _OTHERS + "".join(_ROOTS) + _RAISED + _LOWERED + _FRACTIONS
# What prose has none of: the others (· and ′, dashes, arrows of lists, full-width signs) only go with these.
_TELLING = "×÷±∓≤≥≦≧⩽⩾≠≈≡≅∝≪≫∈∉⊂⊆∪∩∅∀∃∞∂∇∑∏∫∬√∛∜ℝℤℕℚℂ⇒⇔" + _RAISED.replace("¹", "") + _LOWERED + _FRACTIONS

_TAG = r"<(?:sup|sub)>[^<>\n]{1,40}</(?:sup|sub)>"
_ITEM = (
    rf"(?>{_TAG}|\d++(?:\.\d++)?|(?<![A-Za-z])(?:{'|'.join(_FUNCTIONS)}|[A-Za-z]{{1,2}}|[A-Z]{{3}})(?![A-Za-z])"
    rf"|(?<![\u0370-\u03ff])[{''.join(_GREEK)}](?![\u0370-\u03ff])|[{re.escape(_SIGNS)}]"
    r"|[()\[\]|!])"
)
_OPERATOR = rf"[+\-*/=<>{_OPERATORS}]"
_FORMULA = re.compile(rf"(?:[-−±∓+] ?)?(?:{_ITEM})++(?: ?(?:{_OPERATOR} ?)++(?:{_ITEM})++)*+")
_TELLS = re.compile(rf"{_TAG}|[{re.escape(_TELLING)}]")
_LATEX = re.compile(
    r"\$\$.*?\$\$|(?<![\\$])\$(?=\S)[^$\n]{1,1000}?(?<=[^\s\\])\$(?!\d)|\\begin\{([a-z]+\*?)\}.*?\\end\{\1\}"
    r"|```.*?```|`[^`\n]+`|\\\((.*?)\\\)|\\\[(.*?)\\\]",
    re.DOTALL,
)
_MATHML = re.compile(r"<((?:\w+:)?math)\b[^>]*>.*?</\1>", re.DOTALL)
_NAMESPACE = re.compile(r"\sxmlns(?::\w+)?=(\"[^\"]*\"|'[^']*')")
_PREFIX = re.compile(r"(</?)\w+:")
_ORDINAL = re.compile(r"(\d)<sup>(st|nd|rd|th)</sup>")


class FormulasToLatex:
    """Writes formulas as LaTeX; text without any stays as it is."""

    def __init__(self, mathml: bool = True, signs: bool = True, delimiters: bool = True) -> None:
        self._mathml, self._signs, self._delimiters = mathml, signs, delimiters

    def clean(self, text: str) -> str | Dropped:
        """Returns the text with its formulas in LaTeX."""
        if self._mathml and "math" in text:
            text = _MATHML.sub(_of_mathml, text)
        if not (self._signs and _TELLS.search(text)) and not (self._delimiters and "\\" in text):
            return text
        pieces: list[str] = []
        done = 0
        for known in _LATEX.finditer(text):
            pieces += [self._plain(text[done : known.start()]), self._known(known)]
            done = known.end()
        return "".join([*pieces, self._plain(text[done:])])

    def _known(self, formula: re.Match[str]) -> str:
        if self._delimiters:
            for number, mark in ((2, "$"), (3, "$$")):
                inner = (formula.group(number) or "").strip()
                if inner:
                    return mark + inner + mark
        return formula.group()

    def _plain(self, text: str) -> str:
        if not self._signs or not _TELLS.search(text):
            return text
        text = _ORDINAL.sub(r"\1\2", text)
        # A formula is within a line; most lines have none.
        return "".join(_FORMULA.sub(_of_signs, line) if _TELLS.search(line) else line for line in text.splitlines(True))


def _of_signs(match: re.Match[str]) -> str:
    formula = match.group()
    if not _TELLS.search(formula):
        return formula
    begin, end = _balanced(formula)
    inner = formula[begin:end]
    if not _TELLS.search(inner):
        return formula
    return f"{formula[:begin]}${_latex(inner).strip()}${formula[end:]}"


def _balanced(formula: str) -> tuple[int, int]:
    """Returns the part of a formula without the brackets of the prose around it, which have no partner in it."""
    begin, end = 0, len(formula)
    while begin < end:
        inner = formula[begin:end]
        if inner[0] in ")]!" or (inner[0] in "([" and not _closes(inner)):
            begin += 1
        elif inner[-1] in "([" or (inner[-1] in ")]" and not _closes(inner[::-1].translate(_MIRROR))):
            end -= 1
        else:
            break
    return begin, end


_MIRROR = str.maketrans("()[]", ")(][")


def _closes(formula: str) -> bool:
    """Tells whether the bracket that a formula begins with has its partner in it."""
    depth = 0
    for character in formula:
        depth += (character in "([") - (character in ")]")
        if depth == 0:
            return True
    return False


def _latex(formula: str) -> str:
    """Returns a formula of signs as LaTeX."""
    parts: list[str] = []
    place = 0
    while place < len(formula):
        character = formula[place]
        if formula.startswith(("<sup>", "<sub>"), place):
            end = formula.index("</su", place)
            parts.append(("^" if formula[place + 3] == "p" else "_") + "{" + _latex(formula[place + 5 : end]) + "}")
            place = end + 6
        elif character in _RAISED or character in _LOWERED:
            raised = character in _RAISED
            end = _run(formula, place, _RAISED if raised else _LOWERED)
            plain = formula[place:end].translate(_SUPERSCRIPTS if raised else _SUBSCRIPTS)
            parts.append(("^{" if raised else "_{") + plain + "}")
            place = end
        elif character in _ROOTS:
            content, place = _radicand(formula, place + 1)
            parts.append(f"{_ROOTS[character]}{{{_latex(content)}}}")
        elif character in _FRACTIONS:
            over, under = unicodedata.normalize("NFKC", character).split("⁄")
            parts.append(rf"\frac{{{over}}}{{{under}}}")
            place += 1
        elif character.isascii() and character.isalpha():
            end = place
            while end < len(formula) and formula[end].isascii() and formula[end].isalpha():
                end += 1
            word = formula[place:end]
            parts.append(_macro("\\" + word, formula[end:]) if word in _FUNCTIONS else word)
            place = end
        else:
            macro = _MACROS.get(character) or _GREEK.get(character) or character
            parts.append(_macro(macro, formula[place + 1 :]))
            place += 1
    return "".join(parts)


def _macro(macro: str, rest: str) -> str:
    """Returns a macro, with a space behind it where a letter would else become a part of its name."""
    script = bool(rest) and (rest[0] in _RAISED or rest[0] in _LOWERED)
    follows = bool(rest) and not script and (rest[0].isalnum() or rest[0] in _ROOTS or rest[0] in _MACROS)
    return macro + " " if macro[-1].isalpha() and macro.startswith("\\") and follows else macro


def _run(formula: str, start: int, characters: str) -> int:
    end = start
    while end < len(formula) and formula[end] in characters:
        end += 1
    return end


def _radicand(formula: str, start: int) -> tuple[str, int]:
    """Returns what stands under a root that begins before `start`, and where it ends."""
    rest = formula[start:]
    if rest.startswith("("):
        depth = 0
        for place, character in enumerate(rest):
            depth += (character == "(") - (character == ")")
            if depth == 0:
                return rest[1:place], start + place + 1
    found = re.match(r"\d+(?:\.\d+)?|[A-Za-z]|[^\s\w]|\w", rest)
    return (found.group(), start + found.end()) if found else ("", start)


# --- MathML ---------------------------------------------------------------------------------------------------------


def _of_mathml(match: re.Match[str]) -> str:
    """Returns a `<math>` element as LaTeX; one that is no XML stays as it is."""
    source = match.group()
    # XML knows five named characters, MathML two thousand.
    source = re.sub(r"&(?!lt;|gt;|amp;|#)\w+;", lambda name: html.unescape(name.group()), source)
    try:
        root = ElementTree.fromstring(_PREFIX.sub(r"\1", _NAMESPACE.sub("", source)))  # noqa: S314 - it has no DTD
        formula = " ".join(_element(root).split())
    except (ElementTree.ParseError, RecursionError):
        return match.group()
    if not formula:
        return ""
    return f"$${formula}$$" if root.get("display") == "block" else f"${formula}$"


_ESCAPED = str.maketrans({character: "\\" + character for character in "%&#${}"})


def _element(element: ElementTree.Element) -> str:  # noqa: PLR0911 - one a kind of element
    children = [_element(child) for child in element if child.tag not in ("annotation", "annotation-xml")]
    name, text = element.tag, (element.text or "").strip()
    if name in ("mi", "mn", "mo", "ms"):
        return _identifier(text) if name == "mi" and len(text) > 1 else _latex(text.translate(_ESCAPED)) + " "
    if name == "mtext":
        return rf"\text{{{text.translate(_ESCAPED)}}}"
    if name == "mspace":
        return " "
    if name in _LAYOUTS and len(children) == (3 if name in ("msubsup", "munderover") else 2):
        inner = [child.strip() for child in children]
        layout = _ACCENTS.get(inner[1], _LAYOUTS[name]) if name == "mover" else _LAYOUTS[name]
        return layout.format(*inner)
    if name == "msqrt":
        return rf"\sqrt{{{''.join(children).strip()}}}"
    if name == "mfenced":
        opened, closed = element.get("open", "("), element.get("close", ")")
        return rf"\left{_fence(opened)} {', '.join(children)}\right{_fence(closed)} "
    if name == "mtable":
        return r"\begin{matrix} " + r" \\ ".join(children) + r" \end{matrix}"
    if name in ("mtr", "mlabeledtr"):
        return " & ".join(child.strip() for child in children)
    return "".join(children) or text


_LAYOUTS = {
    "mfrac": r"\frac{{{0}}}{{{1}}}",
    "msup": "{0}^{{{1}}}",
    "msub": "{0}_{{{1}}}",
    "msubsup": "{0}_{{{1}}}^{{{2}}}",
    "munder": "{0}_{{{1}}}",
    "mover": "{0}^{{{1}}}",
    "munderover": "{0}_{{{1}}}^{{{2}}}",
    "mroot": r"\sqrt[{1}]{{{0}}}",
}
"""Elements of a fixed number of children, and where those go."""
_ACCENTS = {
    sign: f"\\{name}{{{{{{}}}}}}"
    for sign, name in (
        ("¯", "overline"),
        ("‾", "overline"),
        (r"\to", "vec"),
        ("^", "hat"),
        ("~", "tilde"),
        ("˙", "dot"),
    )
}


def _identifier(text: str) -> str:
    return f"\\{text} " if text in _FUNCTIONS else rf"\mathrm{{{text.translate(_ESCAPED)}}}" if text.isalnum() else text


def _fence(sign: str) -> str:
    return {"{": r"\{", "}": r"\}", "": ".", "⟨": r"\langle", "⟩": r"\rangle"}.get(sign, sign)
