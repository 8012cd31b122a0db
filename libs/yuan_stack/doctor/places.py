"""Folders and files: home, token, TLS, store, room on their disks. Folders are tried with a file that goes again."""

import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

# fsspec ships no types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
import fsspec

from yuan_events import YuanError, one_line
from yuan_manifest import Cluster
from yuan_rpc import security_of
from yuan_rpc.security import channel_credentials, read_token, server_credentials
from yuan_stack.doctor.findings import Finding, note, ok, reason, refused, wrong
from yuan_stack.folder import StackFolder

GIB = 1024**3
LITTLE_BYTES = 1 * GIB
"""Less room than this is wrong: a checkpoint of a small model does not fit."""

SCARCE_BYTES = 10 * GIB
"""Less room than this is told."""


def look_at_home(home: Path) -> Finding:
    """Tries to write in the home and looks at who else can."""
    mend = "set YUAN_HOME (or cluster.home) to a folder that you may write in"
    if not home.exists():
        above = next(folder for folder in home.parents if folder.exists())
        if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
            return wrong("home", f"{home} is not there and cannot be made in {above}", mend)
        return ok("home", f"{home} is not there yet; the first command makes it")
    if not home.is_dir():
        return wrong("home", f"{home} is no folder", mend)
    try:
        write_and_remove(home)
    except OSError as error:
        return wrong("home", f"{home} cannot be written in: {reason(error)}", mend)
    return _others_in(home) or ok("home", f"{home} can be written in")


def _others_in(home: Path) -> Finding | None:
    """Looks for what other users of this machine can do in a home."""
    for folder in (home, home / "runs", home / "store"):
        mode = _mode(folder)
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            text = f"every user can change what is in {folder} (mode {mode:04o})"
            return wrong("home", text, f"run: chmod o-w {folder}")
    # Its files hold URLs with passwords.
    private = StackFolder(home).path
    if _mode(private) & (stat.S_IRWXG | stat.S_IRWXO):
        return wrong("home", f"others can read {private}, which holds passwords", f"run: chmod 700 {private}")
    return None


def _mode(path: Path) -> int:
    """Returns a path's permissions; none where it is not there."""
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        return 0


def look_at_token(cluster: Cluster, *, in_use: bool) -> Finding:
    """Reads the token file. in_use: a stack runs, so that it must be there."""
    path = Path(cluster.security.token_file)
    if not path.exists() and not in_use:
        return ok("token", f"{path} is not there yet; `yuan up` makes it")
    try:
        read_token(path)
    except YuanError as error:
        return refused("token", error)
    return ok("token", f"{path}, for its owner alone")


def look_at_tls(cluster: Cluster) -> list[Finding]:
    """Opens the files of TLS as server and client do; nothing where it is off."""
    tls = security_of(cluster.security).tls
    if tls is None:
        return []
    try:
        server_credentials(tls)
        channel_credentials(tls)
    except YuanError as error:
        return [refused("tls", error)]
    return [ok("tls", f"certificate {tls.certificate} and its key belong together")]


def look_at_store(store: str) -> Finding:
    """Tries to write in the artifact store, and to read that back."""
    mend = "see cluster.store"
    if "://" in store and not store.startswith("file://"):
        return _look_at_remote_store(store)
    folder = Path(store.removeprefix("file://"))
    above = next(place for place in (folder, *folder.parents) if place.exists())
    if not above.is_dir():
        return wrong("store", f"{above} is no folder", mend)
    if above != folder:
        if not os.access(above, os.W_OK | os.X_OK):
            return wrong("store", f"{folder} is not there and cannot be made in {above}", mend)
        return ok("store", f"{folder} is not there yet; the first artifact makes it")
    try:
        write_and_remove(folder)
    except OSError as error:
        return wrong("store", f"{folder} cannot be written in: {reason(error)}", mend)
    return ok("store", f"{folder} can be written in")


def _look_at_remote_store(url: str) -> Finding:
    name = f".doctor-{secrets.token_hex(8)}"
    try:
        files, root = fsspec.core.url_to_fs(url)
        path = f"{str(root).rstrip('/')}/{name}"
        files.makedirs(str(root), exist_ok=True)
        files.pipe_file(path, name.encode())
        same = files.cat_file(path) == name.encode()
        files.rm_file(path)
    except Exception as error:  # noqa: BLE001 - every file system of fsspec has errors of its own
        return wrong("store", f"{url} cannot be written in: {one_line(error)}", "see cluster.store and its credentials")
    if not same:
        return wrong("store", f"{url} gives back other bytes than it was given", "see cluster.store")
    return ok("store", f"{url} can be written in")


def look_at_disks(home: Path, store: str) -> Iterator[Finding]:
    """Looks at how much room there is where home and store are; a disk that has both is told once."""
    seen: set[int] = set()
    places = [home] if "://" in store else [home, Path(store)]
    for place in places:
        there = next(folder for folder in (place, *place.parents) if folder.exists())
        device = there.stat().st_dev
        if device in seen:
            continue
        seen.add(device)
        free = shutil.disk_usage(there).free
        text = f"{free / GIB:,.1f} GiB are free where {place} is"
        mend = "see what `yuan gc --dry-run` would remove"
        files = os.statvfs(there)
        if free < LITTLE_BYTES:
            yield wrong("disk", text, mend)
        elif files.f_files and files.f_favail < files.f_files // 100:
            yield wrong("disk", f"no more than {files.f_favail:,} files can be made where {place} is", mend)
        else:
            yield note("disk", text, mend) if free < SCARCE_BYTES else ok("disk", text)


def write_and_remove(folder: Path) -> float:
    """Writes a file through to the disk and removes it; returns its time of change as the file system has it.

    Raises:
        OSError: as that does.
    """
    path = folder / f".doctor-{secrets.token_hex(8)}"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, b"x" * 4096)
        os.fsync(descriptor)
        return os.fstat(descriptor).st_mtime
    finally:
        os.close(descriptor)
        path.unlink()
