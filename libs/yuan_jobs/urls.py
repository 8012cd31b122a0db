"""Which URLs jobs may name: a job that any operator submits is not to make a worker fetch what only the stack reaches.

Files of this machine are not looked at here: a job reads what the stack's user may read.
"""

from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import unquote, urlsplit

from yuan_events import InputError
from yuan_jobs.planning import Part
from yuan_manifest import Cluster
from yuan_manifest.schema import as_plain
from yuan_manifest.values import is_list, is_section

_TEXT = frozenset({"notify", "prompts", "examples"})
"""Keys whose text opens nothing; webhooks have a list of their own."""

_LOCAL = frozenset({"file", "local"})
"""Schemes of what is a path otherwise."""


def check_urls(parts: Sequence[Part], cluster: Cluster) -> None:
    """Checks that the cluster lets jobs read and write the URLs that they name.

    Raises:
        InputError: naming the first one that it does not, by its place and its host.
    """
    allowed = [*cluster.security.urls, *([cluster.store] if "://" in cluster.store else [])]
    for part in parts:
        for key, text in _texts(as_plain(part.job), ""):
            scheme, separator, _ = text.partition("://")
            # As fsspec takes a URL apart: chains (`zip::https://…`) end in the one that is fetched.
            if not separator or any(symbol.isspace() for symbol in scheme) or "/" in scheme:
                continue
            if scheme.lower() in _LOCAL or any(is_within(text, one) for one in allowed):
                continue
            place = f"{scheme}://{_host(text)}"
            listed = ", ".join(cluster.security.urls) or "none"
            raise InputError(f"{part.name}: {key}: {place} is not among cluster.security.urls ({listed})")


def is_within(url: str, allowed: str) -> bool:
    """Returns whether a URL is one that another one stands for: the same place, or something below its path."""
    if "\\" in url or any(symbol.isspace() for symbol in url):
        return False
    try:
        asked, given = urlsplit(url), urlsplit(allowed)
    except ValueError:
        return False
    path, folder = unquote(asked.path), given.path.rstrip("/")
    return (
        (asked.scheme, asked.netloc.lower()) == (given.scheme, given.netloc.lower())
        and ".." not in path.split("/")
        and (path == folder or path.startswith(f"{folder}/"))
    )


def _texts(value: Any, above: str) -> Iterator[tuple[str, str]]:
    if is_section(value):
        for key, one in value.items():
            if key not in _TEXT:
                yield from _texts(one, f"{above}.{key}" if above else str(key))
    elif is_list(value):
        for index, one in enumerate(value):
            yield from _texts(one, f"{above}[{index}]")
    elif isinstance(value, str):
        yield above, value


def _host(url: str) -> str:
    """Returns a URL's host, without what may be a password before it or in its query."""
    return url.partition("://")[2].partition("/")[0].partition("?")[0].rpartition("@")[2][:100]
