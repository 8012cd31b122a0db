"""A picture of a run: training and validation loss over steps, beside what a unigram model reaches."""

from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from yuan_trainer.history import series


def draw_loss_curve(records: list[dict[str, Any]], path: Path, *, title: str, unigram_loss: float | None) -> None:
    """Writes a PNG.

    Args:
        records: of the run's history.
        path: the file to write.
        title: above the curve.
        unigram_loss: nats per token of a unigram model on the validation samples; None: not drawn.
    """
    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    steps, losses = series(records, "loss")
    axes.plot(steps, losses, color="#4477aa", linewidth=1, label="training")
    steps, losses = series(records, "validation_loss")
    if losses:
        axes.plot(steps, losses, "o-", color="#cc6677", linewidth=1, label="validation")
    if unigram_loss is not None:
        axes.axhline(unigram_loss, color="#999999", linestyle="--", linewidth=1, label="unigram model")
    axes.set(title=title, xlabel="step", ylabel="loss (nats per token)")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    figure.savefig(path)
