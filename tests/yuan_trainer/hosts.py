"""Two hosts on one machine: network namespaces joined by a veth pair, with a remote shell that enters them.

What a namespace shares with its machine is what hosts of a cluster share: the file system. What it has of its own is
the network: an interface, an address, a name, a loopback of its own. On them: the remote shell that DeepSpeed's runner
wants, a real Slurm, and a stand-in for Kubernetes.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.machine import wait_until

REMOTE_SHELL = """\
#!/bin/bash
# ssh as far as DeepSpeed's runner and pdsh use it: the host is a network namespace.
while [[ $1 == -* ]]; do [[ $1 == -[olp] ]] && shift; shift; done
host=$1; shift
export OMP_NUM_THREADS=1  # both hosts share this machine's cores
exec ip netns exec "$host" unshare --uts bash -c 'hostname "$0"; eval "$1"' "$host" "$*"
"""


SLURM = """\
ClusterName=yuan
SlurmctldHost={first}(10.213.7.1)
AuthType=auth/none
CredType=cred/none
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={spool}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/linear
MpiDefault=none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
NodeName={first} NodeAddr=10.213.7.1 CPUs=2 State=UNKNOWN
NodeName={second} NodeAddr=10.213.7.2 CPUs=2 State=UNKNOWN
PartitionName=main Nodes={first},{second} Default=YES State=UP
"""

KUBECTL = """\
#!{python}
import json, os, pathlib, signal, subprocess, sys, yaml
HOSTS, FOLDER = {hosts!r}, pathlib.Path({folder!r})
verb, arguments = sys.argv[1], sys.argv[2:]
pods = FOLDER / "pods.json"
if verb == "apply":
    runtime, job = yaml.safe_load_all(sys.stdin)
    name, spec = job["metadata"]["name"], runtime["spec"]["template"]["spec"]["replicatedJobs"][0]["template"]["spec"]
    container = spec["template"]["spec"]["containers"][0]
    for host in HOSTS:
        with open(f"/etc/netns/{{host}}/hosts", "a") as known:
            known.write(f"10.213.7.1 {{name}}-node-0-0.{{name}}\\n")
    started = []
    for index, host in enumerate(HOSTS[: job["spec"]["trainer"]["numNodes"]]):
        command = [sys.executable, *container["command"][1:]]
        shell = ["ip", "netns", "exec", host, "unshare", "--uts", "sh", "-c", 'hostname "$0"; exec "$@"', host]
        environment = {{**os.environ, container["env"][0]["name"]: str(index)}}
        log = open(FOLDER / f"pod-{{index}}.log", "wb")
        pod = subprocess.Popen(shell + command, env=environment, stdout=log, stderr=log, start_new_session=True)
        started.append(pod.pid)
    pods.write_text(json.dumps({{"name": name, "pids": started}}))
elif verb == "get":
    if not pods.exists():
        sys.exit('Error from server (NotFound): trainjobs.trainer.kubeflow.org "x" not found')
    alive = [pid for pid in json.loads(pods.read_text())["pids"] if pathlib.Path(f"/proc/{{pid}}").exists()]
    condition = {{"type": "Complete", "status": "False" if alive else "True", "message": "all pods have ended"}}
    print(json.dumps({{"status": {{"conditions": [condition]}}}}))
elif verb == "delete":
    for pid in json.loads(pods.read_text())["pids"]:
        try:
            os.killpg(pid, signal.SIGTERM)
        except ProcessLookupError:
            pass
    pods.rename(FOLDER / "deleted.json")
"""


@dataclass(frozen=True)
class Hosts:
    """names: of hosts, known to each other by /etc/hosts. programs: folder with `ssh`, to stand first in PATH."""

    names: tuple[str, ...]
    programs: Path

    def hostfile(self, path: Path, slots: int = 1) -> Path:
        path.write_text("# two hosts\n" + "".join(f"{name} slots={slots}\n" for name in self.names))
        return path

    def command(self, host: str, *command: str) -> list[str]:
        """Returns a command as it runs on a host."""
        inside = ["unshare", "--uts", "sh", "-c", 'hostname "$0"; exec "$@"', host, *command]
        return ["ip", "netns", "exec", host, *inside]

    @contextmanager
    def slurm(self, folder: Path) -> Iterator[None]:
        """Runs Slurm on both hosts, its controller on the first; its commands stand in `programs`."""
        if shutil.which("slurmctld") is None or shutil.which("slurmd") is None:
            pytest.skip("Slurm (slurm-wlm) is not installed")
        (folder / "state").mkdir(parents=True)
        first, second = self.names
        spool = Path(tempfile.mkdtemp(prefix="yuan-slurm-"))  # short: sockets, whose paths have a limit, lie in it
        text = SLURM.format(first=first, second=second, folder=folder, spool=spool)
        (folder / "slurm.conf").write_text(text)
        # Inside a namespace of `ip netns exec` no cgroup hierarchy is to be seen.
        (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
        for tool in ("sbatch", "squeue", "scancel", "sinfo"):
            line = " ".join(f"'{part}'" for part in self.command(first, f"/usr/bin/{tool}"))
            program = self.programs / tool
            program.write_text(f"#!/bin/bash\nexport SLURM_CONF='{folder}/slurm.conf'\nexec {line} \"$@\"\n")
            program.chmod(0o755)
        daemons: list[subprocess.Popen[bytes]] = []
        try:
            for host, daemon in ((first, "slurmctld"), (first, "slurmd"), (second, "slurmd")):
                with (folder / f"{daemon}-{host}.log").open("wb") as log:
                    command = self.command(host, daemon, "-D")
                    daemons.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
            wait_until(lambda: self.slurm_says("sinfo", "--noheader", "--format=%T %D") == "idle 2")
            yield
        finally:
            for process in daemons:
                process.terminate()
            for process in daemons:
                try:
                    process.wait(60)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
            shutil.rmtree(spool, ignore_errors=True)

    def slurm_says(self, tool: str, *arguments: str) -> str:
        done = subprocess.run([self.programs / tool, *arguments], capture_output=True, text=True, check=False)
        return done.stdout.strip()

    def kubectl(self, folder: Path) -> None:
        """Puts a stand-in for kubectl and what is behind it into `programs`: it starts each pod on a host."""
        folder.mkdir()
        program = self.programs / "kubectl"
        program.write_text(KUBECTL.format(python=sys.executable, hosts=self.names, folder=str(folder)))
        program.chmod(0o755)


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
