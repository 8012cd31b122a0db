"""Jobs that recur are submitted when they are due, once; webhooks are told how a job ended, and no other host is."""

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from queue_toys import publish, take, worker
from sqlalchemy import update

from yuan_events import InputError
from yuan_jobs.control import cancel, resume
from yuan_jobs.models import NotificationRow
from yuan_jobs.notifications import MOST_TRIES, Notifier, check_webhooks, is_allowed, notifications
from yuan_jobs.queries import list_jobs
from yuan_jobs.registry import Registry, now
from yuan_jobs.requests import JobRequest
from yuan_jobs.schedules import NoSuchSchedule, put_schedule, remove_schedule, schedules, submit_due
from yuan_jobs.states import JobState
from yuan_jobs.submission import submit
from yuan_manifest import ManifestError, SchedulingSection, Topology, job_of_plain
from yuan_manifest.scheduling import next_time

MORNING = datetime(2026, 3, 1, 8, 0, tzinfo=UTC)


def request(name: str = "nightly", **scheduling: object) -> JobRequest:
    manifest = {
        "version": 1,
        "kind": "tokenizer",
        "name": name,
        "inputs": {"text": ["a.txt"]},
        "outputs": {"tokenizer": name},
        "scheduling": scheduling,
    }
    return JobRequest(job_of_plain(manifest), Topology())


def test_a_schedule_submits_its_job_when_it_is_due_once(registry: Registry) -> None:
    made = put_schedule(registry, request(cron="0 9 * * *"), MORNING)
    assert made.next_run == MORNING + timedelta(hours=1)
    submit_due(registry, moment=MORNING)
    assert list_jobs(registry).jobs == []
    for _ in range(2):
        submit_due(registry, moment=MORNING + timedelta(hours=1, seconds=5))
    (job,) = list_jobs(registry).jobs
    (after,) = schedules(registry)
    assert (after.last_job_id, after.last_run) == (job.id, MORNING + timedelta(hours=1))
    assert after.next_run == MORNING + timedelta(hours=25)


def test_runs_that_a_stack_slept_through_are_made_up_for_once(registry: Registry) -> None:
    put_schedule(registry, request(cron="0 * * * *"), MORNING)
    submit_due(registry, moment=MORNING + timedelta(days=3))
    assert len(list_jobs(registry).jobs) == 1
    assert schedules(registry)[0].next_run == MORNING + timedelta(days=3, hours=1)


def test_a_time_zone_is_heeded_also_where_its_summer_begins() -> None:
    section = SchedulingSection(cron="0 3 * * *", timezone="Europe/Berlin")
    assert next_time(section, datetime(2026, 3, 28, 12, tzinfo=UTC)) == datetime(2026, 3, 29, 1, tzinfo=UTC)
    assert next_time(section, datetime(2026, 3, 27, 12, tzinfo=UTC)) == datetime(2026, 3, 28, 2, tzinfo=UTC)


def test_a_schedule_is_replaced_by_its_name_and_removed(registry: Registry) -> None:
    put_schedule(registry, request(cron="0 9 * * *"), MORNING)
    put_schedule(registry, request(cron="0 10 * * *"), MORNING)
    assert [one.cron for one in schedules(registry)] == ["0 10 * * *"]
    remove_schedule(registry, "nightly")
    assert schedules(registry) == []
    with pytest.raises(NoSuchSchedule, match="schedule nightly does not exist"):
        remove_schedule(registry, "nightly")


@pytest.mark.parametrize(
    ("scheduling", "line"),
    [
        ({"cron": "every day"}, "scheduling.cron: expected minute hour day month weekday"),
        ({"timezone": "Mars/Base"}, "scheduling.timezone: expected a time zone"),
        ({"notify": ["ftp://a/b"]}, r"scheduling.notify\[0\]: expected http://HOST"),
        ({"notify": ["http://user:secret@a/b"]}, r"scheduling.notify\[0\]: expected http://HOST"),
        ({"retries": 101}, "scheduling.retries: expected at most 100"),
        ({"time_limit_seconds": 0}, "scheduling.time_limit_seconds: expected at least 1"),
    ],
)
def test_what_cannot_be_a_time_or_a_webhook_is_one_line(scheduling: dict[str, object], line: str) -> None:
    with pytest.raises(ManifestError, match=line):
        request(**scheduling)


