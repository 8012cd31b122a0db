"""The network as a sequence of pipeline layers for DeepSpeed, divided by an explicit list of layers per stage.

The parts are those of `yuan_model`; here is only what carries activations from one to the next. Between stages goes
the residual stream [b, s, h], and beside it the document number of every token [b, s] where attention must not cross
`<eod>`. Every parameter keeps its global native name, by which files and first weights know it.
"""

from collections.abc import Iterator
from typing import Any, cast

from deepspeed.pipe import LayerSpec, PipelineModule, TiedLayerSpec
from deepspeed.runtime.pipe.topology import PipeDataParallelTopology
from torch import Tensor, nn
from torch.nn import functional

from yuan_model import Block, RMSNorm, RotaryTable, YuanConfig, cross_entropy, document_segments, initialize_
from yuan_parallel import Grid, StagePlan

Carried = Tensor | tuple[Tensor, Tensor]
"""The residual stream [b, s, h], alone or with document numbers int64 [b, s]."""

EMBEDDING = "embedding"


class EmbeddingLayer(nn.Module):
    """First layer: token ids [b, s] to the residual stream. Its weight is also the last stage's projection."""

    prefix = "model."

    def __init__(self, config: YuanConfig, seed: int) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        initialize_(self, config, seed, self.prefix)

    def forward(self, input_ids: Tensor) -> Carried:
        """Returns what the first block takes."""
        hidden_bsh = self.embed_tokens(input_ids)
        eod = self.config.eod_token_id
        if not self.config.attention_reset_at_eod or eod is None:
            return hidden_bsh
        return hidden_bsh, document_segments(input_ids, eod)


class BlockLayer(nn.Module):
    """One transformer block between its neighbours."""

    def __init__(self, config: YuanConfig, index: int, seed: int) -> None:
        super().__init__()
        self.prefix = f"model.layers.{index}."
        self.block = Block(config)
        self.rotary = RotaryTable(config)
        initialize_(self.block, config, seed, self.prefix)

    def forward(self, carried: Carried) -> Carried:
        """Returns what the next layer takes."""
        hidden_bsh, segments_bs = carried if isinstance(carried, tuple) else (carried, None)
        rotary = self.rotary.between(0, hidden_bsh.shape[1], hidden_bsh.device)
        hidden_bsh = self.block(hidden_bsh, rotary, segments_bs)
        return hidden_bsh if segments_bs is None else (hidden_bsh, segments_bs)


class NormLayer(nn.Module):
    """The norm before the projection."""

    prefix = "model."

    def __init__(self, config: YuanConfig, seed: int) -> None:
        super().__init__()
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        initialize_(self, config, seed, self.prefix)

    def forward(self, carried: Carried) -> Tensor:
        """Returns normed hidden states [b, s, h]."""
        return self.norm(carried[0] if isinstance(carried, tuple) else carried)


def project_to_logits(embedding: EmbeddingLayer, hidden_bsh: Tensor) -> Tensor:
    """Returns logits [b, s, v]: the tied embedding as the output projection."""
    return functional.linear(hidden_bsh, embedding.embed_tokens.weight)


def loss_of_logits(logits_bsv: Tensor, labels: tuple[Tensor, Tensor]) -> Tensor:
    """Returns a micro-batch's masked mean loss; labels and their mask come as a pair."""
    return cross_entropy(logits_bsv, labels[0], labels[1])


class YuanPipeline(PipelineModule):
    """DeepSpeed's pipeline module with stages as written, never guessed by it."""

    def __init__(self, config: YuanConfig, stages: StagePlan, grid: Grid, seed: int) -> None:
        # DeepSpeed asks for the partition inside its constructor.
        self._stages = stages
        layers = [LayerSpec(BlockLayer, config, index, seed) for index in range(config.num_hidden_layers)]
        super().__init__(
            layers=[
                TiedLayerSpec(EMBEDDING, EmbeddingLayer, config, seed, tied_weight_attr="embed_tokens.weight"),
                *layers,
                LayerSpec(NormLayer, config, seed),
                TiedLayerSpec(
                    EMBEDDING,
                    EmbeddingLayer,
                    config,
                    seed,
                    forward_fn=project_to_logits,
                    tied_weight_attr="embed_tokens.weight",
                ),
            ],
            topology=PipeDataParallelTopology(num_pp=grid.pipeline, num_dp=grid.data),
            loss_fn=loss_of_logits,
        )

    def _partition_layers(self, method: str = "") -> None:
        bounds = self._stages.bounds
        # The embedding comes before the first block; norm and projection after the last.
        self.parts = [0, *(1 + bound for bound in bounds[1:-1]), bounds[-1] + 3]
        stage = cast("Any", self)._topo.get_coord(self.global_rank).pipe
        self._set_bounds(start=self.parts[stage], stop=self.parts[stage + 1])

    def native_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yields this stage's parameters under their global native names, in the order of its layers.

        The last stage's copy of the tied embedding is not its own and is left out where the first stage is another.
        """
        for layer in self.children():
            if isinstance(layer, BlockLayer):
                named = layer.block.named_parameters()
                yield from ((layer.prefix + name, parameter) for name, parameter in named)
            elif isinstance(layer, NormLayer):
                yield from ((layer.prefix + name, parameter) for name, parameter in layer.named_parameters())
        for name, parameter in self.tied_embedding():
            if not getattr(parameter, "ds_pipe_replicated", False):
                yield name, parameter

    def tied_embedding(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yields the embedding's parameter where this stage holds it, its own or a copy."""
        if EMBEDDING in self.tied_modules:
            embedding = cast("EmbeddingLayer", self.tied_modules[EMBEDDING])
            yield embedding.prefix + "embed_tokens.weight", cast("nn.Parameter", embedding.embed_tokens.weight)
