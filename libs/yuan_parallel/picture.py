"""A picture of a pipeline's schedule: micro-batches over stages and time, forward, backward, and the bubble between."""

from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from yuan_parallel.prediction import Prediction
from yuan_parallel.times import simulated_step

_FORWARD, _BACKWARD, _BUBBLE = "#4477aa", "#66aa55", "#eeeeee"
_MOST_SHOWN = 4
"""Micro-batches that are drawn for each stage at most: more would be lines."""

_NUMBERED = 400
"""Passes up to which each shows the number of its micro-batch."""


def draw_schedule(plan: Prediction, path: Path, *, title: str) -> None:
    """Writes the picture of a step's first micro-batches.

    Args:
        plan: the prediction.
        path: of a PNG, SVG or PDF.
        title: above it.
    """
    stages = plan.division.pipeline
    whole = plan.division.micro_batches(plan.training)
    shown = min(whole, max(8, _MOST_SHOWN * stages))
    step = simulated_step(plan.training, plan.division, plan.devices, shown)
    figure: Any = Figure(figsize=(12, 1.4 + 0.34 * max(stages, 3)), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.add_subplot()
    axes.barh(range(stages), [step.seconds] * stages, height=0.9, color=_BUBBLE, label="bubble")
    for backward, color, name in ((False, _FORWARD, "forward"), (True, _BACKWARD, "backward")):
        for stage in range(stages):
            passes = [
                (span.start, span.end - span.start)
                for span in step.spans
                if span.stage == stage and span.backward == backward
            ]
            label = name if stage == 0 else None
            lines = {"facecolor": color, "edgecolor": "white", "linewidth": 0.4}
            axes.broken_barh(passes, (stage - 0.45, 0.9), label=label, **lines)
    if len(step.spans) <= _NUMBERED:
        for span in step.spans:
            middle = (span.start + span.end) / 2
            axes.text(middle, span.stage, str(span.micro_batch), ha="center", va="center", color="white", fontsize=6)
    layers = plan.division.stages.layers
    axes.set_yticks(range(stages), [f"stage {stage}, {layers[stage]} layers" for stage in range(stages)], fontsize=7)
    axes.set_ylim(stages - 0.5, -0.5)
    part = f"{shown} micro-batches" if shown == whole else f"{shown} micro-batches of the step's {whole}"
    axes.set(title=f"{title}: {part}; {step.bubble:.1%} of this bubble", xlabel="seconds")
    axes.set_xlim(0, step.seconds)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    figure.savefig(path)
