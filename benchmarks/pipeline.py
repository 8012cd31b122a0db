"""What uneven stages change, measured with the trainer's engine beside what the planner predicts.

    python benchmarks/pipeline.py [--steps 4]

Two ranks of one thread each, fp32: 9 layers of hidden 256, FFN 704, vocabulary 32,768 (the logits cost as much as
seven layers), 8 micro-batches of 4 x 128 tokens, logits undivided. Even stages first, then the planner's. A stage's
passes are timed one by one; the bubble is the share of the time from the first forward to the last backward pass in
which a stage runs none, over both stages; the median step counts. Memory is the growth of a rank's high-water mark from
before its weights were made. What the libraries take then is in it, on both sides alike; what changes from one division
to the other is printed, too. Wants two free cores: on a busy machine times say nothing.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from yuan_manifest.schema import DataSection, OptimizerSection, Precision, Recompute, TrainSection
from yuan_model import YuanConfig
from yuan_parallel import Devices, Division, Prediction, StagePlan, Training, uniform_stages
from yuan_parallel.planner import planned_stages
from yuan_trainer.batches import MicroBatch
from yuan_trainer.specification import Specification

CONFIG = YuanConfig(32768, 256, 9, 4, 704, 128)
SEQUENCE, MICRO_BATCH, MICRO_BATCHES, RANKS = 128, 4, 8, 2
UNIT = Devices(hosts=1, per_host=RANKS, memory=None, speed=1e12, peak=1e12, link=float("inf"), network=float("inf"))
"""Speed cancels out of every ratio here."""


def main() -> None:
    """Runs both divisions and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rank", nargs=2, metavar=("SPECIFICATION", "RESULT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank:
        run_rank(Path(options.rank[0]), Path(options.rank[1]))
        return
    training = Training(
        network=CONFIG,
        sequence_length=SEQUENCE,
        global_batch_size=MICRO_BATCH * MICRO_BATCHES,
        micro_batch_size=MICRO_BATCH,
        precision=Precision.fp32,
        recompute=Recompute.none,
        recompute_every=1,
        loss_block_tokens=0,
        optimizer="adamw",
        lora=None,
        tokens=1,
    )
    even = Division(uniform_stages(CONFIG.num_hidden_layers, RANKS), 1, 1, 1, sequence=False)
    planned = even.with_stages(planned_stages(training, even, UNIT))
    print(
        f"{CONFIG.parameter_count() / 1e6:.1f}M parameters, fp32, {RANKS} ranks of one thread, {os.cpu_count()} cores"
    )
    found: list[tuple[Prediction, dict[str, Any]]] = []
    for name, division in (("uniform", even), ("planned", planned)):
        prediction = Prediction(training, division, UNIT)
        measured = measure(division.stages, options.steps)
        found.append((prediction, measured))
        memory = ", ".join(
            f"stage {stage} {predicted.total / 2**20:.0f} / {mebibytes:.0f}"
            for stage, (predicted, mebibytes) in enumerate(zip(prediction.memory, measured["mebibytes"], strict=True))
        )
        print(
            f"{name} {division.stages}: bubble {prediction.seconds.waiting:.3f} predicted, {measured['bubble']:.3f} "
            f"measured; {measured['seconds']:.2f} s a pipeline; MiB predicted / measured: {memory}"
        )
    (before, measured_before), (after, measured_after) = found
    for stage in range(RANKS):
        predicted = (after.memory[stage].total - before.memory[stage].total) / 2**20
        measured = measured_after["mebibytes"][stage] - measured_before["mebibytes"][stage]
        print(f"stage {stage}, planned - uniform: {predicted:+.0f} MiB predicted, {measured:+.0f} MiB measured")
    print(
        f"planned / uniform: time {after.seconds.total / before.seconds.total:.2f} predicted, "
        f"{measured_after['seconds'] / measured_before['seconds']:.2f} measured; peak memory "
        f"{after.peak / before.peak:.2f} predicted, "
        f"{max(measured_after['mebibytes']) / max(measured_before['mebibytes']):.2f} measured"
    )


