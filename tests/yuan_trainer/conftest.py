"""A tiny real dataset and runs of real ranks on it."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from yuan_corpus import IndexedDatasetWriter
from yuan_events import Metrics, RecordingSink, event_from_json
from yuan_manifest.schema import DataSection, OptimizerSection, Precision, TrainSection
from yuan_model import YuanConfig
from yuan_trainer.launcher import run_ranks
from yuan_trainer.link import report_from_json
from yuan_trainer.specification import DatasetPart, Specification

EOD = 3


@pytest.fixture(scope="session")
def dataset_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Documents in which every second token follows from the one before: there is something to learn."""
    folder = tmp_path_factory.mktemp("dataset")
    random = np.random.default_rng(7)
    with IndexedDatasetWriter(folder / "part-00000", np.uint16) as writer:
        for _ in range(200):
            first = random.integers(4, 128, size=int(random.integers(4, 40)))
            pairs = np.stack([first, (first * 7 + 3) % 124 + 4], axis=1).reshape(-1)
            writer.add_document([*pairs.tolist(), EOD])
    return folder


@pytest.fixture
def specification(dataset_folder: Path, tmp_path: Path) -> Specification:
    """Twenty steps of a four-layer model, on one rank in fp32."""
    return Specification(
        model=YuanConfig(
            vocab_size=128,
            hidden_size=32,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=48,
            max_position_embeddings=64,
            eod_token_id=EOD,
        ),
        datasets=(DatasetPart(dataset_folder, 1.0),),
        data=DataSection(sequence_length=24, split=[0.8, 0.2, 0.0]),
        train=TrainSection(steps=20, global_batch_size=8, micro_batch_size=2, precision=Precision.fp32),
        optimizer=OptimizerSection(lr=5e-3, min_lr=5e-4, warmup_steps=5),
        stages=(4,),
        replicas=1,
        device="cpu",
        checkpoint_steps=0,
        checkpoint_keep=3,
        validation_steps=0,
        validation_samples=0,
        eod_token_id=EOD,
        state_root=tmp_path / "checkpoints",
        resume_from=None,
        output=tmp_path / "output",
    )


class Runner:
    """Runs the ranks of specifications, each in a folder of its own, and returns their training losses by step."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.sink = RecordingSink()

    def __call__(
        self, specification: Specification, should_stop: Callable[[], bool] = lambda: False, **changes: Any
    ) -> dict[int, float]:
        """Runs to the end; changes are fields of the specification."""
        specification = replace(specification, **changes)
        specification.output.mkdir(exist_ok=True)
        path = self.root / "specification.json"
        specification.write(path)
        self.sink = RecordingSink()
        try:
            self._run(path, specification.grid.ranks, should_stop)
        finally:
            self.losses = self.metric("loss")
        return self.losses

    def _run(self, path: Path, ranks: int, should_stop: Callable[[], bool]) -> None:
        run_ranks(path, ranks, device="cpu", logs=self.root / "logs", sink=self.sink, should_stop=should_stop)

    def metric(self, name: str) -> dict[int, float]:
        """Returns one metric of the last run by step."""
        found = [event for event in self.sink.events if isinstance(event, Metrics) and name in event.values]
        return {event.step: event.values[name] for event in found}


@pytest.fixture
def run(tmp_path: Path) -> Runner:
    """Runs specifications."""
    return Runner(tmp_path)


class ForkingRunner(Runner):
    """Runs ranks as forks of one process (`forked.py`): a tenth of the time; cannot be stopped."""

    def __init__(self, root: Path, server: "subprocess.Popen[str]") -> None:
        super().__init__(root)
        self._server = server
        self.environment: dict[str, str] = {}

    def _run(self, path: Path, ranks: int, should_stop: Callable[[], bool]) -> None:
        logs = self.root / "logs"
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        job = {"specification": str(path), "ranks": ranks, "logs": str(logs), "environment": self.environment}
        print(json.dumps(job), file=self._server.stdin)
        self._server.stdin.flush()
        codes = json.loads(self._server.stdout.readline())["codes"]
        tails = [(logs / f"rank-{rank}.log").read_text()[-2000:] for rank in range(ranks)]
        assert codes == [0] * ranks, "\n".join(tails)
        for line in (logs / "events-0.jsonl").read_text().splitlines():
            if report_from_json(line) is None:
                self.sink.emit(event_from_json(line))


@pytest.fixture(scope="session")
def forking_server() -> "Iterator[subprocess.Popen[str]]":
    """A process that has imported what ranks need."""
    command = [sys.executable, str(Path(__file__).with_name("forked.py"))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        yield server
        assert server.stdin is not None
        server.stdin.close()


@pytest.fixture
def quick_run(tmp_path: Path, forking_server: "subprocess.Popen[str]") -> ForkingRunner:
    """Runs specifications as `run` does, only faster."""
    return ForkingRunner(tmp_path, forking_server)
