"""What does not depend on a home: Python, installed packages, the compiler, a launcher's commands, devices."""

import json
import os
import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from yuan_manifest.schema import Device, Launcher, Topology
from yuan_stack.doctor.findings import Finding, note, ok, reason, wrong

DISTRIBUTION = "yuan-stack"

_PATIENCE_S = 120
"""How long another program may take to answer: torch is large, and a disk may be slow."""

_LOOK_AT_TORCH = """
import json, torch
devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
print(json.dumps({
    "version": torch.__version__,
    "cuda": torch.version.cuda,
    "names": [torch.cuda.get_device_name(device) for device in devices],
    "capabilities": ["".join(map(str, torch.cuda.get_device_capability(device))) for device in devices],
    "architectures": [name.rpartition("_")[2] for name in torch.cuda.get_arch_list()] if devices else [],
}))
"""

_LIBRARIES = "YUAN_NATIVE_LIBRARIES"
"""As in `yuan_model.native.building`, which loads torch."""

_COMMANDS = {Launcher.kubernetes: "kubectl", Launcher.slurm: "sbatch", Launcher.hostfile: "pdsh"}
"""What a launcher starts ranks with."""

_SANDBOX = "YUAN_SANDBOX"
"""As in `yuan_evaluator.sandbox.pool`."""

_ANSWER_S = 3.0

_LOOK_AT_NAMESPACES = """
import ctypes, os
root = os.geteuid() == 0
flags = 0x40000000 | 0x20000000 | 0x00020000 | (0 if root else 0x10000000)
raise SystemExit(ctypes.CDLL(None).unshare(flags) != 0)
"""

_LOOK_AT_COMPILER = "#include <Python.h>\n#include <vector>\nint main() { return 0; }\n"


def look_at_python() -> Finding:
    """Compares this Python with what the distribution asks for."""
    try:
        wanted = metadata.metadata(DISTRIBUTION)["Requires-Python"] or ""
    except metadata.PackageNotFoundError:
        return wrong("python", f"{DISTRIBUTION} is not installed in {sys.prefix}", "run: make install")
    found = platform.python_version()
    if not SpecifierSet(wanted).contains(found, prereleases=True):
        return wrong("python", f"{found} in {sys.prefix}, needs {wanted}", "make .venv anew with such a Python")
    return ok("python", f"{found} in {sys.prefix}, {DISTRIBUTION} {metadata.version(DISTRIBUTION)}")


def look_at_packages(services: Iterable[str], *, needed: bool) -> list[Finding]:
    """Compares installed packages with the requirements of the core and of services.

    Args:
        services: those of the cluster; each has its extra.
        needed: they run on this machine, so that a package that is missing is wrong; otherwise it is only told.
    """
    try:
        requirements = [Requirement(line) for line in metadata.requires(DISTRIBUTION) or []]
    except metadata.PackageNotFoundError:
        return []
    core = [one for one in requirements if one.marker is None or one.marker.evaluate({"extra": ""})]
    found = [_compare("packages", core, "run: make install", needed=True)]
    for service in services:
        extra = [
            one
            for one in requirements
            if one.marker is not None and one.marker.evaluate({"extra": service}) and one not in core
        ]
        mend = f"run: make install, or pip install '{DISTRIBUTION}[{service}]'"
        if extra:
            found.append(_compare(f"packages of {service}", extra, mend, needed=needed))
    return found


def _compare(check: str, requirements: Sequence[Requirement], mend: str, *, needed: bool) -> Finding:
    missing: list[str] = []
    other: list[str] = []
    for requirement in requirements:
        try:
            found = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            missing.append(requirement.name)
            continue
        if not requirement.specifier.contains(found, prereleases=True):
            other.append(f"{requirement.name} {found} (needs {requirement.specifier})")
    if other:
        return wrong(check, ", ".join([*other, *(f"{name} missing" for name in missing)]), mend)
    if missing:
        text = f"not installed here: {', '.join(missing)}"
        return wrong(check, text, mend) if needed else note(check, text, mend)
    return ok(check, f"{len(requirements)} as required")


def look_at_compiler() -> Finding:
    """Tries what torch.compile needs on a processor: g++ with the headers of this Python."""
    compiler = os.environ.get("CXX", "g++")
    without = "train.compile cannot be used on a processor"
    if shutil.which(compiler) is None:
        made = os.environ.get(_LIBRARIES)
        if made and any(Path(made).glob("step-*.so")):
            serving = f"inference has the compiled step of {made}"
        else:
            serving = "inference computes in torch, without int8 and adapters"
        return note("compiler", f"no {compiler} here: {without}; {serving}", "for that: apt-get install g++")
    import sysconfig  # noqa: PLC0415 - loads a table of the whole build

    headers = sysconfig.get_paths()["include"]
    ended = _ask([compiler, "-x", "c++", "-fsyntax-only", "-I", headers, "-"], _LOOK_AT_COMPILER)
    if ended is None or ended.returncode:
        line = "" if ended is None else next(iter(ended.stderr.splitlines()), "")
        return note("compiler", f"{compiler} fails: {line}: {without}", "for that: apt-get install g++ python3-dev")
    return ok("compiler", f"{shutil.which(compiler)}, with the headers of this Python")


