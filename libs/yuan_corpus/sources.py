"""Where bytes of text come from: files of this machine and URLs of fsspec, plain or compressed.

What the bytes mean is not known here; see `documents.py`.
"""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import io
import zlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from yuan_corpus.errors import TextError

_CHUNK = 1 << 16
"""Bytes read at once from a compressed file."""
_ZSTANDARD_CHUNK = 1 << 11
"""The same of Zstandard, which takes no bound on what they swell to: 4 bytes can be a block of 128 KiB."""
_MOST_PLAIN = 1 << 20
"""Bytes that a step of gzip gives."""

_EXTRAS = {"s3": "s3", "s3a": "s3"}
"""Extras of this distribution by the scheme of the URLs that need them."""


_TIMES = ("ETag", "etag", "md5Hash", "LastModified", "mtime", "modified", "created")
"""What file systems say of a file's content or time, by their names."""


@dataclass(frozen=True, order=True)
class RemoteFile:
    """A file by its URL (`s3://bucket/key`, `memory://…`, `file://…`); workers open it on their own."""

    url: str

    @property
    def name(self) -> str:
        """Its last part."""
        return PurePosixPath(self.url).name

    def __str__(self) -> str:
        return self.url


Source = Path | RemoteFile


def is_url(text: str) -> bool:
    """Tells whether a pattern is a URL rather than a path."""
    scheme, separator, _ = text.partition("://")
    return bool(separator) and scheme.replace("+", "").isalnum()


def filesystem_of(url: str) -> tuple[Any, str]:
    """Returns the fsspec file system of a URL, and the path in it.

    Raises:
        TextError: if there is none for its scheme, or its package is missing.
    """
    import fsspec  # noqa: PLC0415 - text of this machine does without

    scheme = url.partition("://")[0]
    try:
        return cast("tuple[Any, str]", fsspec.core.url_to_fs(url))
    except ImportError as error:
        extra = _EXTRAS.get(scheme)
        mend = f"pip install 'yuan-stack[{extra}]'" if extra else str(error)
        raise TextError(f"text {url}: {scheme}:// needs a package that is missing: {mend}") from None
    except ValueError as error:
        raise TextError(f"text {url}: {error}") from None


@contextmanager
def remote_errors() -> Generator[None]:
    """Turns what file systems raise into an OSError: botocore's classes are none where a server is away or has no key.

    Raises:
        OSError: in the place of any other error.
    """
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        told = " ".join(str(error).split())
        raise OSError(f"{type(error).__name__}: {told}" if told else type(error).__name__) from error


class _RemoteBytes(io.RawIOBase):
    """An open file of fsspec whose every error is an OSError."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        with remote_errors():
            data: bytes = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def size_of(source: Source) -> int:
    """Returns a file's size in bytes, as it is stored.

    Raises:
        TextError: if it is missing, a folder, or cannot be looked at.
    """
    try:
        if isinstance(source, RemoteFile):
            filesystem, path = filesystem_of(source.url)
            with remote_errors():
                return int(filesystem.size(path))
        if source.is_dir():
            raise TextError(f"{source}: is a folder where a file is expected")
        return source.stat().st_size
    except FileNotFoundError:
        raise TextError(f"{source}: no such file") from None
    except OSError as error:
        raise TextError(f"{source}: cannot be looked at ({error.strerror or error})") from None


def stamp_of(source: Source) -> str:
    """Returns what changes when a file is written: its size and its time, or what its store has in the latter's place.

    And who may read it: what could not be read, and was left out, can be once that is mended.

    Raises:
        TextError: if it is missing or cannot be looked at.
    """
    try:
        if isinstance(source, RemoteFile):
            filesystem, path = filesystem_of(source.url)
            with remote_errors():
                filesystem.invalidate_cache()
                about: dict[str, Any] = filesystem.info(path)
            told = next((about[key] for key in _TIMES if about.get(key) is not None), "")
            return f"{about.get('size')} {told}"
        about_file = source.stat()
    except FileNotFoundError:
        raise TextError(f"{source}: no such file") from None
    except OSError as error:
        raise TextError(f"{source}: cannot be looked at ({error.strerror or error})") from None
    who = f"{about_file.st_mode:o} {about_file.st_uid} {about_file.st_gid}"
    return f"{about_file.st_size} {about_file.st_mtime_ns} {who}"


def open_source(source: Source) -> IO[bytes]:
    """Opens a file's stored bytes; one can seek in them.

    Raises:
        OSError: if it cannot be opened.
    """
    if isinstance(source, RemoteFile):
        filesystem, path = filesystem_of(source.url)
        with remote_errors():
            return io.BufferedReader(_RemoteBytes(filesystem.open(path, "rb")), _CHUNK)
    return source.open("rb")


def read_error(source: Source, error: OSError) -> TextError:
    """Returns what a user is told of a file that cannot be read."""
    return TextError(f"{source}: cannot be read ({error.strerror or error}); mend that or exclude it")


def compression_of(name: str) -> str | None:
    """Returns `gz` or `zst` where a file's name ends so."""
    suffix = PurePosixPath(name).suffix.lower().removeprefix(".")
    return suffix if suffix in ("gz", "zst") else None


def format_suffix(name: str) -> str:
    """Returns the suffix that tells a file's format, in small letters: `.jsonl` of `a.jsonl.zst`."""
    path = PurePosixPath(name)
    return (PurePosixPath(path.stem) if compression_of(name) else path).suffix.lower()


class BrokenStream(Exception):
    """A compressed file is damaged or cut off. args: what is wrong, and the stored byte up to which it was good."""


def decompressed(raw: IO[bytes], compression: str) -> Iterator[bytes]:
    """Yields the plain bytes of a compressed file, in pieces; several members or frames are one text.

    Raises:
        BrokenStream: if it is damaged or ends too early, once what is good has been yielded.
        OSError: if it cannot be read.
    """
    broken: type[Exception] = zlib.error
    size = _CHUNK
    if compression == "zst":
        import zstandard  # noqa: PLC0415 - services that read no text do without

        broken, size = zstandard.ZstdError, _ZSTANDARD_CHUNK

        def begin() -> Any:
            # As `zstd --long=31` writes; what the window fills of it is memory that decompressing needs.
            return zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj()

        def step(machine: Any, data: bytes) -> tuple[bytes, bytes]:
            return machine.decompress(data), machine.unused_data
    else:

        def begin() -> Any:
            return zlib.decompressobj(zlib.MAX_WBITS | 16)

        def step(machine: Any, data: bytes) -> tuple[bytes, bytes]:
            plain = machine.decompress(data, _MOST_PLAIN)
            # gzip allows zeros behind its last member, to fill a block of a tape.
            return plain, machine.unused_data.lstrip(b"\0") if machine.eof else machine.unconsumed_tail

    machine: Any = None
    position = 0
    while chunk := raw.read(size):
        # The same zeros, where they begin with a chunk or fill it.
        rest = chunk.lstrip(b"\0") if compression == "gz" and machine is None and position else chunk
        while rest:
            machine = machine or begin()
            try:
                plain, left = step(machine, rest)
            except broken as error:
                where = position + len(chunk) - len(rest)
                raise BrokenStream(f"damaged .{compression} data ({error})", where) from None
            if plain:
                yield plain
            rest = left
            if machine.eof:
                machine = None
        position += len(chunk)
    if machine is not None:
        raise BrokenStream(f"the .{compression} data end too early", position)
