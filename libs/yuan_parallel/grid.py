"""The grid of ranks: who computes which pipeline stage for which share of the data.

Nobody else does arithmetic on ranks. The order of the axes is DeepSpeed's `PipeModelDataParallelTopology` (pipeline
outermost, then data, tensor innermost): the ranks that talk most are neighbours on one host.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Grid:
    """A pipeline x data x tensor grid of ranks.

    Attributes:
        pipeline: pipeline stages, at least 1.
        data: data-parallel replicas, at least 1.
        tensor: ranks that share every matrix, at least 1.

    Raises:
        ValueError: if a size is below 1.
    """

    pipeline: int
    data: int
    tensor: int = 1

    def __post_init__(self) -> None:
        for name, size in (("pipeline", self.pipeline), ("data", self.data), ("tensor", self.tensor)):
            if size < 1:
                raise ValueError(f"the {name} size must be at least 1, found {size}")

    @property
    def ranks(self) -> int:
        """Processes in all."""
        return self.pipeline * self.data * self.tensor

    def rank(self, stage: int, replica: int, tensor_rank: int = 0) -> int:
        """Returns the rank that computes a part of a stage for a replica.

        Raises:
            ValueError: if stage, replica or part is outside the grid.
        """
        inside = 0 <= stage < self.pipeline and 0 <= replica < self.data and 0 <= tensor_rank < self.tensor
        if not inside:
            sizes = f"{self.pipeline} x {self.data} x {self.tensor}"
            raise ValueError(f"stage {stage}, replica {replica}, tensor rank {tensor_rank} is outside the grid {sizes}")
        return (stage * self.data + replica) * self.tensor + tensor_rank

    def stage(self, rank: int) -> int:
        """Returns the pipeline stage of a rank."""
        self._check(rank)
        return rank // (self.data * self.tensor)

    def replica(self, rank: int) -> int:
        """Returns the data-parallel replica of a rank."""
        self._check(rank)
        return rank // self.tensor % self.data

    def tensor_rank(self, rank: int) -> int:
        """Returns which part of its stage's matrices a rank has."""
        self._check(rank)
        return rank % self.tensor

    def tensor_groups(self) -> list[list[int]]:
        """Returns the ranks that share their matrices, group by group."""
        return [list(range(first, first + self.tensor)) for first in range(0, self.ranks, self.tensor)]

    def writes(self, rank: int) -> bool:
        """Tells whether a rank writes the files of its stage: one of all that hold the same layers does."""
        return self.replica(rank) == 0 and self.tensor_rank(rank) == 0

    def micro_batches(self, replica: int, micro_batches: int) -> range:
        """Returns which of a step's micro-batches a replica computes, numbered over the whole global batch.

        The numbering is fixed by the global batch alone, so that a sample is in the same micro-batch under every
        topology: a masked mean over a micro-batch does not depend on how micro-batches are shared.

        Raises:
            ValueError: if the micro-batches cannot be shared evenly.
        """
        if micro_batches % self.data != 0:
            raise ValueError(f"{micro_batches} micro-batches cannot be shared evenly by {self.data} replicas")
        return range(replica, micro_batches, self.data)

    def _check(self, rank: int) -> None:
        if not 0 <= rank < self.ranks:
            raise ValueError(f"rank {rank} is outside the grid of {self.ranks}")
