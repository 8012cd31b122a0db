"""The version that both ends of a call tell each other, and the check that they are of one release.

Client, servers and workers come from one distribution; a stack half of which is older fails in ways that are hard to
read, so every call carries the client's version and every reply the server's.
"""

from importlib import metadata

from yuan_events import InputError

VERSION_KEY = "yuan-version"
"""Metadata key: of a call, the client's version; of its trailing metadata, the server's."""

TIME_KEY = "yuan-time"
"""Metadata key of a reply's trailing metadata: the server's clock, in seconds since 1970."""


def _installed_version() -> str:
    try:
        return metadata.version("yuan-stack")
    except metadata.PackageNotFoundError:
        return "unknown"


VERSION = _installed_version()
"""Version of the installed distribution."""


class VersionMismatch(InputError):
    """Two parts of one stack are of different releases."""


def check_version(name: str, version: str, *, against: str = VERSION, against_name: str = "this client") -> None:
    """Checks that two parts of a stack are of the same release.

    Args:
        name: whose version it is, in the user's words: `the trainer server at 127.0.0.1:7102`, `worker data-1`.
        version: what it says; empty where it says nothing, which no release of ours does.
        against: the version to compare with.
        against_name: whose that is.

    Raises:
        VersionMismatch: if they differ.
    """
    if version != against:
        raise VersionMismatch(
            f"{name} runs version {version or 'unknown'} and {against_name} version {against}: "
            "install the same version for both, then restart the stack with: yuan down && yuan up"
        )
