"""However a sequence is cut, decoding it piece by piece gives the logits of the full forward."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.yuan_model.conftest import EOD, small_model
from torch import Tensor

from yuan_model import DecodeCache, Yuan, load_model

MODELS = {
    (reset, filtering): small_model(attention_reset_at_eod=reset, localized_filtering=filtering)
    for reset in (False, True)
    for filtering in (False, True)
}


@st.composite
def batches(draw: st.DrawFn) -> Tensor:
    batch, length = draw(st.integers(1, 3)), draw(st.integers(1, 48))
    token = st.one_of(st.just(EOD), st.integers(0, 39))  # half of the tokens end a document
    rows = draw(st.lists(st.lists(token, min_size=length, max_size=length), min_size=batch, max_size=batch))
    return torch.tensor(rows)


def decoded(model: Yuan, ids: Tensor, cuts: list[int]) -> Tensor:
    cache = DecodeCache(model.config)
    bounds = [0, *cuts, ids.shape[1]]
    pieces = [model(ids[:, start:end], cache) for start, end in pairwise(bounds) if end > start]
    assert cache.length == ids.shape[1]
    return torch.cat(pieces, dim=1)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ids=batches(), reset=st.booleans(), filtering=st.booleans(), data=st.data())
def test_any_split_of_a_sequence_gives_the_full_forwards_logits(
    ids: Tensor, reset: bool, filtering: bool, data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(1, 48), max_size=6)))
    model = MODELS[reset, filtering]
    with torch.inference_mode():
        ours = decoded(model, ids, [cut for cut in cuts if cut < ids.shape[1]])
        torch.testing.assert_close(ours, model(ids), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("prompt", [1, 2, 3, 47])
@pytest.mark.parametrize("reset", [False, True])
def test_a_prompt_and_then_one_token_at_a_time_gives_the_full_forwards_logits(prompt: int, reset: bool) -> None:
    ids = torch.randint(0, 40, (2, 48), generator=torch.Generator().manual_seed(prompt))
    ids[0, 5] = ids[1, 20] = EOD
    model = MODELS[reset, True]
    with torch.inference_mode():
        ours = decoded(model, ids, list(range(prompt, 48)))
        torch.testing.assert_close(ours, model(ids), atol=2e-5, rtol=1e-4)


def test_the_golden_models_decoding_equals_its_full_forward_across_documents(
    golden_folder: Path, golden: dict[str, Tensor]
) -> None:
    model = load_model(golden_folder)
    ids = golden["eod.input_ids"]
    with torch.inference_mode():
        for cuts in ([1], [1, 2, 3], [9], [20, 21], list(range(1, 37))):
            assert (decoded(model, ids, cuts) - golden["eod.logits_reset_mask"]).abs().max() < 2e-4


def test_the_last_position_alone_is_the_full_forwards_last(small_model: Callable[..., Yuan]) -> None:
    model, ids = small_model(), torch.arange(20)[None]
    torch.testing.assert_close(model.next_token_logits(ids), model(ids)[:, -1])


def test_decoding_beyond_the_context_is_refused_with_both_numbers(small_model: Callable[..., Yuan]) -> None:
    model = small_model()
    cache = DecodeCache(model.config)
    model(torch.zeros(1, 48, dtype=torch.int64), cache)
    with pytest.raises(ValueError, match="sequence of 49 tokens is longer than max_position_embeddings 48"):
        model(torch.zeros(1, 1, dtype=torch.int64), cache)
    assert cache.length == 48
