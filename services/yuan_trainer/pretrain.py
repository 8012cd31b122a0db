"""Training as one rank does it, from top to bottom: set up, take up, train, validate, save, finish."""

import math
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from torch import Tensor

from yuan_checkpoint.training_state import finish_state, newest_whole_state
from yuan_events import Checkpoint, Message, Metrics, Progress, WorkFailed
from yuan_manifest.schema import BadStep, Precision, as_plain
from yuan_model.native import training
from yuan_parallel import Grid
from yuan_trainer.batches import MicroBatch, Samples, micro_batch, step_batches
from yuan_trainer.combinations import step_seed
from yuan_trainer.engine import Engine, StepResult, build_engine
from yuan_trainer.guard import Guard
from yuan_trainer.link import ParentLink, RankReport
from yuan_trainer.metrics import (
    BlockClock,
    Pace,
    SlowRanks,
    flops_per_token,
    matrix_product_rate,
    peak_memory_gib,
    step_words,
)
from yuan_trainer.optimizer_state import set_step_count
from yuan_trainer.samples import open_samples
from yuan_trainer.saving import StateWriter, restore_state, together, write_model
from yuan_trainer.schedule import learning_rate
from yuan_trainer.specification import Specification
from yuan_trainer.watchdog import Watchdog


@dataclass
class _Run:
    """What the parts of a rank's run share.

    Attributes:
        device_flops: floating-point operations a second of all ranks together, which MFU is a share of.
        optimizer_steps: steps that changed the weights.
        best: step and validation loss of the weights that are kept as the best; empty: none.
    """

    specification: Specification
    grid: Grid
    engine: Engine
    training: Samples
    validation: Samples | None
    link: ParentLink
    guard: Guard
    writer: StateWriter
    watchdog: Watchdog
    clock: BlockClock
    pace: Pace
    device_flops: float
    slow: SlowRanks = field(default_factory=SlowRanks)
    optimizer_steps: int = 0
    best: dict[str, float] = field(default_factory=dict[str, float])

    @property
    def is_first(self) -> bool:
        return torch.distributed.get_rank() == 0

    def tell(self, text: str, level: Any = "info") -> None:
        """Says one line to the user, once for all ranks."""
        if self.is_first:
            self.link.emit(Message(text, level))


@dataclass(frozen=True)
class _Meeting:
    """What all ranks know of each other after a step: whether to stop, whether one still writes, who is slow."""

    stop: bool
    writing: bool
    memory_gib: float
    block_seconds: list[float]


def pretrain(specification: Specification, link: ParentLink) -> RankReport:
    """Trains to the last step or until the parent asks to stop; returns how it ended.

    Raises:
        YuanError: if the disk is full, the data does not fit, or a step went wrong that the guard stops at.
    """
    run = set_up(specification, link)
    if specification.device == "cpu" and (reason := training.why_not()):
        run.tell(f"torch computes what lies between matrix products, slower than compiled: {reason}", "warning")
    done = take_up(run)
    link.report(RankReport("training", step=done))
    if done == 0:
        validate(run, step=0)
        if BadStep.rollback in (specification.train.guard.nonfinite, specification.train.guard.spike):
            save(run, step=0, wait=True)
    while done < specification.train.steps:
        step = done + 1
        started = time.perf_counter()
        result = train_step(run, step)
        if judge(run, step, result) == BadStep.rollback:
            done = go_back(run, step)
            continue
        done = step
        meeting = meet(run)
        show(run, step, result, meeting, time.perf_counter() - started)
        if run.writer.is_open and not meeting.writing:
            finish_saving(run)
        if falls_on(specification.validation_steps, step, specification):
            validate(run, step)
        if meeting.stop or falls_on(specification.checkpoint_steps, step, specification):
            save(run, step, wait=meeting.stop or not specification.checkpoint.asynchronous)
        if meeting.stop:
            return RankReport("stopped", step=done)
    validate(run, step=done)
    finish(run, done)
    return RankReport("done", step=done)


def set_up(specification: Specification, link: ParentLink) -> _Run:
    """Opens the data and builds the engine; a collective."""
    train = specification.train
    samples = open_samples(specification)
    engine = build_engine(specification)
    rate = specification.device_flops or matrix_product_rate(train.precision, specification.device)
    total = torch.tensor(rate, dtype=torch.float64, device=engine.deepspeed.device)
    torch.distributed.all_reduce(total)
    return _Run(
        specification,
        specification.grid,
        engine,
        samples.training,
        samples.validation,
        link,
        guard=Guard(train.guard, train.steps, scales_loss=train.precision == Precision.fp16),
        writer=StateWriter(engine, specification),
        watchdog=Watchdog(link, train.step_timeout_seconds),
        clock=BlockClock(engine.module),
        pace=Pace(train.steps),
        device_flops=float(total),
    )


