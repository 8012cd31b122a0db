"""Memory of one device of each pipeline stage, by part, at the moment of a step when it is largest.

Counted is what the trainer's engine and autograd keep, tensor by tensor (a test compares the activations with those
that autograd saves); what libraries take for themselves (CUDA's context, fragmentation, communication buffers) is not.
"""

from dataclasses import asdict, dataclass

from yuan_manifest.schema import Precision, Recompute
from yuan_parallel.cost import embedding_parameters, layer_parameters, lora_parameters
from yuan_parallel.schedule import micro_batches_in_flight
from yuan_parallel.training import Division, Training

BLOCK_LOGITS = 1 << 25
"""Numbers in one block's logits where a manifest asks for no size, as `yuan_model.loss` has it."""

FLOAT = 4
"""Bytes of an fp32 number: gradients are summed in it, and master weights, moments and the loss are kept in it."""


@dataclass(frozen=True)
class StageMemory:
    """Bytes on each device of a stage.

    Attributes:
        weights: as computed with.
        gradients: fp32 sums.
        optimizer: master weights and moments.
        activations: kept for the backward passes of the micro-batches in flight, and one layer's computed again.
        logits: of one block of the loss, and the gradients that are made with it; the last stage's alone.
    """

    weights: float
    gradients: float
    optimizer: float
    activations: float
    logits: float

    @property
    def total(self) -> float:
        """All parts."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.logits

    def to_dict(self) -> dict[str, int]:
        """Returns whole bytes by part, `total` among them."""
        return {name: round(value) for name, value in {**asdict(self), "total": self.total}.items()}


def memory_of_stages(training: Training, division: Division) -> list[StageMemory]:
    """Returns the memory of one device of each stage, first stage first."""
    return [stage_memory(training, division, stage) for stage in range(division.pipeline)]


def stage_memory(training: Training, division: Division, stage: int) -> StageMemory:
    """Returns the memory of one device of a stage."""
    bounds = division.stages.bounds
    layers = range(bounds[stage], bounds[stage + 1])
    parameters = stage_parameters(training, division, layers)
    trained = parameters if training.lora is None else len(layers) * lora_parameters(training, division.tensor)
    held = parameters + (0 if training.lora is None else trained)
    shards, zero = division.data, division.zero_stage
    is_last = layers.stop == training.network.num_hidden_layers
    return StageMemory(
        weights=held * training.number_bytes / (shards if zero == 3 else 1),
        gradients=trained * FLOAT / (shards if zero >= 2 else 1),
        optimizer=trained * _optimizer_bytes(training, division) / (shards if zero >= 1 else 1),
        activations=_activations(training, division, layers, stage),
        logits=_logits(training, division) if is_last else 0.0,
    )


def stage_parameters(training: Training, division: Division, layers: range) -> int:
    """Returns the numbers of the network that one rank of a stage holds; both ends of a pipeline hold the embedding."""
    network = training.network
    is_first, is_last = layers.start == 0, layers.stop == network.num_hidden_layers
    held = len(layers) * layer_parameters(network).on_rank(division.tensor)
    held += (is_first or is_last) * embedding_parameters(network) // division.tensor
    return held + (network.hidden_size if is_last else 0)


def _optimizer_bytes(training: Training, division: Division) -> int:
    """Bytes of optimizer state a trained number: two moments, or Muon's one, and a master copy of the weight."""
    moments = FLOAT if training.optimizer == "muon" else 2 * FLOAT
    # DeepSpeed's ZeRO keeps a copy of its shard even where weights are fp32; one replica alone is trained without it.
    alone = division.data == 1 and division.pipeline == 1 and division.zero_stage < 3
    shards = division.zero_stage > 0 and not alone
    master = FLOAT if shards or training.precision != Precision.fp32 else 0
    return moments + master


def _activations(training: Training, division: Division, layers: range, stage: int) -> float:
    whole, kept = _layer_numbers(training, division, Recompute.none), _layer_numbers(training, division)
    again = sum(training.recomputes(layer) for layer in layers)
    hidden = training.network.hidden_size / (division.tensor if division.sequence else 1)
    # The stage's output waits for its gradient; the last stage's is the final norm's input and output.
    a_token = again * kept + (len(layers) - again) * whole + hidden
    if layers.stop == training.network.num_hidden_layers:
        a_token += _norm_numbers(training, hidden, hidden)
    flight = micro_batches_in_flight(stage, division.pipeline, division.micro_batches(training))
    working = whole - kept if again else 0.0
    # In the backward pass the gradients of the feed-forward's two halves and of the residual stream exist, too.
    working += 2 * training.network.intermediate_size / division.tensor + 2 * hidden
    return (flight * a_token + working) * training.micro_batch_tokens * training.number_bytes


def _layer_numbers(training: Training, division: Division, recompute: Recompute | None = None) -> float:
    """Returns the numbers that one layer keeps of one token, in the training's number format.

    Of attention: queries, keys, values and its output; with selective recomputation what projections gave in place of
    the first three. Of the feed-forward: its two halves and their product. Of the
    filter, beside its norm: what stands between the convolutions.
    """
    network, tensor = training.network, division.tensor
    hidden = network.hidden_size
    stream = hidden / (tensor if division.sequence else 1)
    recompute = training.recompute if recompute is None else recompute
    if recompute == Recompute.full:
        return stream
    norms = 2 * _norm_numbers(training, stream, hidden)
    local_filter = hidden / 2 + _norm_numbers(training, hidden, hidden) if network.localized_filtering else 0.0
    return norms + local_filter + (4 * hidden + 3 * network.intermediate_size) / tensor


def _norm_numbers(training: Training, stream: float, output: float) -> float:
    """Returns what a norm keeps of a token: its input in fp32, as CUDA's kernel does, and its output."""
    return stream * FLOAT / training.number_bytes + output


def _logits(training: Training, division: Division) -> float:
    vocabulary = training.network.vocab_size // division.tensor
    tokens, hidden = training.micro_batch_tokens, training.network.hidden_size
    asked = training.loss_block_tokens
    block = max(1, BLOCK_LOGITS // vocabulary) if asked is None else asked or tokens
    # fp32 logits, which become their own gradient; in a 2-byte format the product before and the gradient after it too.
    a_logit = FLOAT if training.number_bytes == FLOAT else FLOAT + 2 * training.number_bytes
    trains_embedding = training.lora is None
    gradients = FLOAT * hidden * (tokens + (vocabulary if trains_embedding else 0))
    return min(block, tokens) * vocabulary * a_logit + gradients
