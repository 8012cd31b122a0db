"""What ranks are told survives the file that tells them."""

from pathlib import Path

from yuan_trainer.specification import Specification


def test_a_specification_is_read_as_it_was_written(specification: Specification, tmp_path: Path) -> None:
    specification.write(tmp_path / "specification.json")
    assert Specification.read(tmp_path / "specification.json") == specification
