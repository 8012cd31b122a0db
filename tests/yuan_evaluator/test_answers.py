"""Answers in many dresses: what is equal counts as equal, what is not does not, whatever text it stands in."""

from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yuan_evaluator.answers import code, equality, numbers
from yuan_evaluator.answers.letters import chosen

DATA = Path(__file__).parents[2].parent / "shared/data/yuan-datasets"
STYLES = (
    "{}",
    "先算出总数，再减去用掉的。\n所以答案是{}。",
    "The answer is ${}.",
    "因此 \\boxed{{{}}}",
    "#### {}",
    "总价 = 单价 × 数量 = {} 元",
)


def gsm8k_golds() -> list[str]:
    file = DATA / "GSM8K/gsm8k_Cn.txt"
    if not file.exists():
        pytest.skip("needs ../shared/data")
    return [line.rpartition("[SEP]")[2].strip() for line in file.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("style", STYLES)
def test_every_gold_of_gsm8k_is_right_as_it_stands_and_wrong_when_changed_by_one(style: str) -> None:
    golds = gsm8k_golds()
    assert len(golds) == 1319
    for gold in golds:
        number = Fraction(gold.replace(",", ""))
        right = style.format(gold)
        lines = numbers.original_lines(right, cut=False)
        assert numbers.original_verdict(lines, gold), right
        assert equality.equal(str(numbers.final_value(right)[0]), gold), right
        for other in (number + 1, number - 1):
            wrong = style.format(float(other) if other.denominator > 1 else int(other))
            assert not numbers.original_verdict(numbers.original_lines(wrong, cut=False), gold), wrong
            assert not equality.equal(str(numbers.final_value(wrong)[0]), gold), wrong


def test_what_had_become_too_long_loses_five_characters_in_the_originals_eyes_alone() -> None:
    assert numbers.original_verdict(numbers.original_lines("答案是 42", cut=False), "42")
    assert not numbers.original_verdict(numbers.original_lines("答案是 42", cut=True), "42")


def test_what_broke_the_originals_scorer_is_a_wrong_answer() -> None:
    for text in ("1/0", "-", "", "没有答案", "3.5.1", "=", "答案=\\frac{1}{0}"):
        assert not numbers.original_verdict(numbers.original_lines(text, cut=False), "42")
    assert not numbers.original_verdict(numbers.original_lines("42", cut=False), "many")


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("0.5", "\\frac{1}{2}"),
        ("0.50", "1/2"),
        ("\\dfrac12", "0.5"),
        ("40%", "40"),
        ("40\\%", "0.4"),
        ("2/5", "40%"),
        ("1,200", "1200"),
        ("$1,200.00", "1200"),
        ("42 dollars", "42"),
        ("42元", "42"),
        ("12 cm^2", "12"),
        ("60^\\circ", "60"),
        ("x = 3", "3"),
        ("3\\frac{1}{2}", "3.5"),
        ("\\sqrt{8}", "2\\sqrt{2}"),
        ("2π", "2\\pi"),
        ("5，10", "5;10"),
        ("5; 10", "5;10"),
        ("\\frac{2}{\\sqrt5}; \\frac{1}{\\sqrt{5}}", "\\frac{2\\sqrt{5}}{5};\\frac {\\sqrt {5}}{5}"),
        ("(1,2)", "\\left(1, 2\\right)"),
        ("\\{2,1\\}", "\\{1,2\\}"),
        ("x^2+2x+1", "(x+1)^2"),
        ("y=2x+1", "2x-y+1=0"),
        ("x>3", "3<x"),
        ("-2\\leq x\\leq 1", "-2 ≤ x ≤ 1"),
        ("(2,+\\infty)\\cup[0,1)", "[0,1) \\cup (2,+\\infty)"),
        ("\\mathrm{e}^{2}", "e^2"),
        ("\\log_2 8", "3"),
        ("\\pm 2", "\\pm2"),
        ("\\frac{n^{2}+n}{2}", "n(n+1)/2"),
        ("1\\text{ 米}", "1"),
        ("１８", "18"),
        ("10.", "10"),
        ("|-3|", "3"),
        ("4!", "24"),
    ],
)
def test_equal_answers_in_other_dress_are_equal(answer: str, gold: str) -> None:
    assert equality.equal(answer, gold)


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("41", "42"),
        ("0.33", "1/3"),
        ("x+1", "x+2"),
        ("(1,2)", "[1,2]"),
        ("(2,1)", "(1,2)"),
        ("5", "5;10"),
        ("10;5", "5;10"),
        ("5;10;5", "5;10"),
        ("x>3", "x<3"),
        ("x\\geq 3", "x>3"),
        ("0.4", "40"),
        ("", "3"),
        ("y=2x", "y=3x"),
        ("2", "\\pm 2"),
        ("\\{1,2,3\\}", "\\{1,2\\}"),
        ("1/0", "1"),
        ("a", "b"),
        ("不知道", "3"),
        ("42", "four"),
        ("9^9^9^9^9", "2"),
        ("123456789012345678901234567890!", "1"),
        ("(" * 300 + "1" + ")" * 300, "1"),
        ("\\sqrt[0]{2}", "1"),
        ("__import__('os').system('true')", "0"),
    ],
)
def test_unequal_answers_are_not_equal(answer: str, gold: str) -> None:
    assert not equality.equal(answer, gold)


