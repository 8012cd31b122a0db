"""Both layouts keep every bit, and are written so that a reader sees a whole model or none."""

import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from yuan_checkpoint import finish_native, write_embedding_file, write_hugging_face, write_layer_file
from yuan_checkpoint.native import EMBEDDING_FILE, layer_file, write_native
from yuan_model import ModelFolder, ModelFolderError, YuanConfig, load_model, parameter_shapes


@st.composite
def configs(draw: st.DrawFn) -> YuanConfig:
    heads = draw(st.integers(1, 5))  # odd numbers too: q_proj and k_proj then cut a head in two
    vocabulary = draw(st.integers(1, 30))
    return YuanConfig(
        vocab_size=vocabulary,
        hidden_size=heads * 2 * draw(st.integers(1, 4)),
        num_hidden_layers=draw(st.integers(1, 3)),
        num_attention_heads=heads,
        intermediate_size=draw(st.integers(1, 20)),
        max_position_embeddings=draw(st.integers(1, 64)),
        rms_norm_eps=draw(st.sampled_from([1e-6, 1e-5])),
        attention_reset_at_eod=draw(st.booleans()),
        eod_token_id=draw(st.integers(0, vocabulary - 1)),
    )


def random_tensors(config: YuanConfig, dtype: torch.dtype, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in parameter_shapes(config).items()}


def bits(tensors: dict[str, Tensor]) -> dict[str, tuple[torch.dtype, torch.Size, bytes]]:
    return {
        name: (tensor.dtype, tensor.shape, tensor.contiguous().view(torch.uint8).numpy().tobytes())
        for name, tensor in tensors.items()
    }


@settings(max_examples=20, deadline=None)
@given(
    config=configs(),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    shard_bytes=st.sampled_from([1, 2000, 10**9]),
    reverse=st.booleans(),
)
def test_native_to_hugging_face_and_back_keeps_every_bit(
    config: YuanConfig, dtype: torch.dtype, shard_bytes: int, reverse: bool
) -> None:
    tensors = random_tensors(config, dtype)
    with TemporaryDirectory() as folder:
        first, second, third = (Path(folder) / name for name in ("native", "published", "native-again"))
        write_native(first, config, reversed(tensors.items()) if reverse else tensors.items())
        write_hugging_face(second, config, ModelFolder(first).tensors(), shard_bytes=shard_bytes)
        write_native(third, ModelFolder(second).config, ModelFolder(second).tensors())
        for path in (first, second, third):
            read = ModelFolder(path)
            assert read.config == config
            assert read.native == (path != second)
            assert bits(dict(read.tensors())) == bits(tensors)
        assert sorted(file.name for file in first.iterdir()) == sorted(file.name for file in third.iterdir())
        for file in first.iterdir():
            assert file.read_bytes() == (third / file.name).read_bytes()


def test_the_golden_model_goes_to_native_and_back_bit_for_bit(shared: Path, tmp_path: Path) -> None:
    golden = shared / "golden" / "yuan-hf-tiny"
    source = ModelFolder(golden)
    write_native(tmp_path / "native", source.config, source.tensors())
    native = ModelFolder(tmp_path / "native")
    write_hugging_face(tmp_path / "published", native.config, native.tensors(), sep_token_id=301)
    stored, written = load_file(golden / "model.safetensors"), load_file(tmp_path / "published" / "model.safetensors")
    assert stored.keys() - written.keys() == {"lm_head.weight"}
    inverse = [name for name in stored if "inv_freq" in name]
    for name in inverse:
        torch.testing.assert_close(written.pop(name), stored[name], rtol=1e-6, atol=0.0)
    assert len(inverse) == 3
    assert bits(written) == bits({name: stored[name] for name in written})
    ours = json.loads((tmp_path / "published" / "config.json").read_text())
    theirs = json.loads((golden / "config.json").read_text())
    del theirs["transformers_version"], theirs["auto_map"], ours["auto_map"]  # the code beside them is each one's own
    assert ours == theirs
    ids = torch.arange(30)[None]
    assert torch.equal(load_model(tmp_path / "native")(ids), load_model(golden)(ids))


def test_another_dtype_is_written_only_if_asked_for(tmp_path: Path) -> None:
    config = YuanConfig(8, 8, 2, 2, 8, 8)
    tensors = random_tensors(config, torch.float32)
    write_native(tmp_path / "native", config, tensors.items(), torch.bfloat16)
    read = ModelFolder(tmp_path / "native")
    assert bits(dict(read.tensors())) == bits({name: tensor.bfloat16() for name, tensor in tensors.items()})
    write_hugging_face(tmp_path / "published", config, read.tensors())
    assert json.loads((tmp_path / "published" / "config.json").read_text())["torch_dtype"] == "bfloat16"


