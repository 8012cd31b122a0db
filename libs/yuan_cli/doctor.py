"""`yuan doctor`: prints what is wrong with this machine or its stack, line by line as it is found."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import typer

from yuan_manifest import load_cluster
from yuan_stack.doctor import Finding, Level, diagnose

_CHECK_WIDTH = 22


def print_diagnosis(cluster_path: Path | None, *, as_json: bool) -> int:
    """Prints the diagnosis.

    Returns:
        0 if all is well, 1 if something is wrong.
    """
    findings: list[Finding] = []
    for finding in diagnose(load_cluster(cluster_path)):
        findings.append(finding)
        if not as_json:
            typer.echo(_line(finding))
            sys.stdout.flush()
    wrong = sum(finding.level is Level.wrong for finding in findings)
    if as_json:
        typer.echo(json.dumps({"well": not wrong, "checks": [asdict(finding) for finding in findings]}, indent=2))
    else:
        typer.echo(f"{wrong} of {len(findings)} wrong" if wrong else "all is well")
    return 1 if wrong else 0


def _line(finding: Finding) -> str:
    mend = f"; {finding.mend}" if finding.mend else ""
    return f"{finding.level:<5}  {finding.check:<{_CHECK_WIDTH}}  {finding.text}{mend}"
