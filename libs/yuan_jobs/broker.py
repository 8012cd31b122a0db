"""Where the broker is. Starting one is `yuan_stack`'s; what goes through it is in `celery_app.py`."""

from pathlib import Path
from urllib.parse import quote

from yuan_events import InputError
from yuan_manifest import Cluster
from yuan_rpc.security import read_secret

EMBEDDED = "embedded"


class StackDown(InputError):
    """The cluster's embedded broker does not run."""


def broker_url_file(cluster: Cluster) -> Path:
    """Returns the file with the URL of the embedded broker, which whoever starts it writes and removes."""
    return Path(cluster.home).expanduser().absolute() / "stack" / "broker.url"


def broker_url(cluster: Cluster) -> str:
    """Returns the URL of a cluster's broker.

    Raises:
        StackDown: if it is embedded and does not run.
        InputError: if the file with its password is missing or wrong.
    """
    if cluster.broker != EMBEDDED:
        return server_url(cluster)
    file = broker_url_file(cluster)
    try:
        url = file.read_text(encoding="utf-8").strip()
    except OSError:
        url = ""
    if not url:
        raise StackDown(f"no broker runs in {file.parents[1]}; start the stack with: yuan up")
    return url


def server_url(cluster: Cluster) -> str:
    """Returns the URL of a cluster's own Redis, with the password of its file.

    Raises:
        InputError: if that file is missing, empty, or others can read it.
    """
    if cluster.broker_password_file is None:
        return cluster.broker
    password = read_secret(Path(cluster.broker_password_file).expanduser(), "cluster.broker_password_file")
    scheme, _, rest = cluster.broker.partition("://")
    return f"{scheme}://:{quote(password, safe='')}@{rest}"
