"""What tests ask of the machine that they run on: ports, its address, and patience for what other processes do."""

import socket
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress


def free_ports(count: int) -> list[int]:
    """Returns ports of loopback that nobody listens on, no two the same."""
    with ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def free_port() -> int:
    """Returns a port of loopback that nobody listens on."""
    return free_ports(1)[0]


def own_address() -> str:
    """Returns an address at which this machine is as another one would reach it; loopback where it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, suppress(OSError):
        probe.connect(("192.0.2.1", 9))  # sends nothing
        return probe.getsockname()[0]
    return "127.0.0.1"


def wait_until(
    condition: Callable[[], bool], seconds: float = 180.0, *, forgives: tuple[type[Exception], ...] = ()
) -> None:
    """Waits for what other processes are doing.

    Args:
        condition: that comes to hold.
        seconds: until it has.
        forgives: what it may raise until then.
    """
    deadline = time.monotonic() + seconds
    while True:
        with suppress(*forgives):
            if condition():
                return
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
