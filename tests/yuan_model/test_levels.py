"""The compiled step made beforehand for other machines: the right one is taken, and it computes the same."""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from yuan_model import NativeUnavailable
from yuan_model.native import building, levels
from yuan_model.native.levels import LEVELS, Level, file_name, made_beforehand, processor_flags

needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None or platform.machine() != "x86_64", reason="needs g++ on x86-64"
)


def fill(folder: Path, *names: str) -> Path:
    for level in LEVELS:
        if level.name in names:
            (folder / file_name(level)).touch()
    return folder


def by_name(name: str) -> Level:
    return next(level for level in LEVELS if level.name == name)


def test_the_best_library_that_a_processor_runs_is_taken(tmp_path: Path) -> None:
    v3, v4, v4_bf16 = (by_name(name).needs for name in ("x86-64-v3", "x86-64-v4", "x86-64-v4-bf16"))
    fill(tmp_path, "x86-64-v3", "x86-64-v4", "x86-64-v4-bf16")
    for flags, name in ((v3, "x86-64-v3"), (v4, "x86-64-v4"), (v4_bf16 | {"amx_bf16"}, "x86-64-v4-bf16")):
        found = made_beforehand(tmp_path, flags)
        assert found is not None
        assert found.name.endswith(f"-{name}.so")
    assert made_beforehand(tmp_path, v3 - {"fma"}) is None
    assert made_beforehand(tmp_path, frozenset()) is None
    assert made_beforehand(tmp_path / "nowhere", v4) is None


def test_a_library_of_other_sources_is_never_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, "x86-64-v3")
    flags = by_name("x86-64-v3").needs
    assert made_beforehand(tmp_path, flags) is not None
    changed = tmp_path / "sources"
    shutil.copytree(levels.SOURCES, changed)
    with (changed / "step.cpp").open("a") as file:
        file.write("// another version\n")
    monkeypatch.setattr(levels, "SOURCES", changed)
    assert made_beforehand(tmp_path, flags) is None


def test_without_compiler_and_library_the_reason_names_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(building.LIBRARIES, str(tmp_path))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(NativeUnavailable, match=rf"no g\+\+ is installed, and {tmp_path} \(YUAN_NATIVE_LIBRARIES\)"):
        building.native_library.__wrapped__()


STEP = """
import random, sys, torch
from tests.yuan_model.conftest import small_model
from yuan_model import Chunk, NativeRunner, PoolSize
draw = random.Random(3)
tokens = [[draw.randrange(40) for _ in range(48)] for _ in range(4)]
found = []
for kind in (torch.float32, torch.bfloat16, "int8"):
    model = small_model() if kind == "int8" else small_model().to(kind)
    runner = NativeRunner(model, PoolSize(12, 4, 200, 200), int8=kind == "int8", threads=2)
    for row in range(4):
        runner.place(row, 0, [3 * row, 3 * row + 1, 3 * row + 2])
    found.append(runner.step([Chunk(one, 0, 48, row, 48) for row, one in enumerate(tokens)]).float().clone())
torch.save(found, sys.argv[1])
"""


@pytest.mark.slow
@needs_compiler
def test_every_level_that_runs_here_computes_what_this_machines_own_build_does(tmp_path: Path) -> None:
    made = tmp_path / "made"
    subprocess.run([sys.executable, "-S", str(Path(levels.__file__)), str(made)], check=True, timeout=600)
    names = {file_name(level, library) for level in LEVELS for library in levels.LIBRARIES}
    assert {path.name for path in made.iterdir()} == names
    own = logits_of(tmp_path / "own.pt", None)
    here = [level for level in LEVELS if level.needs <= processor_flags()]
    assert here, "this processor is none of the levels"
    for level in here:
        alone = tmp_path / level.name
        alone.mkdir()
        shutil.copy(made / file_name(level), alone)
        found = logits_of(tmp_path / f"{level.name}.pt", alone)
        # Products with int8 weights are of whole numbers on some processors and of bfloat16 on others.
        limits = {"fp32": 1e-5, "bf16": 1e-5, "int8": 0.02}
        for (kind, limit), numbers, expected in zip(limits.items(), found, own, strict=True):
            difference = float((numbers - expected).abs().max())
            assert difference <= limit * float(expected.abs().max()), (level.name, kind, difference)


def logits_of(file: Path, libraries: Path | None) -> list[torch.Tensor]:
    """Returns logits in fp32, bf16 and int8 that a process of its own computes; with a folder, without a compiler."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    environment.pop(building.LIBRARIES, None)
    if libraries is not None:
        environment.update({building.LIBRARIES: str(libraries), "PATH": "/nowhere"})
    subprocess.run([sys.executable, "-c", STEP, str(file)], check=True, env=environment, timeout=600)
    return torch.load(file, weights_only=True)
