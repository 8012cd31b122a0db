"""What Prometheus is told of the registry: on a real SQLite file and a real PostgreSQL."""

from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from sqlalchemy import update

from yuan_jobs.gauges import JobGauges
from yuan_jobs.models import JobRow
from yuan_jobs.records import NewJob
from yuan_jobs.registry import Registry
from yuan_jobs.states import JobState


def shown(registry: Registry) -> dict[str, float]:
    metrics = CollectorRegistry()
    metrics.register(JobGauges(registry, 4))
    lines = generate_latest(metrics).decode().splitlines()
    pairs = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {name: float(value) for name, _, value in pairs}


def test_jobs_are_counted_by_kind_and_state_and_attempts_by_how_they_ended(registry: Registry) -> None:
    for number in range(3):
        job = NewJob("tokenizer", "demo", f"{number}" * 64, {"kind": "tokenizer"}, {}, {})
        claim = registry.claim(job)
        if number:
            registry.finish(claim, JobState.FAILED, reason="because")
    found = shown(registry)
    assert found["yuan_jobs_registry_up"] == 1
    assert found['yuan_jobs{kind="tokenizer",state="RUNNING"}'] == 1
    assert found['yuan_jobs{kind="tokenizer",state="FAILED"}'] == 2
    assert found['yuan_jobs_attempts_total{outcome="FAILED"}'] == 2
    assert found['yuan_jobs_longest_running_seconds{kind="tokenizer"}'] >= 0
    assert (found["yuan_jobs_devices"], found["yuan_jobs_devices_in_use"]) == (4, 0)
    assert found["yuan_jobs_unsent_messages"] == 0


def test_what_waits_for_a_worker_has_its_queue_and_age(registry: Registry) -> None:
    claim = registry.claim(NewJob("tokenizer", "demo", "i" * 64, {"kind": "tokenizer"}, {}, {}))
    with registry.database.writing() as session:
        session.execute(update(JobRow).where(JobRow.id == claim.job_id).values(state="QUEUED", queue="data"))
    found = shown(registry)
    assert found['yuan_jobs_queued{queue="data"}'] == 1
    assert found['yuan_jobs_oldest_queued_seconds{queue="data"}'] >= 0
    assert 'yuan_jobs_longest_running_seconds{kind="tokenizer"}' not in found


def test_a_registry_that_does_not_answer_is_told_instead_of_a_page_that_fails(tmp_path: Path) -> None:
    registry = Registry.open(f"sqlite:///{tmp_path / 'registry.db'}")
    with registry.database.writing() as session:
        session.connection().exec_driver_sql("DROP TABLE attempts")
    assert shown(registry) == {"yuan_jobs_registry_up": 0}
    registry.close()
