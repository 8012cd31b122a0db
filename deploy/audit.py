"""Known vulnerabilities of what requirements.lock pins: pip-audit's answer from the OSV database, in a few lines.

python deploy/audit.py [REQUIREMENTS]     0: none known; 1: some are, or it could not be found out, which is said

pip-audit lives in an environment of its own beside this Python's. What it skips counts as not audited: by itself it
would call that no vulnerability.
"""

import json
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PIP_AUDIT = "pip-audit==2.10.1"
SECONDS = 600


def main(arguments: Sequence[str]) -> int:
    """Audits a file of pins; returns the exit code."""
    pins = Path(arguments[0]) if arguments else Path(__file__).parents[1] / "requirements.lock"
    folder = Path(sys.prefix) / "audit"
    program, report = folder / "bin" / "pip-audit", folder / "report.json"
    if not program.exists():
        venv.create(folder, with_pip=True)
        problem = _problem([str(folder / "bin" / "pip"), "install", "-q", "--disable-pip-version-check", PIP_AUDIT])
        if problem:
            return _say(f"not audited: {PIP_AUDIT} cannot be installed: {problem}", 1)
    report.unlink(missing_ok=True)
    options = ["--no-deps", "--disable-pip", "-s", "osv", "-f", "json", "-o", str(report), "--progress-spinner", "off"]
    problem = _problem([str(program), "-r", str(pins), *options])
    if not report.exists():
        return _say(f"not audited: pip-audit cannot ask the OSV database: {problem or 'it says nothing'}", 1)
    lines, code = summary(json.loads(report.read_text(encoding="utf-8")), pins.name)
    return _say("\n".join(lines), code)


def summary(report: dict[str, Any], name: str) -> tuple[list[str], int]:
    """Returns what a report of pip-audit comes to: lines, and the exit code.

    Args:
        report: as its `-f json` has it.
        name: of what was audited.
    """
    rows = report["dependencies"]
    skipped = [f"{row['name']}: not audited: {row['skip_reason']}" for row in rows if "skip_reason" in row]
    found = [
        f"{row['name']} {row['version']}: {bug['id']}; mended in {', '.join(bug['fix_versions']) or 'no version yet'}"
        for row in rows
        for bug in row.get("vulns", ())
    ]
    audited = len(rows) - len(skipped)
    counts = f"{name}: {audited} of {len(rows)} packages audited, {len(found)} known vulnerabilities"
    return [*found, *skipped, counts], 1 if found or skipped or not rows else 0


def _problem(command: Sequence[str]) -> str:
    """Runs a command and returns the last line that it says if it fails; empty if it does not."""
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return f"no answer in {SECONDS} s"
    lines = [line for line in ended.stderr.splitlines() if line.strip()]
    return (lines[-1].strip() if lines else f"exit code {ended.returncode}") if ended.returncode else ""


def _say(text: str, code: int) -> int:
    sys.stdout.write(text + "\n")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
