"""Pretraining as one rank does it, from top to bottom: set up, take up, train, validate, save, finish."""

import math
import time
from dataclasses import dataclass

import torch
import torch.distributed

from yuan_events import Checkpoint, Message, Metrics, Progress, WorkFailed
from yuan_parallel import Grid
from yuan_trainer.batches import Samples, micro_batch, step_batches
from yuan_trainer.engine import Engine, build_engine
from yuan_trainer.link import ParentLink, RankReport
from yuan_trainer.samples import open_samples
from yuan_trainer.saving import StateWriter, restore_state, write_model
from yuan_trainer.schedule import learning_rate
from yuan_trainer.specification import Specification


@dataclass(frozen=True)
class _Run:
    """What the parts of a rank's run share."""

    specification: Specification
    grid: Grid
    engine: Engine
    training: Samples
    validation: Samples | None
    link: ParentLink

    @property
    def is_first(self) -> bool:
        return torch.distributed.get_rank() == 0


def pretrain(specification: Specification, link: ParentLink) -> RankReport:
    """Trains to the last step or until the parent asks to stop; returns how it ended.

    Raises:
        YuanError: if the disk is full, the data does not fit, or the loss is no longer a number.
    """
    grid = specification.grid
    samples = open_samples(specification)
    run = _Run(specification, grid, build_engine(specification), samples.training, samples.validation, link)
    done = take_up(run)
    link.report(RankReport("training", step=done))
    if done == 0:
        validate(run, step=0)
    stopped = False
    for step in range(done + 1, specification.train.steps + 1):
        train_step(run, step)
        done = step
        stopped = stop_is_wanted(run)
        due = specification.validation_steps
        if due and step % due == 0 and step < specification.train.steps:
            validate(run, step)
        every = specification.checkpoint_steps
        if stopped or (every and step % every == 0 and step < specification.train.steps):
            save(run, step)
        if stopped:
            return RankReport("stopped", step=done)
    validate(run, step=done)
    write_model(run.engine, specification, grid, specification.output)
    return RankReport("done", step=done)


def take_up(run: _Run) -> int:
    """Restores the state to continue from, if there is one; returns the steps it contains."""
    folder = run.specification.resume_from
    if folder is None:
        return 0
    state = restore_state(run.engine, folder)
    if run.is_first:
        run.link.emit(Message(f"continues after step {state.step} of {run.specification.train.steps}"))
    return state.step


def train_step(run: _Run, step: int) -> None:
    """One optimizer step over a global batch, and its metrics."""
    specification = run.specification
    train = specification.train
    started = time.perf_counter()
    # What is random inside a step depends on the step alone, so that a resumed run draws the same.
    torch.manual_seed(train.seed + step)
    rate = learning_rate(step, train.steps, specification.optimizer)
    replica = run.grid.replica(torch.distributed.get_rank())
    result = run.engine.train_step(
        step_batches(
            run.training,
            step,
            micro_batches=run.grid.micro_batches(replica, specification.micro_batches),
            micro_batch_size=train.micro_batch_size,
            global_batch_size=train.global_batch_size,
            eod=specification.eod_token_id if train.eod_mask_loss else None,
        ),
        rate,
    )
    loss = result.loss
    if not math.isfinite(loss):
        raise WorkFailed(
            f"the loss of step {step} is {loss}; lower optimizer.lr, or look at the data of samples "
            f"{(step - 1) * train.global_batch_size} to {step * train.global_batch_size - 1}"
        )
    if not run.is_first:
        return
    seconds = time.perf_counter() - started
    tokens = train.global_batch_size * specification.data.sequence_length
    values = {
        "loss": loss,
        "learning_rate": rate,
        "gradient_norm": result.gradient_norm,
        "tokens_per_second": tokens / seconds,
        "seconds": seconds,
    }
    run.link.emit(Metrics(step, values))
    run.link.emit(
        Progress(
            "pretrain",
            step,
            train.steps,
            "steps",
            f"loss {values['loss']:.3f}  lr {rate:.2e}  {values['tokens_per_second']:,.0f} tokens/s",
        )
    )


def validate(run: _Run, step: int) -> None:
    """Measures the loss on the validation samples, the same ones each time."""
    specification = run.specification
    if run.validation is None:
        return
    train = specification.train
    replica = run.grid.replica(torch.distributed.get_rank())
    total = specification.validation_samples // train.micro_batch_size
    mine = run.grid.micro_batches(replica, total)
    batches = (
        micro_batch(run.validation, number * train.micro_batch_size, train.micro_batch_size, None) for number in mine
    )
    loss = run.engine.evaluate(batches, len(mine))
    if run.is_first:
        run.link.emit(Metrics(step, {"validation_loss": loss}))


def save(run: _Run, step: int) -> None:
    """Writes the training state after a step."""
    train = run.specification.train
    metadata = {
        "samples_consumed": step * train.global_batch_size,
        "seed": train.seed,
        "stages": list(run.specification.stages),
        "replicas": run.specification.replicas,
        "precision": str(train.precision),
    }
    writer = StateWriter(run.engine, run.specification)
    writer.begin(step, metadata)
    _, folder = writer.finish()
    if run.is_first:
        run.link.emit(Checkpoint(step, str(folder)))


def stop_is_wanted(run: _Run) -> bool:
    """Asks all ranks whether the parent wants to stop, so that they stop after the same step."""
    device = "cuda" if run.specification.device == "cuda" else "cpu"
    wanted = torch.tensor(float(run.link.stop_requested()), device=device)
    torch.distributed.all_reduce(wanted, op=torch.distributed.ReduceOp.MAX)
    return bool(wanted.item())
