"""Hosts listed in a file, and the command of DeepSpeed's runner, which starts agents on them with pdsh over ssh."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from yuan_events import InputError
from yuan_launch.agents import MODULE, Agents

KEY = "topology.hostfile"
_LINE = re.compile(r"(?P<name>\S+)\s+slots=(?P<slots>\d{1,6})")
_NAME = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9_.-]*@)?[A-Za-z0-9][A-Za-z0-9_.-]*")
_PLAIN_PATH = re.compile(r"[\w@%+=:,./-]+")


@dataclass(frozen=True)
class HostLine:
    """A host of the file. name: as ssh takes it, perhaps with a user (`yuan@node1`). slots: devices that it has."""

    name: str
    slots: int

    @property
    def address(self) -> str:
        """The name without a user."""
        return self.name.rpartition("@")[2]


def read_hostfile(path: Path, *, hosts: int, devices: int) -> tuple[HostLine, ...]:
    """Returns the hosts of a run: the first ones of the file.

    Args:
        path: the file.
        hosts: how many are needed.
        devices: that each must have.

    Raises:
        InputError: if the file cannot be read, a line is wrong, or there is too little in it; one line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = (getattr(error, "strerror", None) or "is not text").lower()
        raise InputError(f"{KEY}: {path}: {reason}; expected a file of lines HOST slots=N") from None
    listed = parse_hostfile(text, str(path))
    if len(listed) < hosts:
        raise InputError(
            f"{KEY}: {path}: has {len(listed)} hosts, the run needs {hosts} (topology.nodes); list more, or use fewer"
        )
    for host in listed[:hosts]:
        if host.slots < devices:
            raise InputError(
                f"{KEY}: {path}: {host.name} has {host.slots} slots, fewer than topology.nodes.devices, {devices}; "
                "lower the latter, or list another host"
            )
    return tuple(listed[:hosts])


def parse_hostfile(text: str, name: str) -> list[HostLine]:
    """Returns the hosts of a text, in its order; empty lines and lines that start with # are none.

    Raises:
        InputError: at the first line that is wrong.
    """
    found: list[HostLine] = []
    for number, line in enumerate(text.splitlines(), 1):
        plain = line.strip()
        if not plain or plain.startswith("#"):
            continue
        match = _LINE.fullmatch(plain)
        if match is None or not _NAME.fullmatch(match["name"]):
            raise InputError(f"{KEY}: {name}:{number}: expected HOST slots=N, found {plain[:60]!r}")
        host = HostLine(match["name"], int(match["slots"]))
        if any(host.name == other.name for other in found):
            raise InputError(f"{KEY}: {name}:{number}: {host.name} stands there twice")
        found.append(host)
    return found


def runner_command(agents: Agents, hostfile: Path, address: str) -> list[str]:
    """Returns the command of DeepSpeed's runner.

    Args:
        agents: to be started.
        hostfile: of exactly their hosts.
        address: of the first host, as all hosts know it.

    Raises:
        InputError: if a path has characters that the runner would hand to a shell as they are.
    """
    for path in (str(agents.folder), agents.python):
        if not _PLAIN_PATH.fullmatch(path):
            raise InputError(
                f"launcher hostfile: the path {path} has characters that DeepSpeed's runner passes through a shell; "
                "set cluster.home to a path of letters, digits and ._-/ alone"
            )
    options = ["--hostfile", str(hostfile), "--num_nodes", str(agents.hosts), "--force_multi"]
    # One agent a host, not one a device: an agent starts its host's ranks itself.
    options += ["--num_gpus", "1", "--module", "--no_local_rank"]
    options += ["--master_addr", address, "--master_port", str(agents.port)]
    runner = [agents.python, "-m", "deepspeed.launcher.runner", *options]
    return [*runner, MODULE, *agents.arguments("CROSS_RANK", address)]


def shell_line(command: Sequence[str]) -> str:
    """Returns a command as a person would type it."""
    return shlex.join(command)
