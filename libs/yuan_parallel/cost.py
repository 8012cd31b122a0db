"""Parameters and floating-point operations of the network's parts, counted from its shapes (a multiply-add is two).

What is counted is every matrix product: projections, the localized filter's convolutions, the feed-forward, the scores
and weighted sums of attention over the whole sequence (as the usual MFU of 6N + 12LHS counts them; a kernel that leaves
out the upper triangle does less), and the logits. Norms, activations and the embedding's look-up cost nothing here.
"""

from dataclasses import dataclass

from yuan_manifest.schema import Recompute
from yuan_parallel.training import Network, Training


@dataclass(frozen=True)
class LayerParameters:
    """Trainable numbers of one transformer layer.

    Attributes:
        divided: of matrices that tensor parallelism divides: queries, keys, values, output, feed-forward.
        filter: of the localized filter, which every tensor-parallel rank has whole.
        norms: of the two norms on the residual stream, whole as well.
    """

    divided: int
    filter: int
    norms: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.divided + self.filter + self.norms

    def on_rank(self, tensor: int) -> int:
        """Returns how many a tensor-parallel rank holds."""
        return self.divided // tensor + self.filter + self.norms


def layer_parameters(network: Network) -> LayerParameters:
    """Returns the trainable numbers of one transformer layer (YUAN_FACTS A2)."""
    hidden, half = network.hidden_size, network.hidden_size // 2
    convolutions = (2 * half * hidden + half) + (2 * hidden * half + hidden)
    return LayerParameters(
        divided=4 * hidden**2 + 3 * hidden * network.intermediate_size,
        filter=convolutions + hidden if network.localized_filtering else 0,
        norms=2 * hidden,
    )


def embedding_parameters(network: Network) -> int:
    """Returns the numbers of the embedding, which is the output projection too."""
    return network.vocab_size * network.hidden_size


def parameter_count(network: Network) -> int:
    """Returns the exact number of trainable numbers; the tied embedding counts once."""
    layers = network.num_hidden_layers * layer_parameters(network).total
    return embedding_parameters(network) + layers + network.hidden_size


def lora_parameters(training: Training, tensor: int = 1) -> int:
    """Returns the numbers that low-rank additions add to one layer on one of `tensor` ranks; 0 without them."""
    lora, network = training.lora, training.network
    if lora is None:
        return 0
    hidden, feed_forward = network.hidden_size, network.intermediate_size
    # The side that is divided over the ranks, and the other one.
    shapes = {
        "qk_proj": (2 * hidden, hidden),
        "v_proj": (hidden, hidden),
        "o_proj": (hidden, hidden),
        "up_proj": (feed_forward, hidden),
        "gate_proj": (feed_forward, hidden),
        "down_proj": (feed_forward, hidden),
    }
    found = [shapes[name] for name in lora.targets if name in shapes]
    return sum(lora.rank * (divided // tensor + whole) for divided, whole in found)


def attention_flops_per_token(network: Network, sequence_length: int) -> float:
    """Returns the forward FLOPs of one layer's scores and weighted sums for one token."""
    return 4.0 * sequence_length * network.hidden_size


def layer_flops_per_token(network: Network, sequence_length: int, tensor: int = 1) -> float:
    """Returns the forward FLOPs of one transformer layer for one token, on one of `tensor` ranks."""
    hidden = network.hidden_size
    matrices = 2.0 * layer_parameters(network).divided
    convolutions = 4.0 * hidden**2 if network.localized_filtering else 0.0
    return (matrices + attention_flops_per_token(network, sequence_length)) / tensor + convolutions


def logits_flops_per_token(network: Network, tensor: int = 1) -> float:
    """Returns the forward FLOPs of the logits for one token."""
    return 2.0 * embedding_parameters(network) / tensor


def model_flops_per_token(training: Training) -> float:
    """Returns 6N + 12LHS: what a training step needs of a token, whatever is computed twice (MFU)."""
    network = training.network
    attention = 12.0 * network.num_hidden_layers * network.hidden_size * training.sequence_length
    return 6.0 * parameter_count(network) + attention


def recomputed_flops_per_token(training: Training) -> float:
    """Returns the forward FLOPs that the backward pass computes again for a token, over the whole network."""
    network = training.network
    again = sum(training.recomputes(layer) for layer in range(network.num_hidden_layers))
    return again * recomputed_layer_flops(training)


def recomputed_layer_flops(training: Training, tensor: int = 1) -> float:
    """Returns the forward FLOPs that the backward pass computes again for a token in a layer that it does so in."""
    if training.recompute == Recompute.full:
        return layer_flops_per_token(training.network, training.sequence_length, tensor)
    return attention_flops_per_token(training.network, training.sequence_length) / tensor


@dataclass(frozen=True)
class StageFlops:
    """FLOPs of one micro-batch on one rank of a stage."""

    forward: float
    backward: float


def stage_flops(training: Training, layers: range, tensor: int) -> StageFlops:
    """Returns what a stage computes for a micro-batch.

    Args:
        training: what is trained.
        layers: its transformer layers, numbered over the whole network.
        tensor: tensor-parallel size.
    """
    network = training.network
    forward = len(layers) * layer_flops_per_token(network, training.sequence_length, tensor)
    if layers.stop == network.num_hidden_layers:
        forward += logits_flops_per_token(network, tensor)
    again = sum(training.recomputes(layer) for layer in layers) * recomputed_layer_flops(training, tensor)
    # Gradients of the inputs cost what the forward pass does, those of the weights as much again: frozen ones do not.
    backward = forward * (1.0 if training.lora is not None else 2.0) + again
    return StageFlops(forward * training.micro_batch_tokens, backward * training.micro_batch_tokens)
