"""Hosts and ports: what is loopback, whether a port is free, and who holds it.

Nothing here speaks gRPC.
"""

import errno
import ipaddress
import socket
from pathlib import Path

from yuan_events import InputError


def join_address(host: str, port: int) -> str:
    """Returns `host:port`, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Returns whether a host can only be this machine; a name that is not known is taken for another machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(host, None)
    except OSError:
        return False
    return bool(found) and all(ipaddress.ip_address(entry[4][0]).is_loopback for entry in found)


def check_port(host: str, port: int, *, service: str, port_key: str, bind_key: str) -> None:
    """Checks that a server can listen there, before gRPC tries and fills the log with its own errors.

    Args:
        host: address or name of an interface of this machine.
        port: 0 (any free one) always passes.
        service: who wants to listen, for the message.
        port_key: the manifest's key of the port, `cluster.services.trainer.port`.
        bind_key: that of the address.

    Raises:
        InputError: if the port is taken (naming who holds it, where that can be seen) or the address is not ours.
    """
    place = join_address(host, port)
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            # As gRPC does: a port in TIME_WAIT is free, one that somebody listens on is not.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except socket.gaierror as error:
        raise InputError(f"{service} cannot listen on {place}: no such host; set {bind_key}") from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            owner = port_owner(port)
            taken = f"by {owner}" if owner else "by another process"
            raise InputError(
                f"{service} cannot listen on {place}: port {port} is taken {taken}; "
                f"end that, or set {port_key} to a free port"
            ) from error
        mend = f"set {port_key} above 1023" if error.errno == errno.EACCES else f"set {bind_key}"
        raise InputError(f"{service} cannot listen on {place}: {error.strerror}; {mend}") from error


def port_owner(port: int) -> str | None:
    """Returns who listens on a TCP port of this machine, as `command line (pid N)`.

    Read from Linux's /proc; None where there is none, where nobody listens, or where the owner is another user's.
    """
    sockets = {f"socket:[{inode}]" for inode in _listening_inodes(port)}
    if not sockets:
        return None
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(str(entry.readlink()) in sockets for entry in (process / "fd").iterdir()):
                words = (process / "cmdline").read_bytes().rstrip(b"\0").replace(b"\0", b" ")
                command = words.decode(errors="replace")
                return f"{command[:100] + '…' if len(command) > 100 else command} (pid {process.name})"
        except OSError:
            # Gone meanwhile, or another user's.
            continue
    return None


def _listening_inodes(port: int) -> set[str]:
    inodes: set[str] = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            rows = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for row in rows:
            fields = row.split()
            # Columns of proc(5): local address with the port in hexadecimal, state (0A: LISTEN), inode.
            if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                inodes.add(fields[9])
    return inodes
