"""Two hosts on one machine: network namespaces joined by a veth pair, with a remote shell that enters them.

What a namespace shares with its machine is what hosts of a cluster share: the file system. What it has of its own is
the network: an interface, an address, a name, a loopback of its own.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

REMOTE_SHELL = """\
#!/bin/bash
# ssh as far as DeepSpeed's runner and pdsh use it: the host is a network namespace.
while [[ $1 == -* ]]; do [[ $1 == -[olp] ]] && shift; shift; done
host=$1; shift
exec ip netns exec "$host" bash -c "$*"
"""


@dataclass(frozen=True)
class Hosts:
    """names: of hosts, known to each other by /etc/hosts. programs: folder with `ssh`, to stand first in PATH."""

    names: tuple[str, ...]
    programs: Path

    def hostfile(self, path: Path, slots: int = 1) -> Path:
        path.write_text("# two hosts\n" + "".join(f"{name} slots={slots}\n" for name in self.names))
        return path


def _ip(*arguments: str, check: bool = True) -> None:
    subprocess.run(["ip", *arguments], check=check, capture_output=True)


@contextmanager
def two_hosts(folder: Path) -> Iterator[Hosts]:
    """Makes two hosts; skips the test where that cannot be."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and iproute2")
    names = tuple(f"yuan{os.getpid()}{letter}" for letter in "ab")
    known = "127.0.0.1 localhost\n" + "".join(f"10.213.7.{n} {name}\n" for n, name in enumerate(names, 1))
    made: list[str] = []
    try:
        for name in names:
            if subprocess.run(["ip", "netns", "add", name], check=False, capture_output=True).returncode:
                pytest.skip("this machine makes no network namespaces")
            made.append(name)
            Path("/etc/netns", name).mkdir(parents=True)
            Path("/etc/netns", name, "hosts").write_text(known)
            _ip("-n", name, "link", "set", "lo", "up")
        _ip("link", "add", "hosta", "netns", names[0], "type", "veth", "peer", "name", "hostb", "netns", names[1])
        for number, (name, interface) in enumerate(zip(names, ("hosta", "hostb"), strict=True), 1):
            _ip("-n", name, "address", "add", f"10.213.7.{number}/24", "dev", interface)
            _ip("-n", name, "link", "set", interface, "up")
        programs = folder / "programs"
        programs.mkdir()
        (programs / "ssh").write_text(REMOTE_SHELL)
        (programs / "ssh").chmod(0o755)
        yield Hosts(names, programs)
    finally:
        for name in made:
            _ip("netns", "delete", name, check=False)
            shutil.rmtree(Path("/etc/netns", name), ignore_errors=True)
