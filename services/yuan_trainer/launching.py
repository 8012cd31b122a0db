"""The ranks of a run, started as its topology says: here, or on several hosts."""

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from yuan_events import EventSink, InputError
from yuan_launch import Agents, read_hostfile
from yuan_manifest.schema import Launcher, Topology
from yuan_trainer.hardware import visible_devices
from yuan_trainer.launch_folder import Launch, LaunchFolder
from yuan_trainer.launcher import run_ranks
from yuan_trainer.link import borne_silence
from yuan_trainer.several import Starter, run_hosts
from yuan_trainer.specification import Specification
from yuan_trainer.starters import HostfileStarter, KubernetesStarter, SlurmStarter, cancel_left


def run_training(
    specification: Path,
    topology: Topology,
    ranks: int,
    *,
    name: str,
    run: Path,
    device: str,
    slots: Sequence[int] = (),
    sink: EventSink,
    should_stop: Callable[[], bool],
) -> None:
    """Runs all ranks of a specification to their end.

    Args:
        specification: file that `Specification.write` wrote; with several hosts, in a folder that all of them see.
        topology: resolved.
        ranks: processes to start.
        name: of the job.
        run: the job's run folder, `HOME/runs/JOB`; logs go into it.
        device: `cpu` or `cuda`.
        slots: the stack's devices that the job has; on this host no others are used. Empty: there is no stack.
        sink: takes the events of the ranks.
        should_stop: asked several times a second; once true the ranks are asked to save their state and end.

    Raises:
        Interrupted: if the run was stopped on request.
        InputError: if the input was wrong, or a program that the launcher needs is not installed.
        WorkFailed: if a rank or a host failed; one line, with the log that tells more.
    """
    logs = run / "logs"
    number = _clear_left(run) + 1
    if topology.launcher == Launcher.local:
        shown = visible_devices(slots) if device == "cuda" else ""
        run_ranks(
            specification,
            ranks,
            device=device,
            visible_devices=shown,
            logs=logs,
            sink=sink,
            should_stop=should_stop,
        )
        return
    devices = topology.nodes.devices
    hidden = topology.launcher == Launcher.hostfile and device == "cuda"
    launch = Launch(
        specification=str(specification),
        logs=str(logs),
        ranks=ranks,
        devices=devices,
        device=device,
        port=topology.port,
        lease_seconds=borne_silence(),
        # DeepSpeed's runner shows each process that it starts one device; it starts one agent a host.
        visible_devices=",".join(str(index) for index in range(devices)) if hidden else "",
    )
    agents = Agents(name, run / f"launch-{number}", launch.hosts, devices, device == "cuda", topology.port)
    starter = _starter(agents, topology, Specification.read(specification), run)
    run_hosts(LaunchFolder.make(agents.folder, launch), starter, sink=sink, should_stop=should_stop)


def _starter(agents: Agents, topology: Topology, specification: Specification, run: Path) -> Starter:
    if topology.launcher == Launcher.slurm:
        return SlurmStarter(agents, topology.slurm)
    if topology.launcher == Launcher.hostfile:
        if topology.hostfile is None:
            raise InputError("topology.hostfile: missing; launcher hostfile needs a file of lines HOST slots=N")
        path = Path(topology.hostfile).expanduser().absolute()
        return HostfileStarter(agents, read_hostfile(path, hosts=agents.hosts, devices=agents.devices))
    if topology.kubernetes is None:
        raise InputError("topology.kubernetes: missing; launcher kubernetes needs that section, with its claim")
    home = run.parents[1]
    for folder in (*(part.folder for part in specification.datasets), specification.output):
        if not folder.is_relative_to(home):
            raise InputError(
                f"topology.launcher: pods see cluster.home, {home}, alone, and {folder} is outside of it; keep "
                "cluster.store in it"
            )
    # The same job may be run by several homes of one cluster, and an old attempt's objects may still be going.
    suffix = f"{run.name.rpartition('-')[2][:8]}-{agents.folder.name.rpartition('-')[2]}-{os.urandom(2).hex()}".lower()
    return KubernetesStarter(agents, topology.kubernetes, str(home), suffix)


def _clear_left(run: Path) -> int:
    """Ends and removes what earlier attempts, perhaps killed, have left; returns the last one's number."""
    last = 0
    for folder in run.glob("launch-*"):
        last = max(last, int(folder.name.rpartition("-")[2]))
        LaunchFolder(folder).close()
        cancel_left(folder)
        shutil.rmtree(folder, ignore_errors=True)
    return last