def pieces(config: YuanConfig) -> Iterator[tuple[int | None, dict[str, Tensor]]]:
    tensors = random_tensors(config, torch.float32)
    for index in (1, 0):
        prefix = f"model.layers.{index}."
        yield index, {name: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    yield None, {name: tensor for name, tensor in tensors.items() if ".layers." not in name}


def write_pieces(folder: Path, config: YuanConfig) -> None:
    for index, tensors in pieces(config):
        if index is None:
            write_embedding_file(folder, tensors)
        else:
            write_layer_file(folder, index, tensors)


SMALL = YuanConfig(8, 8, 2, 2, 8, 8)


def test_a_model_written_in_pieces_is_the_one_written_at_once(tmp_path: Path) -> None:
    write_pieces(tmp_path / "pieces", SMALL)
    assert not (tmp_path / "pieces" / "config.json").exists()
    finish_native(tmp_path / "pieces", SMALL)
    write_native(tmp_path / "whole", SMALL, random_tensors(SMALL, torch.float32).items())
    names = sorted(file.name for file in (tmp_path / "whole").iterdir())
    assert names == [
        "config.json",
        EMBEDDING_FILE,
        layer_file(0),
        layer_file(1),
        "model.safetensors.index.json",
    ]
    for name in names:
        assert (tmp_path / "pieces" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert json.loads((tmp_path / "whole" / "config.json").read_text())["layout"] == "yuan-native"
    index = json.loads((tmp_path / "whole" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 4 * SMALL.parameter_count()


def refused(folder: Path) -> str:
    with pytest.raises(ModelFolderError) as caught:
        finish_native(folder, SMALL)
    assert not (folder / "config.json").exists()
    return str(caught.value)


def test_finishing_names_the_piece_that_is_missing(tmp_path: Path) -> None:
    write_pieces(tmp_path, SMALL)
    (tmp_path / layer_file(1)).unlink()
    assert refused(tmp_path) == f"{tmp_path / layer_file(1)}: missing"


def test_finishing_names_a_missing_an_unknown_and_a_misshapen_tensor(tmp_path: Path) -> None:
    write_pieces(tmp_path, SMALL)
    file, name = tmp_path / layer_file(0), "model.layers.0.mlp.up_proj.weight"
    whole = load_file(file)
    write_layer_file(tmp_path, 0, {key: tensor for key, tensor in whole.items() if key != name})
    assert refused(tmp_path) == f"{file}: tensor {name} is missing"
    write_layer_file(tmp_path, 0, {**whole, "model.layers.0.mlp.other": torch.ones(1)})
    assert refused(tmp_path) == f"{file}: tensor model.layers.0.mlp.other is unknown"
    write_layer_file(tmp_path, 0, {**whole, name: torch.ones(8, 7)})
    assert refused(tmp_path) == f"{file}: tensor {name} has shape [8, 7], not [8, 8]"


def test_a_tensor_in_the_wrong_piece_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model.norm.weight belongs in model-embedding.safetensors"):
        write_layer_file(tmp_path, 0, {"model.norm.weight": torch.ones(8)})


@pytest.mark.parametrize("write", [write_native, write_hugging_face])
def test_writing_names_a_missing_a_doubled_and_an_unknown_tensor(write: object, tmp_path: Path) -> None:
    assert callable(write)
    tensors = random_tensors(SMALL, torch.float32)
    name = "model.layers.1.self_attn.qk_proj.weight"
    missing = [(key, tensor) for key, tensor in tensors.items() if key != name]
    with pytest.raises(ModelFolderError, match=f"tensor {name} is missing"):
        write(tmp_path / "a", SMALL, missing)
    with pytest.raises(ModelFolderError, match=r"tensor model.norm.weight is unknown or came twice"):
        write(tmp_path / "b", SMALL, [*tensors.items(), ("model.norm.weight", torch.ones(8))])
    with pytest.raises(ModelFolderError, match=r"tensor model.layers.7.mlp is unknown"):
        write(tmp_path / "c", SMALL, [("model.layers.7.mlp", torch.ones(8)), *tensors.items()])
    with pytest.raises(ModelFolderError, match=r"has shape \[2, 4\], not \[16, 8\]"):
        write(tmp_path / "d", SMALL, [*missing, (name, torch.ones(2, 4))])
    assert not list(tmp_path.glob("*/config.json"))


def test_views_of_one_tensor_are_written_as_they_read(tmp_path: Path) -> None:
    tensors = random_tensors(SMALL, torch.float32)
    block = torch.randn(3, 8, 8)
    for index, name in enumerate(("up_proj", "gate_proj")):
        tensors[f"model.layers.0.mlp.{name}.weight"] = block[index]
    tensors["model.layers.0.mlp.down_proj.weight"] = block[2].T
    write_native(tmp_path, SMALL, tensors.items())
    assert bits(dict(ModelFolder(tmp_path).tensors())) == bits(tensors)
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize(
    "config",
    [
        YuanConfig(8, 8, 1, 2, 8, 8, localized_filtering=False),
        YuanConfig(8, 8, 1, 2, 8, 8, rope_theta=500.0),
        YuanConfig(8, 8, 1, 2, 8, 8, rope_precision="bf16"),
    ],
)
def test_what_the_published_code_has_no_key_for_is_said_and_read_back(config: YuanConfig, tmp_path: Path) -> None:
    write_hugging_face(tmp_path, config, random_tensors(config, torch.float32).items())
    assert ModelFolder(tmp_path).config == config
