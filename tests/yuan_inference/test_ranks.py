"""A model shared by two processes answers as one, and lives through the death of either."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.yuan_inference.engines import Asked, Gate, wait_for
from tests.yuan_inference.test_adapters import TARGETS, make_adapter

from yuan_checkpoint import open_model
from yuan_events import InputError
from yuan_inference.engine import Engine, EngineOptions, Failure, FinishReason
from yuan_inference.loaded import LoadedModel, load
from yuan_model import Division, FolderWeights, NativeUnavailable, native_library
from yuan_parallel.tensor import TensorGroup, shard, shard_dimension

OPTIONS = EngineOptions(max_batch=4, tensor=2)
PROMPTS = [list(range(20 + number, 24 + 9 * number)) for number in range(6)]


def answers(engine: Engine, **values: object) -> list[list[int]]:
    """Returns the tokens of several prompts that are computed together."""
    asked = [Asked(engine, prompt, max_tokens=14, ignore_eos=True, **values) for prompt in PROMPTS]
    return [one.tokens for one in asked]


@pytest.fixture(scope="module")
def shared(model_folder: Path) -> Iterator[Engine]:
    with Engine("shared", load(model_folder), OPTIONS) as engine:
        yield engine


@pytest.fixture(scope="module")
def alone(loaded: LoadedModel) -> list[list[int]]:
    with Engine("alone", loaded, EngineOptions(max_batch=4)) as engine:
        return answers(engine)


def compiled() -> bool:
    try:
        native_library()
    except NativeUnavailable:
        return False
    return True


def all_gone(pids: list[int]) -> bool:
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_two_ranks_draw_the_tokens_that_one_process_draws(shared: Engine, alone: list[list[int]]) -> None:
    assert answers(shared) == alone
    assert len(set(shared.ranks)) == 2
    assert os.getpid() not in shared.ranks
    # From the prefix cache, and with the same probabilities.
    scored = Asked(shared, PROMPTS[5], max_tokens=3, logprobs=2, prompt_logprobs=0, ignore_eos=True)
    assert scored.tokens == alone[5][:3]
    with torch.inference_mode():
        logits = shared.loaded.model(torch.tensor([PROMPTS[5]]))[0].log_softmax(-1)
    expected = [float(logits[place, token]) for place, token in enumerate(PROMPTS[5][1:])]
    assert [one.logprob for one in scored.received[0].prompt_logprobs] == pytest.approx(expected, abs=1e-4)


def test_ranks_have_their_parts_of_an_adapter(shared: Engine, loaded: LoadedModel, tmp_path: Path) -> None:
    if not compiled():
        pytest.skip("adapters need the compiled step")
    with Engine("merged", make_adapter(tmp_path / "all", loaded, TARGETS, 1)) as merged:
        expected = answers(merged)
    shared.set_adapters({"all": tmp_path / "all"})
    assert answers(shared, adapter="all") == expected
    shared.set_adapters({})
    assert shared.adapters == ()


def test_a_killed_rank_fails_who_runs_by_its_name_and_who_waits_is_answered_by_the_next_ones(
    shared: Engine, alone: list[list[int]], loaded: LoadedModel, tmp_path: Path
) -> None:
    expected = None
    if compiled():
        with Engine("merged", make_adapter(tmp_path / "up", loaded, ["mlp.up_proj"], 2)) as merged:
            expected = answers(merged)
        shared.set_adapters({"up": tmp_path / "up"})
    ranks, runner = shared.ranks, shared._stepper.runner
    gate = Gate(shared, 0)
    asked = [Asked(shared, prompt, max_tokens=20, ignore_eos=True) for prompt in PROMPTS[:4]]
    gate.allow(4)  # the first may have been planned for the first of them alone
    wait_for(lambda: shared.load.running == 4 and gate.holds and len(gate.sizes) == 4)
    waiting = [Asked(shared, prompt, max_tokens=14, ignore_eos=True) for prompt in PROMPTS[4:]]
    os.kill(ranks[1], signal.SIGKILL)
    wait_for(lambda: not shared.healthy)
    gate.open()
    for one in asked:
        assert one.done.error == f"model shared: rank 1 (process {ranks[1]}) was killed by SIGKILL"
        assert one.done.failure is Failure.engine
        assert len(one.received) > 1  # some of its text had come
    shared._stepper.runner = runner
    assert [one.tokens for one in waiting] == alone[4:]
    assert shared.healthy
    assert not set(ranks) & set(shared.ranks)
    wait_for(lambda: all_gone(ranks))
    assert answers(shared) == alone
    assert shared.used_blocks == 0
    if expected is not None:  # it is there again, too
        assert answers(shared, adapter="up") == expected


def test_a_model_that_cannot_be_divided_so_is_refused_in_one_line(model_folder: Path, loaded: LoadedModel) -> None:
    with pytest.raises(InputError, match=r"^serving.tensor: 3 does not divide the model's num_attention_heads 2"):
        Engine("odd", load(model_folder), EngineOptions(tensor=3))
    with pytest.raises(InputError, match=r"^serving.tensor: ranks read weights from a folder"):
        Engine("made", LoadedModel(loaded.model, loaded.tokenizer), OPTIONS)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_reads_its_part_of_every_matrix(model_folder: Path, loaded: LoadedModel, rank: int) -> None:
    parts: list[float] = []
    weights = FolderWeights(open_model(model_folder), division=Division(2, rank, shard_dimension))
    weights.watch = parts.append
    group = TensorGroup(2, rank)
    for name, whole in loaded.model.named_parameters():
        expected = whole if name == "model.embed_tokens.weight" else shard(name, whole, group)
        assert torch.equal(weights.tensor(name), expected), name
    assert parts == sorted(parts)
    assert parts[-1] == pytest.approx(1.0)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "how"), [(0, signal.SIGKILL), (1, signal.SIGSTOP), (0, signal.SIGSTOP)])
def test_a_dead_or_stopped_rank_is_found_while_it_computes(
    model_folder: Path, alone: list[list[int]], number: int, how: signal.Signals
) -> None:
    with Engine("fragile", load(model_folder), EngineOptions(tensor=2, step_seconds=8.0)) as engine:
        assert answers(engine) == alone
        ranks = engine.ranks
        os.kill(ranks[number], how)
        end = Asked(engine, PROMPTS[0], max_tokens=30, ignore_eos=True).done
        what = "was killed by SIGKILL" if how is signal.SIGKILL else "is stopped and has not answered for 8 s"
        assert end.error == f"model fragile: rank {number} (process {ranks[number]}) {what}"
        assert answers(engine) == alone
        wait_for(lambda: all_gone(ranks))
        last = engine.ranks
    wait_for(lambda: all_gone(last))


@pytest.mark.slow
def test_ranks_that_do_not_come_up_again_fail_who_waits_and_are_tried_again(
    model_folder: Path, alone: list[list[int]], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    folder.symlink_to(model_folder)
    with Engine("movable", load(folder), OPTIONS) as engine:
        assert answers(engine) == alone
        folder.unlink()
        os.kill(engine.ranks[0], signal.SIGKILL)
        wait_for(lambda: not engine.healthy)
        end = Asked(engine, PROMPTS[0]).done
        assert end.failure is Failure.engine
        assert f"{folder}: no such folder" in end.error
        assert not engine.healthy
        folder.symlink_to(model_folder)
        wait_for(lambda: engine.healthy)
        assert answers(engine) == alone


@pytest.mark.slow
def test_an_engine_that_is_closed_while_its_ranks_start_ends(model_folder: Path) -> None:
    with Engine("short", load(model_folder), OPTIONS) as engine:
        os.kill(engine.ranks[1], signal.SIGKILL)
        wait_for(lambda: not engine.healthy)
    assert not engine.healthy
    assert engine.unfinished == 0
    wait_for(lambda: all_gone(engine.ranks))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bf16", "int8"])
def test_ranks_in_fewer_bits_answer_almost_as_one_process(model_folder: Path, dtype: str) -> None:
    if not compiled():
        pytest.skip("needs the compiled step")
    found: list[list[float]] = []
    for tensor in (1, 2):
        with Engine("few", load(model_folder, dtype=dtype), EngineOptions(tensor=tensor)) as engine:
            done = Asked(engine, PROMPTS[5], max_tokens=0, prompt_logprobs=0)
            assert done.done.finish_reason is FinishReason.length
            found.append([one.logprob for output in done.received for one in output.prompt_logprobs])
    differences = [abs(one - two) for one, two in zip(*found, strict=True)]
    assert max(differences) < (0.05 if dtype == "bf16" else 0.4)


@pytest.mark.slow
def test_ranks_that_compute_with_torch_draw_the_same_tokens(
    model_folder: Path, alone: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("YUAN_NATIVE", "off")
    with Engine("torch", load(model_folder), OPTIONS) as engine:
        assert answers(engine) == alone
        with pytest.raises(InputError, match="adapters need the compiled step"):
            engine._ranks.add_adapter([])
    with pytest.raises(InputError, match="dtype int8 needs the compiled step"):
        Engine("torch", load(model_folder, dtype="int8"), OPTIONS)
