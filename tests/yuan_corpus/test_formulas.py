"""Formulas in MathML, HTML and Unicode become LaTeX; prose, code and what is LaTeX stay."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yuan_corpus.cleaning.formulas import FormulasToLatex

STAGE = FormulasToLatex()


@pytest.mark.parametrize(
    ("text", "latex"),
    [
        (
            "已知x²+y²≤√2，求x的最大值（其中x₁=½）。",
            r"已知$x^{2}+y^{2}\le \sqrt{2}$，求x的最大值（其中$x_{1}=\frac{1}{2}$）。",
        ),
        (
            "area πr² where r ≥ 0, and (see a²+b²=c²)",
            r"area $\pi r^{2}$ where $r \ge 0$, and (see $a^{2}+b^{2}=c^{2}$)",
        ),
        ("√(a²+b²) ≠ a+b", r"$\sqrt{a^{2}+b^{2}} \ne a+b$"),
        ("sin²x + cos²x = 1", r"$\sin^{2}x + \cos^{2}x = 1$"),
        ("A∩B⊆C，若a∈ℝ，则|a|≥0", r"$A\cap B\subseteq C$，若$a\in \mathbb{R}$，则$|a|\ge 0$"),
        ("∀ε>0", r"$\forall \varepsilon>0$"),
        ("2×10⁻³", r"$2\times 10^{-3}$"),
        ("x<sup>2</sup> + y<sub>1</sub>", r"$x^{2} + y_{1}$"),
        ("H<sub>2</sub>O", r"$H_{2}O$"),
        (r"\(a+b\) and \[c\]", "$a+b$ and $$c$$"),
    ],
)
def test_signs_become_latex(text: str, latex: str) -> None:
    assert STAGE.clean(text) == latex


@pytest.mark.parametrize(
    ("source", "latex"),
    [
        (
            "<math><mfrac><mrow><mi>a</mi><mo>+</mo><mn>1</mn></mrow><msqrt><mi>x</mi></msqrt></mfrac>"
            "<mo>&le;</mo><mi>sin</mi><mi>&theta;</mi></math>",
            r"$\frac{a + 1}{\sqrt{x}}\le \sin \theta$",
        ),
        (
            '<m:math xmlns:m="http://www.w3.org/1998/Math/MathML" display="block"><m:munderover><m:mo>∑</m:mo><m:mrow>'
            "<m:mi>i</m:mi><m:mo>=</m:mo><m:mn>1</m:mn></m:mrow><m:mi>n</m:mi></m:munderover><m:msubsup><m:mi>x</m:mi>"
            "<m:mi>i</m:mi><m:mn>2</m:mn></m:msubsup></m:math>",
            r"$$\sum_{i = 1}^{n}x_{i}^{2}$$",
        ),
        (
            "<math><mtable><mtr><mtd><mn>1</mn></mtd><mtd><mn>0</mn></mtd></mtr><mtr><mtd><mn>0</mn></mtd><mtd>"
            "<mn>1</mn></mtd></mtr></mtable></math>",
            r"$\begin{matrix} 1 & 0 \\ 0 & 1 \end{matrix}$",
        ),
        (
            "<math><mroot><mi>x</mi><mn>3</mn></mroot><mtext>if 5%</mtext><mfenced><mi>a</mi></mfenced></math>",
            r"$\sqrt[3]{x}\text{if 5\%}\left( a \right)$",
        ),
    ],
)
def test_mathml_becomes_latex(source: str, latex: str) -> None:
    assert STAGE.clean(f"so {source} holds") == f"so {latex} holds"


@pytest.mark.parametrize(
    "text",
    [
        "no formula here, a < b - c, (1) item, e.g. 3/4 of it",
        "Καλημέρα κόσμε, α is a letter",
        "$x²$ is known, and $$y ≤ 1$$, \\begin{align}a² \\end{align}",
        "`x²` is code, ```\nx ≤ y\n``` too",
        "it costs $5 or $6",
        "<math><mi>broken</math>",
        "the 1st of May – “quoted” … done → next",
    ],
)
def test_prose_code_and_latex_stay(text: str) -> None:
    assert STAGE.clean(text) == text


def test_each_kind_can_be_left_alone() -> None:
    text = r"x² \(y\) <math><mi>z</mi></math>"
    assert FormulasToLatex(mathml=False).clean(text) == "$x^{2}$ $y$ <math><mi>z</mi></math>"
    assert FormulasToLatex(signs=False).clean(text) == "x² $y$ $z$"
    assert FormulasToLatex(delimiters=False).clean(text) == r"$x^{2}$ \(y\) $z$"


PIECES = [
    "x",
    "²",
    "≤",
    "√",
    "(",
    ")",
    " ",
    "$",
    "\\(",
    "\\)",
    "12",
    "的",
    "<sup>",
    "</sup>",
    "<math>",
    "</math>",
    "\n",
    "`",
]


@given(st.lists(st.sampled_from(PIECES), max_size=30).map("".join))
def test_any_mixture_of_signs_gives_text_that_loses_nothing_of_the_rest(text: str) -> None:
    result = STAGE.clean(text)
    assert isinstance(result, str)
    if "<math>" not in text:
        assert [result.count(kept) for kept in ("x", "的")] == [text.count(kept) for kept in ("x", "的")]
        assert result.count("12") >= text.count("12")
