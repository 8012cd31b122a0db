"""HumanEval: 164 functions to be written in Python; an answer is right if its tests pass, in the sandbox.

The prompts are the original's Chinese ones; tests and entry points are OpenAI's. As in the original the prompt is not
put before the program: imports and signature are in what the model goes on from.
"""

import gzip
import json
import re
from collections.abc import Mapping

from yuan_evaluator.answers import code
from yuan_evaluator.task import INSTRUCTED, Answer, BadRow, DataFile, Extracted, Item, Rules, Task, UnitTests

_PROBLEMS = DataFile(
    "humaneval/HumanEval.jsonl.gz", ("b796127e635a67f93fb35c04f4cb03cf06f38c8072ee7cee8833d7bee06979ef",)
)
_EOS_ID = 28956
"""The original's script ends its answers at this id, and not at `<eod>`."""

# Two worked examples, then the problem: the form of the paper's appendix B.
_EXAMPLES = (
    (
        "将两个整数相加并返回它们的和。",
        ">>> add(2, 3)\n5",
        "def add(a: int, b: int) -> int:",
        "def test_add():\n    assert add(2, 3) == 5\n    assert add(-1, 1) == 0\n    assert add(0, 0) == 0\n",
    ),
    (
        "返回给定字符串中元音字母的个数。",
        ">>> count_vowels('hello')\n2",
        "def count_vowels(text: str) -> int:",
        "def test_count_vowels():\n    assert count_vowels('hello') == 2\n    assert count_vowels('') == 0\n"
        "    assert count_vowels('xyz') == 0\n    assert count_vowels('AEIOU') == 5\n",
    ),
)

_known: dict[int, dict[str, dict[str, str]]] = {}


def _problems(data: bytes) -> dict[str, dict[str, str]]:
    key = hash(data)
    if key not in _known:
        rows = [json.loads(line) for line in gzip.decompress(data).decode("utf-8").splitlines() if line.strip()]
        _known[key] = {row["task_id"]: row for row in rows}
    return _known[key]


def _read(line: str, number: int, others: Mapping[str, bytes]) -> Item:
    del number
    try:
        row = json.loads(line)
        name, prompt = row["task_id"], row["prompt"]
        problem = _problems(others[_PROBLEMS.path])[name]
    except (ValueError, KeyError, TypeError, OSError, EOFError):
        raise BadRow("expected an object with task_id (one of HumanEval's) and prompt") from None
    if "```python\n" not in prompt:
        raise BadRow(f"the prompt of {name} has no ```python")
    more = {"test": problem["test"], "entry_point": problem["entry_point"], "solution": problem["canonical_solution"]}
    examples = len(re.findall(r"^>>>", prompt, re.MULTILINE))
    return Item(name, prompt, problem["prompt"] + problem["canonical_solution"], category=_many(examples), more=more)


def _many(examples: int) -> str:
    return f"{examples} example" + ("" if examples == 1 else "s") if examples < 4 else "4 examples or more"


def _head(item: Item) -> str:
    return item.question.partition("```python\n")[2]


def _extract(item: Item, answer: Answer, rules: Rules) -> Extracted:
    if not rules.strict:
        return Extracted(code.original_completion(item.question, answer.text), "the original's cuts")
    found = code.function(_head(item), answer.text, item.more["entry_point"])
    return Extracted(found, "read as Python" if found else "no such function")


def _program(item: Item, value: str) -> str:
    return f"{value}\n{item.more['test']}\ncheck({item.more['entry_point']})\n"


def _ask_for_tests(item: Item) -> str:
    shots = "".join(
        f"问题描述：{what}\n示例：\n{example}\n{signature}\n# 单元测试用例：\n```python\n{tests}```\n\n"
        for what, example, signature, tests in _EXAMPLES
    )
    what, _, head = item.question.partition("代码如下：\n```python\n")
    signature = next((line for line in head.splitlines() if line.startswith("def ")), head.strip())
    problem = f"{what.rstrip()}\n{signature}\n# 单元测试用例：\n```python\n def test{INSTRUCTED}"
    return f"根据以下问题描述与示例，生成单元测试用例。\n{shots}{problem}"


def _with_tests(item: Item, value: str, written: str) -> str | None:
    """Returns a candidate under tests that the model wrote; None where it wrote none that are Python."""
    written = written.replace("<eod>", "").partition("```")[0]
    source = written.strip() if written.lstrip().startswith("def ") else f"def test{written.rstrip()}"
    name = re.match(r"def (\w+)\(\s*\)", source)
    tests = code.function("", source, name[1]) if name else None
    if tests is None or item.more["entry_point"] not in tests or "assert" not in tests:
        return None
    return f"{value}\n{tests}\n{name[1] if name else ''}()\n"


TASK = Task(
    name="humaneval",
    title="HumanEval",
    files=(
        DataFile(
            "yuan-datasets/HUMANEVAL/HumanEval-textprompts.jsonl",
            ("82fa5bce01eb8fe3780aeb9d11ee721339c0b191ebd8dfbb34b5f096f2cc5c58",),
        ),
        _PROBLEMS,
    ),
    read=_read,
    prompt=lambda item, rules: item.question,
    extract=_extract,
    score=lambda item, extracted, rules: False,
    max_tokens=511,
    items=164,
    example=lambda item, rules: f"{item.question}{item.more['solution'].rstrip()}\n```",
    program=_program,
    unit_tests=UnitTests(_ask_for_tests, _with_tests),
    ignore_eos=_EOS_ID,
)
