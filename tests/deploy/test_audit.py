"""`make audit`: what is not audited is no pass."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

CLEAN = {"name": "idna", "version": "3.10", "vulns": []}
BAD = {"name": "idna", "version": "3.6", "vulns": [{"id": "PYSEC-2024-60", "fix_versions": ["3.7"], "aliases": []}]}
SKIPPED = {"name": "torch", "skip_reason": "not found on PyPI"}


@pytest.mark.parametrize(
    ("rows", "code", "says"),
    [
        ([CLEAN], 0, "1 of 1 packages audited, 0 known"),
        ([CLEAN, BAD], 1, "idna 3.6: PYSEC-2024-60; mended in 3.7"),
        ([CLEAN, SKIPPED], 1, "torch: not audited: not found on PyPI"),
        ([], 1, "0 of 0 packages audited"),
    ],
)
def test_only_what_was_audited_whole_passes(
    repository: Path, rows: list[dict[str, object]], code: int, says: str
) -> None:
    summary = runpy.run_path(str(repository / "deploy" / "audit.py"))["summary"]
    lines, ended = summary({"dependencies": rows}, "requirements.lock")
    assert ended == code
    assert says in "\n".join(lines)


@pytest.mark.slow  # an environment is made
def test_without_the_package_index_it_is_one_line_and_no_pass(repository: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True, timeout=120)
    nowhere = {
        "PIP_INDEX_URL": "http://127.0.0.1:9/",
        "PIP_EXTRA_INDEX_URL": "",
        "PIP_RETRIES": "0",
        "PIP_NO_INDEX": "1",
    }
    ended = subprocess.run(
        [tmp_path / "venv" / "bin" / "python", repository / "deploy" / "audit.py"],
        env={**os.environ, **nowhere, "PIP_FIND_LINKS": ""},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stdout.startswith("not audited: pip-audit==")
    assert ended.stdout.count("\n") == 1
