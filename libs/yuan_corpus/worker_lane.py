"""Messages between two processes of one machine that wait for each other as little as they can.

A pipe holds 64 KB to 200 KB: whoever sends a longer message stands still until the other has the time to read it. Here
bodies lie in memory that both have mapped, in slots taken in turn, and the pipe carries only their sizes. Nothing says
which slots are free: the two sides keep to SLOTS messages a direction that have not been received. Not a queue, not
for more than two processes, and the content is the users'.
"""

import mmap
import os
import struct
import tempfile
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import TypeVar

ReadT = TypeVar("ReadT")

SLOTS = 3
"""Messages on their way in a direction."""
SLOT_BYTES = 4 << 20
"""Of a message that takes a slot; longer ones go through the pipe."""

_SIZE = struct.Struct("<Q")


class Lane:
    """One side of the way between two processes.

    Attributes:
        connection: what to wait for: it is readable once a message is there or the other side is gone.
    """

    def __init__(self, connection: Connection, memory: int, *, inbound_first: bool) -> None:
        """Maps the memory.

        Args:
            connection: this side's end of a pipe for both directions.
            memory: descriptor of a file of `lane_bytes()`, which is closed here.
            inbound_first: which half of it is for messages to this side; the other side says the contrary.
        """
        self.connection = connection
        self._memory = mmap.mmap(memory, lane_bytes())
        os.close(memory)
        half = SLOTS * SLOT_BYTES
        self._in, self._out = (0, half) if inbound_first else (half, 0)
        self._received = self._sent = 0

    def send(self, message: bytes) -> None:
        """Sends a message; comes back at once, unless it is longer than a slot.

        Raises:
            OSError: if the other side is gone.
        """
        if fits(message):
            start = self._out + self._sent % SLOTS * SLOT_BYTES
            self._memory[start : start + len(message)] = message
        self._sent += 1
        self.connection.send_bytes(_SIZE.pack(len(message)))
        if not fits(message):
            self.connection.send_bytes(message)

    def receive(self, read: Callable[[memoryview | bytes], ReadT]) -> ReadT:
        """Returns what a function makes of the next message, which it must not keep; waits for one.

        Raises:
            EOFError, OSError: if the other side is gone.
        """
        (size,) = _SIZE.unpack(self.connection.recv_bytes())
        start = self._in + self._received % SLOTS * SLOT_BYTES
        self._received += 1
        if size > SLOT_BYTES:
            return read(self.connection.recv_bytes())
        with memoryview(self._memory) as whole, whole[start : start + size] as message:
            return read(message)

    def close(self) -> None:
        """Gives up this side."""
        self.connection.close()
        self._memory.close()


def fits(message: bytes) -> bool:
    """Says whether a message takes a slot, and so is sent without waiting."""
    return len(message) <= SLOT_BYTES


def lane_bytes() -> int:
    """Returns how much memory a lane maps; of it only what messages reach is ever used."""
    return 2 * SLOTS * SLOT_BYTES


def memory_file(size: int) -> int:
    """Returns the descriptor of a new file of zeros without a name, in memory where the system can do that."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("yuan-lane")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.truncate(descriptor, size)
    return descriptor
