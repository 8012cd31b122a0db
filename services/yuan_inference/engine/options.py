"""How much an engine does at once, how it says how much it does, and what it refuses."""

from dataclasses import dataclass

from yuan_events import InputError, YuanError
from yuan_inference.engine.memory import free_bytes, memory_bytes
from yuan_inference.loaded import LoadedModel
from yuan_model import BLOCK_TOKENS, FLASH_PAGE_TOKENS, FlashPages, PoolSize, YuanConfig, blocks_needed, bytes_per_token

_SCORED_BYTES = 64 << 20
"""Memory for logits of prompts whose log-probabilities are asked for."""


class QueueFull(YuanError):
    """As many requests wait as may; another try later may succeed."""


class EngineStopped(YuanError):
    """The engine takes no more requests."""


class UnknownAdapter(YuanError):
    """A LoRA adapter that the engine does not have."""


@dataclass(frozen=True)
class EngineOptions:
    """How much an engine does at once.

    Attributes:
        max_batch: sequences that run at once.
        kv_tokens: tokens that the cache holds over all requests; None: max_batch contexts, but no more than a quarter
            of the machine's memory holds.
        max_waiting: requests that may wait; one is one, however many continuations it asks for.
        step_tokens: of prompts that one step computes at most.
        prefix_cache: blocks of texts are kept for later requests that begin alike.
        prompt_lookup: tokens a step that are guessed from the text before (speculative decoding, the same outputs); 0:
            none.
        tensor: processes (ranks) that share the model's matrices between them; 1: the server's own has them.
        devices: of CUDA, by number, one a rank; empty: the first ones.
        step_seconds: of several ranks, one that has not answered for so long is taken for dead.
    """

    max_batch: int = 16
    kv_tokens: int | None = None
    max_waiting: int = 256
    step_tokens: int = 256
    prefix_cache: bool = True
    prompt_lookup: int = 0
    tensor: int = 1
    devices: tuple[int, ...] = ()
    step_seconds: float = 60.0


@dataclass(frozen=True)
class EngineLoad:
    """What an engine has to do.

    Attributes:
        running: sequences that are computed.
        waiting: requests of which something is in the queue.
        max_running: the most that run at once.
        max_waiting: the most that may wait.
        used_blocks: blocks of the cache that requests hold; kept prefixes that nobody uses are free.
        total_blocks: blocks of the cache.
        block_tokens: tokens a block.
    """

    running: int
    waiting: int
    max_running: int
    max_waiting: int
    used_blocks: int
    total_blocks: int
    block_tokens: int = BLOCK_TOKENS


def scored_tokens(loaded: LoadedModel, options: EngineOptions) -> int:
    """Returns of how many tokens of prompts a step may give log-probabilities."""
    return max(16, min(options.step_tokens, _SCORED_BYTES // (4 * loaded.config.vocab_size)))


def pool_size(loaded: LoadedModel, options: EngineOptions) -> PoolSize:
    """Returns how much the runner holds: one whole context at least, where kv_tokens says nothing else.

    Raises:
        InputError: if the machine has not so much memory free. Asked for all the same, the system might give it, and
            end the process once it is written to.
    """
    decoded = options.max_batch * (1 + options.prompt_lookup)
    size = PoolSize(
        blocks=_blocks(loaded, options),
        rows=options.max_batch,
        step_tokens=options.step_tokens + decoded,
        outputs=decoded + scored_tokens(loaded, options),
        slots=1 + options.prompt_lookup,
        block_tokens=_block_tokens(loaded),
    )
    # On CUDA every rank has a device of its own for its heads.
    shares = options.tensor if loaded.weights.device.type == "cuda" else 1
    for name, value, needed in (
        ("kv_tokens", size.tokens, size.tokens * bytes_per_token(loaded.config, loaded.weights.dtype) / shares),
        ("max_batch", size.rows, _bytes_of_a_step(loaded.config, size)),
    ):
        # What is chosen for the user is filled little by little, and may be more than is free in this moment.
        is_default = name == "kv_tokens" and options.kv_tokens is None
        memory = (memory_bytes if is_default else free_bytes)(loaded.weights.device)
        if needed > memory:
            raise InputError(
                f"serving.{name}: {value} would need {needed / 2**30:,.1f} GiB of memory, and "
                f"{memory / 2**30:,.1f} GiB are {'there' if is_default else 'free'}; choose less"
            )
    return size


def _bytes_of_a_step(config: YuanConfig, size: PoolSize) -> int:
    """Returns about how much a step of all rows takes: logits, what a token is on its way, what a row is known by."""
    token = 4 * (12 * config.hidden_size + 4 * config.intermediate_size)
    row = 8 * blocks_needed(config.max_position_embeddings, size.block_tokens)
    row += 6 * config.hidden_size * config.num_hidden_layers * size.slots
    return 4 * size.outputs * config.vocab_size + token * size.step_tokens + row * size.rows


def _block_tokens(loaded: LoadedModel) -> int:
    """Returns how many tokens a block holds: as many as flash-attn's pages, where it attends."""
    weights = loaded.weights
    return FLASH_PAGE_TOKENS if FlashPages.able(loaded.config, weights.dtype, weights.device) else BLOCK_TOKENS


def _blocks(loaded: LoadedModel, options: EngineOptions) -> int:
    config, weights, tokens = loaded.config, loaded.weights, _block_tokens(loaded)
    context = blocks_needed(loaded.context, tokens)
    if options.kv_tokens is not None:
        return max(1, blocks_needed(options.kv_tokens, tokens))
    wanted = options.max_batch * context
    memory = memory_bytes(weights.device) // 4
    fitting = memory // (tokens * bytes_per_token(config, weights.dtype))
    return max(context, min(wanted, fitting))
