"""The `.bin`/`.idx` layout: byte for byte as the original writes it, and refused where it is broken."""

import pickle
import struct
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yuan_corpus import IndexedDataset, IndexedDatasetError, IndexedDatasetWriter, dtype_for_vocabulary, open_dataset
from yuan_corpus.indexed_layout import MAGIC

DOCUMENTS = [[1, 2, 3], [], [70000, 5], [9]]


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    path = tmp_path / "a.b"
    with IndexedDatasetWriter(path, np.int32) as writer:
        for document in DOCUMENTS:
            writer.add_document(document)
    return path


def test_documents_come_back_as_written(prefix: Path) -> None:
    dataset = IndexedDataset(prefix)

    assert [dataset[item].tolist() for item in range(len(dataset))] == DOCUMENTS
    assert dataset.documents.tolist() == [0, 1, 2, 3, 4]
    assert dataset.document_array_stored
    assert dataset.token_count == 6
    assert dataset.get(2, 1, 1).tolist() == [5]
    assert dataset.get(0, 1).tolist() == [2, 3]


@given(
    st.lists(st.lists(st.integers(0, 65535), max_size=20), max_size=20),
    st.sampled_from([np.uint16, np.int32, np.int64]),
)
@settings(max_examples=50, deadline=None)
def test_whatever_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, documents: list[list[int]], dtype: type
) -> None:
    prefix = tmp_path_factory.mktemp("any") / "x"
    with IndexedDatasetWriter(prefix, dtype) as writer:
        writer.add_documents(
            np.array(list(chain(*documents)), np.int64), np.array([len(d) for d in documents], np.int64)
        )
    dataset = IndexedDataset(prefix)

    assert [dataset[item].tolist() for item in range(len(dataset))] == documents
    assert dataset.dtype == np.dtype(dtype)


def test_the_originals_document_mode_file_is_read_and_its_items_are_documents(shared: Path) -> None:
    dataset = IndexedDataset(shared / "data" / "golden" / "tiny_document_context")

    assert [dataset[item].tolist() for item in range(3)] == [
        [1, 2, 3, 77185],
        [134952, 77185],
        [5, 6, 7, 8, 9, 77185],
    ]
    assert not dataset.document_array_stored
    assert dataset.documents.tolist() == [0, 1, 2, 3]


def test_rewriting_the_originals_document_mode_file_changes_only_its_document_array(
    shared: Path, tmp_path: Path
) -> None:
    golden = shared / "data" / "golden" / "tiny_document_context"
    dataset = IndexedDataset(golden)
    with IndexedDatasetWriter(tmp_path / "x", dataset.dtype) as writer:
        for item in range(len(dataset)):
            writer.add_document(dataset[item])

    assert (tmp_path / "x.bin").read_bytes() == golden.with_suffix(".bin").read_bytes()
    expected = bytearray(golden.with_suffix(".idx").read_bytes() + struct.pack("<qqq", 1, 2, 3))
    expected[26:34] = struct.pack("<Q", 4)
    assert (tmp_path / "x.idx").read_bytes() == bytes(expected)


def test_rewriting_the_originals_sentence_mode_file_gives_the_same_bytes(shared: Path, tmp_path: Path) -> None:
    golden = shared / "data" / "golden" / "tiny_sentence_context"
    dataset = IndexedDataset(golden)
    with IndexedDatasetWriter(tmp_path / "x", dataset.dtype) as writer:
        for first, end in zip(dataset.documents[:-1], dataset.documents[1:], strict=True):
            for item in range(first, end):
                writer.add_item(dataset[item])
            writer.end_document()

    for suffix in (".bin", ".idx"):
        assert (tmp_path / f"x{suffix}").read_bytes() == golden.with_suffix(suffix).read_bytes()


def test_a_path_with_its_suffix_means_the_pair(prefix: Path) -> None:
    assert len(IndexedDataset(f"{prefix}.idx")) == len(IndexedDataset(f"{prefix}.bin")) == 4


