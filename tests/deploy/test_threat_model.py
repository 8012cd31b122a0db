"""deploy/SECURITY.md: a line without a test that is there is no answer to a threat."""

from pathlib import Path

from tests.named_tests import check_rows


def test_every_answer_names_tests_that_exist(repository: Path) -> None:
    rows = [line for line in (repository / "deploy" / "SECURITY.md").read_text().splitlines() if line.startswith("| ")]
    rows = [row for row in rows if not row.startswith("| threat")]
    assert len(rows) > 20
    check_rows(repository, rows)
