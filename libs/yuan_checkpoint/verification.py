"""Whether two sources are the same model: the same tokens through both, layer beside layer, and their logits compared.

One layer of one side is in memory at a time, so any model can be compared; all in fp32.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from yuan_checkpoint.checkpoint import Source, read_parameter
from yuan_checkpoint.description import Area, layer_prefix
from yuan_model import Block, RMSNorm, YuanConfig, document_segments
from yuan_model.rotary import RotaryTable

TOKENS = 64
"""That are run through both sides, or as many as the model takes."""

_SEED = 20_231_127
_EMBEDDING = "model.embed_tokens.weight"
_NORM = "model.norm.weight"
_VOCABULARY_ROWS = 8192


@dataclass(frozen=True)
class Verification:
    """What came of a comparison.

    Attributes:
        tokens: that were run.
        vocabulary: ids whose logits were compared: those that both have.
        largest: of the differences of their logits; NaN where either side has such.
        scale: standard deviation of the first side's logits.
        same_choice: share of positions at which both have the same likeliest token.
    """

    tokens: int
    vocabulary: int
    largest: float
    scale: float
    same_choice: float


def verify(
    first: Source, second: Source, watch: Callable[[int, int], None] = lambda _done, _total: None
) -> Verification:
    """Runs the same tokens through both sides.

    Args:
        first: what was converted.
        second: what it became; of as many layers.
        watch: is told layers done and in all, every now and then; what it raises ends this.
    """
    sides = [_Side(first), _Side(second)]
    vocabulary = min(side.config.vocab_size for side in sides)
    count = min(TOKENS, *(side.config.max_position_embeddings for side in sides))
    ids = torch.randint(vocabulary, (1, count), generator=torch.Generator().manual_seed(_SEED))
    with torch.inference_mode():
        states = [side.embed(ids) for side in sides]
        layers = first.network.config.num_hidden_layers
        for layer in range(layers):
            watch(layer, layers)
            states = [side.run(layer, state, ids) for side, state in zip(sides, states, strict=True)]
        watch(layers, layers)
        ours, theirs = (side.logits(state, vocabulary) for side, state in zip(sides, states, strict=True))
    difference = (ours - theirs).abs()
    largest = float("nan") if bool(difference.isnan().any()) else float(difference.max())
    same = float((ours.argmax(-1) == theirs.argmax(-1)).float().mean())
    return Verification(count, vocabulary, largest, float(ours.std()), same)


def bytes_to_verify(config: YuanConfig) -> int:
    """Returns about how much memory a comparison needs."""
    block = (config.parameter_count() - config.vocab_size * config.hidden_size) // config.num_hidden_layers
    logits = TOKENS * config.vocab_size
    return 4 * (2 * block + 4 * logits + _VOCABULARY_ROWS * config.hidden_size)


class _Side:
    def __init__(self, source: Source) -> None:
        self.source = source
        self.config = source.network.config
        self._rotary = RotaryTable(self.config)

    def embed(self, ids: Tensor) -> Tensor:
        rows = [self._rows(_EMBEDDING, int(token), 1) for token in ids[0]]
        return torch.cat(rows)[None]

    def run(self, layer: int, hidden_bsh: Tensor, ids: Tensor) -> Tensor:
        with torch.device("meta"):
            block = Block(self.config)
        prefix = layer_prefix(layer)
        block.load_state_dict(
            {name: self._parameter(prefix + name) for name, _ in block.named_parameters()}, assign=True
        )
        eod = self.config.eod_token_id
        segments = document_segments(ids, eod) if self.config.attention_reset_at_eod and eod is not None else None
        return block(hidden_bsh, self._rotary.between(0, ids.shape[1], ids.device), segments, None)

    def logits(self, hidden_bsh: Tensor, vocabulary: int) -> Tensor:
        norm = RMSNorm(self.config.hidden_size, self.config.rms_norm_eps)
        norm.weight = nn.Parameter(self._parameter(_NORM), requires_grad=False)
        normed_bsh = norm(hidden_bsh)
        parts: list[Tensor] = []
        for first in range(0, vocabulary, _VOCABULARY_ROWS):
            rows = self._rows(_EMBEDDING, first, min(_VOCABULARY_ROWS, vocabulary - first))
            parts.append(functional.linear(normed_bsh, rows))
        return torch.cat(parts, dim=-1)

    def _parameter(self, name: str) -> Tensor:
        return read_parameter(self.source, name).float()

    def _rows(self, name: str, first: int, count: int) -> Tensor:
        out = torch.empty(count, self.config.hidden_size, dtype=self.source.dtype(name))
        self.source.read(name, Area(first, count, 0, self.config.hidden_size), out)
        return out.float()
