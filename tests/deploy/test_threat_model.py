"""deploy/SECURITY.md: a line without a test that is there is no answer to a threat."""

from dataclasses import fields
from pathlib import Path

from tests.named_tests import check_rows

from yuan_manifest.schema import Services


def test_every_answer_names_tests_that_exist(repository: Path) -> None:
    rows = [line for line in (repository / "deploy" / "SECURITY.md").read_text().splitlines() if line.startswith("| ")]
    rows = [row for row in rows if not row.startswith(("| threat", "| port"))]
    assert len(rows) > 20
    check_rows(repository, rows)


def test_every_port_of_a_service_is_listed_with_its_guard(repository: Path) -> None:
    ports = (repository / "deploy" / "SECURITY.md").read_text().partition("## Every port")[2].partition("\n## ")[0]
    for field in fields(Services):
        section = getattr(Services(), field.name)
        assert field.name in ports
        assert f"{section.port}" in ports