def measure(stages: StagePlan, steps: int) -> dict[str, Any]:
    """Returns the median bubble and seconds of a step's pipeline, and each rank's MiB at its fullest."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        specification(stages, steps, folder).write(folder / "specification.json")
        processes: list[subprocess.Popen[bytes]] = []
        for rank in range(RANKS):
            environment = {
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "DS_ACCELERATOR": "cpu",
                "YUAN_MEETING_FILE": str(folder / "meeting"),
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(RANKS),
                "LOCAL_SIZE": str(RANKS),
            }
            command = [sys.executable, __file__, "--rank", str(folder / "specification.json"), str(folder / f"{rank}")]
            with (folder / f"{rank}.log").open("wb") as log:
                processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
        for rank, process in enumerate(processes):
            if process.wait():
                raise SystemExit((folder / f"{rank}.log").read_text(encoding="utf-8"))
        ranks = [json.loads((folder / f"{rank}").read_text(encoding="utf-8")) for rank in range(RANKS)]
    bubbles: list[float] = []
    lengths: list[float] = []
    for step in range(1, steps):  # the first one warms up
        passes = [rank["passes"][step] for rank in ranks]
        length = max(end for one in passes for _, end in one) - min(start for one in passes for start, _ in one)
        busy = sum(end - start for one in passes for start, end in one)
        bubbles.append(1 - busy / (RANKS * length))
        lengths.append(length)
    return {
        "bubble": statistics.median(bubbles),
        "seconds": statistics.median(lengths),
        "mebibytes": [rank["mebibytes"] for rank in ranks],
    }


def specification(stages: StagePlan, steps: int, folder: Path) -> Specification:
    """Returns what a rank is told."""
    return Specification(
        model=CONFIG,
        datasets=(),
        data=DataSection(sequence_length=SEQUENCE),
        train=TrainSection(
            steps=steps,
            global_batch_size=MICRO_BATCH * MICRO_BATCHES,
            micro_batch_size=MICRO_BATCH,
            precision=Precision.fp32,
            loss_block_tokens=0,
        ),
        optimizer=OptimizerSection(lr=1e-3),
        stages=stages.layers,
        replicas=1,
        device="cpu",
        checkpoint_steps=0,
        checkpoint_keep=1,
        validation_steps=0,
        validation_samples=0,
        eod_token_id=0,
        state_root=folder,
        resume_from=None,
        output=folder,
    )


# --- one rank ----------------------------------------------------------------------------------------------------


def run_rank(path: Path, result: Path) -> None:
    """Trains on random tokens and writes when each pass ran and how much memory it took."""
    from yuan_trainer.engine import build_engine  # noqa: PLC0415 - DeepSpeed takes seconds
    from yuan_trainer.joining import join_processes  # noqa: PLC0415

    told = Specification.read(path)
    join_processes("cpu")
    torch.distributed.barrier()
    forget_peak()
    before = resident_mebibytes("VmRSS")
    engine = build_engine(told)
    passes: list[tuple[float, float]] = []
    steps: list[list[tuple[float, float]]] = []
    for name in ("_exec_forward_pass", "_exec_backward_pass"):
        time_passes(type(engine.deepspeed), name, passes)
    for step in range(told.train.steps):
        torch.distributed.barrier()
        engine.train_step(batches(step), 1e-3)
        steps.append(list(passes))
        passes.clear()
    grown = resident_mebibytes("VmHWM") - before
    result.write_text(json.dumps({"passes": steps, "mebibytes": grown}), encoding="utf-8")
    torch.distributed.barrier()
    os._exit(0)


def time_passes(kind: Any, name: str, passes: list[tuple[float, float]]) -> None:
    """Lets an engine's instruction note when it began and ended; the clock is one for all processes of a host."""
    plain: Callable[..., None] = getattr(kind, name)

    def timed(engine: Any, *arguments: Any, **options: Any) -> None:
        start = time.perf_counter()
        plain(engine, *arguments, **options)
        passes.append((start, time.perf_counter()))

    table = kind._INSTRUCTION_MAP
    kind._INSTRUCTION_MAP = {key: timed if value is plain else value for key, value in table.items()}


def batches(step: int) -> Iterator[MicroBatch]:
    """Yields a step's micro-batches, the same on every rank."""
    generator = torch.Generator().manual_seed(step)
    for _ in range(MICRO_BATCHES):
        tokens = torch.randint(0, CONFIG.vocab_size, (MICRO_BATCH, SEQUENCE + 1), generator=generator)
        labels = tokens[:, 1:].contiguous()
        yield tokens[:, :-1].contiguous(), (labels, torch.ones_like(labels, dtype=torch.float32))


def forget_peak() -> None:
    """Makes the high-water mark of this process begin again."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def resident_mebibytes(field: str) -> float:
    """Returns a field of this process's memory, which the kernel tells in KiB."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


if __name__ == "__main__":
    main()
