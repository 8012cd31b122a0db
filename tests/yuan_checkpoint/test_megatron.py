"""The original's checkpoints come out as the network that they are, whatever their sizes, and run no code of theirs."""

import os
import pickle
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from yuan_checkpoint import MegatronFolder, open_weights, write_native
from yuan_checkpoint.megatron import EMBEDDING_RULE, LAYER_RULES, NORM_RULE, SHARD_FILE, TRACKER_FILE, Split, TensorRule
from yuan_checkpoint.unpickling import Unknown, UnreadableFileError, load_inertly
from yuan_events import InputError
from yuan_model import ModelFolder, YuanConfig, load_model, parameter_shapes

FIXTURES = ("megatron-tiny-realpickle", "megatron-tiny-tp1pp3", "megatron-tiny-tp2pp1", "megatron-tiny-tp2pp2")
CONFIG = YuanConfig(
    vocab_size=24,
    hidden_size=24,
    num_hidden_layers=4,
    num_attention_heads=6,
    intermediate_size=18,
    max_position_embeddings=32,
)


def write_megatron(
    folder: Path, config: YuanConfig, tensors: dict[str, Tensor], tensor: int, stages: list[int]
) -> Path:
    """Writes a checkpoint of given sizes as the original does, from native tensors."""
    folder.mkdir()
    (folder / TRACKER_FILE).write_text("20\n")
    arguments = Namespace(
        num_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        ffn_hidden_size=config.intermediate_size,
        max_position_embeddings=config.max_position_embeddings,
        tensor_model_parallel_size=tensor,
        pipeline_model_parallel_size=len(stages),
    )

    def share(rule: TensorRule, prefix: str, rank: int) -> Tensor:
        return rule.divide(torch.cat([tensors[prefix + name] for name in rule.native]), tensor)[rank].clone()

    for rank in range(tensor):
        first = 0
        for stage, count in enumerate(stages):
            encoder = {
                f"layers.{local}.{rule.name}": share(rule, f"model.layers.{first + local}.", rank)
                for local in range(count)
                for rule in LAYER_RULES
            }
            first += count
            model: dict[str, Any] = {"encoder": encoder}
            embedding = {"weight": share(EMBEDDING_RULE, "", rank)}
            if stage == 0:
                model["embedding"] = {"word_embeddings": embedding}
            outer: dict[str, Any] = {"language_model": model}
            if stage == len(stages) - 1:
                encoder[NORM_RULE.name] = share(NORM_RULE, "", rank)
                if stage:
                    outer["word_embeddings_for_head"] = embedding
            name = f"mp_rank_{rank:02d}" + (f"_{stage:03d}" if len(stages) > 1 else "")
            place = folder / "iter_0000020" / name
            place.mkdir(parents=True)
            torch.save({"args": arguments, "model": outer}, place / SHARD_FILE)
    return folder


@pytest.fixture
def tensors() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {name: torch.randn(shape, generator=generator) for name, shape in parameter_shapes(CONFIG).items()}


@pytest.mark.parametrize("name", FIXTURES)
def test_a_checkpoint_of_the_original_computes_the_golden_logits(shared: Path, tmp_path: Path, name: str) -> None:
    source = open_weights(shared / "golden" / name)
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
    read = dict(MegatronFolder(shared / "golden" / name).tensors())
    assert set(read) == set(published.names)
    for parameter, tensor in published.tensors():
        assert torch.equal(read[parameter][: len(tensor)], tensor)


@pytest.mark.parametrize(("tensor", "stages"), [(1, [4]), (2, [1, 3]), (3, [2, 1, 1]), (6, [0, 4])])
def test_any_tensor_size_and_uneven_stages_come_out_as_the_same_network(
    tmp_path: Path, tensors: dict[str, Tensor], tensor: int, stages: list[int]
) -> None:
    read = MegatronFolder(write_megatron(tmp_path / "model", CONFIG, tensors, tensor, stages))
    assert read.config == CONFIG
    assert (read.tensor, read.stages) == (tensor, tuple(stages))
    found = dict(read.tensors())
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)


