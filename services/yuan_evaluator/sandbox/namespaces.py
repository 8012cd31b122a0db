"""The kernel's part: namespaces, a root of our own, no capabilities. ctypes over libc, nothing else.

Called in forked children of the zygote, in the order of the functions below. As root the program gets a user id that
is nobody's; as another user it gets a user namespace, in which it is nobody either.
"""

import ctypes
import os
import struct
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

_LIBC = ctypes.CDLL(None, use_errno=True)

_NEWNS, _NEWCGROUP, _NEWUTS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET = (
    0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000,
)  # fmt: skip
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = (
    1, 2, 4, 8, 32, 4096, 16384, 1 << 18,
)  # fmt: skip
_MNT_DETACH = 2
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_CAPBSET_DROP, _PR_SET_CHILD_SUBREAPER = 1, 4, 24, 36
_MOUNT_SETATTR, _PIVOT_ROOT = 442, {"x86_64": 155, "aarch64": 41}
_AT_RECURSIVE = 0x8000

INSIDE = 1000
"""User and group id of a program in a user namespace."""


class Refused(OSError):
    """The kernel refused a step; the text names it."""


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise Refused(number, f"{what}: {os.strerror(number).lower()}")


def unshare() -> None:
    """Leaves the host's namespaces; the next child is process 1 of a new one.

    Raises:
        Refused: if the kernel does not allow it.
    """
    uid, gid, root = os.geteuid(), os.getegid(), os.geteuid() == 0
    flags = _NEWNS | _NEWUTS | _NEWIPC | _NEWPID | _NEWNET | (0 if root else _NEWUSER)
    _check(_LIBC.unshare(flags), "unshare" if root else "unshare (user namespaces)")
    _LIBC.unshare(_NEWCGROUP)  # nice to have
    if not root:
        _LIBC.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)  # else the files below are root's; nobody inside sees this process
        with suppress(FileNotFoundError):
            Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{INSIDE} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{INSIDE} {gid} 1")


def build_root(view: Iterable[str], memory_mib: int) -> None:
    """Puts this process on a root of its own: the view read-only, an empty /tmp, /proc, four devices.

    Args:
        view: absolute folders and files of the host that stay visible.
        memory_mib: what /tmp holds.

    Raises:
        Refused: if a mount is not allowed.
    """
    _mount(None, "/", None, _MS_REC | _MS_PRIVATE)
    # The new root lies over /tmp, which stays reachable below the old one.
    _mount("tmpfs", "/tmp", "tmpfs", _MS_NOSUID | _MS_NODEV, "size=1m,mode=755")  # noqa: S108
    os.chdir("/tmp")  # noqa: S108
    for name in ("host", "proc", "dev", "tmp"):
        Path(name).mkdir()
    _check(_LIBC.syscall(_PIVOT_ROOT[os.uname().machine], b".", b"host"), "pivot_root")
    os.chdir("/")
    for path in view:
        _show(path)
    for name in ("null", "zero", "random", "urandom"):
        Path(f"/dev/{name}").touch()
        _mount(f"/host/dev/{name}", f"/dev/{name}", None, _MS_BIND)
    _mount("tmpfs", "/tmp", "tmpfs", _MS_NOSUID | _MS_NODEV, f"size={memory_mib}m,nr_inodes=10000,mode=1777")  # noqa: S108
    with suppress(Refused):  # not in a container that hides parts of its own
        _mount("proc", "/proc", "proc", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
    _check(_LIBC.umount2(b"/host", _MNT_DETACH), "umount")
    Path("/host").rmdir()
    _mount(None, "/", None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY | _MS_NOSUID | _MS_NODEV)
    _LIBC.sethostname(b"sandbox", 7)
    os.chdir("/tmp")  # noqa: S108


def _show(path: str) -> None:
    """Binds a path of the host, read-only; a link stays a link."""
    host, here = Path(f"/host{path}"), Path(path)
    if os.path.lexists(here):
        return
    here.parent.mkdir(parents=True, exist_ok=True)
    if host.is_symlink():
        here.symlink_to(host.readlink())
        return
    if host.is_dir():
        here.mkdir()
    elif host.exists():
        here.touch()
    else:
        return
    _mount(str(host), path, None, _MS_BIND | _MS_REC)
    attributes = struct.pack("=QQQQ", _MS_RDONLY | _MS_NOSUID | _MS_NODEV, 0, 0, 0)
    if _LIBC.syscall(_MOUNT_SETATTR, -100, path.encode(), _AT_RECURSIVE, attributes, len(attributes)) != 0:
        _mount(None, path, None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY | _MS_NOSUID | _MS_NODEV)


def _mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    given = [None if text is None else text.encode() for text in (source, target, kind)]
    result = _LIBC.mount(*given, ctypes.c_ulong(flags), None if data is None else data.encode())
    _check(result, f"mount {target}")


def become(uid: int) -> None:
    """Gives up all rights: another user where we are root, and no capability now or later.

    Raises:
        Refused: if that is not allowed.
    """
    with suppress(OSError, ValueError):
        last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
        for capability in range(last + 1):
            _LIBC.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    header = struct.pack("=Ii", 0x20080522, 0)
    _check(_LIBC.capset(header, bytes(24)), "capset")


def die_with_parent(parent: int) -> None:
    """Ends this process when its parent does."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, 9, 0, 0, 0)
    if parent and os.getppid() != parent:
        os._exit(1)


def hide_memory() -> None:
    """Lets no process of the same user look at this one's memory, environment and files."""
    _LIBC.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def adopt_orphans() -> None:
    """Makes this process the parent of whatever its descendants leave behind."""
    _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
