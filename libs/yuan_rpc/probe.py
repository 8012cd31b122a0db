"""Asks a server's health, for container engines and scripts: exit code 0 if it serves, 1 if not.

    python -m yuan_rpc.probe data                     the data server of YUAN_CLUSTER (or -f FILE)
    python -m yuan_rpc.probe 127.0.0.1:7101           whatever answers there

Health is answered without a token; one that is given is sent, so that a cluster's TLS and token work here as anywhere.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from yuan_events import InputError, YuanError, one_line
from yuan_manifest import load_cluster
from yuan_rpc.client import Connection
from yuan_rpc.cluster import health_of
from yuan_rpc.http_server import HttpServer
from yuan_rpc.security import Security, Tls


def main(arguments: Sequence[str] | None = None) -> int:
    """Probes once.

    Args:
        arguments: instead of the command line's.

    Returns:
        0: serving. 1: not serving, or nothing answers. 2: the arguments or the cluster are wrong.
    """
    parser = argparse.ArgumentParser(prog="python -m yuan_rpc.probe", description="Asks a server's health.")
    parser.add_argument("target", help="a service of the cluster (data, trainer …), or HOST:PORT")
    parser.add_argument("-f", "--cluster", help="the cluster's file; default: YUAN_CLUSTER")
    parser.add_argument("--token-file", type=Path, help="with HOST:PORT: file of the bearer token")
    parser.add_argument("--authority", type=Path, help="with HOST:PORT: TLS, and the certificates that are trusted")
    parser.add_argument("--plaintext", action="store_true", help="with HOST:PORT: the token may go there in clear text")
    parser.add_argument("--service", default="", help="full name of one gRPC service; default: the server as a whole")
    parser.add_argument("--timeout", type=float, default=5.0, help="seconds; default: 5")
    options = parser.parse_args(arguments)
    try:
        with _connection(options) as connection:
            serving = connection.is_serving(options.service, timeout=options.timeout)
            state = "serving" if serving else "not serving"
            sys.stdout.write(f"{connection.server}: {state}\n")
    except InputError as error:
        sys.stderr.write(one_line(error) + "\n")
        return 2
    except YuanError as error:
        sys.stderr.write(one_line(error) + "\n")
        return 1
    return 0 if serving else 1


def _connection(options: argparse.Namespace) -> Connection | HttpServer:
    host, colon, port = str(options.target).rpartition(":")
    if not colon:
        return health_of(options.target, load_cluster(options.cluster).cluster)
    if not port.isdigit():
        raise InputError(f"{options.target}: {port!r} is no port; expected HOST:PORT, or a service of the cluster")
    tls = Tls(authority=options.authority) if options.authority else None
    security = Security(token_file=options.token_file, tls=tls, plaintext=options.plaintext)
    return Connection("probe", host.strip("[]"), int(port), security, timeout=options.timeout)


if __name__ == "__main__":
    sys.exit(main())
