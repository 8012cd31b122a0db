"""Arguments and options that several commands have, and what was given before the command."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer


@dataclass(frozen=True)
class Global:
    """What was given before the command."""

    cluster: Path | None


ClusterOption = Annotated[
    Path | None,
    typer.Option(
        "--cluster",
        "-f",
        metavar="FILE",
        help="Where to run: a cluster manifest. Default: $YUAN_CLUSTER, then "
        "configs/clusters/local.yaml, then this machine and ~/.yuan.",
        show_default=False,
    ),
]
ManifestArgument = Annotated[Path, typer.Argument(metavar="MANIFEST", help="What to run: a job or a pipeline.")]
OverridesArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]…", help="Values put over the manifest's: train.steps=50.", show_default=False),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Do it anew, even if the same was done before.")]


def cluster_of(context: typer.Context, own: Path | None) -> Path | None:
    """Returns the cluster file given to the command, else the one given before it."""
    given = context.obj
    return own if own is not None else given.cluster if isinstance(given, Global) else None
