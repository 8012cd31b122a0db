"""What a topology's launcher would be handed, as text for a user's eyes."""

from pathlib import Path

from yuan_events import InputError
from yuan_launch.agents import placeholder_agents
from yuan_launch.hostfile import read_hostfile, runner_command, shell_line
from yuan_launch.kubernetes import kubernetes_manifest, kubernetes_name
from yuan_launch.slurm import slurm_script
from yuan_manifest.schema import Launcher, Topology


def render(name: str, topology: Topology, home: Path) -> str:
    """Returns what would be submitted for a job of this name; its id, known only then, stands as ID.

    Args:
        name: of the job.
        topology: resolved.
        home: `cluster.home`.

    Raises:
        InputError: if the launcher is `local`, which submits nothing, or the hostfile is wrong.
    """
    agents = placeholder_agents(name, topology, home)
    if topology.launcher == Launcher.slurm:
        return slurm_script(agents, topology.slurm)
    if topology.launcher == Launcher.kubernetes and topology.kubernetes is not None:
        return kubernetes_manifest(agents, topology.kubernetes, str(home), kubernetes_name(name, "id"))
    if topology.launcher == Launcher.hostfile and topology.hostfile is not None:
        hostfile = Path(topology.hostfile).expanduser().absolute()
        hosts = read_hostfile(hostfile, hosts=agents.hosts, devices=agents.devices)
        return shell_line(runner_command(agents, hostfile, hosts[0].address)) + "\n"
    raise InputError("topology.launcher: local starts ranks itself, there is nothing to render; expected another one")