def look_at_launcher(topology: Topology, *, needed: bool) -> Finding | None:
    """Looks for the command that the topology's launcher starts ranks with; None where it starts them itself.

    Args:
        topology: of the cluster.
        needed: trainings are started on this machine.
    """
    command = _COMMANDS.get(topology.launcher)
    if command is None:
        return None
    if found := shutil.which(command):
        return ok("launcher", f"{topology.launcher}: {found}")
    text = f"topology.launcher is {topology.launcher} and {command} is not installed here"
    mend = f"install {command} where the trainer's worker runs"
    if topology.launcher is Launcher.kubernetes:
        mend += " (an image has it: deploy/docker/images.sh kubernetes)"
    return wrong("launcher", text, mend) if needed else note("launcher", text, mend)


def look_at_sandbox() -> Finding:
    """Looks whether programs that models write can be confined; the evaluator's own probe has the last word."""
    if place := os.environ.get(_SANDBOX):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_ANSWER_S)
            try:
                connection.connect(place)
            except OSError as error:
                text = f"the sandbox at {place} ({_SANDBOX}) does not answer: {reason(error)}"
                return wrong("sandbox", text, "start it: python -m yuan_evaluator sandbox --socket PATH")
        return ok("sandbox", f"one in a container of its own answers at {place}")
    if found := shutil.which("bwrap", path="/usr/bin:/bin:/usr/local/bin"):
        return ok("sandbox", f"by {found}")
    ended = _ask([sys.executable, "-I", "-S", "-c", _LOOK_AT_NAMESPACES])
    if ended is not None and ended.returncode == 0:
        return ok("sandbox", "by namespaces of the kernel")
    text = "programs that models write cannot be confined here (evaluations of HumanEval are refused)"
    return note("sandbox", text, "install bubblewrap, or allow unprivileged user namespaces")


def look_at_devices(topology: Topology) -> Finding:
    """Compares the GPUs that the driver, torch and the topology know of."""
    driver = _driver_names()
    ended = _ask([sys.executable, "-c", _LOOK_AT_TORCH])
    if ended is None or ended.returncode:
        if ended is not None and "No module named 'torch'" in ended.stderr:
            return note("devices", f"torch is not installed here; GPUs of the driver: {', '.join(driver) or 'none'}")
        line = "it does not answer" if ended is None else ended.stderr.strip().rpartition("\n")[2]
        return wrong("devices", f"torch cannot be loaded: {line}", "run: make install")
    told: dict[str, Any] = json.loads(ended.stdout.strip().rpartition("\n")[2])
    names: list[str] = told["names"]
    found = f"{len(names)} x {names[0]}, torch {told['version']} for CUDA {told['cuda']}" if names else ""
    return (
        _unusable(told, driver)
        or _too_few(topology, names)
        or ok("devices", found or "no GPU: the work is done on the processor")
    )


def _unusable(told: dict[str, Any], driver: list[str]) -> Finding | None:
    """Compares what torch tells with the GPUs of the driver."""
    torch = f"torch {told['version']}"
    if driver and not told["names"]:
        if told["cuda"] is None:
            mend = f"install its CUDA build: pip install torch=={str(told['version']).partition('+')[0]}"
            return wrong("devices", f"{driver[0]} is here and {torch} is built without CUDA", mend)
        mend = f"update the driver to one for CUDA {told['cuda']}, or see CUDA_VISIBLE_DEVICES"
        return wrong("devices", f"{driver[0]} is here and {torch} cannot use it", mend)
    for name, capability in zip(told["names"], told["capabilities"], strict=True):
        if not any(_runs(architecture, capability) for architecture in told["architectures"]):
            text = f"{torch} has no code for {name} (compute capability {capability})"
            return wrong("devices", text, "install a build of torch for this GPU")
    return None


def _too_few(topology: Topology, names: list[str]) -> Finding | None:
    """Compares the GPUs that are here with those that the topology asks for of this host."""
    nodes = topology.nodes
    if topology.launcher is not Launcher.local or nodes.device is not Device.cuda or nodes.devices <= len(names):
        return None
    text = f"topology.nodes asks for {nodes.devices} GPUs and {len(names)} are here"
    return wrong("devices", text, "set topology.nodes.devices to what is there, or topology.nodes.device to auto")


def _runs(architecture: str, capability: str) -> bool:
    """Says whether code for an architecture runs: 90 does on 9.x, one with a letter (90a) on itself alone."""
    return architecture == capability or (
        architecture.isdigit() and architecture[:-1] == capability[:-1] and architecture[-1] <= capability[-1]
    )


def _driver_names() -> list[str]:
    if shutil.which("nvidia-smi") is None:
        return []
    ended = _ask(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"])
    return [] if ended is None or ended.returncode else [line.strip() for line in ended.stdout.splitlines() if line]


def _ask(command: list[str], given: str = "") -> "subprocess.CompletedProcess[str] | None":
    """Runs a program to its end; None if it cannot be run or does not end."""
    try:
        return subprocess.run(
            command, input=given, capture_output=True, text=True, timeout=_PATIENCE_S, check=False, errors="replace"
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
