"""Files of torch.save are read without running anything in them, and only where all that they speak of is there."""

import os
import pickle
import struct
import zipfile
from argparse import Namespace
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from yuan_checkpoint.description import Area
from yuan_checkpoint.entries import OpenFiles
from yuan_checkpoint.torch_files import TorchFile, open_torch_file, tensors_below
from yuan_checkpoint.unpickling import Unknown, UnreadableFileError, namespace_values


class Attack:
    """An object whose pickle says: call os.system."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (self.command,)


def values(opened: TorchFile) -> dict[str, torch.Tensor]:
    files = OpenFiles()
    files.add(opened.path)
    return {key: files.read(opened.entry(key, tensor)) for key, tensor in tensors_below(opened.content)}


@pytest.mark.parametrize("legacy", [False, True])
def test_a_file_that_would_run_a_command_runs_none(tmp_path: Path, legacy: bool) -> None:
    mark, file = tmp_path / "attacked", tmp_path / "file.pt"
    content = {"model": torch.ones(2), "attack": Attack(f"touch {mark}")}
    torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    opened = open_torch_file(file)
    assert torch.equal(values(opened)["model"], torch.ones(2))
    assert isinstance(opened.content["attack"], Unknown)
    assert not mark.exists()


@pytest.mark.parametrize(
    "code",
    [
        b"cos\nsystem\n(S'touch MARK'\ntR.",
        b'cbuiltins\neval\n(S\'open("MARK", "w")\'\ntR.',
        b"ctorch._utils\n_rebuild_tensor_v2\n}S'__globals__'\nS'x'\nsb.",
        b"ctorch._utils\n_rebuild_tensor_v2\n(I1\nI2\nI3\nI4\ntR.",
        b"ctorch\nload\n(S'MARK'\ntR.",
        b"cposix\nsystem\n(S'touch MARK'\ntR0.",
        b"csubprocess\nPopen\n(S'touch MARK'\ntR.",
    ],
)
def test_no_pickle_reaches_a_function_of_this_machine(tmp_path: Path, code: bytes) -> None:
    mark, file = tmp_path / "attacked", tmp_path / "file.pt"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", code.replace(b"MARK", str(mark).encode()))
    with suppress(UnreadableFileError):
        open_torch_file(file)
    assert not mark.exists()


def test_objects_of_any_shape_are_read_over(tmp_path: Path) -> None:
    everything = {"list": [{1, 2}, 3], "path": Path("/x"), "error": ValueError("y"), "namespace": Namespace(a=1)}
    torch.save(everything, tmp_path / "file.pt")
    read = open_torch_file(tmp_path / "file.pt").content
    assert namespace_values(read["namespace"]) == {"a": 1}
    assert read["list"][1] == 3


@pytest.mark.parametrize("legacy", [False, True])
def test_tensors_of_every_layout_in_memory_are_read_as_they_are(tmp_path: Path, legacy: bool) -> None:
    whole = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    tree = {
        "whole": whole,
        "part": whole[1:3],
        "columns": whole[:, 2:5],
        "turned": whole.T,
        "once": torch.ones(1, 1).expand(3, 4),
        "scalar": torch.tensor(7.0),
        "empty": torch.zeros(0, 5),
        "half": {"below": torch.randn(5).bfloat16()},
        "parameter": torch.nn.Parameter(torch.randn(2, 2)),
    }
    torch.save(tree, tmp_path / "file.pt", _use_new_zipfile_serialization=not legacy)
    found = values(open_torch_file(tmp_path / "file.pt"))
    tree["half.below"] = tree.pop("half")["below"]
    assert found.keys() == tree.keys()
    for name, tensor in tree.items():
        assert torch.equal(found[name], tensor), name


@settings(max_examples=60)
@given(data=st.data())
def test_a_block_is_what_slicing_gives(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    rows, columns = data.draw(st.integers(1, 40)), data.draw(st.sampled_from([1, 3, 1500]))
    row, column = data.draw(st.integers(0, rows)), data.draw(st.integers(0, columns))
    area = Area(row, data.draw(st.integers(0, rows - row)), column, data.draw(st.integers(0, columns - column)))
    file = tmp_path_factory.mktemp("block") / "file.pt"
    whole = torch.randn(rows, columns)
    torch.save({"whole": whole}, file)
    opened, files = open_torch_file(file), OpenFiles()
    files.add(file)
    out = torch.full((area.rows, area.columns + 2), 5.0)[:, 1:-1]  # rows that lie apart
    files.read_into(opened.entry("whole", opened.content["whole"]), area, out)
    assert torch.equal(out, whole[row : row + area.rows, column : column + area.columns])


@pytest.mark.parametrize("content", [b"", b"no such file", pickle.dumps({"model": 1}), b"PK\x03\x04 and no more"])
def test_a_file_that_torch_did_not_write_is_named(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "file.pt"
    file.write_bytes(content)
    with pytest.raises(UnreadableFileError, match=r"file\.pt: not readable") as raised:
        open_torch_file(file)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path, legacy: bool) -> None:
    file = tmp_path / "file.pt"
    torch.save({"model": torch.randn(50, 50)}, file, _use_new_zipfile_serialization=not legacy)
    whole = file.read_bytes()
    for length in (*range(0, 400, 7), len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:length])
        with pytest.raises(UnreadableFileError):
            open_torch_file(file)


def claimed(path: Path, size: int, offset: int, shape: tuple[int, ...], stride: tuple[int, ...]) -> Path:
    """A file whose pickle speaks of a tensor that its one storage of 4 numbers need not hold."""

    class Values:
        pass

    class Tensor:
        def __reduce__(self) -> Any:
            from collections import OrderedDict

            rebuild = torch._utils._rebuild_tensor_v2
            return rebuild, (Values(), offset, shape, stride, False, OrderedDict())

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: object) -> Any:
            return ("storage", torch.FloatStorage, "0", "cpu", size) if isinstance(obj, Values) else None

    with zipfile.ZipFile(path, "w") as archive:
        with archive.open("archive/data.pkl", "w") as out:
            Pickler(out, protocol=2).dump({"model": Tensor()})
        archive.writestr("archive/data/0", struct.pack("<4f", 1, 2, 3, 4))
    return path


@pytest.mark.parametrize(
    ("size", "offset", "shape", "stride"),
    [
        (1 << 60, 0, (1 << 60,), (1,)),
        (4, 0, (1 << 40, 1 << 40), (0, 1)),
        (4, 2, (3,), (1,)),
        (4, 0, (2, 2), (4, 1)),
        (4, -1, (2,), (1,)),
        (4, 0, (-2,), (1,)),
        (5, 0, (5,), (1,)),
    ],
)
def test_a_tensor_larger_than_its_values_is_refused_before_anything_is_allocated(
    tmp_path: Path, size: int, offset: int, shape: tuple[int, ...], stride: tuple[int, ...]
) -> None:
    with pytest.raises(UnreadableFileError) as raised:
        open_torch_file(claimed(tmp_path / "file.pt", size, offset, shape, stride))
    assert "\n" not in str(raised.value)


def test_the_memo_of_a_pickle_cannot_ask_for_more_than_it_holds(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "file.pt", "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}r\xff\xff\xff\x7f.")
    with pytest.raises(UnreadableFileError, match="remembers more than it holds"):
        open_torch_file(tmp_path / "file.pt")


def test_packed_entries_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "file.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}." + b"0" * (1 << 20))
    with pytest.raises(UnreadableFileError, match=r"is packed, which torch\.save never does"):
        open_torch_file(tmp_path / "file.pt")
