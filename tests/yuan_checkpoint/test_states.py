"""Training states are read as models, and those of low-rank additions as adapters."""

from pathlib import Path

import pytest
import torch
from tests.yuan_checkpoint.originals import random_tensors

from yuan_checkpoint import CheckpointError, open_checkpoint
from yuan_checkpoint.adapters import Merged
from yuan_checkpoint.checkpoint import TensorsInMemory
from yuan_checkpoint.description import Network
from yuan_checkpoint.training_state import finish_state, state_file_of, state_folder, write_state_file
from yuan_model import YuanConfig

CONFIG = YuanConfig(20, 16, 2, 2, 24, 32, eod_token_id=3)
METADATA = {"model": CONFIG.to_dict(), "lora": None, "stages": [1, 1], "tensor": 2}


def write_state(root: Path, step: int, tensors: dict[str, torch.Tensor], metadata: dict[str, object]) -> Path:
    folder = state_folder(root, step)
    folder.mkdir(parents=True)
    files: dict[str, dict[str, dict[str, torch.Tensor]]] = {}
    for name, tensor in tensors.items():
        parts = {"master": tensor, "exp_avg": 0 * tensor, "exp_avg_sq": 0 * tensor + 1}
        files.setdefault(state_file_of(name), {})[name] = parts
    records = {file: write_state_file(folder, file, parts) for file, parts in files.items()}
    finish_state(folder, step, metadata, records)
    return folder


def test_the_newest_state_of_a_run_is_read_as_its_model(tmp_path: Path) -> None:
    old, new = random_tensors(CONFIG, seed=1), random_tensors(CONFIG, seed=2)
    write_state(tmp_path, 5, old, METADATA)
    folder = write_state(tmp_path, 10, new, METADATA)
    read = open_checkpoint(tmp_path)
    origin = read.origin
    assert (origin.layout, origin.step, origin.stages, origin.tensor) == ("deepspeed", 10, (1, 1), 2)
    assert read.config == CONFIG
    assert all(torch.equal(tensor, new[name]) for name, tensor in read.tensors())
    assert open_checkpoint(folder.with_name("step-00000005")).origin.step == 5
    (folder / "norm.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"norm\.safetensors: missing or not of the"):
        open_checkpoint(folder)


def test_a_state_that_does_not_say_its_network_is_named(tmp_path: Path) -> None:
    folder = write_state(tmp_path, 5, random_tensors(CONFIG), {"stages": [2]})
    with pytest.raises(CheckpointError, match=r"state\.json: does not say of which network it is"):
        open_checkpoint(folder)


def test_a_state_of_additions_is_an_adapter_and_no_model(tmp_path: Path) -> None:
    matrix = "model.layers.1.mlp.down_proj"
    additions = {f"{matrix}.lora_a": torch.randn(2, 24), f"{matrix}.lora_b": torch.randn(16, 2)}
    folder = write_state(tmp_path, 5, additions, {**METADATA, "lora": {"rank": 2, "alpha": 4.0}})
    with pytest.raises(CheckpointError, match="holds low-rank additions alone"):
        open_checkpoint(folder)
    tensors = random_tensors(CONFIG)
    merged = Merged(TensorsInMemory(Network(CONFIG), tensors), folder)
    (name,) = merged.additions
    out = torch.empty(16, 24)
    from yuan_checkpoint.description import Area

    merged.read(name, Area(0, 16, 0, 24), out)
    expected = tensors[name] + 2.0 * additions[f"{matrix}.lora_b"] @ additions[f"{matrix}.lora_a"]
    torch.testing.assert_close(out, expected)
