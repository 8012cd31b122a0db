"""Compiles C++ for this processor with g++ and loads it; once a machine and version, then from a cache folder.

`native_library` is the step of a network that is served (step.cpp); `training_library` what a training step does
between its matrix products (training.cpp).

Where `YUAN_NATIVE_LIBRARIES` names a folder of libraries made beforehand (as in our images, which have no compiler),
the best one for this processor is taken from there instead. No Python or torch headers are needed: the library is
called through ctypes, which leaves other Python threads running.
"""

import ctypes
import fcntl
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

from yuan_model.native.levels import FLAGS, SOURCES, CompileFailed, compile_library, made_beforehand

_MARCH = ("-march=native",)
SWITCH = "YUAN_NATIVE"
"""An environment variable: `off` keeps to torch."""

LIBRARIES = "YUAN_NATIVE_LIBRARIES"
"""An environment variable: a folder that `levels.py` has filled."""


class NativeUnavailable(RuntimeError):
    """There is no compiled step here: one line that says why."""


class Shape(ctypes.Structure):
    """Sizes of a network and of what it may be asked, as step.cpp has them."""

    _fields_ = (
        *(
            (name, ctypes.c_int)
            for name in (
                *("layers", "hidden", "heads", "dim", "feed_forward", "vocabulary", "filtering", "format", "threads"),
                *("blocks", "rows", "slots", "table_width", "tokens", "outputs", "context", "sharded"),
            )
        ),
        ("norm_eps", ctypes.c_float),
        ("filter_eps", ctypes.c_float),
    )


class Chunks(ctypes.Structure):
    """One step, as step.cpp has it; pointers to int32 and, for logits, to fp32."""

    _fields_ = (
        *((name, ctypes.c_int) for name in ("chunks", "tokens", "outputs", "drawable")),
        *(
            (name, ctypes.c_void_p)
            for name in (
                *("begins", "positions", "rows", "adapters", "ids", "first_seen", "wanted"),
                *("logits", "likeliest"),
            )
        ),
    )


Reduce = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int64)
"""Sums fp32 numbers over all ranks in place; anything but 0 ends the step."""


@functools.cache
def native_library() -> ctypes.CDLL:
    """Returns the library, compiled first if that has not been done (10 s).

    Raises:
        NativeUnavailable: if it cannot be.
    """
    library = _library("step", shutil.which("g++") or shutil.which("clang++"))
    _declare(library)
    return library


@functools.cache
def training_library() -> ctypes.CDLL:
    """Returns the library of training's element-wise parts, compiled first if that has not been done (4 s).

    Raises:
        NativeUnavailable: if it cannot be. clang++ has another OpenMP than torch.
    """
    library = _library("training", shutil.which("g++"))
    pointer, whole, long, number = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_float
    for name, arguments in (
        ("norm_forward", [pointer] * 4 + [long, long, number]),
        ("norm_backward", [pointer] * 6 + [long, long]),
        ("gated_forward", [pointer] * 3 + [long]),
        ("gated_backward", [pointer] * 5 + [long]),
        ("rotate", [whole] + [pointer] * 5 + [long] * 5),
        ("causal_softmax", [pointer] + [long] * 4 + [number]),
        ("softmax_backward", [pointer] * 2 + [long] * 2 + [number]),
        ("accumulate", [pointer] * 2 + [long] * 3),
        ("cross_entropy", [pointer] * 4 + [long] * 2 + [whole]),
    ):
        function = getattr(library, f"yuan_{name}")
        function.restype, function.argtypes = None, [whole, *arguments, whole]  # first the format, last the threads
    return library


def _library(name: str, compiler: str | None) -> ctypes.CDLL:
    if os.environ.get(SWITCH, "").lower() in {"off", "0", "no"}:
        raise NativeUnavailable(f"{SWITCH} is off")
    try:
        return ctypes.CDLL(str(_found_or_compiled(name, compiler)))
    except OSError as error:
        raise NativeUnavailable(f"the compiled {name} cannot be loaded: {error}") from error


def _found_or_compiled(name: str, compiler: str | None) -> Path:
    folder = os.environ.get(LIBRARIES)
    if folder and (made := made_beforehand(Path(folder), library=name)) is not None:
        return made
    if compiler is not None:
        return _compiled(name, compiler)
    without = f", and {folder} ({LIBRARIES}) has no library for this processor and version" if folder else ""
    raise NativeUnavailable(f"no g++ is installed{without}")


def _compiled(library: str, compiler: str) -> Path:
    sources = [SOURCES / f"{library}.cpp", *sorted(SOURCES.glob("*.h"))]
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False).stdout
    texts = (source.read_text(encoding="utf-8") for source in sources)
    parts = [version, " ".join((*FLAGS, *_MARCH)), _processor(), *texts]
    name = f"{library}-{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:20]}.so"
    folder = _cache_folder()
    target = folder / name
    # Ranks and tests begin at the same time: one compiles, the others wait for it.
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            made = folder / f"{name}.{os.getpid()}"
            try:
                compile_library(library, compiler, made, _MARCH)
            except CompileFailed as error:
                raise NativeUnavailable(str(error)) from error
            made.replace(target)
    return target


def _processor() -> str:
    """Returns what `-march=native` depends on: a cache folder may be shared by machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.machine())


def _cache_folder() -> Path:
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    for folder in (base / "yuan-stack", Path(tempfile.gettempdir()) / f"yuan-stack-{os.getuid()}"):
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError:
            continue
        # What is loaded from here runs: nobody else may have written it.
        if folder.stat().st_uid == os.getuid() and os.access(folder, os.W_OK):
            return folder
    raise NativeUnavailable("no folder to keep the compiled step in (XDG_CACHE_HOME)")


def give_back_memory() -> None:
    """Gives memory that is free back to the system: what is left between packed matrices is as much as they are."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)


def _declare(library: ctypes.CDLL) -> None:
    pointer, whole, long = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
    for name, result, arguments in (
        ("yuan_failure", ctypes.c_char_p, []),
        ("yuan_make", pointer, [ctypes.POINTER(Shape)]),
        ("yuan_free", None, [pointer]),
        ("yuan_matrix", whole, [pointer, whole, whole, pointer, whole, whole]),
        ("yuan_vector", None, [pointer, whole, whole, pointer, long]),
        ("yuan_memory", None, [pointer, pointer, pointer, pointer, pointer, pointer, whole, Reduce]),
        ("yuan_adapter", whole, [pointer]),
        ("yuan_adapter_part", None, [pointer, whole, whole, whole, pointer, pointer, whole]),
        ("yuan_adapter_free", None, [pointer, whole]),
        ("yuan_step", whole, [pointer, ctypes.POINTER(Chunks)]),
        ("yuan_draw", None, [pointer, long, pointer, whole, whole, pointer, whole, pointer]),
        ("yuan_places", None, [pointer, long, pointer, whole, whole, pointer, whole, pointer, pointer]),
        ("yuan_read", ctypes.c_double, [pointer, long, whole]),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
