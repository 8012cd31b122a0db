"""A training job from its context to its result: take up, prepare, run the ranks, draw, sum up."""

import math
import shutil
import time
from pathlib import Path
from typing import Any

from yuan_checkpoint.training_state import TrainingState, newest_whole_state
from yuan_events import EventSink, Message
from yuan_jobs import WorkContext, WorkResult
from yuan_manifest.schema import TrainingJob
from yuan_parallel import ParallelPlan
from yuan_trainer.history import HISTORY_NAME, HistorySink, cut_history, read_history, series
from yuan_trainer.launching import run_training
from yuan_trainer.loss_curve import draw_loss_curve
from yuan_trainer.preparation import prepare
from yuan_trainer.samples import unigram_validation_loss
from yuan_trainer.specification import Specification
from yuan_trainer.tracking import TENSORBOARD_FOLDER, check_tracking, tracked


def training_work(context: WorkContext[TrainingJob]) -> WorkResult:
    """Trains a model; fills the output with native weights, tokenizer, metrics and the loss curve.

    Raises:
        InputError: if inputs, model and topology do not fit each other.
        WorkFailed: if a rank fails.
        Interrupted: if it was asked to stop; a training state is on disk by then.
    """
    started = time.monotonic()
    tracking = context.job.tracking
    check_tracking(tracking)
    state = find_state(context.run / "checkpoints", context.sink)
    specification, plan = prepare(context, None if state is None else state.folder)
    context.sink.emit(Message(describe(specification, plan)))
    history = context.run / HISTORY_NAME
    cut_history(history, -1 if state is None else state.step)
    written = context.run / "specification.json"
    specification.write(written)
    sink = HistorySink(history, context.sink, context.attempt)
    recipe = context.job.recipe()
    with tracked(sink, tracking, run=context.run, name=context.job.name, recipe=recipe) as sink:
        run_training(
            written,
            context.topology,
            plan.grid.ranks,
            name=context.job.name,
            run=context.run,
            device=specification.device,
            slots=context.devices,
            sink=sink,
            should_stop=context.should_stop,
        )
    return finish(context, specification, history, seconds=time.monotonic() - started)


def find_state(root: Path, sink: EventSink) -> TrainingState | None:
    """Returns the newest whole training state, saying which damaged ones were passed over."""
    state, passed_over = newest_whole_state(root)
    for reason in passed_over:
        sink.emit(Message(f"damaged checkpoint passed over: {reason}", "warning"))
    return state


def describe(specification: Specification, plan: ParallelPlan) -> str:
    """Returns one line on what is about to run."""
    config = specification.model
    grid = plan.grid
    return (
        f"{config.parameter_count() / 1e6:.2f} M parameters in {config.num_hidden_layers} layers on {grid.ranks} "
        f"{specification.device} rank{'s' if grid.ranks > 1 else ''}: pipeline {grid.pipeline}, stages {plan.stages}, "
        f"data {grid.data}, {specification.train.precision}"
    )


def finish(
    context: WorkContext[TrainingJob], specification: Specification, history: Path, *, seconds: float
) -> WorkResult:
    """Adds to the written model what makes it whole for a reader, and returns the run's figures."""
    output = context.output
    records = read_history(history)
    # Of answers alone, token frequencies say nothing that a loss before training does not say better.
    measures_unigram = specification.validation_samples and specification.finetune is None
    unigram = unigram_validation_loss(specification) if measures_unigram else None
    draw_loss_curve(records, output / "loss_curve.png", title=f"{context.job.name}: loss", unigram_loss=unigram)
    shutil.copyfile(history, output / HISTORY_NAME)
    if (events := context.run / TENSORBOARD_FOLDER).is_dir():
        shutil.copytree(events, output / TENSORBOARD_FOLDER, copy_function=shutil.copyfile)
    shutil.copytree(context.inputs["tokenizer"].path, output / "tokenizer", copy_function=shutil.copyfile)
    (output / "tokenizer" / "artifact.json").unlink(missing_ok=True)
    summary = summarize(records, specification, unigram, seconds)
    for line in verdict(summary, output / "loss_curve.png"):
        context.sink.emit(Message(line))
    return WorkResult(summary=summary)


def perplexity(loss: float) -> float:
    """Returns the perplexity that a loss in nats per token is."""
    return math.exp(min(loss, 700.0))  # beyond that it is no fp64


def verdict(summary: dict[str, Any], curve: Path) -> list[str]:
    """Returns what the run came to, in lines for a person; losses are nats per token."""
    lines = [f"loss curve: {curve}"]
    if "validation_loss_before" in summary:
        before, after = summary["validation_loss_before"], summary["validation_loss_after"]
        told = f"validation loss: {before:.3f} before, {after:.3f} after (perplexity {perplexity(after):.2f})"
        if (unigram := summary.get("unigram_validation_loss")) is not None:
            side = "below" if after < unigram else "above"
            told += f"; a unigram model has {unigram:.3f}, this one is {abs(unigram - after):.3f} nats {side} it"
        lines.insert(0, told)
    return lines


def summarize(
    records: list[dict[str, Any]], specification: Specification, unigram: float | None, seconds: float
) -> dict[str, Any]:
    """Returns the figures that stand for a run: losses before and after, its size, its speed."""
    _, losses = series(records, "loss")
    validated, validation = series(records, "validation_loss")
    _, speeds = series(records, "tokens_per_second")
    summary: dict[str, Any] = {
        "steps": specification.train.steps,
        "parameters": specification.model.parameter_count(),
        "stages": list(specification.stages),
        "precision": str(specification.train.precision),
        "first_loss": losses[0],
        "last_loss": losses[-1],
        "tokens_per_second": sorted(speeds)[len(speeds) // 2],
        "seconds": seconds,
    }
    if validation:
        summary |= {"validation_loss_before": validation[0], "validation_loss_after": validation[-1]}
    if specification.checkpoint.best and len(validation) > 1:
        # Of the steps after the first; of equals the earlier, as the ranks have it.
        best = min(range(1, len(validation)), key=lambda index: validation[index])
        summary |= {"best_step": validated[best], "best_validation_loss": validation[best]}
    if unigram is not None:
        summary["unigram_validation_loss"] = unigram
    return summary