def take_up(run: _Run) -> int:
    """Restores the state to continue from, if there is one; returns the steps it contains."""
    folder = run.specification.resume_from
    if folder is None:
        if run.specification.train.precision == Precision.bf16:
            # Adam makes its moments in its first step, which the guard may leave out; DeepSpeed wants them after it.
            set_step_count(run.engine, 0)
        return 0
    state = restore_state(run.engine, folder)
    run.guard.restore(state.metadata.get("guard", {}))
    run.optimizer_steps = state.metadata.get("optimizer_steps", state.step)
    best = state.metadata.get("best", {})
    # What a run that was killed has found better since has taken its place; this one will find it again.
    run.best = best if best and best_folder(run, best["step"]).is_dir() else {}
    run.tell(f"continues after step {state.step} of {run.specification.train.steps}")
    return state.step


def train_step(run: _Run, step: int) -> StepResult:
    """One optimizer step over a global batch."""
    specification = run.specification
    train = specification.train
    # What is random inside a step depends on the step alone, so that a resumed run draws the same.
    torch.manual_seed(step_seed(specification, step, torch.distributed.get_rank()))
    replica = run.grid.replica(torch.distributed.get_rank())
    batches = step_batches(
        run.training,
        run.guard.window(step) + 1,
        micro_batches=run.grid.micro_batches(replica, specification.micro_batches),
        micro_batch_size=train.micro_batch_size,
        global_batch_size=train.global_batch_size,
        eod=specification.eod_token_id if train.eod_mask_loss else None,
    )
    run.watchdog.begin(f"step {step}")
    result = run.engine.train_step(batches, learning_rate(step, train.steps, specification.optimizer), run.guard.accept)
    run.optimizer_steps += result.applied
    return result


def judge(run: _Run, step: int, result: StepResult) -> BadStep:
    """Returns what the guard wants done about a step, and says it.

    Raises:
        WorkFailed: if the run is to end; names the step, its samples and its values.
    """
    action = run.guard.action()
    if action == BadStep.ignore:
        return action
    batch = run.specification.train.global_batch_size
    first = run.guard.window(step) * batch
    told = f"step {step} (samples {first} to {first + batch - 1}): {run.guard.wrong}"
    if action == BadStep.stop:
        other = "" if run.guard.skipped or run.guard.rollbacks else ", or set train.guard to skip or roll back"
        raise WorkFailed(f"{told}; lower optimizer.lr, look at those samples{other}")
    norm = f"gradient norm {result.gradient_norm:.3f}"
    run.tell(f"{told} ({norm}); it {'is left out' if action == BadStep.skip else 'is rolled back'}", "warning")
    return action


def go_back(run: _Run, step: int) -> int:
    """Takes up the last whole state, to go on with the data behind that of a step; returns the state's step.

    What is left out is written into the state at once: a run that is killed now does not meet it either.
    """
    if run.writer.is_open:
        finish_saving(run)
    found = together(
        lambda: newest_whole_state(run.specification.state_root) if run.is_first else (None, []),
        "the last checkpoint cannot be read",
    )[0]
    state, damaged = found
    for reason in damaged:
        run.tell(f"damaged checkpoint passed over: {reason}", "warning")
    if state is None:
        raise WorkFailed(f"step {step}: {run.guard.wrong}; there is no whole checkpoint to go back to")
    restore_state(run.engine, state.folder)
    run.guard.go_back(step, state.step, state.metadata.get("guard", {}))
    run.optimizer_steps = state.metadata.get("optimizer_steps", state.step)

    def amend() -> None:
        if run.is_first:
            metadata = {**state.metadata, "guard": run.guard.state(), "best": run.best}
            finish_state(state.folder, state.step, metadata, state.files)

    together(amend, "the checkpoint gone back to cannot be marked")
    run.tell(f"goes on after step {state.step}, with the samples behind those of step {step}")
    return state.step


def meet(run: _Run) -> _Meeting:
    """Tells every rank of every other, so that all stop after the same step; the end of the step's time."""
    device = run.engine.deepspeed.device
    own = [
        float(run.link.stop_requested()),
        float(run.writer.is_busy),
        peak_memory_gib(run.specification.device),
        run.clock.seconds_per_block(),
    ]
    mine = torch.tensor(own, dtype=torch.float64, device=device)
    everyones: list[Tensor] = [torch.empty_like(mine) for _ in range(run.grid.ranks)]
    torch.distributed.all_gather(everyones, mine)
    run.watchdog.end()
    stop, writing, memory, seconds = torch.stack(everyones).T.tolist()
    return _Meeting(any(stop), any(writing), max(memory), seconds)


