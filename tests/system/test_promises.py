"""README, `Promises`: what is promised of jobs, each against a fault, is proved by a test that is there."""

from pathlib import Path

from tests.named_tests import check_rows


def test_every_promise_names_the_tests_that_prove_it(repository: Path) -> None:
    text = (repository / "README.md").read_text(encoding="utf-8")
    section = text.partition("\n## Promises\n")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ") and not line.startswith("| promise")]
    assert len(rows) > 20
    check_rows(repository, rows)
