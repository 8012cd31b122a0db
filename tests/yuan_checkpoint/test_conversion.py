"""Conversions keep every bit that they are not asked to change, stream, resume, and leave nothing that looks whole."""

import json
import os
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tests.yuan_checkpoint.originals import bits, random_tensors, write_original
from torch import Tensor

from yuan_checkpoint import CheckpointError, Conversion, open_checkpoint, write_checkpoint
from yuan_checkpoint.adapters import Merged
from yuan_checkpoint.checkpoint import Checkpoint, Source, TensorsInMemory
from yuan_checkpoint.conversion import conversion_identity
from yuan_checkpoint.description import Area, Network
from yuan_checkpoint.huggingface import huggingface_target
from yuan_checkpoint.inspection import differences, inspect
from yuan_checkpoint.megatron import megatron_target
from yuan_checkpoint.native import native_target
from yuan_checkpoint.targets import FileKind, TargetLayout, file_size
from yuan_checkpoint.verification import verify
from yuan_model import ModelFolder, YuanConfig, load_model

CONFIG = YuanConfig(40, 24, 3, 6, 36, 32)


@pytest.fixture
def tensors() -> dict[str, Tensor]:
    return random_tensors(CONFIG)


def in_memory(tensors: dict[str, Tensor], config: YuanConfig = CONFIG) -> TensorsInMemory:
    return TensorsInMemory(Network(config), tensors)


def to_native(source: Source, folder: Path, dtype: torch.dtype | None = None) -> Checkpoint:
    layout = native_target(source.network, int8=dtype == torch.int8)
    write_checkpoint(Conversion(source, source.network, layout, dtype), folder)
    return open_checkpoint(folder)


def all_bits(source: Checkpoint) -> dict[str, object]:
    return {name: bits(tensor) for name, tensor in source.tensors()}


@st.composite
def targets(draw: st.DrawFn, network: Network, dtype: torch.dtype) -> TargetLayout:
    config = network.config
    which = draw(st.sampled_from(["native", "megatron", "huggingface", "bin"]))
    if which == "native":
        return native_target(network)
    if which == "megatron":
        sizes = [
            one for one in range(1, 7) if not config.num_attention_heads % one and not config.intermediate_size % one
        ]
        cuts = sorted(draw(st.lists(st.integers(0, config.num_hidden_layers), max_size=3)))
        bounds = [0, *cuts, config.num_hidden_layers]
        stages = [end - begin for begin, end in pairwise(bounds)]
        return megatron_target(network, draw(st.sampled_from(sizes)), stages, multiple=draw(st.integers(1, 9)))
    kind = FileKind.torch if which == "bin" else FileKind.safetensors
    dtypes = dict.fromkeys(network.shapes, dtype)
    return huggingface_target(network, dtypes, kind=kind, shard_bytes=draw(st.sampled_from([1, 900, 10**9])))


