"""How the ranks of a run find each other, and over which network interface they talk.

Ranks of one host meet in a file that has no name: its descriptor is passed on to them, so nothing is left behind, no
port is taken and two runs never meet; they talk over loopback. Ranks of several hosts meet at a TCP port of the first
one. torch's store would listen on every address of that host; ours listens on the one address that the hosts share.
torch.distributed itself knows no authentication: who reaches the hosts' ports can disturb a run.
"""

import datetime
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from yuan_events import InputError, WorkFailed

FILE = "YUAN_MEETING_FILE"
ADDRESS = "YUAN_MEETING_ADDRESS"
PORT = "YUAN_MEETING_PORT"
INTERFACE_VARIABLES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
JOIN_SECONDS = 300
"""How long ranks wait for each other; the hosts are known to be there by then."""


@dataclass(frozen=True)
class Meeting:
    """Where ranks meet.

    Attributes:
        environment: what their processes are told.
        descriptors: open files that they inherit.
    """

    environment: dict[str, str]
    descriptors: tuple[int, ...] = ()


class NameUnknown(WorkFailed):
    """The first host's name means nothing here, perhaps not yet."""


@contextmanager
def meeting_on_one_host() -> Iterator[Meeting]:
    """Opens a nameless file for the ranks of one host to meet in."""
    interfaces = dict.fromkeys(INTERFACE_VARIABLES, "lo")
    if hasattr(os, "memfd_create"):
        # Each rank opens it anew through /proc: a lock of its own, and nothing to remove after a kill.
        descriptor = os.memfd_create("yuan-meeting")
        try:
            yield Meeting({FILE: f"/proc/self/fd/{descriptor}", **interfaces}, (descriptor,))
        finally:
            os.close(descriptor)
        return
    with tempfile.TemporaryDirectory(prefix="yuan-ranks-") as folder:
        yield Meeting({FILE: str(Path(folder) / "store"), **interfaces})


def meeting_of_hosts(address: str, port: int) -> Meeting:
    """Returns where this host's ranks meet those of the others.

    Args:
        address: name or address of the first host.
        port: at which its first rank waits.

    Raises:
        NameUnknown: if the name means nothing here.
        WorkFailed: if it means an address that no other host can reach.
    """
    try:
        numeric = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0][4][0]
    except OSError as error:
        raise NameUnknown(f"the first host, {address}, is not known here: {error.strerror or error}") from None
    interface, own = route_to(str(numeric))
    if own == "::1" or own.startswith("127."):
        raise WorkFailed(
            f"the first host, {address}, is {numeric} on {socket.gethostname()}, which no other host can reach; give "
            "it a name or address that means the same on every host"
        )
    environment = {ADDRESS: str(numeric), PORT: str(port)}
    for variable in INTERFACE_VARIABLES:
        # A user knows of faster networks than the one that leads to the first host (`export NCCL_SOCKET_IFNAME=ib0`).
        exact = f"={interface}" if variable.startswith("NCCL") else interface
        environment[variable] = os.environ.get(variable, exact)
    return Meeting(environment)


def route_to(address: str) -> tuple[str, str]:
    """Returns the network interface that leads to an address, and this host's own address on it.

    Raises:
        WorkFailed: if none does.
    """
    import psutil  # noqa: PLC0415 - several hosts only

    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((address, 9))  # of a datagram socket: sends nothing, only looks the route up
        except OSError as error:
            raise WorkFailed(f"no network here leads to the first host, {address}: {error.strerror}") from None
        own = str(probe.getsockname()[0])
    for name, addresses in psutil.net_if_addrs().items():
        if any(entry.family == family and entry.address.partition("%")[0] == own for entry in addresses):
            return name, own
    return "lo", own  # 127.0.1.1 and its like belong to no interface by name


def join_processes(device: str) -> None:
    """Joins this process to the others of its run, as its environment says; afterwards DeepSpeed may be used.

    Args:
        device: `cpu` or `cuda`.

    Raises:
        InputError: if this host has too few CUDA devices.
        WorkFailed: if the others cannot be reached.
    """
    import deepspeed  # noqa: PLC0415 - seconds, and those who start ranks need none
    import deepspeed.ops  # noqa: PLC0415
    import torch.distributed  # noqa: PLC0415

    backend = "gloo"
    if device == "cuda":
        backend = "nccl"
        local_rank = int(os.environ["LOCAL_RANK"])
        count = torch.cuda.device_count()
        if local_rank >= count:
            raise InputError(
                f"topology.nodes.devices: {os.environ['LOCAL_SIZE']} CUDA devices are wanted, "
                f"{socket.gethostname()} has {count}; lower it, or set topology.nodes.device=cpu"
            )
        torch.cuda.set_device(local_rank)
    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.distributed.init_process_group(backend, store=_store(rank, ranks), rank=rank, world_size=ranks)
    # Otherwise DeepSpeed compiles a C++ extension at first use (30 s, needs g++): shared-memory reductions for
    # tensor-parallel inference on CPUs, which training here never calls.
    cast("dict[str, bool]", deepspeed.ops.__compatible_ops__)["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend=backend, verbose=False)


def _store(rank: int, ranks: int) -> Any:
    import torch.distributed  # noqa: PLC0415

    if FILE in os.environ:
        return torch.distributed.FileStore(os.environ[FILE], ranks)  # pyright: ignore[reportPrivateImportUsage]
    address, port = os.environ[ADDRESS], int(os.environ[PORT])
    try:
        return torch.distributed.TCPStore(  # pyright: ignore[reportPrivateImportUsage]
            address,
            port,
            ranks,
            is_master=rank == 0,
            timeout=datetime.timedelta(seconds=JOIN_SECONDS),
            master_listen_fd=_listen(address, port) if rank == 0 else None,
        )
    except torch.distributed.DistError:
        raise WorkFailed(
            f"the first host could not be reached at {address}:{port} within {JOIN_SECONDS} s; open that port between "
            "the hosts, or set topology.port to an open one"
        ) from None


def _listen(address: str, port: int) -> int:
    """Returns a descriptor that listens on one address of this host."""
    listener = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((address, port))
        listener.listen(socket.SOMAXCONN)
    except OSError as error:
        raise WorkFailed(
            f"topology.port: cannot wait for the other hosts at {address}:{port}: {(error.strerror or '').lower()}; "
            "set another port"
        ) from None
    return listener.detach()
