"""Formats, compressions, encodings and file systems; what is broken is named or skipped."""

import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path

import fsspec
import pyarrow as arrow
import pyarrow.parquet as arrow_parquet
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from yuan_corpus import Reading, RemoteFile, Source, TextError, Tokenizer, find_text_files, tokenize_corpus
from yuan_corpus import documents as documents_module
from yuan_corpus.documents import SkipLog, expand, read_documents, slice_files
from yuan_corpus.sources import decompressed

TEXTS = ["one, with a comma", 'two\nlines and a "quote"', "三国演义：滚滚长江东逝水", "last"]
CHINESE = (
    "滚滚长江东逝水，浪花淘尽英雄。是非成败转头空，青山依旧在，几度夕阳红。这是我们的国家，他们在这里看了一个人。\n"
)


def read(*paths: Source, log: SkipLog | None = None, **options: object) -> list[str]:
    how = Reading(**options)  # pyright: ignore[reportArgumentType]
    return [document for part in expand(slice_files(paths, how), how) for document in read_documents(part, how, log)]


def as_jsonl(texts: list[str]) -> bytes:
    return "".join(json.dumps({"id": 1, "text": text}, ensure_ascii=False) + "\n" for text in texts).encode()


def as_csv(texts: list[str]) -> bytes:
    rows = ['7,"' + text.replace('"', '""') + '"' for text in texts]
    return ("id,text\r\n" + "\r\n".join(rows) + "\r\n").encode()


def as_txt(texts: list[str]) -> bytes:
    return "".join(text.replace("\n", "<n>") + "\n" for text in texts).encode()


FORMATS: dict[str, Callable[[list[str]], bytes]] = {"jsonl": as_jsonl, "csv": as_csv, "txt": as_txt}
COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    ".gz": lambda data: gzip.compress(data[:30]) + gzip.compress(data[30:]),
    ".zst": lambda data: zstandard.compress(data[:30]) + zstandard.compress(data[30:]),
}


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("slice_bytes", [7, 1 << 20])
def test_every_format_compressed_or_not_holds_the_same_documents(
    tmp_path: Path, suffix: str, compression: str, slice_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents_module, "SLICE_BYTES", slice_bytes)
    path = tmp_path / f"a.{suffix}{compression}"
    path.write_bytes(COMPRESSIONS[compression](FORMATS[suffix](TEXTS)))

    assert read(path) == TEXTS


def test_a_parquet_file_is_read_a_row_group_at_a_time(tmp_path: Path) -> None:
    table = arrow.table({"body": ["a", None, "", "b", "c"], "n": [1, 2, 3, 4, 5]})
    arrow_parquet.write_table(table, tmp_path / "a.parquet", row_group_size=2)
    how = Reading(text_field="body")
    slices = slice_files([tmp_path / "a.parquet"], how)

    assert [(part.start, part.stop) for part in slices] == [(0, 2), (2, 4), (4, 5)]
    assert sum(part.size for part in slices) == (tmp_path / "a.parquet").stat().st_size
    assert read(tmp_path / "a.parquet", text_field="body") == ["a", "b", "c"]


def test_a_large_row_group_is_read_in_batches_with_the_same_documents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [f"{number} {text}" for number in range(40) for text in TEXTS]
    path = tmp_path / "a.parquet"
    column = arrow.array([*texts[:100], "a\0b", *texts[100:]]).dictionary_encode()
    arrow_parquet.write_table(arrow.table({"text": column}), path)
    monkeypatch.setattr(documents_module, "LARGE_ROW_GROUP", 1)
    monkeypatch.setattr(documents_module, "SLICE_BYTES", 500)
    log = SkipLog()

    slices = list(expand(slice_files([path]), Reading()))

    assert len(slices) > 5
    assert sum(part.size for part in slices) == path.stat().st_size
    assert read(path, log=log, skip_broken=True) == texts
    assert log.first == [f"{path}: row 100 holds a NUL character"]


@pytest.mark.parametrize(("suffix", "most"), [("gz", 1 << 20), ("zst", 64 << 20)])
def test_what_is_decompressed_at_once_is_bounded(suffix: str, most: int) -> None:
    size = 200 << 20
    compress = zstandard.compress if suffix == "zst" else lambda data: gzip.compress(data, 1)
    pieces = decompressed(io.BytesIO(compress(bytes(size))), suffix)
    lengths = [len(piece) for piece in pieces]

    assert sum(lengths) == size
    assert max(lengths) <= most


