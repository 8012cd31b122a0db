"""Names under which commands draw pictures."""

from pathlib import Path

from yuan_events import InputError

SUFFIXES = (".png", ".svg", ".pdf")


def check_picture(option: str, path: Path) -> None:
    """Checks that a picture can be written, before anything is done for it.

    Args:
        option: that named it, as in `--plot`.
        path: of the picture.

    Raises:
        InputError: if the name ends otherwise, or there is no such folder.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{option} {path}: expected a name that ends in {', '.join(SUFFIXES)}")
    if not path.absolute().parent.is_dir():
        raise InputError(f"{option} {path}: there is no folder {path.absolute().parent}")
