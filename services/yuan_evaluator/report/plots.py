"""Pictures of a report as SVG text, to stand in its HTML: nothing is fetched from anywhere."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

_OURS, _THEIRS = "#4477aa", "#bbbbbb"


def scores_plot(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns a picture of all rows of a leaderboard: tasks side by side, a bar a model, with standard errors."""
    names = list(dict.fromkeys(name for row in rows if not row["published"] for name in row["scores"]))
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.add_subplot()
    width = 0.8 / max(1, len(rows))
    for index, row in enumerate(rows):
        places = [at + index * width for at, name in enumerate(names) if name in row["scores"]]
        found = [row["scores"][name] for name in names if name in row["scores"]]
        errors = [100 * (score["standard_error"] or 0.0) for score in found]
        shade = str(0.6 + 0.1 * (index % 4)) if row["published"] else None
        label = f"{row['model']} (published)" if row["published"] else str(row["model"])
        axes.bar(
            places, [100 * s["value"] for s in found], width, yerr=None if row["published"] else errors,
            color=shade or _OURS if len(rows) - index > 4 or row["published"] else None, label=label, capsize=2,
        )  # fmt: skip
    axes.set_xticks([at + 0.4 - width / 2 for at in range(len(names))], names)
    axes.set(ylabel="score (%)", ylim=(0, 100))
    axes.grid(axis="y", alpha=0.25)
    axes.legend(frameon=False, fontsize=8)
    return _svg(figure)


def categories_plot(categories: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns a picture of one task's categories."""
    names = list(categories)
    figure = Figure(figsize=(7, 0.6 + 0.22 * len(names)), layout="constrained")
    axes = figure.add_subplot()
    values = [100 * categories[name]["value"] for name in names]
    errors = [100 * (categories[name]["standard_error"] or 0.0) for name in names]
    axes.barh(range(len(names)), values, xerr=errors, color=_OURS, capsize=2)
    axes.set_yticks(range(len(names)), [f"{name} ({categories[name]['items']})" for name in names], fontsize=8)
    axes.invert_yaxis()
    axes.set(xlim=(0, 100), xlabel="score (%)")
    axes.grid(axis="x", alpha=0.25)
    return _svg(figure)


def _svg(figure: Figure) -> str:
    FigureCanvasSVG(figure)
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None})
    text = stream.getvalue()
    return text[text.index("<svg") :]
