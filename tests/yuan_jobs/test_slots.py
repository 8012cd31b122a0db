"""Training holds the devices that its ranks need; who finds too few waits, and is told for what."""

from pathlib import Path

import pytest
from queue_toys import job, take, tokenizer, worker

from yuan_jobs.claims import claim_queued, give_back
from yuan_jobs.deployments import (
    begin_use,
    deploy,
    deployment,
    deployments,
    end_use,
    remove_deployment,
    set_deployment_state,
)
from yuan_jobs.reconciler import Reconciler, unsent
from yuan_jobs.records import NewJob
from yuan_jobs.registry import Registry
from yuan_jobs.requests import JobRequest
from yuan_jobs.slots import NoFreeDevices, release_deployment, take_for_deployment
from yuan_jobs.states import DeploymentState, JobState
from yuan_jobs.submission import submit
from yuan_manifest import Topology, load_cluster, load_job
from yuan_manifest.schema import Nodes, Parallel


def pretrain(repository: Path, name: str, ranks: int) -> JobRequest:
    job = load_job(repository / "configs/jobs/pretrain-demo.yaml", [f"name={name}"])
    return JobRequest(job, Topology(nodes=Nodes(devices=ranks), parallel=Parallel(data=ranks)))


def test_training_waits_until_its_devices_are_free(registry: Registry, repository: Path) -> None:
    first = submit(registry, pretrain(repository, "one", 2))[0].id
    second = submit(registry, pretrain(repository, "two", 1))[0].id
    trainer, other = worker(registry, "trainer"), worker(registry, "trainer")
    claim = take(registry, first, trainer, capacity=2)
    assert claim_queued(registry, second, other, lease_seconds=30, capacity=2) is None
    waiting = job(registry, second)
    assert waiting.state == JobState.QUEUED
    assert waiting.reason == f"waits for 1 of 2 devices, 0 free; held by {first}"
    give_back(registry, claim, "asked to")
    assert take(registry, second, other, capacity=2).attempt == 1
    assert job(registry, second).reason is None


def test_other_work_needs_no_devices(registry: Registry, repository: Path) -> None:
    take(registry, submit(registry, pretrain(repository, "one", 2))[0].id, worker(registry, "trainer"))
    take(registry, submit(registry, tokenizer())[0].id, worker(registry))


def test_a_job_that_wants_more_devices_than_there_are_gets_them_all(registry: Registry, repository: Path) -> None:
    wide = submit(registry, pretrain(repository, "one", 8))[0].id
    take(registry, wide, worker(registry, "trainer"), capacity=2)
    with pytest.raises(NoFreeDevices, match="wants 1 devices, 0 of 2 are free"):
        take_for_deployment(registry, "demo", 1, 2)


def test_a_deployment_and_training_never_share_a_device(registry: Registry, repository: Path) -> None:
    take_for_deployment(registry, "demo", 1, 2)
    job_id = submit(registry, pretrain(repository, "one", 2))[0].id
    trainer = worker(registry, "trainer")
    assert claim_queued(registry, job_id, trainer, lease_seconds=30, capacity=2) is None
    assert job(registry, job_id).reason == "waits for 2 of 2 devices, 1 free; held by deployment demo"
    release_deployment(registry, "demo")
    assert take(registry, job_id, trainer).devices == (0, 1)


def test_a_claim_says_which_devices_the_job_has(registry: Registry, repository: Path) -> None:
    take_for_deployment(registry, "demo", 1, 4)
    job_id = submit(registry, pretrain(repository, "one", 2))[0].id
    assert take(registry, job_id, worker(registry, "trainer"), capacity=4).devices == (1, 2)


def test_a_job_is_sent_again_when_its_devices_are_free_and_not_before(registry: Registry, repository: Path) -> None:
    seconds = [0.0]
    manifest = load_cluster(None, ["cluster.broker=redis://127.0.0.1:1", "topology.nodes.devices=2"])
    reconciler = Reconciler(registry, manifest, clock=lambda: seconds[0])
    sent: list[str] = []
    reconciler._send = lambda: sent.extend(mark_sent(registry))
    take_for_deployment(registry, "demo", 2, 2)
    job_id = submit(registry, pretrain(repository, "one", 2))[0].id
    worker(registry, "trainer")
    for _ in range(20):
        reconciler.tick()
        seconds[0] += 1
    assert sent == [job_id]
    release_deployment(registry, "demo")
    for _ in range(8):
        reconciler.tick()
        seconds[0] += 1
    assert sent == [job_id, job_id]


def mark_sent(registry: Registry) -> list[str]:
    from sqlalchemy import select

    from yuan_jobs.models import OutboxRow
    from yuan_jobs.registry import now

    if not unsent(registry):
        return []
    with registry.database.writing() as session:
        rows = list(session.scalars(select(OutboxRow).where(OutboxRow.sent.is_(None))))
        for row in rows:
            row.sent = now()
        return [row.job_id for row in rows]


def test_a_deployment_is_what_was_wanted_last(registry: Registry) -> None:
    deploy(registry, "chat", "model/demo@1", {"max_batch": 4})
    deploy(registry, "chat", "model/demo@2", {"max_batch": 8}, "deploy-1")
    assert not set_deployment_state(registry, "chat", "model/demo@1", DeploymentState.READY)
    assert set_deployment_state(registry, "chat", "model/demo@2", DeploymentState.FAILED, "too large")
    (found,) = deployments(registry)
    assert (found.artifact, found.serving, found.state, found.reason, found.job_id) == (
        "model/demo@2",
        {"max_batch": 8},
        DeploymentState.FAILED,
        "too large",
        "deploy-1",
    )
    assert take_for_deployment(registry, "chat", 1, 2) == [0]
    assert take_for_deployment(registry, "more", 1, 2) == take_for_deployment(registry, "more", 1, 2) == [1]
    assert remove_deployment(registry, "more") is False
    assert remove_deployment(registry, "chat")
    assert not remove_deployment(registry, "chat")
    assert deployment(registry, "chat") is None
    take_for_deployment(registry, "other", 2, 2)


def test_what_is_deployed_for_jobs_goes_with_the_last_that_is_active_unless_one_keeps_it(
    registry: Registry,
) -> None:
    claims = [registry.claim(NewJob("evaluate", name, name, {}, {}, {})) for name in ("one", "two", "three", "dead")]
    one, two, three, dead = (claim.job_id for claim in claims)

    def begin(job_id: str, *, keep: bool = False) -> tuple[str, bool, list[str] | None]:
        given = {"names": ("demo", "demo-v1", job_id), "serving": {"max_batch": 4}, "keep": keep}
        record, is_new = begin_use(registry, "model/demo@1", job_id, **given)
        return record.name, is_new, None if record.users is None else list(record.users)

    deploy(registry, "demo", "model/other@1", {})
    assert begin(one) == ("demo-v1", True, [one])
    assert begin(one) == ("demo-v1", False, [one])  # its second attempt
    begin(dead)
    assert begin(two) == ("demo-v1", False, [one, dead, two])
    registry.finish(claims[3], JobState.FAILED, reason="killed")
    assert not end_use(registry, "demo-v1", one)
    assert not end_use(registry, "demo-v1", one)
    assert end_use(registry, "demo-v1", two)
    assert [record.name for record in deployments(registry)] == ["demo"]
    begin(one)
    assert begin(three, keep=True) == ("demo-v1", False, None)
    assert not end_use(registry, "demo-v1", one)
    assert not end_use(registry, "demo", one)  # nobody's
    assert {record.name: record.users for record in deployments(registry)} == {"demo": None, "demo-v1": None}
