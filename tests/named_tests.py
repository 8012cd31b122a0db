"""Tables of our documents whose rows name the tests that prove them."""

import ast
import re
from pathlib import Path

NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def check_rows(repository: Path, rows: list[str]) -> None:
    """Fails for a row that names no test, or one that is not there."""
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