def test_a_schedule_without_a_time_or_of_one_that_never_comes_is_refused(registry: Registry) -> None:
    with pytest.raises(InputError, match=r"scheduling.cron: missing"):
        put_schedule(registry, request())
    with pytest.raises((InputError, ManifestError), match=r"never comes|expected minute"):
        put_schedule(registry, request(cron="0 0 30 2 *"))


class Hook:
    """A webhook's server: what it was told, and what it answers."""

    def __init__(self) -> None:
        self.told: list[dict[str, object]] = []
        self.answer = 204
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                hook.told.append(json.loads(body))
                self.send_response(hook.answer)
                self.send_header("Location", f"http://127.0.0.1:{hook.port}/elsewhere")
                self.end_headers()

            def log_message(self, *told: object) -> None:
                del told

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/done"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def hook() -> Iterator[Hook]:
    running = Hook()
    yield running
    running.server.shutdown()
    running.server.server_close()


def deliver(registry: Registry, hosts: tuple[str, ...] = ("127.0.0.1",)) -> None:
    """Sends all that is due, and waits for it."""
    notifier = Notifier(registry, hosts)
    notifier.tick()
    notifier._pool.shutdown(wait=True)
    for number, sent in notifier._under_way.items():
        notifier._settle(number, sent.result())


def test_a_webhook_is_told_once_how_a_job_ended_and_again_after_a_resume(registry: Registry, hook: Hook) -> None:
    job_id = submit(registry, request("told", notify=[hook.url], labels={"team": "a"}))[0].id
    deliver(registry)
    assert hook.told == []
    cancel(registry, job_id)
    deliver(registry)
    deliver(registry)
    assert [(one["id"], one["state"], one["labels"]) for one in hook.told] == [(job_id, "CANCELLED", {"team": "a"})]
    resume(registry, job_id)
    publish(registry, take(registry, job_id, worker(registry)), name="told")
    deliver(registry)
    assert [(one["state"], one["artifact"]) for one in hook.told[1:]] == [("SUCCEEDED", "tokenizer/told@1")]


def test_a_webhook_that_fails_is_told_again_later_and_given_up_in_the_end(registry: Registry, hook: Hook) -> None:
    hook.answer = 503
    job_id = submit(registry, request("told", notify=[hook.url]))[0].id
    cancel(registry, job_id)
    for tried in range(1, MOST_TRIES + 1):
        deliver(registry)
        deliver(registry)
        (row,) = notifications(registry, job_id)
        assert (row.tries, len(hook.told)) == (tried, tried)
        assert row.problem == "answered 503 Service Unavailable"
        with registry.database.writing() as session:
            if row.next_try is not None:
                session.execute(update(NotificationRow).values(next_try=now()))
    assert notifications(registry, job_id)[0].next_try is None


def test_a_redirection_is_not_followed_and_an_unlisted_host_not_called(registry: Registry, hook: Hook) -> None:
    hook.answer = 302
    first = submit(registry, request("one", notify=[hook.url]))[0].id
    second = submit(registry, request("two", notify=[hook.url]))[0].id
    cancel(registry, first)
    deliver(registry)
    assert len(hook.told) == 1
    assert notifications(registry, first)[0].problem == "answered 302 Found"
    cancel(registry, second)
    deliver(registry, hosts=())
    assert len(hook.told) == 1
    assert "webhook_hosts" in (notifications(registry, second)[0].problem or "")


def test_only_hosts_that_the_cluster_names_may_be_webhooks() -> None:
    hosts = ["hooks.example.org", "*.corp.example"]
    assert is_allowed("https://hooks.example.org/a", hosts)
    assert is_allowed("https://a.b.corp.example:8443/a", hosts)
    for url in ("https://example.org/", "http://169.254.169.254/latest", "http://hooks.example.org.evil/"):
        assert not is_allowed(url, hosts)
    with pytest.raises(InputError, match=r"scheduling.notify\[0\]: host 10.0.0.1 is not among"):
        check_webhooks(request(notify=["http://10.0.0.1/x"]), hosts)


def test_a_job_that_is_tried_again_has_not_ended_for_its_webhook(registry: Registry, hook: Hook) -> None:
    job_id = submit(registry, request("flaky", notify=[hook.url], retries=1, retry_delay_seconds=0))[0].id
    mine = worker(registry)
    registry.finish(take(registry, job_id, mine), JobState.FAILED, reason="it broke")
    deliver(registry)
    assert hook.told == []
    registry.finish(take(registry, job_id, mine), JobState.FAILED, reason="it broke")
    deliver(registry)
    assert [one["reason"] for one in hook.told] == ["it broke"]
