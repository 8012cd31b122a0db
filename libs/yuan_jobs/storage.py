"""Folders of files in an artifact store: a folder of this machine, or what fsspec reaches (`s3://…`).

A folder is filled here (`workspace`), then sealed; `fetch` gives it back as a folder of this machine. Nothing of
what the files are is known here, nor which folders are published.
"""

import os
import shutil
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

# fsspec ships no types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
import fsspec

from yuan_events import InputError
from yuan_jobs.home import Home


class Storage(Protocol):
    """Where folders are kept; `relative` is a folder's path in the store, with `/`."""

    def workspace(self, relative: str) -> Path:
        """Returns an empty folder of this machine in which the stored folder is prepared."""
        ...

    def seal(self, relative: str, files: Iterable[str]) -> None:
        """Keeps the prepared files, the last one last, so that they survive a loss of power."""
        ...

    def fetch(self, relative: str, files: Iterable[str]) -> Path:
        """Returns a folder of this machine with these files of a sealed folder.

        Raises:
            FileNotFoundError: if one is missing.
        """
        ...

    def remove(self, relative: str) -> None:
        """Removes a folder, prepared or sealed, if it is there."""
        ...

    def children(self, relative: str) -> list[str]:
        """Returns the names in a folder; none if it is not there."""
        ...


def open_storage(home: Home) -> Storage:
    """Returns the store of a home.

    Raises:
        InputError: if its URL is of a kind that is not installed.
    """
    if home.store.startswith("file://"):
        return LocalStorage(Path(home.store.removeprefix("file://")))
    if "://" in home.store:
        return RemoteStorage(home.store, home.path / "cache")
    return LocalStorage(Path(home.store))


class LocalStorage:
    """A folder of this machine: prepared in place, never copied."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def workspace(self, relative: str) -> Path:
        """Makes the folder, empty."""
        self.remove(relative)
        folder = self._root / relative
        folder.mkdir(parents=True)
        return folder

    def seal(self, relative: str, files: Iterable[str]) -> None:
        """Writes files and folders through to the disk and makes the files read-only."""
        folder = self._root / relative
        folders = {folder}
        for name in files:
            path = folder / name
            path.chmod(stat.S_IMODE(path.stat().st_mode) & ~0o222)
            _sync(path)
            folders.update(parent for parent in path.parents if parent.is_relative_to(folder))
        # The names of new files are in their folders, the new folder's name in those above it, up to the root.
        folders.update(parent for parent in folder.parents if parent.is_relative_to(self._root))
        for path in sorted(folders, reverse=True):
            _sync(path)

    def fetch(self, relative: str, files: Iterable[str]) -> Path:
        """Returns the folder itself."""
        folder = self._root / relative
        for name in files:
            (folder / name).stat()
        return folder

    def remove(self, relative: str) -> None:
        """Removes the folder, and those above it that it leaves empty."""
        folder = self._root / relative
        if folder.exists():
            shutil.rmtree(folder)
        with suppress(OSError):  # not empty, or not there
            for parent in folder.parents:
                if parent == self._root or not parent.is_relative_to(self._root):
                    break
                parent.rmdir()

    def children(self, relative: str) -> list[str]:
        """Lists the folder."""
        folder = self._root / relative
        return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


class RemoteStorage:
    """A place that fsspec reaches: prepared in the home and copied there, fetched into the home's cache."""

    def __init__(self, url: str, cache: Path) -> None:
        protocol = url.partition("://")[0]
        try:
            self._files, root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise InputError(f"store {url}: {protocol}:// cannot be used here: {error}") from None
        self._root = str(root).rstrip("/")
        self._prepared = cache / "prepared"
        self._fetched = cache / "fetched"

    def workspace(self, relative: str) -> Path:
        """Makes an empty folder in the home's cache."""
        return LocalStorage(self._prepared).workspace(relative)

    def seal(self, relative: str, files: Iterable[str]) -> None:
        """Copies the files, in order; what was prepared becomes what was fetched."""
        LocalStorage(self._fetched).remove(relative)
        for name in files:
            self._files.put_file(str(self._prepared / relative / name), self._remote(f"{relative}/{name}"))
        (self._fetched / relative).parent.mkdir(parents=True, exist_ok=True)
        (self._prepared / relative).rename(self._fetched / relative)

    def fetch(self, relative: str, files: Iterable[str]) -> Path:
        """Copies what is not in the cache yet; each file appears there whole."""
        folder = self._fetched / relative
        for name in files:
            path = folder / name
            if path.exists():
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(f".{path.name}.{os.getpid()}.part")
            try:
                self._files.get_file(self._remote(f"{relative}/{name}"), str(part))
                part.rename(path)
            finally:
                part.unlink(missing_ok=True)
        return folder

    def remove(self, relative: str) -> None:
        """Removes the folder there and what was prepared or fetched of it here."""
        LocalStorage(self._prepared).remove(relative)
        LocalStorage(self._fetched).remove(relative)
        if self._files.exists(self._remote(relative)):
            self._files.rm(self._remote(relative), recursive=True)

    def children(self, relative: str) -> list[str]:
        """Lists the folder there and what is prepared of it here."""
        names = set(LocalStorage(self._prepared).children(relative))
        if self._files.isdir(self._remote(relative)):
            there = self._files.ls(self._remote(relative), detail=False)
            names.update(str(path).rstrip("/").rpartition("/")[2] for path in there)
        return sorted(names)

    def _remote(self, relative: str) -> str:
        return f"{self._root}/{relative}"


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
