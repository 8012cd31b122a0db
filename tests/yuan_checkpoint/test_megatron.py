"""The original's checkpoints come out as the network that they are, and are written as the original writes them."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from tests.yuan_checkpoint.originals import (
    SHARD_FILE,
    TRACKER_FILE,
    bits,
    flat,
    random_tensors,
    rank_model,
    write_original,
)
from torch import Tensor

from yuan_checkpoint import Conversion, LayoutError, open_checkpoint, write_checkpoint, write_native
from yuan_checkpoint.checkpoint import TensorsInMemory
from yuan_checkpoint.description import Network
from yuan_checkpoint.megatron import megatron_target
from yuan_events import InputError
from yuan_model import ModelFolder, YuanConfig, load_model

FIXTURES = ("megatron-tiny-realpickle", "megatron-tiny-tp1pp3", "megatron-tiny-tp2pp1", "megatron-tiny-tp2pp2")
CONFIG = YuanConfig(
    vocab_size=24,
    hidden_size=24,
    num_hidden_layers=4,
    num_attention_heads=6,
    intermediate_size=18,
    max_position_embeddings=32,
)


@pytest.fixture
def tensors() -> dict[str, Tensor]:
    return random_tensors(CONFIG)


@pytest.mark.parametrize("name", FIXTURES)
def test_a_checkpoint_of_the_original_computes_the_golden_logits(shared: Path, tmp_path: Path, name: str) -> None:
    source = open_checkpoint(shared / "golden" / name)
    write_native(tmp_path / "native", source.config, source.tensors())
    model = load_model(tmp_path / "native")
    golden = load_file(shared / "golden" / "yuan-hf-tiny" / "golden.safetensors")
    with torch.no_grad():
        logits = model(golden["input_ids"])
    # The rows that only pad the vocabulary are there, and are no part of the golden output.
    torch.testing.assert_close(logits[..., : golden["logits"].shape[-1]], golden["logits"], atol=2e-4, rtol=0)


@pytest.mark.parametrize("name", FIXTURES)
def test_a_checkpoint_of_the_original_has_the_published_weights_bit_for_bit(shared: Path, name: str) -> None:
    published = ModelFolder(shared / "golden" / "yuan-hf-tiny")
    read = dict(open_checkpoint(shared / "golden" / name).tensors())
    assert set(read) == set(published.names)
    for parameter, tensor in published.tensors():
        assert torch.equal(read[parameter][: len(tensor)], tensor)


@pytest.mark.parametrize(("tensor", "stages"), [(1, [4]), (2, [1, 3]), (3, [2, 1, 1]), (6, [0, 4])])
def test_any_tensor_size_and_uneven_stages_come_out_as_the_same_network(
    tmp_path: Path, tensors: dict[str, Tensor], tensor: int, stages: list[int]
) -> None:
    read = open_checkpoint(write_original(tmp_path / "model", CONFIG, tensors, tensor, stages))
    assert read.config == CONFIG
    assert (read.origin.tensor, read.origin.stages) == (tensor, tuple(stages))
    found = dict(read.tensors())
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize(
    ("missing", "stages"), [("mp_rank_01_000", [2, 2]), ("mp_rank_00_001", [2, 2]), ("mp_rank_01", [4])]
)
def test_a_missing_shard_is_named(tmp_path: Path, tensors: dict[str, Tensor], missing: str, stages: list[int]) -> None:
    folder = write_original(tmp_path / "model", CONFIG, tensors, 2, stages)
    (folder / "iter_0000020" / missing / SHARD_FILE).unlink()
    with pytest.raises(InputError, match=f"{missing}/{SHARD_FILE}: missing"):
        open_checkpoint(folder)
    (folder / "iter_0000020" / missing).rmdir()
    with pytest.raises(InputError, match=f"{missing}/{SHARD_FILE}: missing"):
        open_checkpoint(folder)


def test_a_missing_last_stage_is_named(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    folder = write_original(tmp_path / "model", CONFIG, tensors, 1, [2, 1, 1])
    (folder / "iter_0000020" / "mp_rank_00_002" / SHARD_FILE).unlink()
    (folder / "iter_0000020" / "mp_rank_00_002").rmdir()
    with pytest.raises(InputError, match=r"mp_rank_00_002/model_optim_rng\.pt: missing; .* 3 pipeline stages"):
        open_checkpoint(folder)


@pytest.mark.parametrize("said", ["", "0", "-3", "newest", "7"])
def test_a_tracker_that_leads_nowhere_is_named(tmp_path: Path, said: str) -> None:
    (tmp_path / TRACKER_FILE).write_text(said)
    with pytest.raises(InputError, match=r"latest_checkpointed_iteration|iter_0000007"):
        open_checkpoint(tmp_path)


def test_a_shard_of_another_shape_is_named(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    folder = write_original(tmp_path / "model", CONFIG, tensors, 2, [4])
    file = folder / "iter_0000020" / "mp_rank_01" / SHARD_FILE
    content = torch.load(file, weights_only=False)
    content["model"]["language_model"]["encoder"]["layers.2.mlp.dense_4h_to_h.weight"] = torch.zeros(3, 3)
    torch.save(content, file)
    with pytest.raises(InputError, match=r"mp_rank_01/.*: tensor .*layers\.2\.mlp\.dense_4h_to_h\.weight has shape"):
        open_checkpoint(folder)


@st.composite
def divisions(draw: st.DrawFn) -> tuple[YuanConfig, int, list[int]]:
    """A network, a tensor size that divides it, and stages of any sizes; also none in the first."""
    ranks = draw(st.sampled_from([1, 2, 3, 4]))
    heads = ranks * draw(st.integers(1, 2))
    stages = draw(st.lists(st.integers(1, 2), min_size=1, max_size=3))
    if draw(st.booleans()):
        stages = [0, *stages]
    config = YuanConfig(
        vocab_size=draw(st.integers(1, 30)),
        hidden_size=heads * 2 * draw(st.integers(1, 2)),
        num_hidden_layers=sum(stages),
        num_attention_heads=heads,
        intermediate_size=ranks * draw(st.integers(1, 5)),
        max_position_embeddings=16,
        localized_filtering=draw(st.booleans()),
    )
    return config, ranks, stages


@settings(max_examples=15)
@given(division=divisions(), dtype=st.sampled_from([torch.float32, torch.bfloat16]))
def test_what_is_written_is_what_the_original_writes(
    division: tuple[YuanConfig, int, list[int]], dtype: torch.dtype, tmp_path_factory: pytest.TempPathFactory
) -> None:
    config, ranks, stages = division
    folder = tmp_path_factory.mktemp("written")
    tensors, network = random_tensors(config, dtype), Network(config)
    layout = megatron_target(network, ranks, stages, iteration="20", multiple=8)
    write_checkpoint(Conversion(TensorsInMemory(network, tensors), network, layout), folder)
    assert (folder / TRACKER_FILE).read_text() == "20"
    for rank in range(ranks):
        for stage in range(len(stages)):
            name = f"mp_rank_{rank:02d}" + (f"_{stage:03d}" if len(stages) > 1 else "")
            # torch's own reading, which runs what it is told: these files are ours.
            read = torch.load(folder / "iter_0000020" / name / SHARD_FILE, weights_only=False)
            rows = read["args"].padded_vocab_size
            assert rows % 8 == 0
            assert rows % ranks == 0
            assert (read["iteration"], read["checkpoint_version"]) == (20, 3.0)
            assert read["args"].pipeline_blocks == stages
            expected = flat(rank_model(config, tensors, (rank, stage), (ranks, stages), rows))
            assert {key: bits(value) for key, value in flat(read["model"]).items()} == {
                key: bits(value) for key, value in expected.items()
            }
    again = open_checkpoint(folder)
    assert again.config == config
    assert {name: bits(tensor) for name, tensor in again.tensors()} == {
        name: bits(tensor) for name, tensor in tensors.items()
    }


@pytest.mark.parametrize(
    ("ranks", "stages", "said"),
    [
        (1, [1, 2], "stages: 1, 2 are 3 layers; the model has 4"),
        (4, [4], "tensor: 4 does not divide the model's attention heads, 6"),
    ],
)
def test_a_division_that_cannot_be_is_refused(ranks: int, stages: list[int], said: str) -> None:
    with pytest.raises(LayoutError, match=said):
        megatron_target(Network(CONFIG), ranks, stages)


def test_files_of_two_iterations_are_refused(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    folder = write_original(tmp_path / "model", CONFIG, tensors, 2, [4])
    file = folder / "iter_0000020" / "mp_rank_01" / SHARD_FILE
    torch.save({**torch.load(file, weights_only=False), "iteration": 30}, file)
    with pytest.raises(InputError, match=r"mp_rank_01/.* is of iteration 30, .* of 20; files of two iterations"):
        open_checkpoint(folder)


def test_two_iterations_without_a_tracker_are_to_be_chosen_from(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    folder = write_original(tmp_path / "model", CONFIG, tensors, 1, [4])
    (folder / TRACKER_FILE).unlink()
    assert open_checkpoint(folder).origin.step == 20
    (folder / "iter_0000030").symlink_to(folder / "iter_0000020")
    with pytest.raises(InputError, match="holds iter_0000020 and iter_0000030 and no latest_checkpointed_iteration"):
        open_checkpoint(folder)
    assert open_checkpoint(folder / "iter_0000030").config == CONFIG


def test_unknown_tensors_are_named_and_left_out_or_refused(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    folder = write_original(tmp_path / "model", CONFIG, tensors, 1, [4])
    file = folder / "iter_0000020" / "mp_rank_00" / SHARD_FILE
    content = torch.load(file, weights_only=False)
    content["model"]["language_model"]["encoder"]["layers.0.extra"] = torch.ones(2)
    torch.save(content, file)
    with pytest.raises(InputError, match=f"{file}: unknown tensor layers.0.extra"):
        open_checkpoint(folder)
    read = open_checkpoint(folder, strict=False)
    assert read.unknown == [f"{file}: layers.0.extra"]
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in read.tensors())


def test_a_copy_that_differs_is_named(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    folder = write_original(tmp_path / "model", CONFIG, tensors, 1, [2, 2])
    assert open_checkpoint(folder).differing_copies() == []
    file = folder / "iter_0000020" / "mp_rank_00_001" / SHARD_FILE
    content = torch.load(file, weights_only=False)
    content["model"]["word_embeddings_for_head"]["weight"][3, 3] += 1
    torch.save(content, file)
    (line,) = open_checkpoint(folder).differing_copies()
    assert line.startswith(f"{file}: tensor word_embeddings_for_head.weight differs from its copy in ")
