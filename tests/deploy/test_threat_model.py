"""deploy/SECURITY.md: a line without a test that is there is no answer to a threat."""

import ast
import re
from pathlib import Path

NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def test_every_answer_names_tests_that_exist(repository: Path) -> None:
    rows = [line for line in (repository / "deploy" / "SECURITY.md").read_text().splitlines() if line.startswith("| ")]
    rows = [row for row in rows if not row.startswith("| threat")]
    assert len(rows) > 20
    for row in rows:
        named = NAMED.findall(row)
        assert named, f"names no test: {row}"
        assert row.count("tests/") == len(named), f"a name that is none: {row}"
        for file, function in named:
            tree = ast.parse((repository / file).read_text(encoding="utf-8"))
            functions = {
                node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            }
            assert function in functions, f"{file} has no {function}"
