"""The network's layers divided over DeepSpeed's pipeline by an explicit list of layers per stage.

Between stages goes the residual stream, and beside it the position of every token in its document where a run asks
for that; what a layer computes is in `network.py`.
"""

from collections.abc import Iterator
from typing import Any, cast

from deepspeed.pipe import LayerSpec, PipelineModule, TiedLayerSpec
from torch import Tensor, nn

from yuan_parallel import StagePlan
from yuan_trainer.network import BlockLayer, EmbeddingLayer, LayerOptions, NormLayer, TokenLoss, named_natively

EMBEDDING = "embedding"


def with_projection(embedding: EmbeddingLayer, hidden_bsh: Tensor) -> tuple[Tensor, Tensor]:
    """Returns what the loss is computed from: hidden states and the tied embedding as the output projection [v, h]."""
    weight = embedding.embed_tokens.weight
    # Not the parameter itself: DeepSpeed hangs a hook on everything that a stage gives out, which on a parameter would
    # stay for ever and, in 16 bits, clear the gradients in the middle of later backward passes.
    return hidden_bsh, weight.view_as(weight)


class YuanPipeline(PipelineModule):
    """DeepSpeed's pipeline module with stages as written, never guessed by it."""

    def __init__(self, options: LayerOptions, stages: StagePlan, topology: Any) -> None:
        # DeepSpeed asks for the partition inside its constructor.
        self._stages = stages
        tied = {"tied_weight_attr": "embed_tokens.weight"}
        super().__init__(
            layers=[
                TiedLayerSpec(EMBEDDING, EmbeddingLayer, options, **tied),
                *(LayerSpec(BlockLayer, options, index) for index in range(options.config.num_hidden_layers)),
                LayerSpec(NormLayer, options),
                TiedLayerSpec(EMBEDDING, EmbeddingLayer, options, forward_fn=with_projection, **tied),
            ],
            topology=topology,
            loss_fn=TokenLoss(options),
        )

    def _partition_layers(self, method: str = "") -> None:
        bounds = self._stages.bounds
        # The embedding comes before the first block; norm and projection after the last.
        self.parts = [0, *(1 + bound for bound in bounds[1:-1]), bounds[-1] + 3]
        stage = cast("Any", self)._topo.get_coord(self.global_rank).pipe
        self._set_bounds(start=self.parts[stage], stop=self.parts[stage + 1])

    def get_tied_weights_and_groups(self) -> list[tuple[nn.Parameter, Any]]:
        """Returns the tied weights whose gradients DeepSpeed sums over their stages: a frozen one has none."""
        tied = cast("list[tuple[nn.Parameter, Any]]", super().get_tied_weights_and_groups())
        return [(weight, group) for weight, group in tied if weight.requires_grad]

    def native_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yields this stage's parameters under their global native names, in the order of its layers.

        The last stage's copy of the tied embedding is not its own and is left out where the first stage is another.
        """
        yield from named_natively([layer for layer in self.children() if isinstance(layer, BlockLayer | NormLayer)])
        for name, parameter in self.tied_embedding():
            if not getattr(parameter, "ds_pipe_replicated", False):
                yield name, parameter

    def tied_embedding(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yields the embedding's parameter where this stage holds it, its own or a copy."""
        if EMBEDDING in self.tied_modules:
            yield from named_natively([cast("nn.Module", self.tied_modules[EMBEDDING])])
