"""Continues one sequence token by token. The plain way: one sequence, one cache; batching is the engine's."""

import random
from collections.abc import Collection, Iterator, Sequence

import torch
from torch import Tensor

from yuan_model.cache import DecodeCache
from yuan_model.model import Yuan
from yuan_model.sampling import Draw, draw_tokens


def generate(
    model: Yuan,
    input_ids: Sequence[int],
    max_tokens: int,
    *,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
    stop_token_ids: Collection[int] = (),
    vocabulary: int | None = None,
) -> Iterator[int]:
    """Yields up to max_tokens new token ids; a stop token ends the sequence and is not yielded.

    So a caller knows why it ended: fewer than max_tokens were yielded exactly if a stop token came.

    Args:
        model: in eval mode.
        input_ids: the prompt, at least one token.
        max_tokens: new tokens at most.
        temperature: 0 takes the likeliest token.
        top_k: only the k likeliest are drawn from; 0: all.
        top_p: only the likeliest that together reach this probability.
        seed: of the drawing; the same seed gives the same tokens.
        stop_token_ids: tokens that end the sequence.
        vocabulary: ids from this one on are never taken (rows that only pad the embedding).

    Raises:
        ValueError: if the prompt is empty, or with max_tokens longer than max_position_embeddings.
    """
    longest = model.config.max_position_embeddings
    if not input_ids:
        raise ValueError("the prompt holds no token")
    if len(input_ids) + max_tokens > longest:
        raise ValueError(
            f"prompt of {len(input_ids)} tokens plus {max_tokens} new ones is longer than "
            f"max_position_embeddings {longest}"
        )
    source = random.Random(seed)
    device = model.embed_tokens.weight.device
    cache = DecodeCache(model.config)
    pending = torch.tensor([list(input_ids)], dtype=torch.int64, device=device)
    for _ in range(max_tokens):
        with torch.inference_mode():
            logits_v = model.next_token_logits(pending, cache)[0, :vocabulary].float().cpu()
        token = sample(logits_v, temperature, top_k, top_p, source)
        if token in stop_token_ids:
            return
        yield token
        pending = torch.tensor([[token]], dtype=torch.int64, device=device)


def sample(logits_v: Tensor, temperature: float, top_k: int, top_p: float, source: random.Random) -> int:
    """Draws one token id from logits [v]: temperature first, then top_k, then top_p."""
    if temperature == 0.0:
        return int(logits_v.argmax())
    return draw_tokens(logits_v[None], [Draw(source.random(), temperature, top_k, top_p)])[0]
