"""Filters of system calls. A program's own: what arithmetic and lists never need is refused (EPERM).

Sockets, shared memory and queues, tracing and memory of other processes, mounts, namespaces, keys, kernel modules,
clocks, io_uring, BPF. It is the second wall: namespaces are the first, and where the kernel or the processor is not
known here there is none.

And a sandbox's, where containers share a network, as those of a Kubernetes pod do: no socket but a Unix one can be made
by the process that puts it over itself, nor by anything that it ever starts. It needs no right and cannot be taken off.
"""

import ctypes
import errno
import platform
import struct

_REFUSED = {
    "socket": (41, 198), "connect": (42, 203), "accept": (43, 202), "accept4": (288, 242), "bind": (49, 200),
    "listen": (50, 201), "ptrace": (101, 117), "personality": (135, 92), "mount": (165, 40), "umount2": (166, 39),
    "pivot_root": (155, 41), "chroot": (161, 51), "acct": (163, 89), "swapon": (167, 224), "swapoff": (168, 225),
    "reboot": (169, 142), "sethostname": (170, 161), "setdomainname": (171, 162), "init_module": (175, 105),
    "delete_module": (176, 106), "finit_module": (313, 273), "quotactl": (179, 60), "settimeofday": (164, 170),
    "clock_settime": (227, 112), "clock_adjtime": (305, 266), "adjtimex": (159, 171), "syslog": (103, 116),
    "kexec_load": (246, 104), "kexec_file_load": (320, 294), "add_key": (248, 217), "request_key": (249, 218),
    "keyctl": (250, 219), "unshare": (272, 97), "setns": (308, 268), "perf_event_open": (298, 241),
    "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265), "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271), "kcmp": (312, 272), "bpf": (321, 280), "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430), "fsconfig": (431, 431),
    "shmget": (29, 194), "shmat": (30, 196), "shmctl": (31, 195), "semget": (64, 190), "semop": (65, 193),
    "semctl": (66, 191), "semtimedop": (220, 192), "msgget": (68, 186), "msgsnd": (69, 189), "msgrcv": (70, 188),
    "msgctl": (71, 187), "mq_open": (240, 180), "fsmount": (432, 432),
    "fspick": (433, 433), "pidfd_getfd": (438, 438), "mount_setattr": (442, 442),
}  # fmt: skip
"""Numbers of system calls on x86-64 and aarch64 (Linux' tables)."""

_MACHINES = ("x86_64", "aarch64")
_SOCKETPAIR, _UNIX = (53, 199), 1
_AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_CLONE = {"x86_64": 56, "aarch64": 220}
_CLONE3 = 435
_X32 = 0x40000000
_NEW_NAMESPACES = 0x7E020080
"""CLONE_NEW… of clone's flags: time, mount, cgroup, UTS, IPC, user, PID, network."""

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000

_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _MODE_FILTER = 38, 22, 2


def _beginning(machine: str) -> list[tuple[int, int, int, int]]:
    """Returns the instructions that load a call's number, and let no other table of calls pass than this machine's."""
    lines = [
        (_LOAD, 0, 0, 4),  # seccomp_data.arch
        (_EQUAL, 1, 0, _AUDIT[machine]),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, 0),  # seccomp_data.nr
    ]
    if machine == "x86_64":
        lines += [(_AT_LEAST, 0, 1, _X32), (_RETURN, 0, 0, _ERRNO | errno.EPERM)]
    return lines


def socket_filter_program() -> bytes | None:
    """Returns the filter that lets pass Unix sockets alone; None for a processor that is not known."""
    machine = platform.machine()
    if machine not in _MACHINES:
        return None
    refused = _ERRNO | errno.EPERM
    lines = _beginning(machine)
    for name in ("io_uring_setup", "io_uring_enter", "io_uring_register"):  # it makes sockets, too
        lines += [(_EQUAL, 0, 1, _REFUSED[name][_MACHINES.index(machine)]), (_RETURN, 0, 0, refused)]
    for numbers in (_REFUSED["socket"], _SOCKETPAIR):
        # The family is an int: the kernel takes the lower half of the register.
        lines += [(_EQUAL, 0, 3, numbers[_MACHINES.index(machine)]), (_LOAD, 0, 0, 16)]
        lines += [(_EQUAL, 1, 0, _UNIX), (_RETURN, 0, 0, refused), (_LOAD, 0, 0, 0)]
    lines += [(_RETURN, 0, 0, _ALLOW)]
    return b"".join(struct.pack("=HBBI", *line) for line in lines)


def filter_program() -> bytes | None:
    """Returns a program's filter as the kernel takes it (an array of sock_filter); None for an unknown processor."""
    machine = platform.machine()
    if machine not in _MACHINES:
        return None
    refused, unknown = _ERRNO | errno.EPERM, _ERRNO | errno.ENOSYS
    lines = _beginning(machine)
    for numbers in _REFUSED.values():
        number = numbers[_MACHINES.index(machine)]
        lines += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, refused)]
    # clone3's flags are behind a pointer, which a filter cannot read: libc falls back to clone where it is unknown.
    lines += [(_EQUAL, 0, 1, _CLONE3), (_RETURN, 0, 0, unknown)]
    lines += [(_EQUAL, 0, 3, _CLONE[machine]), (_LOAD, 0, 0, 16), (_ANY_BIT, 0, 1, _NEW_NAMESPACES)]
    lines += [(_RETURN, 0, 0, refused), (_RETURN, 0, 0, _ALLOW)]
    return b"".join(struct.pack("=HBBI", *line) for line in lines)


def install() -> bool:
    """Puts a program's filter over this process and all that it starts; returns False where it is not available.

    Raises:
        OSError: if even no_new_privs cannot be set.
    """
    return _install(filter_program())


def deny_network() -> bool:
    """Lets this process and all that it starts make Unix sockets alone; returns False where that is not available.

    Sockets that it has stay: it has to have none.

    Raises:
        OSError: if even no_new_privs cannot be set.
    """
    return _install(socket_filter_program())


def _install(program: bytes | None) -> bool:
    """Puts a filter over this process.

    Raises:
        OSError: if even no_new_privs cannot be set.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "no_new_privs")
    if program is None:
        return False
    code = ctypes.create_string_buffer(program, len(program))

    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_void_p)]

    given = Program(len(program) // 8, ctypes.addressof(code))
    return libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(given), 0, 0) == 0
