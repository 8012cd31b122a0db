"""Tensor parallelism in serving: the ranks of a model are processes, and the engine steps them like one runner.

The server's process has the scheduler, the sampler and no weights. Every rank has its heads, its columns of the
feed-forward and its rows of the vocabulary, gets the same orders in the same sequence, and writes its logits into
memory that it shares with the server. So whichever rank dies, the server lives and starts them anew.
"""

from yuan_inference.ranks.orders import RankLost
from yuan_inference.ranks.runner import RankedRunner, start_ranks

__all__ = ["RankLost", "RankedRunner", "start_ranks"]
