"""The data service's real workers share the shards of a corpus; a killed one costs its shard alone."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from queue_stack import QueueStack, running
from tests.machine import wait_until
from toy_home import Toys

from yuan_corpus import Tokenizer, open_dataset, tokenize_corpus
from yuan_corpus.text_files import find_text_files
from yuan_jobs.claims import workers
from yuan_jobs.queries import attempts
from yuan_jobs.states import AttemptOutcome, JobState

SHARD_MIB = 1
SHARDS = 5


class RealServices(Toys):
    """A home and a folder, with the product's own services in the place of toys."""

    @property
    def environment(self) -> dict[str, str]:
        """The environment of its processes."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("YUAN_")}
        return kept | {"YUAN_HOME": str(self.home)}


@pytest.fixture
def real_stack(tmp_path: Path) -> Iterator[QueueStack]:
    toys = RealServices(tmp_path)
    with running(toys) as stack:
        yield stack


def write(stack: QueueStack) -> None:
    folder = stack.toys.folder
    (folder / "text").mkdir()
    lines = [f"document {number}: the quick brown fox jumps over the lazy dog, 敏捷的狐狸" for number in range(60_000)]
    (folder / "text" / "all.txt").write_text("\n".join(lines), encoding="utf-8")
    (folder / "tokenizer.yaml").write_text(
        f"version: 1\nkind: tokenizer\nname: t\ninputs: {{text: [{folder}/text]}}\noutputs: {{tokenizer: small}}\n"
        "tokenizer: {algorithm: bpe, vocab_size: 360, sample_megabytes: 0.2}\n"
    )
    (folder / "tokenize.yaml").write_text(
        f"version: 1\nkind: tokenize\nname: d\ninputs: {{text: [{folder}/text], tokenizer: small}}\n"
        "outputs: {dataset: small}\n"
        f"tokenize: {{shard_mib: {SHARD_MIB}, workers: 1}}\n"
    )


@pytest.mark.slow
def test_two_workers_share_shards_and_a_killed_one_costs_its_shard_alone(real_stack: QueueStack) -> None:
    write(real_stack)
    done = real_stack.toys.run("yuan_data", "run", "tokenizer.yaml")
    assert done.returncode == 0, done.stderr
    real_stack.start_reconciler()
    processes = [real_stack.start_worker(), real_stack.start_worker()]
    job_id = real_stack.submit("tokenize.yaml")
    wait_until(lambda: len(real_stack.steps(job_id)) == SHARDS)

    def at_work() -> dict[str, str]:
        return {
            part.id: part.lease_owner or "" for part in real_stack.steps(job_id).values() if part.state == "RUNNING"
        }

    def kill_one_at_work() -> str:
        """Kills a worker that has a shard and not finished it, and returns the shard's job."""
        while True:
            wait_until(lambda: len(at_work()) == 2)
            for part, owner in at_work().items():
                worker = processes[known.index(owner)].pid
                os.kill(worker, signal.SIGSTOP)
                if at_work().get(part) == owner:
                    os.kill(worker, signal.SIGKILL)
                    return part
                os.kill(worker, signal.SIGCONT)

    known = [worker.id for worker in workers(real_stack.registry)]
    victim = kill_one_at_work()
    real_stack.await_state(job_id, JobState.SUCCEEDED)

    parts = real_stack.steps(job_id)
    assert [part.state for part in parts.values()] == [JobState.SUCCEEDED] * SHARDS
    for part in parts.values():
        outcomes = [attempt.outcome for attempt in attempts(real_stack.registry, part.id)]
        lost = [AttemptOutcome.LOST] if part.id == victim else []
        assert outcomes == [*lost, AttemptOutcome.SUCCEEDED], part.id
    assert [attempt.outcome for attempt in attempts(real_stack.registry, job_id)] == [
        AttemptOutcome.YIELDED, AttemptOutcome.SUCCEEDED,
    ]  # fmt: skip
    store = real_stack.toys.store()
    dataset = store.open_artifact("dataset/small")
    tokenizer = Tokenizer.load(store.open_artifact("tokenizer/small").path)
    alone = real_stack.toys.folder / "alone"
    alone.mkdir()
    tokenize_corpus(
        find_text_files([str(real_stack.toys.folder / "text")]), tokenizer, alone, shard_bytes=SHARD_MIB << 20
    )
    assert len(open_dataset(alone)) == 60_000
    for path in alone.iterdir():
        assert (dataset.path / path.name).read_bytes() == path.read_bytes(), path.name
    assert not (real_stack.toys.home / "runs" / job_id / "unfinished").exists()
