"""`yuan lineage`: what an artifact was made from, and what was made of it, as a tree and as a picture."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import typer

from yuan_cli.artifacts import ArtifactView, artifact_views
from yuan_cli.pictures import check_picture
from yuan_events import InputError
from yuan_jobs.lineage import Lineage, lineage_of, places
from yuan_manifest import load_cluster

_COLUMN, _ROW = 3.4, 0.9


def print_lineage(name: str, cluster: Path | None, *, picture: Path | None, as_json: bool) -> int:
    """Prints the tree, or JSON; with a picture's name, draws it, too."""
    if picture is not None:
        check_picture("--picture", picture)
    with artifact_views(load_cluster(cluster).cluster) as find:
        lineage = lineage_of(name, find)
    if as_json:
        facts = {
            "artifact": lineage.root,
            "artifacts": [
                {**view.facts(), "made_from": dict(view.made_from), "used_by": list(view.used_by)}
                for view in lineage.views.values()
            ],
        }
        typer.echo(json.dumps(facts, indent=2, ensure_ascii=False))
    else:
        for line in tree_lines(lineage):
            typer.echo(line)
    if picture is not None:
        draw_lineage(lineage, picture)
        typer.echo(f"picture: {picture}", err=as_json)
    return 0


def tree_lines(lineage: Lineage[ArtifactView]) -> Iterator[str]:
    """Yields the artifact, below it what it was made from, then what was made from it; nothing below one twice."""
    root = lineage.views[lineage.root]
    yield f"{lineage.root}   {root.created:%Y-%m-%d %H:%M} UTC, job {root.job}"

    def sources(reference: str) -> list[tuple[str, str]]:
        return [(f"{name}: {source}", source) for name, source in lineage.sources(reference)]

    def uses(reference: str) -> list[tuple[str, str]]:
        return [(user, user) for user in lineage.uses(reference)]

    yield from _branches(sources(lineage.root), sources, {lineage.root}, "")
    if lineage.uses(lineage.root):
        yield "used by"
        yield from _branches(uses(lineage.root), uses, {lineage.root}, "")


def _branches(
    items: list[tuple[str, str]], below: Callable[[str], list[tuple[str, str]]], said: set[str], indent: str
) -> Iterator[str]:
    for number, (text, reference) in enumerate(items):
        last = number == len(items) - 1
        again = reference in said
        yield f"{indent}{'└── ' if last else '├── '}{text}{' (above)' if again else ''}"
        if not again:
            said.add(reference)
            yield from _branches(below(reference), below, said, f"{indent}{'    ' if last else '│   '}")


def draw_lineage(lineage: Lineage[ArtifactView], path: Path) -> None:
    """Draws the artifacts from left to right, each right of all that it was made from.

    Raises:
        InputError: if matplotlib is not installed here.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ModuleNotFoundError:
        raise InputError("--picture needs matplotlib: pip install 'yuan-stack[trainer]'") from None
    placed = places(lineage)
    columns = 1 + max(column for column, _ in placed.values())
    rows = 1 + max(row for _, row in placed.values())
    figure: Any = Figure(figsize=(_COLUMN * columns, _ROW * rows + 0.6), dpi=120)
    FigureCanvasAgg(figure)
    axes: Any = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.4, -0.6))
    for reference, (column, row) in placed.items():
        box = {"boxstyle": "round,pad=0.5", "facecolor": "#dde8f5", "edgecolor": "#4477aa"}
        if reference == lineage.root:
            box |= {"facecolor": "#ffe9b8", "edgecolor": "#bb8800"}
        axes.text(column, row, reference, ha="center", va="center", fontsize=9, bbox=box, zorder=2)
        for _, source in lineage.sources(reference):
            if source in placed:
                begin = placed[source]
                arrow = {"arrowstyle": "-|>", "color": "#777777", "shrinkA": 42, "shrinkB": 42}
                axes.annotate("", (column, row), begin, arrowprops=arrow, zorder=1)
    figure.savefig(path)