@given(split=st.sampled_from(list(Split)), ranks=st.integers(1, 4), rows=st.integers(1, 3), columns=st.integers(1, 3))
@settings(max_examples=50)
def test_what_is_divided_is_joined_again(split: Split, ranks: int, rows: int, columns: int) -> None:
    whole = torch.arange(4 * rows * ranks * columns * ranks).reshape(4 * rows * ranks, columns * ranks)
    rule = TensorRule("any", ("any",), split)
    assert torch.equal(rule.join(rule.divide(whole, ranks)), whole)


class Attack:
    """An object whose pickle says: call os.system."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (self.command,)


def test_a_file_that_would_run_a_command_runs_none(tmp_path: Path) -> None:
    mark = tmp_path / "attacked"
    torch.save({"model": torch.ones(2), "attack": Attack(f"touch {mark}")}, tmp_path / "file.pt")
    read = load_inertly(tmp_path / "file.pt")
    assert torch.equal(read["model"], torch.ones(2))
    assert isinstance(read["attack"], Unknown)
    assert not mark.exists()


def test_objects_of_any_shape_are_read_over(tmp_path: Path) -> None:
    everything = {"list": [{1, 2}, 3], "path": Path("/x"), "error": ValueError("y"), "namespace": Namespace(a=1)}
    torch.save(everything, tmp_path / "file.pt")
    read = load_inertly(tmp_path / "file.pt")
    assert vars(read["namespace"]) == {"a": 1}
    assert read["list"][1] == 3


@pytest.mark.parametrize("content", [b"", b"no such file", pickle.dumps({"model": 1})])
def test_a_file_that_torch_did_not_write_is_named(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "file.pt"
    file.write_bytes(content)
    with pytest.raises(UnreadableFileError, match=r"file\.pt: not readable") as raised:
        load_inertly(file)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("missing", "stages"), [("mp_rank_01_000", [2, 2]), ("mp_rank_00_001", [2, 2]), ("mp_rank_01", [4])]
)
def test_a_missing_shard_is_named(tmp_path: Path, tensors: dict[str, Tensor], missing: str, stages: list[int]) -> None:
    folder = write_megatron(tmp_path / "model", CONFIG, tensors, 2, stages)
    (folder / "iter_0000020" / missing / SHARD_FILE).unlink()
    with pytest.raises(InputError, match=f"{missing}/{SHARD_FILE}: missing"):
        open_weights(folder)
    (folder / "iter_0000020" / missing).rmdir()
    with pytest.raises(InputError, match=f"{missing}/{SHARD_FILE}: missing"):
        open_weights(folder)


def test_a_missing_last_stage_is_named(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    folder = write_megatron(tmp_path / "model", CONFIG, tensors, 1, [2, 1, 1])
    (folder / "iter_0000020" / "mp_rank_00_002" / SHARD_FILE).unlink()
    (folder / "iter_0000020" / "mp_rank_00_002").rmdir()
    with pytest.raises(InputError, match=r"mp_rank_00_002/model_optim_rng\.pt: missing; .* 3 pipeline stages"):
        open_weights(folder)


@pytest.mark.parametrize("said", ["", "0", "-3", "newest", "7"])
def test_a_tracker_that_leads_nowhere_is_named(tmp_path: Path, said: str) -> None:
    (tmp_path / TRACKER_FILE).write_text(said)
    with pytest.raises(InputError, match=r"latest_checkpointed_iteration|iter_0000007"):
        open_weights(tmp_path)


def test_a_shard_of_another_shape_is_named(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    folder = write_megatron(tmp_path / "model", CONFIG, tensors, 2, [4])
    file = folder / "iter_0000020" / "mp_rank_01" / SHARD_FILE
    content = torch.load(file, weights_only=False)
    content["model"]["language_model"]["encoder"]["layers.2.mlp.dense_4h_to_h.weight"] = torch.zeros(3, 3)
    torch.save(content, file)
    with pytest.raises(InputError, match=r"mp_rank_01/.*: tensor layers\.2\.mlp\.dense_4h_to_h\.weight has shape"):
        open_weights(folder)