@settings(max_examples=150, deadline=None)
@given(st.integers(-999, 999), st.integers(1, 999), st.integers(1, 9))
def test_a_fraction_equals_itself_in_every_dress_and_no_neighbour(top: int, bottom: int, factor: int) -> None:
    gold = f"{top}/{bottom}"
    sign = "-" if top < 0 else ""
    for dress in (
        f"{top * factor}/{bottom * factor}",
        f"{sign}\\frac{{{abs(top)}}}{{{bottom}}}",
        f"$\\dfrac{{{top * factor}}}{{{bottom * factor}}}$",
        f"x={gold}",
    ):
        assert equality.equal(dress, gold)
    assert not equality.equal(f"{top + 1}/{bottom}", gold)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60), st.text("0123456789+-*/^(){}[],;=<>.\\fracsqrtpi ", max_size=60))
def test_no_text_breaks_a_comparison_and_every_text_equals_itself(one: str, other: str) -> None:
    equality.equal(one, other)
    numbers.final_value(one + other)
    chosen(one + other)
    code.function("def f():\n", one + other, "f")
    if equality.clean(other):
        assert equality.equal(other, other)


@pytest.mark.parametrize(
    ("text", "question", "letters"),
    [
        ("A", "", "A"),
        ("（B）", "", "B"),
        ("ＡＣ", "", "AC"),
        ("故选：A", "", "A"),
        ("分析如下……\n所以选B。", "", "B"),
        ("正确答案是C选项。", "", "C"),
        ("因此，答案为（D）", "", "D"),
        ("综上，A、C正确，故选AC。", "", "AC"),
        ("答案：D。", "", "D"),
        ("故答案为：$\\mathrm{B}$", "", "B"),
        ("先看A，不对；再看B，故选B。", "", "B"),
        ("本题选C", "", "C"),
        ("故本题选择D", "", "D"),
        ("正确的说法是B", "", "B"),
        ("故A符合题意", "", "A"),
        ("选项D符合", "", "D"),
        ("应选择B", "", "B"),
        ("The answer is (C).", "", "C"),
        ("A错误；B正确；C错误；D错误", "", "B"),
        ("A正确；B正确；C错误，D正确", "下列说法错误的是", "C"),
        ("故选A，更正：故选D", "", "D"),
        ("经过计算得到\nC", "", "C"),
        ("可以看出只有 B 选项", "", "B"),
        ("我不知道", "", None),
        ("本题不选A", "", None),
        ("先看A项，再看B项，说不清", "", None),
        ("", "", None),
    ],
)
def test_the_letters_that_a_chinese_answer_chooses(text: str, question: str, letters: str | None) -> None:
    assert chosen(text, question)[0] == letters


HEAD = "from typing import List\n\ndef add(a: int, b: int) -> int:\n"
PROMPT = f"问题描述：求和。\n示例：\n>>> add(1, 2)\n3\n代码如下：\n```python\n{HEAD}"


@pytest.mark.parametrize(
    "text",
    [
        "    return a + b\n```\n解释：很简单。",
        "    return a + b\n\nprint(add(1, 2))\n",
        "    return a + b\n\n\nif __name__ == '__main__':\n    print(add(1, 2))",
        "    return a + b\n# 测试\nassert add(1, 1) == 2<eod>",
    ],
)
def test_the_function_is_cut_out_of_what_surrounds_it(text: str) -> None:
    for program in (code.original_completion(PROMPT, text), code.function(HEAD, text, "add")):
        assert program is not None
        space: dict[str, object] = {}
        exec(program, space)  # noqa: S102 - written above
        assert space["add"](2, 3) == 5  # type: ignore[operator]
        assert "print" not in program


def test_a_whole_function_in_a_fence_and_a_body_that_breaks_off_are_read_as_far_as_they_are_python() -> None:
    fenced = "好的：\n```python\nimport math\ndef add(a, b):\n    return math.floor(a + b)\n```\n完成"
    assert "math.floor" in str(code.function(HEAD, fenced, "add"))
    assert code.function(HEAD, "    c = a + b\n    return c\n\ndef other(x):\n    return (x", "add") is not None
    assert code.function(HEAD, "对不起，我不会。", "add") is None
