"""The function in a model's text: as the original cuts it out, and by reading it as Python."""

import ast
import re

_CUTS = ("\nprint", "\n# 示例", "\n```", "\n# 测试", "\n# 单元测试", "\n#", "\nif")
_FENCE = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)(?:\n```|\Z)", re.DOTALL)


def original_completion(prompt: str, text: str) -> str:
    """Returns the program that the original's script makes of prompt and answer.

    What follows the prompt's "```python" counts: imports and signature are in it, and the prompt is not put before it.
    """
    whole = (prompt + text.removesuffix("<eod>")).partition("```python")[2].replace("\r\n", "\n").replace("\t", "    ")
    whole = re.sub(r'(?m)^[ ]*"""(?:.|\n)*?"""\n?', "", whole, count=1)
    whole = whole.lstrip("\n")
    if found := re.search(r"```python[ \t]*\n(.*?)(?:\n```|\Z)", whole, re.DOTALL):
        whole = found[1]
    whole = whole.replace("```python", "")
    whole = _one_function(whole)
    for cut in _CUTS:
        if (at := whole.find(cut)) > 0:
            whole = whole[:at]
    return whole.rstrip() + "\n"


def _one_function(text: str) -> str:
    """Keeps what stands before the first function at the margin, and that function up to a blank line outside it."""
    lines = text.split("\n")
    first = next((index for index, line in enumerate(lines) if line.startswith("def ")), None)
    if first is None:
        return text
    last = len(lines)
    for index in range(first + 1, len(lines)):
        line = lines[index]
        if line and not line[0].isspace() and not line.startswith((")", "#")):
            last = index
            break
    return "\n".join(lines[:last])


def function(head: str, text: str, name: str) -> str | None:
    """Returns imports, definitions and constants that a text has around a function; None where it has no such function.

    Args:
        head: imports and signature that the model was to go on from.
        text: what it wrote: the body, or the whole function again, in a fence or not.
        name: of the function.
    """
    text = text.replace("<eod>", "").replace("\r\n", "\n")
    blocks = [match[1] for match in _FENCE.finditer(text)]
    rest = text.partition("\n```")[0]
    for source in (*(block for block in blocks if f"def {name}" in block), head + rest, head + "\n" + rest, rest):
        imports = "" if source.startswith(head) else _imports(head)
        if (found := _parsed(imports + source, name)) is not None:
            return found
    return None


def _imports(head: str) -> str:
    return "".join(f"{line}\n" for line in head.splitlines() if line.startswith(("import ", "from ")))


def _parsed(source: str, name: str) -> str | None:
    """Returns the statements that matter of the longest beginning of a text that is Python."""
    lines = source.split("\n")
    for _ in range(200):
        try:
            tree = ast.parse("\n".join(lines))
            break
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            at = min(len(lines), getattr(error, "lineno", None) or len(lines))
            lines = lines[: max(0, min(at, len(lines)) - 1)]
            if not lines:
                return None
    else:
        return None
    kept = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)
    body = [node for node in tree.body if isinstance(node, kept)]
    functions = [node for node in body if isinstance(node, ast.FunctionDef) and node.name == name]
    if not functions:
        return None
    return "\n\n".join(ast.unparse(node) for node in body) + "\n"