def test_zstandard_of_a_long_window_is_read(tmp_path: Path) -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=30)
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    path = tmp_path / "a.txt.zst"
    path.write_bytes(stream.compress(b"one\ntwo\n") + stream.flush())

    assert read(path) == ["one", "two"]


def test_a_source_tree_is_a_document_a_file_also_compressed(tmp_path: Path) -> None:
    (tmp_path / "src/sub").mkdir(parents=True)
    (tmp_path / "src/a.py").write_text("x = 1\n")
    (tmp_path / "src/sub/b.py.gz").write_bytes(gzip.compress(b"y = 2\n"))

    assert read(*find_text_files([f"{tmp_path}/src/**/*.py*"])) == ["x = 1\n", "y = 2\n"]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r")), min_size=1, max_size=8))
@settings(max_examples=60, deadline=None)
def test_whatever_stands_in_csv_comes_back(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    path.write_bytes(as_csv(texts))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(documents_module, "SLICE_BYTES", 9)
        assert read(path) == [text for text in texts if text.strip()]


@pytest.mark.parametrize("slice_bytes", [1, 60, 1 << 20])
def test_a_quotation_mark_within_a_field_of_csv_quotes_nothing(
    tmp_path: Path, slice_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents_module, "SLICE_BYTES", slice_bytes)
    monkeypatch.setattr(documents_module, "LONGEST_DOCUMENT", 200)
    pipes = ['3" pipe', 'two\nlines, "quoted"', 'a 5"', "plain"] * 20
    fields = ['"' + text.replace('"', '""') + '"' if "\n" in text else text for text in pipes]
    path = tmp_path / "a.csv"
    path.write_text("n,text\n" + "".join(f"{number},{field}\n" for number, field in enumerate(fields)))

    assert read(path) == pipes
    path.write_bytes(path.read_bytes().replace(b"plain", b"\xff", 1))
    log = SkipLog()
    assert read(path, log=log, skip_broken=True) == [*pipes[:3], *pipes[4:]]
    assert log.count == 1


# --- encodings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030", "gbk", "utf-16", "utf-32"])
@pytest.mark.parametrize("name", ["a.txt", "a.py", "a.txt.gz"])
def test_an_encoding_is_detected(tmp_path: Path, encoding: str, name: str) -> None:
    data = (CHINESE * 40).encode(encoding)
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)

    assert "".join(read(tmp_path / name, encoding="auto")).removeprefix("\ufeff") == (
        CHINESE * 40 if name == "a.py" else CHINESE.strip() * 40
    )


