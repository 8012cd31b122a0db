"""The network as the layers that training runs through, and as one module where there is no pipeline.

The parts are those of `yuan_model`; here is what carries activations from one to the next, and what a run decides about
them (recompute, dropout, attention, tensor parallelism). Every parameter keeps its global native name, by which files
and first weights know it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from yuan_events import InputError
from yuan_manifest.schema import AttentionBackend, LoraSection, TrainSection
from yuan_model import Block, ModelFolder, RMSNorm, RotaryTable, YuanConfig, blockwise_cross_entropy, initialize_
from yuan_parallel.tensor import (
    TensorGroup,
    VocabularyParallelEmbedding,
    VocabularyShard,
    final_norm,
    shard_block_,
)
from yuan_trainer.lora import add_lora_

Carried = Tensor | tuple[Tensor, Tensor]
"""The residual stream [b, s, h] (or this rank's part of the sequence, [b, p, h]), alone, or with the position of every
token in its document, int64 [b, s]."""


@dataclass(frozen=True)
class LayerOptions:
    """What every layer of a run must know.

    Attributes:
        config: the network.
        train: recompute, dropout, attention, compilation and the seed of first weights.
        tensor: the ranks that share each matrix.
        reset_position_ids: positions begin at 0 again after each `<eod>`.
        start: the native model that first weights are read from; None: they are drawn.
        lora: low-rank additions that are trained in place of the weights; None: the weights are.
    """

    config: YuanConfig
    train: TrainSection
    tensor: TensorGroup
    reset_position_ids: bool = False
    start: ModelFolder | None = None
    lora: LoraSection | None = None

    @property
    def knows_documents(self) -> bool:
        """Whether layers must be told where documents begin."""
        return self.reset_position_ids or self.config.attention_reset_at_eod


def set_first_weights_(module: nn.Module, options: LayerOptions, prefix: str) -> None:
    """Sets every parameter of a whole layer to its first values; freezes them where only additions are trained.

    Raises:
        InputError: if a value of the model that is started from is not finite.
    """
    if options.start is None:
        initialize_(module, options.config, options.train.seed, prefix)
    else:
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                first = options.start.tensor(prefix + name)
                if not torch.isfinite(first).all():
                    raise InputError(
                        f"inputs.model: {prefix + name} has values that are not finite; its checkpoint is of no use"
                    )
                parameter.copy_(first)
    module.requires_grad_(options.lora is None)


def document_positions(input_ids: Tensor, eod_token_id: int) -> Tensor:
    """Returns the position of every token in its document, int64 [b, s]; it restarts at 0 behind each `<eod>`."""
    positions = torch.arange(input_ids.shape[1], device=input_ids.device).expand_as(input_ids)
    begins = torch.zeros_like(input_ids)
    begins[:, 1:] = torch.where(input_ids[:, :-1] == eod_token_id, positions[:, 1:], 0)
    return positions - begins.cummax(dim=1).values


class EmbeddingLayer(nn.Module):
    """First layer: token ids [b, s] to the residual stream. Its weight is also the last stage's projection."""

    prefix = "model."

    def __init__(self, options: LayerOptions) -> None:
        super().__init__()
        self.options = options
        config = options.config
        self.embed_tokens = cast("Any", nn.Embedding(config.vocab_size, config.hidden_size))
        set_first_weights_(self, options, self.prefix)
        if options.tensor.size > 1:
            self.embed_tokens = VocabularyParallelEmbedding(self.embed_tokens.weight, options.tensor)

    def forward(self, input_ids: Tensor) -> Carried:
        """Returns what the first block takes."""
        hidden = self.embed_tokens(input_ids)
        eod = self.options.config.eod_token_id
        if not self.options.knows_documents or eod is None:
            return hidden
        return hidden, document_positions(input_ids, eod)


class BlockLayer(nn.Module):
    """One transformer block between its neighbours."""

    def __init__(self, options: LayerOptions, index: int) -> None:
        super().__init__()
        config, train = options.config, options.train
        self.options = options
        self.prefix = f"model.layers.{index}."
        self.block = Block(config)
        self.rotary = RotaryTable(config)
        set_first_weights_(self.block, options, self.prefix)
        shard_block_(self.block, options.tensor)
        if options.lora is not None:
            add_lora_(self.block, options.lora, self.prefix, train.seed, options.tensor)
        self.block.hidden_dropout = train.hidden_dropout
        self.block.self_attn.dropout = train.attention_dropout
        self.block.self_attn.backend = "flash" if train.attention == AttentionBackend.flash else "sdpa"
        if index % train.recompute.every_layers == 0:
            self.block.recompute = train.recompute.mode.value
        if train.compile:
            self.block.compile()  # in place: parameters keep their names

    def forward(self, carried: Carried) -> Carried:
        """Returns what the next layer takes."""
        if not isinstance(carried, tuple):
            parts = self.options.tensor.size if self.options.tensor.divides_sequence else 1
            return self.block(carried, self.rotary.between(0, carried.shape[1] * parts, carried.device))
        hidden, positions_bs = carried
        length = positions_bs.shape[1]
        reset = self.options.reset_position_ids
        rotary = self.rotary(positions_bs) if reset else self.rotary.between(0, length, hidden.device)
        segments_bs = None
        if self.options.config.attention_reset_at_eod:
            # Tokens are of one document exactly if it begins at the same place for both.
            segments_bs = torch.arange(length, device=hidden.device) - positions_bs
        return self.block(hidden, rotary, segments_bs), positions_bs


class NormLayer(nn.Module):
    """The norm before the projection."""

    prefix = "model."

    def __init__(self, options: LayerOptions) -> None:
        super().__init__()
        norm = RMSNorm(options.config.hidden_size, options.config.rms_norm_eps)
        self.norm = final_norm(norm, options.tensor)
        set_first_weights_(self, options, self.prefix)

    def forward(self, carried: Carried) -> Tensor:
        """Returns normed hidden states [b, s, h]."""
        return self.norm(carried[0] if isinstance(carried, tuple) else carried)


class TokenLoss:
    """The loss of a micro-batch from its last hidden states: what stands at the end of the last stage."""

    def __init__(self, options: LayerOptions) -> None:
        self._block_tokens = options.train.loss_block_tokens
        self._tensor = options.tensor

    def __call__(self, hidden_and_weight: tuple[Tensor, Tensor], labels: tuple[Tensor, Tensor]) -> Tensor:
        """Returns the masked mean loss, fp32, of hidden states [b, s, h] and this rank's projection [v, h].

        Args:
            hidden_and_weight: see there.
            labels: int64 [b, s], and the weight of each position, fp32 [b, s].
        """
        hidden_bsh, weight_vh = hidden_and_weight
        shard = VocabularyShard(weight_vh.shape[0], self._tensor) if self._tensor.size > 1 else None
        return blockwise_cross_entropy(hidden_bsh, weight_vh, *labels, self._block_tokens, shard=shard)


class Projection(nn.Module):
    """The loss with the tied embedding, as a module of its own: ZeRO-3 must know who reads the weight."""

    def __init__(self, options: LayerOptions) -> None:
        super().__init__()
        self._loss = TokenLoss(options)

    def forward(self, hidden_bsh: Tensor, weight_vh: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        """Returns the masked mean loss; see `TokenLoss`."""
        return self._loss((hidden_bsh, weight_vh), (labels, mask))


class WholeNetwork(nn.Module):
    """All layers in one module: what a rank trains where there is no pipeline."""

    def __init__(self, options: LayerOptions) -> None:
        super().__init__()
        self.embedding = EmbeddingLayer(options)
        self.blocks = nn.ModuleList(BlockLayer(options, index) for index in range(options.config.num_hidden_layers))
        self.final = NormLayer(options)
        self.projection = Projection(options)

    def forward(self, input_ids: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        """Returns the masked mean loss of a micro-batch, fp32.

        Args:
            input_ids: int64 [b, s].
            labels: int64 [b, s].
            mask: fp32 [b, s].
        """
        carried = self.embedding(input_ids)
        for block in self.blocks:
            carried = block(carried)
        return self.projection(self.final(carried), self.embedding.embed_tokens.weight, labels, mask)

    def native_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yields the parameters under their global native names."""
        yield from named_natively([*cast("Any", self.blocks), self.final, self.embedding])

    def tied_embedding(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yields the embedding's parameter."""
        yield from named_natively([self.embedding])


def named_natively(layers: list[nn.Module]) -> Iterator[tuple[str, nn.Parameter]]:
    """Yields the parameters of layers under their global native names, in the order of the layers."""
    for layer in layers:
        inner = layer.block if isinstance(layer, BlockLayer) else layer
        prefix = cast("str", getattr(layer, "prefix", ""))
        yield from ((prefix + name, parameter) for name, parameter in inner.named_parameters())
