"""Reading model folders: what is right loads exactly, what is wrong is one line that names it."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from yuan_checkpoint import write_hugging_face, write_native
from yuan_model import ModelFolder, ModelFolderError, Yuan, load_model

Write = Callable[[Path, Yuan], Path]


def native(folder: Path, model: Yuan) -> Path:
    write_native(folder, model.config, model.named_parameters())
    return folder


def published(folder: Path, model: Yuan) -> Path:
    write_hugging_face(folder, model.config, model.named_parameters())
    return folder


def rewrite(file: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    change(tensors)
    save_file(tensors, file)


@pytest.mark.parametrize("write", [native, published])
@pytest.mark.parametrize("as_text", [True, False])
def test_a_written_folder_loads_to_the_same_model_in_eval_mode(
    write: Write, as_text: bool, tmp_path: Path, small_model: Callable[..., Yuan]
) -> None:
    model = small_model()
    folder = write(tmp_path / "model", model)
    loaded = load_model(str(folder) if as_text else folder)
    assert not loaded.training
    assert loaded.config == model.config
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    ids = torch.arange(12)[None]
    assert torch.equal(loaded(ids), model(ids))


def test_the_dtype_is_the_stored_one_unless_another_is_asked_for(
    tmp_path: Path, small_model: Callable[..., Yuan]
) -> None:
    folder = native(tmp_path, small_model().to(torch.bfloat16))
    assert {tensor.dtype for tensor in load_model(folder).parameters()} == {torch.bfloat16}
    assert {tensor.dtype for tensor in load_model(folder, dtype=torch.float32).parameters()} == {torch.float32}


def test_files_beside_those_of_the_index_are_not_read(tmp_path: Path, small_model: Callable[..., Yuan]) -> None:
    folder = native(tmp_path, small_model())
    (folder / "model-layer-00009.safetensors").write_bytes(b"left over from another run")
    (folder / "model.safetensors").write_bytes(b"so is this")
    load_model(folder)


def test_loaded_weights_can_be_trained_on(tmp_path: Path, small_model: Callable[..., Yuan]) -> None:
    model = load_model(native(tmp_path, small_model()))
    model(torch.arange(4)[None]).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_weights_that_were_read_while_decoding_can_be_trained_on(
    tmp_path: Path, small_model: Callable[..., Yuan]
) -> None:
    native(tmp_path, small_model())
    with torch.inference_mode():
        loaded = load_model(tmp_path)
    loaded(torch.tensor([[1, 2, 3]])).sum().backward()
    assert loaded.norm.weight.grad is not None


def refused(folder: Path) -> str:
    with pytest.raises(ModelFolderError) as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    assert refused(tmp_path / "none") == f"{tmp_path / 'none'}: no such folder"


@pytest.mark.parametrize("file", ["config.json", "model-layer-00001.safetensors", "model-embedding.safetensors"])
def test_a_missing_file_is_named(file: str, tmp_path: Path, small_model: Callable[..., Yuan]) -> None:
    folder = native(tmp_path, small_model())
    (folder / file).unlink()
    assert refused(folder).startswith(f"{folder / file}: missing")


def test_a_folder_without_weights_is_refused(tmp_path: Path, small_model: Callable[..., Yuan]) -> None:
    folder = published(tmp_path, small_model())
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    assert refused(folder) == f"{folder}: holds neither model.safetensors.index.json nor model.safetensors"


def test_pickled_weights_are_never_opened(tmp_path: Path, small_model: Callable[..., Yuan]) -> None:
    folder = published(tmp_path, small_model())
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    assert "holds neither" in refused(folder)
    torch.save(weights, folder / "model.safetensors")
    assert "not readable as safetensors" in refused(folder)


@pytest.mark.parametrize("text", ["", "{", "[1]", "\xff"])
def test_a_config_that_is_not_an_object_is_refused(text: str, tmp_path: Path, small_model: Callable[..., Yuan]) -> None:
    folder = native(tmp_path, small_model())
    (folder / "config.json").write_text(text, encoding="latin-1")
    assert refused(folder).startswith(f"{folder / 'config.json'}: not ")


def test_a_cut_off_file_is_named(tmp_path: Path, small_model: Callable[..., Yuan]) -> None:
    folder = native(tmp_path, small_model())
    file = folder / "model-layer-00000.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    assert refused(folder).startswith(f"{file}: not readable as safetensors")


def test_a_missing_tensor_is_named(tmp_path: Path, small_model: Callable[..., Yuan]) -> None:
    folder = published(tmp_path, small_model())
    rewrite(folder / "model.safetensors", lambda tensors: tensors.pop("model.layers.1.self_attn.k_proj.weight"))
    assert refused(folder) == f"{folder}: tensor model.layers.1.self_attn.k_proj.weight is missing"


def test_a_tensor_that_the_index_sees_elsewhere_is_named(tmp_path: Path, small_model: Callable[..., Yuan]) -> None:
    folder = native(tmp_path, small_model())
    file = folder / "model-layer-00001.safetensors"
    rewrite(file, lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"))
    assert refused(folder).startswith(f"{file}: tensor model.layers.1.mlp.up_proj.weight is not in this file")


def test_an_unknown_tensor_is_named(tmp_path: Path, small_model: Callable[..., Yuan]) -> None:
    folder = published(tmp_path, small_model())
    rewrite(folder / "model.safetensors", lambda tensors: tensors.update({"model.layers.0.mlp.extra": torch.ones(1)}))
    assert refused(folder) == f"{folder / 'model.safetensors'}: unknown tensor model.layers.0.mlp.extra"


def test_a_tensor_that_the_index_does_not_know_is_named(tmp_path: Path, small_model: Callable[..., Yuan]) -> None:
    folder = native(tmp_path, small_model())
    file = folder / "model-layer-00000.safetensors"
    rewrite(file, lambda tensors: tensors.update({"model.layers.0.mlp.extra": torch.ones(1)}))
    assert refused(folder) == f"{file}: unknown tensor model.layers.0.mlp.extra"


def test_a_tensor_of_whole_numbers_is_refused(tmp_path: Path, small_model: Callable[..., Yuan]) -> None:
    folder = native(tmp_path, small_model())
    file = folder / "model-embedding.safetensors"
    rewrite(file, lambda tensors: tensors.update({"model.norm.weight": torch.ones(24, dtype=torch.int64)}))
    assert refused(folder).startswith(f"{file}: tensor model.norm.weight is stored as I64; expected F32")


@pytest.mark.parametrize("write", [native, published])
def test_a_tensor_of_another_shape_is_named_with_both_shapes(
    write: Write, tmp_path: Path, small_model: Callable[..., Yuan]
) -> None:
    folder = write(tmp_path, small_model())
    file = folder / ("model-embedding.safetensors" if write is native else "model.safetensors")
    rewrite(file, lambda tensors: tensors.update({"model.norm.weight": torch.ones(23)}))
    assert refused(folder) == f"{file}: tensor model.norm.weight has shape [23]; config.json means [24]"


def test_the_tied_head_may_be_there_and_must_then_equal_the_embedding(
    tmp_path: Path, small_model: Callable[..., Yuan]
) -> None:
    folder = published(tmp_path, small_model())
    file = folder / "model.safetensors"
    rewrite(file, lambda tensors: tensors.update({"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}))
    load_model(folder)
    rewrite(file, lambda tensors: tensors["lm_head.weight"].add_(1.0))
    assert refused(folder) == f"{file}: lm_head.weight differs from the embedding it is tied to"


def test_another_models_config_is_refused(tmp_path: Path, small_model: Callable[..., Yuan]) -> None:
    folder = published(tmp_path, small_model())
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, "model_type": "llama"}))
    assert re.search("config.json: model_type: 'llama' is another network", refused(folder))
    (folder / "config.json").write_text(json.dumps({**values, "use_shareqk": True}))
    assert re.search("config.json: use_shareqk: True is another network", refused(folder))


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "config.json", "..", "", 3, None])
def test_an_index_that_points_out_of_its_folder_is_refused(
    name: object, tmp_path: Path, small_model: Callable[..., Yuan]
) -> None:
    folder = native(tmp_path, small_model())
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"]["model.norm.weight"] = name
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "is not the name of a .safetensors file in this folder" in refused(folder)


def test_a_folder_is_read_lazily_under_native_names(golden_folder: Path) -> None:
    folder = ModelFolder(golden_folder)
    assert not folder.native
    stored = load_file(golden_folder / "model.safetensors")
    fused = folder.tensor("model.layers.2.self_attn.qk_proj.weight")
    parts = [stored[f"model.layers.2.self_attn.{half}.weight"] for half in ("q_proj", "k_proj")]
    assert torch.equal(fused, torch.cat(parts))
    assert folder.names == [name for name, _ in folder.tensors()]
