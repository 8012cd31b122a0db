"""Who is next: by priority, and among equals in turn from each tenant, so that one who asks much holds nobody up."""

from bisect import insort
from collections import Counter, OrderedDict, deque
from collections.abc import Iterator
from collections.abc import Sequence as Many

from yuan_inference.engine.sequence import Sequence
from yuan_inference.engine.task import Task


class FairQueue:
    """Waiting sequences. Those that have run already come first, the oldest request's before the others'."""

    def __init__(self) -> None:
        self._begun: list[Sequence] = []
        self._lines: dict[int, OrderedDict[str, deque[Sequence]]] = {}
        self._size = 0
        self._of: Counter[Task] = Counter()

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Sequence]:
        yield from self._begun
        for priority in sorted(self._lines):
            for line in self._lines[priority].values():
                yield from line

    @property
    def requests(self) -> int:
        """Requests of which something waits, however many copies of each."""
        return len(self._of)

    def add(self, sequence: Sequence) -> None:
        """Puts a sequence at the end of its tenant's line."""
        self._line_of(sequence).append(sequence)
        self._count(sequence)

    def add_copies(self, sequences: Many[Sequence]) -> None:
        """Puts further continuations of a request that has begun before whatever else its tenant waits for."""
        for sequence in reversed(sequences):
            self._line_of(sequence).appendleft(sequence)
            self._count(sequence)

    def put_back(self, sequence: Sequence) -> None:
        """Puts a sequence that has run, or one that a running search waits for, to its like."""
        insort(self._begun, sequence, key=_order)
        self._count(sequence)

    def _line_of(self, sequence: Sequence) -> deque[Sequence]:
        request = sequence.task.request
        return self._lines.setdefault(request.priority, OrderedDict()).setdefault(request.tenant, deque())

    def _count(self, sequence: Sequence) -> None:
        self._of[sequence.task] += 1
        self._size += 1

    def _count_out(self, sequence: Sequence) -> None:
        self._size -= 1
        self._of[sequence.task] -= 1
        if not self._of[sequence.task]:
            del self._of[sequence.task]

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
        sequence = self._take()
        self._count_out(sequence)
        return sequence

    def _take(self) -> Sequence:
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
            self._count_out(sequence)
            return True
        request = sequence.task.request
        line = self._lines.get(request.priority, {}).get(request.tenant)
        if line is None or sequence not in line:
            return False
        line.remove(sequence)
        self._count_out(sequence)
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
