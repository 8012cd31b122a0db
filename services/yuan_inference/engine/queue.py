"""Who is next: by priority, and among equals in turn from each tenant, so that one who asks much holds nobody up."""

from bisect import insort
from collections import OrderedDict, deque
from collections.abc import Iterator

from yuan_inference.engine.sequence import Sequence


class FairQueue:
    """Waiting sequences. Those of requests that have begun come first, the oldest request's before the others'."""

    def __init__(self) -> None:
        self._begun: list[Sequence] = []
        self._lines: dict[int, OrderedDict[str, deque[Sequence]]] = {}
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Sequence]:
        yield from self._begun
        for priority in sorted(self._lines):
            for line in self._lines[priority].values():
                yield from line

    def add(self, sequence: Sequence) -> None:
        """Puts a sequence at the end of its tenant's line."""
        request = sequence.task.request
        tenants = self._lines.setdefault(request.priority, OrderedDict())
        tenants.setdefault(request.tenant, deque()).append(sequence)
        self._size += 1

    def put_back(self, sequence: Sequence) -> None:
        """Puts a sequence of a request that has begun to its like."""
        insort(self._begun, sequence, key=_order)
        self._size += 1

    @property
    def next(self) -> Sequence | None:
        """The sequence whose turn it is."""
        if self._begun:
            return self._begun[0]
        if not self._lines:
            return None
        return next(iter(self._lines[min(self._lines)].values()))[0]

    def pop(self) -> Sequence:
        """Takes the sequence whose turn it is; the tenant's next turn comes after all the others'."""
        self._size -= 1
        if self._begun:
            return self._begun.pop(0)
        priority = min(self._lines)
        tenants = self._lines[priority]
        tenant = next(iter(tenants))
        line = tenants[tenant]
        sequence = line.popleft()
        if line:
            tenants.move_to_end(tenant)
        else:
            self._drop(priority, tenant)
        return sequence

    def remove(self, sequence: Sequence) -> bool:
        """Takes a sequence out; returns whether it was there."""
        if sequence in self._begun:
            self._begun.remove(sequence)
            self._size -= 1
            return True
        request = sequence.task.request
        line = self._lines.get(request.priority, {}).get(request.tenant)
        if line is None or sequence not in line:
            return False
        line.remove(sequence)
        self._size -= 1
        if not line:
            self._drop(request.priority, request.tenant)
        return True

    def _drop(self, priority: int, tenant: str) -> None:
        del self._lines[priority][tenant]
        if not self._lines[priority]:
            del self._lines[priority]


def _order(sequence: Sequence) -> tuple[int, int, int]:
    task = sequence.task
    return task.request.priority, task.number, sequence.index
