"""Every benchmark starts: its arguments are read, and what it imports is there."""

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = sorted((Path(__file__).parents[1] / "benchmarks").glob("*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("path", [path for path in BENCHMARKS if path.stem != "real_texts"], ids=lambda path: path.stem)
def test_a_benchmark_says_what_it_measures(path: Path) -> None:
    done = subprocess.run([sys.executable, path, "--help"], capture_output=True, text=True, check=False, timeout=300)
    if "No module named 'transformers'" in done.stderr:
        pytest.skip("transformers (extra bench) is not installed")
    assert done.returncode == 0, done.stderr
    assert f"benchmarks/{path.name}" in done.stdout
