"""Messages between two processes of one machine that wait for each other as little as they can.

A pipe holds 64 KB to 200 KB: whoever sends a longer message stands still until the other has the time to read it. Here
bodies lie in memory that both have mapped, in slots taken in turn, and the pipe carries only their sizes. Nothing says
which slots are free: the two sides keep to SLOTS messages a direction that have not been received. Not a queue, not
for more than two processes, and the content is the users'.
"""

import mmap
import os
import pickle
import struct
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import accumulate, pairwise
from multiprocessing.connection import Connection
from typing import Any, TypeAlias, TypeVar

ReadT = TypeVar("ReadT")
Bytes: TypeAlias = "bytes | memoryview[int]"

SLOTS = 3
"""Messages on their way in a direction."""
SLOT_BYTES = 4 << 20
"""Of a message that takes a slot; longer ones go through the pipe."""


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

    def send(self, parts: Sequence[Bytes]) -> None:
        """Sends a message of some parts; comes back at once, unless they are longer than a slot.

        Raises:
            OSError: if the other side is gone.
        """
        sizes = list(map(len, parts))
        if short := fits(parts):
            start = self._out + self._sent % SLOTS * SLOT_BYTES
            for part, size in zip(parts, sizes, strict=True):
                self._memory[start : start + size] = part
                start += size
        self._sent += 1
        self.connection.send_bytes(struct.pack(f"<{len(sizes)}Q", *sizes))
        if not short:
            for part in parts:
                self.connection.send_bytes(part)

    def receive(self, read: Callable[[Sequence[Bytes]], ReadT]) -> ReadT:
        """Returns what a function makes of the next message's parts, which it must not keep; waits for one.

        Raises:
            EOFError, OSError: if the other side is gone.
        """
        header = self.connection.recv_bytes()
        sizes = struct.unpack(f"<{len(header) // 8}Q", header)
        start = self._in + self._received % SLOTS * SLOT_BYTES
        self._received += 1
        if sum(sizes) > SLOT_BYTES:
            return read([self.connection.recv_bytes() for _ in sizes])
        with ExitStack() as views:
            memory: memoryview[int] = memoryview(self._memory)
            views.enter_context(memory)
            ends = accumulate(sizes, initial=start)
            return read([views.enter_context(memory[begin:end]) for begin, end in pairwise(ends)])

    def close(self) -> None:
        """Gives up this side."""
        self.connection.close()
        self._memory.close()


def fits(parts: Sequence[Bytes]) -> bool:
    """Says whether a message takes a slot, and so is sent without waiting."""
    return sum(map(len, parts)) <= SLOT_BYTES


def packed(content: object) -> list[Bytes]:
    """Returns an object as parts of a message; arrays are parts of their own and not copied."""
    arrays: list[pickle.PickleBuffer] = []
    head = pickle.dumps(content, pickle.HIGHEST_PROTOCOL, buffer_callback=arrays.append)
    return [head, *(array.raw() for array in arrays)]


def unpacked(parts: Sequence[Bytes]) -> Any:
    """Returns a copy of the object that was packed."""
    head, *arrays = parts
    return pickle.loads(head, buffers=[bytearray(array) for array in arrays])  # noqa: S301  # of a process of ours


def lane_bytes() -> int:
    """Returns how much memory a lane maps; of it only what messages reach is ever used."""
    return 2 * SLOTS * SLOT_BYTES
