"""What a topology's devices reach: as the manifest says, else measured on this machine, else refused in one line.

Measuring is a process of its own (`measuring.py`), started only for what the manifest leaves out.
"""

import json
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from yuan_events import InputError
from yuan_manifest import ManifestError, origins_of
from yuan_manifest.schema import Device, Launcher, Nodes, Precision, Topology
from yuan_parallel.training import GIBIBYTE, Devices

_MEASURED = ("memory_gib", "tflops", "link_gbps")
_SECONDS_TO_MEASURE = 120


@dataclass(frozen=True)
class Hardware:
    """Devices, and how each number about them is known.

    Attributes:
        devices: the numbers.
        precision: number format; `auto` is resolved.
        sources: by field of `topology.nodes`: given, measured, looked up, or not given.
    """

    devices: Devices
    precision: Precision
    sources: dict[str, str]


def find_hardware(topology: Topology, precision: Precision) -> Hardware:
    """Returns what a topology's devices reach.

    Args:
        topology: the resolved topology.
        precision: as the manifest has it.

    Raises:
        ManifestError: if a number is missing that cannot be measured here.
    """
    nodes = topology.nodes
    values = {name: getattr(nodes, name) for name in (*_MEASURED, "peak_tflops", "network_gbps")}
    sources = {name: "given" for name, value in values.items() if value is not None}
    wanted = [name for name in _MEASURED if values[name] is None and not _is_idle(name, nodes)]
    if topology.launcher != Launcher.local:
        # The devices are elsewhere: what is measured here says nothing of them.
        for name in wanted:
            if name != "memory_gib":
                problem = f"missing; launcher {topology.launcher} computes elsewhere, so it cannot be measured here"
                raise _missing(topology, name, problem)
        wanted = []
        precision = _assumed(topology, precision)
    if wanted or precision == Precision.auto:
        found = _measure(nodes, precision)
        precision = Precision(found["precision"])
        for name in wanted:
            values[name] = found[name]
            looked_up = name == "link_gbps" and found["link_is_looked_up"]
            sources[name] = f"{'looked up' if looked_up else 'measured'} ({found['name']})"
        if values["peak_tflops"] is None and found["peak_tflops"] is not None:
            values["peak_tflops"] = max(found["peak_tflops"], values["tflops"])
            sources["peak_tflops"] = f"looked up ({found['name']})"
    if nodes.count > 1 and values["network_gbps"] is None:
        raise _missing(topology, "network_gbps", f"missing; {nodes.count} hosts talk over a network; give its speed")
    return Hardware(_devices(nodes, values), precision, sources)


def _is_idle(name: str, nodes: Nodes) -> bool:
    return name == "link_gbps" and nodes.devices == 1


def _assumed(topology: Topology, precision: Precision) -> Precision:
    if precision != Precision.auto:
        return precision
    if topology.nodes.device == Device.cuda:
        return Precision.bf16
    problem = f"auto, and launcher {topology.launcher} computes elsewhere; say cuda or cpu, or set train.precision"
    raise _missing(topology, "device", problem)


def _missing(topology: Topology, name: str, problem: str) -> ManifestError:
    path = ("topology", "nodes", name)
    return ManifestError.at(origins_of(topology).find(path), path, problem)


def _devices(nodes: Nodes, values: dict[str, Any]) -> Devices:
    def bytes_per_second(gigabits: float | None) -> float:
        return float("inf") if gigabits is None else gigabits * 1e9 / 8

    memory, link = values["memory_gib"], bytes_per_second(values["link_gbps"])
    speed = values["tflops"] * 1e12
    return Devices(
        hosts=nodes.count,
        per_host=nodes.devices,
        memory=None if memory is None else memory * GIBIBYTE,
        speed=speed,
        peak=speed if values["peak_tflops"] is None else values["peak_tflops"] * 1e12,
        link=link,
        network=link if values["network_gbps"] is None else bytes_per_second(values["network_gbps"]),
    )


def _measure(nodes: Nodes, precision: Precision) -> dict[str, Any]:
    command = [sys.executable, "-m", "yuan_parallel.measuring", nodes.device, str(nodes.devices), precision]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS_TO_MEASURE, check=False)
    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["it printed nothing"])[-1]
        raise InputError(
            f"topology.nodes: this machine could not be measured ({why}); give memory_gib, tflops and link_gbps, "
            "and train.precision"
        )
    return json.loads(done.stdout.splitlines()[-1])