def show(run: _Run, step: int, result: StepResult, meeting: _Meeting, seconds: float) -> None:
    """Tells what a step came to: its numbers, the way that is left, ranks that have become slow."""
    if not run.is_first:
        return
    specification = run.specification
    train, length = specification.train, specification.data.sequence_length
    speed = train.global_batch_size * length / seconds
    flops = flops_per_token(specification.model, length, frozen=specification.lora is not None)
    values = {
        "loss": result.loss,
        "learning_rate": learning_rate(step, train.steps, specification.optimizer),
        "gradient_norm": result.gradient_norm,
        "tokens_per_second": speed,
        "mfu": speed * flops / run.device_flops,
        "memory_gib": meeting.memory_gib,
        "seconds": seconds,
        "seconds_left": run.pace.seconds_left(step, seconds),
        "skipped": float(not result.applied),
    }
    measured = {name: value for name, value in values.items() if math.isfinite(value) and (name != "skipped" or value)}
    run.link.emit(Metrics(step, measured))
    words = step_words(measured)
    kind = "pretrain" if specification.finetune is None else "finetune"
    run.link.emit(Progress(kind, step, train.steps, "steps", words))
    print(f"step {step}/{train.steps}  {words}", flush=True)  # noqa: T201 - the rank's log, which `yuan logs` shows
    if slow := run.slow.add(meeting.block_seconds):
        run.tell(slow, "warning")


def validate(run: _Run, step: int) -> None:
    """Measures the loss on the validation samples, the same ones each time, and keeps the best weights."""
    if run.validation is None:
        return
    specification = run.specification
    total = specification.validation_samples // specification.train.micro_batch_size
    mine = run.grid.micro_batches(run.grid.replica(torch.distributed.get_rank()), total)
    run.watchdog.begin(
        f"validation after step {step}", specification.validation_samples // specification.train.global_batch_size
    )
    loss = run.engine.evaluate(validation_batches(run, mine), len(mine))
    run.watchdog.end()
    if run.is_first:
        perplexity = math.exp(min(loss, 700.0))  # beyond that it is no fp64
        run.link.emit(Metrics(step, {"validation_loss": loss, "validation_perplexity": perplexity}))
    if specification.checkpoint.best and step > 0 and loss < run.best.get("loss", math.inf):
        keep_best(run, step, loss)


def validation_batches(run: _Run, numbers: range) -> Iterator[MicroBatch]:
    """Yields micro-batches of the validation samples."""
    size = run.specification.train.micro_batch_size
    if run.validation is not None:
        yield from (micro_batch(run.validation, number * size, size, None) for number in numbers)


def keep_best(run: _Run, step: int, loss: float) -> None:
    """Writes the weights as the best ones so far; those before go once these are whole."""
    write_model(run.engine, run.specification, run.grid, best_folder(run, step))
    run.best = {"step": step, "loss": loss}

    def clear() -> None:
        if run.is_first:
            for folder in best_folder(run, step).parent.iterdir():
                if folder != best_folder(run, step):
                    shutil.rmtree(folder)

    together(clear, "weights that are the best no more cannot be removed")


def best_folder(run: _Run, step: float) -> Path:
    """Returns where the best weights are kept: beside the run's checkpoints."""
    return run.specification.state_root.parent / "best" / f"step-{int(step):08d}"


def save(run: _Run, step: int, *, wait: bool) -> None:
    """Writes the training state after a step, while training goes on or before it does; a collective."""
    if run.writer.is_open:
        finish_saving(run)
    specification = run.specification
    metadata = {
        "samples_consumed": step * specification.train.global_batch_size,
        "optimizer_steps": run.optimizer_steps,
        "seed": specification.train.seed,
        "guard": run.guard.state(),
        "best": run.best,
        "stages": list(specification.stages),
        "replicas": specification.replicas,
        "tensor": specification.tensor,
        "precision": str(specification.train.precision),
        # For whoever converts the state: no tensor says how many heads there are.
        "model": specification.model.to_dict(),
        "lora": None if specification.lora is None else as_plain(specification.lora),
    }
    run.writer.begin(step, metadata)
    if wait:
        finish_saving(run)


def finish_saving(run: _Run) -> None:
    """Waits for a state that is being written, and says where it is; a collective."""
    step, folder = run.writer.finish()
    if run.is_first:
        run.link.emit(Checkpoint(step, str(folder)))


def finish(run: _Run, step: int) -> None:
    """Writes the model: the last weights, or the best ones with the last ones in the folder `last` beside them."""
    if run.writer.is_open:
        finish_saving(run)
    output = run.specification.output
    if not run.best or run.best["step"] == step:
        write_model(run.engine, run.specification, run.grid, output)
        return
    write_model(run.engine, run.specification, run.grid, output / "last")

    def put() -> None:
        if run.is_first:
            shutil.copytree(best_folder(run, run.best["step"]), output, dirs_exist_ok=True)

    together(put, "the best weights cannot be copied")
    told = f"validation loss {run.best['loss']:.3f} after step {run.best['step']:.0f}"
    run.tell(f"the model has the best weights, {told}; those after step {step} are in its folder last")


def falls_on(every: int, step: int, specification: Specification) -> bool:
    """Says whether something that is done every so many steps is due; at the last step other things are done."""
    return every > 0 and step % every == 0 and step < specification.train.steps