@settings(max_examples=12)
@given(data=st.data())
def test_there_and_back_over_any_layouts_and_divisions_gives_the_same_bits(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    heads = data.draw(st.integers(1, 6))
    config = YuanConfig(
        vocab_size=data.draw(st.integers(1, 30)),
        hidden_size=heads * 2 * data.draw(st.integers(1, 3)),
        num_hidden_layers=data.draw(st.integers(1, 4)),
        num_attention_heads=heads,
        intermediate_size=heads * data.draw(st.integers(1, 3)),
        max_position_embeddings=16,
    )
    dtype = data.draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
    network, folder = Network(config), tmp_path_factory.mktemp("chain")
    tensors = random_tensors(config, dtype)
    source: Source = TensorsInMemory(network, tensors)
    for number in range(data.draw(st.integers(2, 3))):
        layout = data.draw(targets(network, dtype))
        conversion = Conversion(source, network, layout)
        write_checkpoint(conversion, folder / str(number))
        for file in layout.files:
            if file.kind == FileKind.safetensors:
                assert (folder / str(number) / file.path).stat().st_size == file_size(file, conversion.dtypes(file))
        source = read = open_checkpoint(folder / str(number))
        assert read.origin.layout == layout.layout
        assert read.differing_copies() == []
        assert all_bits(read) == {name: bits(tensor) for name, tensor in tensors.items()}


def test_rows_that_only_pad_are_zero_and_cut_off_again(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    source = in_memory(tensors)
    layout = megatron_target(source.network, 3, [3], iteration="1", multiple=64)
    write_checkpoint(Conversion(source, source.network, layout), tmp_path / "padded")
    parts = [
        torch.load(tmp_path / f"padded/iter_0000001/mp_rank_{rank:02d}/model_optim_rng.pt", weights_only=False)
        for rank in range(3)
    ]
    whole = torch.cat([part["model"]["language_model"]["embedding"]["word_embeddings"]["weight"] for part in parts])
    assert len(whole) == 192
    assert torch.equal(whole[:40], tensors["model.embed_tokens.weight"])
    assert not whole[40:].any()
    assert open_checkpoint(tmp_path / "padded").config == CONFIG


def test_another_vocabulary_cuts_rows_off_or_adds_zeros(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    source = in_memory(tensors)
    for size in (30, 50):
        network = Network(YuanConfig(size, 24, 3, 6, 36, 32))
        write_checkpoint(Conversion(source, network, native_target(network)), tmp_path / str(size))
        rows = open_checkpoint(tmp_path / str(size)).tensor("model.embed_tokens.weight")
        assert torch.equal(rows[:40], tensors["model.embed_tokens.weight"][:size])
        assert not rows[40:].any()


def test_blocks_smaller_than_tensors_come_out_the_same(
    tmp_path: Path, tensors: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = all_bits(to_native(in_memory(tensors), tmp_path / "whole"))
    monkeypatch.setattr("yuan_checkpoint.conversion.BLOCK_BYTES", 700)
    original = open_checkpoint(write_original(tmp_path / "original", CONFIG, tensors, 2, [1, 2]))
    assert all_bits(to_native(original, tmp_path / "blocks")) == expected
    for file in (tmp_path / "whole").iterdir():
        assert file.read_bytes() == (tmp_path / "blocks" / file.name).read_bytes()


def test_number_formats_change_only_when_asked_and_as_torch_changes_them(
    tmp_path: Path, tensors: dict[str, Tensor]
) -> None:
    for dtype in (torch.bfloat16, torch.float16):
        read = to_native(in_memory(tensors), tmp_path / str(dtype), dtype)
        assert all_bits(read) == {name: bits(tensor.to(dtype)) for name, tensor in tensors.items()}


def test_int8_matrices_come_back_within_the_error_that_is_told(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    source = in_memory(tensors)
    told = write_checkpoint(
        Conversion(source, source.network, native_target(source.network, int8=True), torch.int8), tmp_path / "int8"
    )
    errors = {one.name: one for one in told}
    read, folder = open_checkpoint(tmp_path / "int8"), ModelFolder(tmp_path / "int8")
    assert not read.native
    for name, tensor in tensors.items():
        back = read.tensor(name)
        assert torch.equal(back, folder.tensor(name))
        if name not in errors:
            assert torch.equal(back, tensor)
            continue
        assert load_file(read_file(read, name))[name].dtype == torch.int8
        assert errors[name].largest == pytest.approx(float((back - tensor).abs().max()), rel=1e-5)
        assert errors[name].relative == pytest.approx(float((back - tensor).norm() / tensor.norm()), rel=1e-4)
        assert errors[name].relative < 0.01
    assert sorted(errors) == sorted(name for name in tensors if name.endswith("_proj.weight"))
    assert load_model(tmp_path / "int8")(torch.arange(8)[None]).isfinite().all()


def read_file(checkpoint: Checkpoint, name: str) -> Path:
    return next(one.file for one in checkpoint.held if one.stored.key == name)


def test_values_that_are_not_finite_are_named_and_nothing_is_made(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    tensors["model.layers.1.mlp.up_proj.weight"][3, 2] = torch.nan
    tensors["model.norm.weight"][0] = -torch.inf
    said = (
        r"not finite in model\.layers\.1\.mlp\.up_proj\.weight \(1 NaN, 0 infinite\), "
        r"model\.norm\.weight \(0 NaN, 1 infinite\)"
    )
    with pytest.raises(CheckpointError, match=said):
        to_native(in_memory(tensors), tmp_path / "out")
    assert not (tmp_path / "out" / "config.json").exists()


def test_values_that_fp16_cannot_hold_are_named(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    tensors["model.norm.weight"][5] = 1e5
    with pytest.raises(CheckpointError, match=r"tensor model\.norm\.weight has values beyond float16's largest"):
        to_native(in_memory(tensors), tmp_path / "out", torch.float16)


def test_large_values_whose_sum_is_not_finite_are_finite(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    tensors["model.norm.weight"][:] = 3e38
    assert torch.equal(
        to_native(in_memory(tensors), tmp_path / "out").tensor("model.norm.weight"), tensors["model.norm.weight"]
    )


class Killed(BaseException):
    pass


class Dying:
    """A source that dies at a parameter."""

    def __init__(self, source: Source, name: str) -> None:
        self.network, self._source, self._name = source.network, source, name

    def dtype(self, name: str) -> torch.dtype:
        return self._source.dtype(name)

    def read(self, name: str, area: Area, out: Tensor) -> None:
        if name == self._name:
            raise Killed
        self._source.read(name, area, out)

    def check_unchanged(self) -> None:
        pass


@pytest.mark.parametrize("layout", ["native", "megatron", "huggingface"])
def test_a_conversion_that_dies_leaves_nothing_whole_and_goes_on_with_finished_files(
    tmp_path: Path, tensors: dict[str, Tensor], layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("yuan_checkpoint.conversion.MOST_WORKERS", 1)
    source, out = in_memory(tensors), tmp_path / "out"
    network = source.network
    made = {
        "native": native_target(network),
        "megatron": megatron_target(network, 1, [1, 1, 1]),
        "huggingface": huggingface_target(network, dict.fromkeys(network.shapes, torch.float32), shard_bytes=20_000),
    }[layout]
    identity = conversion_identity(Conversion(source, network, made), "source")
    with pytest.raises(Killed):
        write_checkpoint(
            Conversion(Dying(source, "model.layers.2.mlp.up_proj.weight"), network, made), out, identity=identity
        )
    finished = [out / file.path for file in made.files if (out / file.path).exists()]
    assert 0 < len(finished) < len(made.files)
    with pytest.raises(CheckpointError):
        open_checkpoint(out)
    times = {file: file.stat().st_mtime_ns for file in finished}
    (out / "left.tmp").write_bytes(b"of the process that died")
    write_checkpoint(Conversion(source, network, made), out, identity=identity)
    assert {file: file.stat().st_mtime_ns for file in finished} == times
    assert not list(out.rglob("*.tmp"))
    assert all_bits(open_checkpoint(out)) == {name: bits(tensor) for name, tensor in tensors.items()}
    tensors["model.norm.weight"] += 1
    write_checkpoint(Conversion(source, network, made), out, identity="another")
    assert all_bits(open_checkpoint(out)) == {name: bits(tensor) for name, tensor in tensors.items()}


def test_a_wish_from_outside_ends_it(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    def watch(_: int) -> None:
        raise Killed

    source = in_memory(tensors)
    with pytest.raises(Killed):
        write_checkpoint(Conversion(source, source.network, native_target(source.network)), tmp_path / "o", watch=watch)


def test_a_source_that_changes_underneath_is_refused(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    to_native(in_memory(tensors), tmp_path / "source").close()
    source = open_checkpoint(tmp_path / "source")
    os.utime(source.files[-1], ns=(1, 1))
    with pytest.raises(CheckpointError, match=f"{source.files[-1]}: changed while it was read"):
        to_native(source, tmp_path / "out")
    assert not (tmp_path / "out" / "config.json").exists()


def test_a_source_that_is_cut_off_underneath_is_named(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    to_native(in_memory(tensors), tmp_path / "source").close()
    source = open_checkpoint(tmp_path / "source")
    file = tmp_path / "source" / "model-layer-00001.safetensors"
    os.truncate(file, file.stat().st_size // 2)
    with pytest.raises(CheckpointError, match=f"{file}: ends at byte"):
        to_native(source, tmp_path / "out")


@pytest.fixture
def damaged(tmp_path: Path, tensors: dict[str, Tensor]) -> Path:
    to_native(in_memory(tensors), tmp_path / "model").close()
    return tmp_path / "model"


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (b"\xff" * 8, "its header of .* bytes is not there"),
        (b"\x02\0\0\0\0\0\0\0[]", "its header is no table"),
        (b"\x02\0\0\0\0\0\0\0{]", "its header is no JSON"),
        (b'{"a":{"dtype":"F32","shape":[99999999999],"data_offsets":[0,4]}}', "has 4 bytes; F32"),
        (b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', "is cut off: its header speaks of"),
        (b'{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,-4]}}', "is not described as safetensors"),
        (b'{"a":{"dtype":"F32","shape":[0],"data_offsets":[4,4]}}', "does not begin where the one before it ends"),
        (b'{"a":{"dtype":"F3","shape":[1],"data_offsets":[0,4]}}', "is stored as F3; expected one of"),
        (b'{"a":7}', "is not described as safetensors"),
    ],
)
def test_a_header_that_cannot_be_is_refused_before_anything_is_allocated(
    damaged: Path, header: bytes, said: str
) -> None:
    file = damaged / "model-layer-00001.safetensors"
    file.write_bytes(header if header[:1] != b"{" else len(header).to_bytes(8, "little") + header)
    with pytest.raises(CheckpointError, match=f"{file}: .*{said}") as raised:
        open_checkpoint(damaged)
    assert "\n" not in str(raised.value)


def test_what_contradicts_the_config_is_named(damaged: Path) -> None:
    file = damaged / "model-embedding.safetensors"
    save_file({**load_file(file), "model.norm.weight": torch.ones(25)}, file)
    with pytest.raises(CheckpointError, match=rf"{file}: tensor model\.norm\.weight has shape \[25\]; .* \[24\]"):
        open_checkpoint(damaged)
    save_file({"model.embed_tokens.weight": torch.ones(40, 24)}, file)
    with pytest.raises(CheckpointError, match=r"tensor model\.norm\.weight is not in this file"):
        open_checkpoint(damaged)
    file.unlink()
    with pytest.raises(CheckpointError, match=f"{file}: missing, though model.safetensors.index.json names it"):
        open_checkpoint(damaged)


# --- looking at them ---------------------------------------------------------------------------------------------


def test_both_sides_of_a_conversion_compute_the_same(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    source = in_memory(tensors)
    layout = megatron_target(source.network, 2, [1, 2])
    write_checkpoint(Conversion(source, source.network, layout), tmp_path / "out")
    written = open_checkpoint(tmp_path / "out")
    assert verify(source, written).largest == 0.0
    ids = torch.randint(40, (1, 32), generator=torch.Generator().manual_seed(20_231_127))
    logits = load_model_of(source, tmp_path / "model")(ids)
    assert verify(source, written).scale == pytest.approx(float(logits.std()), rel=1e-4)
    tensors["model.layers.1.self_attn.v_proj.weight"][0, 0] += 0.5
    assert verify(source, written).largest > 1e-4


def load_model_of(source: Source, folder: Path) -> torch.nn.Module:
    to_native(source, folder)
    return load_model(folder)


def test_differences_are_told_by_parameter_over_layouts(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    first = to_native(in_memory(tensors), tmp_path / "first")
    name = "model.layers.0.self_attn.qk_proj.weight"
    tensors[name] = tensors[name].clone()
    tensors[name][30, 2] += 2.0
    source = in_memory(tensors)
    layout = huggingface_target(source.network, dict.fromkeys(tensors, torch.float32))
    write_checkpoint(Conversion(source, source.network, layout), tmp_path / "second")
    found = {one.name: one for one in differences(first, open_checkpoint(tmp_path / "second"))}
    assert [key for key, one in found.items() if not one.same] == [name]
    assert (found[name].values, found[name].largest) == (1, pytest.approx(2.0, rel=1e-5))


def test_an_inspection_says_layout_division_and_statistics(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    original = open_checkpoint(write_original(tmp_path / "original", CONFIG, tensors, 2, [1, 2]))
    found = inspect(original, values=True, hash_files=True)
    assert (found.layout, found.tensor, found.stages, found.step) == ("megatron", 2, (1, 2), 20)
    assert found.parameter_count == CONFIG.parameter_count()
    assert all(one.sha256 and len(one.sha256) == 64 for one in found.files)
    one = next(one for one in found.tensors if one.name.endswith("layers.0.mlp.dense_h_to_4h.weight"))
    parts = [tensors[f"model.layers.0.mlp.{name}_proj.weight"][:18] for name in ("up", "gate")]
    assert one.statistics is not None
    assert one.statistics.largest == float(torch.cat(parts).max())
    assert one.statistics.mean == pytest.approx(float(torch.cat(parts).mean()), abs=1e-6)
    assert one.statistics.deviation == pytest.approx(float(torch.cat(parts).std(correction=0)), rel=1e-5)
    assert one.parameters == ("model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.gate_proj.weight")


def test_headers_are_all_that_is_read_unless_values_are_asked_for(
    tmp_path: Path, tensors: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = open_checkpoint(write_original(tmp_path / "original", CONFIG, tensors, 2, [3]))

    def refuse(*_: object) -> None:
        raise AssertionError("values were read")

    monkeypatch.setattr("yuan_checkpoint.entries.OpenFiles._fill", refuse)
    # Embedding, final norm and twelve of each layer, on both ranks.
    assert len(inspect(original, values=False).tensors) == 2 * (2 + 3 * 12)


# --- adapters ----------------------------------------------------------------------------------------------------


def write_adapter(folder: Path, parts: dict[str, Tensor]) -> Path:
    folder.mkdir()
    save_file(parts, folder / "adapter.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"method": "lora", "rank": 2, "alpha": 6.0}))
    return folder


def test_an_adapter_is_merged_into_the_matrices_it_is_for(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    matrix = "model.layers.1.self_attn.qk_proj"
    a, b = torch.randn(2, 24), torch.randn(48, 2)
    adapter = write_adapter(tmp_path / "adapter", {f"{matrix}.lora_a": a, f"{matrix}.lora_b": b})
    source = Merged(in_memory(tensors), adapter)
    layout = megatron_target(source.network, 3, [3])
    write_checkpoint(Conversion(source, source.network, layout), tmp_path / "out")
    read = open_checkpoint(tmp_path / "out")
    for name, tensor in tensors.items():
        expected = tensor + 3.0 * b @ a if name == f"{matrix}.weight" else tensor
        torch.testing.assert_close(read.tensor(name), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"model.layers.9.self_attn.qk_proj.lora_a": torch.ones(2, 24)}, "is no addition to a matrix of this network"),
        ({"model.layers.1.self_attn.qk_proj.lora_a": torch.ones(2, 24)}, "has parts of shape"),
        (
            {
                "model.layers.1.self_attn.qk_proj.lora_a": torch.ones(2, 9),
                "model.layers.1.self_attn.qk_proj.lora_b": torch.ones(48, 2),
            },
            "has parts of shape",
        ),
    ],
)
def test_an_adapter_of_another_network_is_refused(
    tmp_path: Path, tensors: dict[str, Tensor], parts: dict[str, Tensor], said: str
) -> None:
    with pytest.raises(CheckpointError, match=said):
        Merged(in_memory(tensors), write_adapter(tmp_path / "adapter", parts))


def test_a_folder_without_an_adapter_is_named(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    with pytest.raises(CheckpointError, match=f"{tmp_path}: holds no adapter.safetensors"):
        Merged(in_memory(tensors), tmp_path)