def test_a_dataset_is_pickled_as_its_path(prefix: Path) -> None:
    pickled = pickle.dumps(IndexedDataset(prefix))

    assert len(pickled) < 500
    assert pickle.loads(pickled)[0].tolist() == [1, 2, 3]  # noqa: S301


def test_an_error_while_writing_leaves_nothing(tmp_path: Path) -> None:
    def write_and_fail() -> None:
        with IndexedDatasetWriter(tmp_path / "x", np.int32) as writer:
            writer.add_document([1])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_and_fail()
    assert list(tmp_path.iterdir()) == []


def test_until_it_is_finished_only_temporary_files_exist(tmp_path: Path) -> None:
    writer = IndexedDatasetWriter(tmp_path / "x", np.int32)
    writer.add_document([1])

    assert [path.name for path in tmp_path.iterdir()] == ["x.bin.tmp"]
    writer.finish()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.bin", "x.idx"]


def test_ids_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    writer = IndexedDatasetWriter(tmp_path / "x", np.uint16)

    with pytest.raises(IndexedDatasetError, match="ids from 1 to 65536 do not fit uint16"):
        writer.add_document([1, 65536])
    writer.discard()


def test_floats_are_no_ids(tmp_path: Path) -> None:
    with pytest.raises(IndexedDatasetError, match="float32"):
        IndexedDatasetWriter(tmp_path / "x", np.float32)


@pytest.mark.parametrize(("vocab_size", "name"), [(65499, "uint16"), (65500, "int32"), (135040, "int32")])
def test_small_vocabularies_take_two_bytes_an_id(vocab_size: int, name: str) -> None:
    assert dtype_for_vocabulary(vocab_size).name == name


@pytest.mark.parametrize("item", [-1, 4])
def test_an_item_that_does_not_exist_is_an_index_error(prefix: Path, item: int) -> None:
    with pytest.raises(IndexError):
        IndexedDataset(prefix)[item]


@pytest.mark.parametrize(("offset", "length"), [(-1, 1), (0, 4), (4, 0), (0, -1)])
def test_a_part_that_an_item_does_not_have_is_an_index_error(prefix: Path, offset: int, length: int) -> None:
    with pytest.raises(IndexError):
        IndexedDataset(prefix).get(0, offset, length)


def test_multimodal_modes_after_the_document_array_are_passed_over(prefix: Path) -> None:
    with Path(f"{prefix}.idx").open("ab") as file:
        file.write(bytes(4))

    assert IndexedDataset(prefix)[0].tolist() == [1, 2, 3]


def patched(prefix: Path, offset: int, content: bytes) -> None:
    with Path(f"{prefix}.idx").open("r+b") as file:
        file.seek(offset)
        file.write(content)


@pytest.mark.parametrize(
    ("offset", "content", "fault"),
    [
        (0, b"TNTIDX\0\0", "not an index of a .bin file"),
        (9, struct.pack("<Q", 2), "version 2; only 1 is known"),
        (17, b"\x09", "dtype code 9 is unknown"),
        (17, b"\x07", "stored as float32"),
        (18, struct.pack("<Q", 5), "it has 122 bytes where 5 items"),
        (18, struct.pack("<Q", 2**63), "it has 122 bytes where"),
        (34, struct.pack("<i", -1), "item 0 has the negative length -1"),
        (34, struct.pack("<i", 7), r"item 0 \(7 tokens at byte 0\) lies outside a.b.bin, which has 24 bytes"),
        (50, struct.pack("<q", -4), "item 0 .* lies outside"),
        (50, struct.pack("<q", 2**63 - 1), "item 0 .* lies outside"),
        (82, struct.pack("<q", 1), "begins with 1 and not with 0"),
        (90, struct.pack("<q", 4), "its document array falls at position 2"),
        (114, struct.pack("<q", 9), "ends with 9 where it has 4 items"),
    ],
)
def test_a_broken_index_is_refused_with_its_fault(prefix: Path, offset: int, content: bytes, fault: str) -> None:
    patched(prefix, offset, content)

    with pytest.raises(IndexedDatasetError, match=fault) as caught:
        IndexedDataset(prefix)
    assert str(caught.value).startswith(f"{prefix}.idx: ")
    assert "\n" not in str(caught.value)


