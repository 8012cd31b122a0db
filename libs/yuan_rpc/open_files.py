"""How many connections a server's process can hold: as many files as it may have open."""

import resource

_MOST = 1 << 16
"""More than a server here answers; some libraries go through all numbers of files that there may be."""


def allow_many_connections() -> int:
    """Raises this process's limit of open files as far as it may, and returns it.

    Shells begin with 1,024, and a client that opens a thousand streams would leave nobody a connection.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return _MOST
    most = _MOST if hard == resource.RLIM_INFINITY else min(_MOST, hard)
    if most > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return max(soft, most)
