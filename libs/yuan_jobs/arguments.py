"""A parser of arguments whose errors are one line, for services' own commands; the arguments that name a cluster."""

import argparse
from collections.abc import Sequence
from typing import NoReturn

from yuan_events import InputError
from yuan_manifest import ClusterManifest, load_cluster


class ArgumentParser(argparse.ArgumentParser):
    """An argparse parser that raises InputError, where argparse prints its usage and exits."""

    def error(self, message: str) -> NoReturn:
        """Raises InputError with argparse's message."""
        raise InputError(f"{self.prog}: {message}; see {self.prog} --help")


def cluster_of(program: str, arguments: Sequence[str]) -> ClusterManifest:
    """Returns the cluster that a command's only arguments, `-f FILE` and `cluster.key=value`, name.

    Args:
        program: `python -m yuan_trainer worker`.
        arguments: those after it.

    Raises:
        InputError: if the arguments or the cluster are wrong.
    """
    parser = ArgumentParser(prog=program, allow_abbrev=False)
    parser.add_argument("given", nargs="*", metavar="cluster.key=value", help="values put over the cluster's")
    parser.add_argument(
        "-f", "--cluster", help="the cluster's file; default: YUAN_CLUSTER, configs/clusters/local.yaml"
    )
    options = parser.parse_intermixed_args(list(arguments))
    return load_cluster(options.cluster, options.given)
