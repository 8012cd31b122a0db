"""Who is next: by priority, and among equals in turn from each tenant, so that one who asks much holds nobody up."""

from collections import OrderedDict, deque
from collections.abc import Iterator

from yuan_inference.engine.sequence import Sequence


class FairQueue:
    """Waiting sequences. Those that have begun already come first, whatever their priority: others wait for them."""

    def __init__(self) -> None:
        self._begun: deque[Sequence] = deque()
        self._lines: dict[int, OrderedDict[str, deque[Sequence]]] = {}
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Sequence]:
        yield from self._begun
        for priority in sorted(self._lines):
            for line in self._lines[priority].values():
                yield from line

    def __contains__(self, sequence: object) -> bool:
        return any(one is sequence for one in self)

    def add(self, sequence: Sequence) -> None:
        """Puts a sequence at the end of its tenant's line."""
        request = sequence.task.request
        tenants = self._lines.setdefault(request.priority, OrderedDict())
        tenants.setdefault(request.tenant, deque()).append(sequence)
        self._size += 1

    def put_back(self, sequence: Sequence) -> None:
        """Puts a sequence that has begun in front; of several the one put back last."""
        self._begun.appendleft(sequence)
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
            return self._begun.popleft()
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
        if any(one is sequence for one in self._begun):
            self._begun.remove(sequence)
            self._size -= 1
            return True
        request = sequence.task.request
        line = self._lines.get(request.priority, {}).get(request.tenant)
        if line is None or not any(one is sequence for one in line):
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