@pytest.mark.parametrize("encoding", ["utf-8", "gb18030"])
def test_a_broken_line_does_not_change_what_encoding_is_detected(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "a.txt"
    good = CHINESE.encode(encoding)
    path.write_bytes(good * 20 + b"\xff\n" + good)

    with pytest.raises(TextError, match=rf"not {encoding}.* at byte {20 * len(good)}".replace("utf-8", "UTF-8")):
        read(path, encoding="auto")
    log = SkipLog()
    assert read(path, encoding="auto", skip_broken=True, log=log) == [CHINESE.strip()] * 21
    assert log.count == 1


@pytest.mark.parametrize("compression", [".gz", ".zst"])
def test_an_encoding_is_detected_from_more_than_the_first_piece(tmp_path: Path, compression: str) -> None:
    path = tmp_path / f"a.jsonl{compression}"
    # The first member or frame has nothing but ASCII.
    text = '{"n": "' + "x" * 30 + '", "text": "' + CHINESE.strip() + '"}\n'
    path.write_bytes(COMPRESSIONS[compression]((text * 20).encode("gb18030")))

    assert read(path, encoding="auto") == [CHINESE.strip()] * 20


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_wide_encodings_without_a_mark_are_detected(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("Plain English.\nA second line.\n".encode(encoding))

    assert read(path, encoding="auto") == ["Plain English.", "A second line."]
    path.write_bytes(b"a\0b\0\1\2\3\4 text\n")
    with pytest.raises(TextError, match="is NUL"):
        read(path, encoding="auto")


def test_other_encodings_are_detected_by_charset_normalizer(tmp_path: Path) -> None:
    text = "Все счастливые семьи похожи друг на друга, каждая несчастливая семья несчастлива по-своему. " * 20
    (tmp_path / "a.md").write_bytes(text.encode("koi8-r"))

    assert read(tmp_path / "a.md", encoding="auto") == [text]


def test_a_declared_encoding_is_taken_and_what_does_not_fit_it_is_said(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(CHINESE.encode("big5", "ignore"))
    assert read(path, encoding="big5") == [CHINESE.encode("big5", "ignore").decode("big5").strip()]

    path.write_bytes(b"abc\n" + b"\xff\xff\n")
    with pytest.raises(TextError, match=r"a\.txt: not big5 at byte 4 \(0xFF\)"):
        read(path, encoding="big5")


# --- broken input --------------------------------------------------------------------------------------------------

BROKEN = {
    "bytes.jsonl": (as_jsonl(["a"]) + b'{"text": "\xff"}\n' + as_jsonl(["b"]), r"not UTF-8 at byte 33 \(0xFF\)"),
    "json.jsonl": (as_jsonl(["a"]) + b"{x\n" + as_jsonl(["b"]), "the record at byte 23 is not JSON"),
    "field.jsonl": (as_jsonl(["a"]) + b'{"body": 1}\n' + as_jsonl(["b"]), "byte 23 has no field 'text'; it has body"),
    "type.jsonl": (as_jsonl(["a"]) + b'{"text": 1}\n' + as_jsonl(["b"]), "byte 23 has no text in its field 'text'"),
    "half.jsonl": (as_jsonl(["a"]) + b'{"text": "\\ud800"}\n' + as_jsonl(["b"]), "holds half of a surrogate pair"),
    "nul.txt": (b"a\nx\0y\nb\n", "byte 3 is NUL"),
    "long.csv": (b"text,n\na,1\nx\nb,2\n", "the record at line 3 has 1 fields, not 2"),
    "cut.txt.gz": (gzip.compress(b"a\nb\nc")[:-9], "the .gz data end too early at stored byte"),
    "cut.txt.zst": (zstandard.compress(b"a\nb\nc" * 9)[:-2], "the .zst data end too early at stored byte"),
    "damaged.txt.gz": (gzip.compress(b"a\nb\n") + b"nonsense", "damaged .gz data"),
    "x.parquet": (b"PAR1 not at all PAR1", "no Parquet file"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_named_with_its_place_or_skipped_and_counted(tmp_path: Path, name: str) -> None:
    data, words = BROKEN[name]
    (tmp_path / name).write_bytes(data)
    (tmp_path / "good.txt").write_text("good\n")

    with pytest.raises(TextError, match=words) as caught:
        read(tmp_path / name, tmp_path / "good.txt")
    assert str(tmp_path / name) in str(caught.value)
    log = SkipLog()
    found = read(tmp_path / name, tmp_path / "good.txt", log=log, skip_broken=True)
    assert found[-1] == "good"
    assert found[:-1] == (
        ["a", "b"] if name.rsplit(".", maxsplit=1)[-1] in ("jsonl", "csv", "txt") or "damaged" in name else found[:-1]
    )
    assert log.count == 1
    assert str(tmp_path / name) in log.first[0]


def test_every_broken_file_is_named_however_many_records_of_one_are(tmp_path: Path) -> None:
    first, second = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    first.write_text("{x\n" * 30)
    second.write_bytes(as_jsonl(["good"]) + b"[]\n")
    log = SkipLog()

    assert read(first, second, log=log, skip_broken=True) == ["good"]
    assert log.count == 31
    assert [place.partition(": ")[0] for place in log.first] == [str(first)] * 3 + [str(second)]
    with pytest.raises(TextError, match=r"byte 0 is not JSON .*; mend it, or leave out .* inputs\.on_error: skip"):
        read(first)


def test_a_column_that_is_not_there_is_said_with_those_that_are(tmp_path: Path) -> None:
    arrow_parquet.write_table(arrow.table({"body": ["a"]}), tmp_path / "a.parquet")
    (tmp_path / "a.csv").write_text("body\nx\n")

    for name in ("a.parquet", "a.csv"):
        with pytest.raises(TextError, match=r"has no column 'text'; it has body \(inputs\.text_field\)"):
            read(tmp_path / name)


@given(st.binary(max_size=200), st.sampled_from(["a.txt", "a.jsonl", "a.csv", "a.py", "a.txt.gz", "a.csv.zst"]))
@settings(max_examples=150, deadline=None)
def test_any_bytes_are_text_or_broken_and_never_a_crash(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, name: str
) -> None:
    path = tmp_path_factory.mktemp("fuzz") / name
    path.write_bytes(data + b"\n")
    for encoding in ("utf-8", "auto"):
        read(path, log=SkipLog(), skip_broken=True, encoding=encoding)


# --- file systems --------------------------------------------------------------------------------------------------


def test_urls_are_files_folders_and_globs_of_their_file_system() -> None:
    memory = fsspec.filesystem("memory")
    for name in ("b.jsonl", "a.txt", "sub/c.txt.gz", ".hidden.txt"):
        memory.pipe(f"/reading/{name}", gzip.compress(b"c") if name.endswith("gz") else as_jsonl(["b"]))
    memory.pipe("/reading/a.txt", b"a\n")

    assert find_text_files(["memory://reading/*.txt"]) == [RemoteFile("memory:///reading/a.txt")]
    assert read(*find_text_files(["memory://reading"])) == ["a", "b", "c"]
    assert read(*find_text_files(["memory://reading"], ["sub"])) == ["a", "b"]
    assert read(*find_text_files(["memory://reading/b.jsonl"])) == ["b"]
    with pytest.raises(TextError, match=r"text memory://reading/\*\.md: no such file"):
        find_text_files(["memory://reading/*.md"])


class NoEndpoint(Exception):
    """Is no OSError, as botocore's are none."""


class LostFile(io.BytesIO):
    def read(self, size: int | None = -1, /) -> bytes:
        raise NoEndpoint("connection lost")


class AwayFileSystem(fsspec.AbstractFileSystem):
    protocol = "away"

    def isfile(self, path: str) -> bool:
        if "server" in path:
            raise NoEndpoint("could not\nconnect")
        return True

    def info(self, path: str, **_: object) -> dict[str, object]:
        return {"name": path, "size": 10, "type": "file"}

    def open(self, path: str, *_: object, **__: object) -> LostFile:
        return LostFile()


def test_a_server_that_is_away_or_goes_away_is_said_in_one_line() -> None:
    fsspec.register_implementation("away", AwayFileSystem, clobber=True)
    with pytest.raises(
        TextError, match=r"^text away://server/a: cannot be looked at \(NoEndpoint: could not connect\)$"
    ):
        find_text_files(["away://server/a"])
    with pytest.raises(TextError, match=r"^away://a\.txt: cannot be read \(NoEndpoint: connection lost\); mend that"):
        read(*find_text_files(["away://a.txt"]))


def test_a_file_system_that_is_unknown_is_said() -> None:
    with pytest.raises(TextError, match="text nonsense://a: "):
        find_text_files(["nonsense://a"])


def test_workers_read_urls_and_compressed_files_to_the_same_bytes(
    tmp_path: Path, source_files: list[Path], tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents_module, "SLICE_BYTES", 10_000)
    texts = [path.read_text(encoding="utf-8") for path in source_files]
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.jsonl.zst").write_bytes(zstandard.compress(as_jsonl(texts)))
    (tmp_path / "in/b.csv").write_bytes(as_csv(texts))
    files = find_text_files([f"file://{tmp_path}/in"])
    outputs: list[dict[str, bytes]] = []
    for workers in (1, 2):
        folder = tmp_path / str(workers)
        folder.mkdir()
        statistics = tokenize_corpus(files, tokenizer, folder, workers=workers)
        assert statistics.documents == 2 * len(texts)
        outputs.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert outputs[0] == outputs[1]


@pytest.mark.parametrize("zeros", [1, 512, 1 << 16])
@pytest.mark.parametrize("stored", [(1 << 16) - 1, 1 << 16])
def test_zeros_behind_gzip_are_no_text_also_where_they_begin_or_fill_what_is_read_at_once(
    tmp_path: Path, zeros: int, stored: int
) -> None:
    member = gzip.compress(b"text\n")
    extra = b"x" * (stored - len(member) - 2)  # a field of the header makes it as long as is wanted
    header = b"\x1f\x8b\x08\x04" + member[4:10] + len(extra).to_bytes(2, "little") + extra
    path = tmp_path / "a.txt.gz"
    path.write_bytes(header + member[10:] + b"\0" * zeros)

    assert read(path) == ["text"]