def test_a_bin_file_that_was_cut_is_refused(prefix: Path) -> None:
    data = Path(f"{prefix}.bin")
    data.write_bytes(data.read_bytes()[:-1])

    with pytest.raises(IndexedDatasetError, match=r"item 3 \(1 tokens at byte 20\) lies outside"):
        IndexedDataset(prefix)


@pytest.mark.parametrize("suffix", [".bin", ".idx"])
def test_a_missing_half_is_named(prefix: Path, suffix: str) -> None:
    Path(f"{prefix}{suffix}").unlink()

    with pytest.raises(IndexedDatasetError, match=rf"a\.b\{suffix}: no such file"):
        IndexedDataset(prefix)


def try_to_read(prefix: Path) -> None:
    """Reads everything, or is refused in one line that names the file; anything else fails."""
    try:
        dataset = IndexedDataset(prefix)
    except IndexedDatasetError as refused:
        error = refused
    else:
        for item in range(len(dataset)):
            assert len(dataset[item]) == dataset.lengths[item]
        return
    assert str(error).startswith(str(prefix))
    assert "\n" not in str(error)


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    prefix = tmp_path_factory.mktemp("fuzz") / "x"
    with IndexedDatasetWriter(prefix, np.uint16) as writer:
        for length in (3, 0, 17, 1):
            writer.add_document(range(length))
    return prefix, Path(f"{prefix}.idx").read_bytes()


@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_a_garbled_index_is_read_or_refused_but_never_a_crash(fuzzed: tuple[Path, bytes], data: st.DataObject) -> None:
    prefix, content = fuzzed
    garbled = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(garbled) - 1))
        piece = data.draw(
            st.one_of(st.binary(min_size=1, max_size=9), st.sampled_from([b"\xff" * 8, b"\x80", bytes(8)]))
        )
        garbled[start : start + len(piece)] = piece
    Path(f"{prefix}.idx").write_bytes(bytes(garbled))
    try_to_read(prefix)


@given(st.integers(0, 200))
@settings(max_examples=100, deadline=None)
def test_an_index_cut_anywhere_is_refused(fuzzed: tuple[Path, bytes], length: int) -> None:
    prefix, content = fuzzed
    Path(f"{prefix}.idx").write_bytes(content[:length])
    try_to_read(prefix)
    if length < len(content):
        with pytest.raises(IndexedDatasetError):
            IndexedDataset(prefix)


@given(st.binary(max_size=300))
@settings(max_examples=100, deadline=None)
def test_any_bytes_behind_a_right_beginning_are_read_or_refused(fuzzed: tuple[Path, bytes], tail: bytes) -> None:
    prefix, _ = fuzzed
    Path(f"{prefix}.idx").write_bytes(MAGIC + struct.pack("<Q", 1) + tail)
    try_to_read(prefix)


def test_a_folder_of_shards_is_read_as_one(tmp_path: Path) -> None:
    for name, documents in (("c", [[7], [8, 8]]), ("a", [[1, 2], []]), ("b", [])):
        with IndexedDatasetWriter(tmp_path / name, np.uint16) as writer:
            for document in documents:
                writer.add_document(document)
    dataset = open_dataset(tmp_path)

    assert [dataset[item].tolist() for item in range(len(dataset))] == [[1, 2], [], [7], [8, 8]]
    assert dataset.lengths.tolist() == [2, 0, 1, 2]
    assert dataset.get(3, 1, 1).tolist() == [8]
    with pytest.raises(IndexError):
        dataset[4]


def test_shards_of_different_dtypes_are_refused(tmp_path: Path) -> None:
    for name, dtype in (("part-00000", np.uint16), ("part-00001", np.int32)):
        with IndexedDatasetWriter(tmp_path / name, dtype) as writer:
            writer.add_document([1])

    with pytest.raises(IndexedDatasetError, match=r"part-00001: stores int32 where .*part-00000 stores uint16"):
        open_dataset(tmp_path)


def test_a_folder_without_a_pair_is_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(IndexedDatasetError, match="it is not a dataset"):
        open_dataset(tmp_path)
