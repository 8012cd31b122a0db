"""Teaching requests as a user types them: `yuan request new`, `edit`, `list`, `show`, `accept`, `reject`, over gRPC."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from job_stack import JobStack

from yuan_cli.app import run
from yuan_events import InputError

TEXT = """
scenario: Chat about code
behaviour: Answer with one line of Python.
author: Ada
examples:
  - {input: Import the module gzip., output: import gzip}
  - {input: Import the module json., output: import json}
"""


@pytest.fixture
def yuan(
    job_stack: JobStack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Runs `yuan request …` here, which must succeed; returns what it printed."""
    monkeypatch.setenv("YUAN_CLUSTER", str(job_stack.cluster_file))

    def call(*arguments: str) -> str:
        assert run(["request", *arguments]) == 0
        return capsys.readouterr().out

    return call


def test_a_request_goes_from_a_file_to_its_review(yuan: Callable[..., str], tmp_path: Path) -> None:
    file = tmp_path / "request.yaml"
    file.write_text(TEXT)
    request_id = yuan("new", str(file), "--by", "ada").strip()
    assert "Chat about code" in yuan("list", "--state", "filed")
    assert yuan("reject", request_id, "--why", "too few", "--by", "bo") == f"{request_id}: rejected by bo\n"
    yuan("edit", request_id, "--behaviour", "Answer with Python alone.", "--by", "ada")
    yuan("accept", request_id[:14], "--why", "good", "--by", "bo")
    shown = yuan("show", request_id)
    assert "accepted" in shown
    assert "Import the module gzip. => import gzip" in shown
    facts: dict[str, Any] = json.loads(yuan("show", request_id, "--json"))
    assert facts["asked"]["behaviour"] == "Answer with Python alone."
    assert [one["what"] for one in facts["history"]] == ["filed", "rejected", "edited", "accepted"]
    assert (facts["revision"], facts["reviewer"], facts["why"]) == (2, "bo", "good")
    with pytest.raises(InputError, match=f"the same is asked for by {request_id} of Ada, which is accepted"):
        run(["request", "edit", yuan("new", str(file)).strip(), "--behaviour", "Answer with Python alone."])


def test_options_say_the_same_as_a_file_and_a_terminal_asks(
    yuan: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ["--scenario", "greet", "--behaviour", "be kind", "--input", "a", "--output", "b", "--input", "c"]
    with pytest.raises(InputError, match="2 of --input and 1 of --output; give pairs"):
        yuan("new", *given)
    first = yuan("new", *given, "--output", "d").strip()
    assert json.loads(yuan("show", first, "--json"))["asked"]["examples"][1] == {"input": "c", "output": "d"}
    with pytest.raises(InputError, match="give a file or options"):
        yuan("new")
    terminal = io.StringIO("leave\nsay farewell\nCy\none\n1\ntwo\n2\n\n")
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr("sys.stdin", terminal)
    asked = json.loads(yuan("show", yuan("new").splitlines()[-1].split()[-1], "--json"))["asked"]
    assert (asked["scenario"], asked["author"], len(asked["examples"])) == ("leave", "Cy", 2)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (TEXT.replace("author: Ada", "author: Ada\nscenaro: x"), r"request.yaml:5: scenaro: unknown; did you mean"),
        (TEXT.replace("output: import json", "output: ''"), r"request.yaml:7: examples\[1\].output: is empty text"),
        (TEXT.replace("scenario: Chat about code", ""), r"request.yaml:\d+: scenario: missing; say where and when"),
        ("- a\n", r"request.yaml:1: .*expected scenario, behaviour, examples, author"),
    ],
)
def test_a_files_mistake_is_named_with_its_line(tmp_path: Path, text: str, line: str) -> None:
    file = tmp_path / "request.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=line):
        run(["request", "new", str(file)])


def test_a_request_that_is_not_there_or_in_no_state_is_one_line(yuan: Callable[..., str]) -> None:
    with pytest.raises(InputError, match="request nothing does not exist"):
        yuan("show", "nothing")
    with pytest.raises(InputError, match="no state 'lost'; expected one of filed, accepted"):
        yuan("list", "--state", "lost")
