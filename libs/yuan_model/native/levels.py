"""How step.cpp and training.cpp are compiled, and libraries of them made beforehand for processors other than this one.

    python3 levels.py FOLDER        libraries for each level of x86-64; needs g++ and nothing else, not even torch

An image has no compiler: a build stage makes the folder, and `YUAN_NATIVE_LIBRARIES` names it (`building.py`). A file's
name holds a digest of the sources and flags, so that a library of another version is never taken. On processors that
are not x86-64 nothing is made: there the step is compiled where it runs, or torch computes it.
"""

import hashlib
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SOURCES = Path(__file__).parent
FLAGS = (
    *("-O3", "-std=c++20", "-fno-math-errno", "-ffp-contract=off", "-fopenmp-simd", "-shared", "-fPIC", "-pthread"),
    *("-Wno-psabi", "-Wno-ignored-attributes"),
)
"""Of every build; `-march` comes in addition."""

LIBRARIES = {"step": (), "training": ("-fopenmp",)}
"""What is compiled, by the name of its source, and the flags of its own."""


class CompileFailed(RuntimeError):
    """The compiler refused: its first line."""


@dataclass(frozen=True)
class Level:
    """A set of processors that run the same code.

    Attributes:
        name: of the level, in file names.
        march: what the compiler is told.
        needs: flags of /proc/cpuinfo that such a processor has.
    """

    name: str
    march: Sequence[str]
    needs: frozenset[str]


_V3 = frozenset({"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"})
_V4 = _V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
LEVELS = (
    Level(
        "x86-64-v4-bf16",
        ("-march=x86-64-v4", "-mavx512bf16", "-mavx512vnni"),
        _V4 | {"avx512_bf16", "avx512_vnni"},
    ),
    Level("x86-64-v4", ("-march=x86-64-v4",), _V4),
    Level("x86-64-v3", ("-march=x86-64-v3",), _V3),
)
"""The best first (levels of the x86-64 psABI; products of bfloat16 and of bytes are in none of them)."""


def processor_flags() -> frozenset[str]:
    """Returns what this processor can do, in the words of /proc/cpuinfo; nothing where that cannot be read."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    line = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return frozenset(line.partition(":")[2].split())


def file_name(level: Level, library: str = "step") -> str:
    """Returns the name of a library for a level, made of the sources that are here."""
    sources = sorted([*SOURCES.glob("*.cpp"), *SOURCES.glob("*.h")])
    parts = [
        " ".join((*FLAGS, *LIBRARIES[library], *level.march)),
        *(source.read_text(encoding="utf-8") for source in sources),
    ]
    return f"{library}-{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:20]}-{level.name}.so"


def made_beforehand(folder: Path, flags: frozenset[str] | None = None, library: str = "step") -> Path | None:
    """Returns the best library of a folder for a processor; None if none fits it and these sources.

    Args:
        folder: that `main` has filled.
        flags: of the processor; None: of this one.
        library: one of LIBRARIES.
    """
    has = processor_flags() if flags is None else flags
    fitting = (folder / file_name(level, library) for level in LEVELS if level.needs <= has)
    return next((path for path in fitting if path.is_file()), None)


def compile_library(library: str, compiler: str, target: Path, march: Sequence[str]) -> None:
    """Compiles a library.

    Args:
        library: one of LIBRARIES.
        compiler: g++ or clang++.
        target: of the library.
        march: flags that say for which processor, and what else is meant for this build alone.

    Raises:
        CompileFailed: with the compiler's reason.
    """
    command = [compiler, *FLAGS, *LIBRARIES[library], *march, str(SOURCES / f"{library}.cpp"), "-o", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr[-200:])
        raise CompileFailed(f"{compiler} cannot compile the {library}: {reason.strip()}")


def main(folder: Path, compiler: str = "g++") -> None:
    """Fills a folder with every library for each level.

    Raises:
        CompileFailed: as `compile_library`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if platform.machine() != "x86_64":
        sys.stdout.write(f"no libraries are made for {platform.machine()}: the step is compiled where it runs\n")
        return
    for level in LEVELS:
        for library in LIBRARIES:
            target = folder / file_name(level, library)
            # A slim image may have no libstdc++ of its own, or an older one.
            compile_library(library, compiler, target, (*level.march, "-static-libstdc++", "-static-libgcc"))
            sys.stdout.write(f"{target}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
