"""The grid of ranks: who computes which pipeline stage for which share of the data.

Nobody else does arithmetic on ranks. The order of the axes is DeepSpeed's `PipeDataParallelTopology` (pipeline
outermost, data innermost), so that the data-parallel ranks of one stage are neighbours on one host.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Grid:
    """A pipeline x data grid of ranks.

    Attributes:
        pipeline: pipeline stages, at least 1.
        data: data-parallel replicas, at least 1.

    Raises:
        ValueError: if a size is below 1.
    """

    pipeline: int
    data: int

    def __post_init__(self) -> None:
        for name, size in (("pipeline", self.pipeline), ("data", self.data)):
            if size < 1:
                raise ValueError(f"the {name} size must be at least 1, found {size}")

    @property
    def ranks(self) -> int:
        """Processes in all."""
        return self.pipeline * self.data

    def rank(self, stage: int, replica: int) -> int:
        """Returns the rank that computes a stage for a replica.

        Raises:
            ValueError: if the stage or the replica is outside the grid.
        """
        if not (0 <= stage < self.pipeline and 0 <= replica < self.data):
            raise ValueError(f"stage {stage}, replica {replica} is outside the grid {self.pipeline} x {self.data}")
        return stage * self.data + replica

    def stage(self, rank: int) -> int:
        """Returns the pipeline stage of a rank."""
        self._check(rank)
        return rank // self.data

    def replica(self, rank: int) -> int:
        """Returns the data-parallel replica of a rank."""
        self._check(rank)
        return rank % self.data

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
