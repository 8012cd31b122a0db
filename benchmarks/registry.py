"""How fast is the job registry: submits a second, and listing and filtering among many jobs.

    python benchmarks/registry.py [--jobs 10000] [--url postgresql+psycopg://…]

The peer is the database itself: one bare INSERT of a row of the same size a transaction, with the same settings. Prints
medians, the slowest of a hundred, and the ratio of a submit to the bare insert.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import text

from yuan_jobs.queries import list_jobs
from yuan_jobs.registry import Registry
from yuan_jobs.requests import JobRequest
from yuan_jobs.states import JobState
from yuan_jobs.submission import submit
from yuan_manifest import Topology, job_of_plain

_LISTINGS = 100
_BARE = 500


def request(number: int) -> JobRequest:
    """Returns a job that is no other one's."""
    manifest = {
        "version": 1,
        "kind": "tokenizer",
        "name": f"bench-{number}",
        "inputs": {"text": [f"{number}.txt"]},
        "outputs": {"tokenizer": f"bench-{number}"},
        "scheduling": {"labels": {"team": f"team-{number % 20}"}, "priority": number % 10},
    }
    return JobRequest(job_of_plain(manifest), Topology())


def timed(what: Callable[[], object], times: int) -> list[float]:
    """Returns the seconds of each of some calls."""
    seconds: list[float] = []
    for _ in range(times):
        begin = time.perf_counter()
        what()
        seconds.append(time.perf_counter() - begin)
    return seconds


def bare_inserts(registry: Registry) -> float:
    """Returns rows a second that the database takes by itself, one a transaction."""
    payload = "x" * 2000
    with registry.database.writing() as session:
        session.execute(text("CREATE TABLE bare (id INTEGER PRIMARY KEY, payload TEXT)"))
    numbers = iter(range(_BARE))

    def insert() -> None:
        with registry.database.writing() as session:
            session.execute(text("INSERT INTO bare VALUES (:id, :payload)"), {"id": next(numbers), "payload": payload})

    rate = _BARE / sum(timed(insert, _BARE))
    with registry.database.writing() as session:
        session.execute(text("DROP TABLE bare"))
    return rate


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--url", help="an empty database; default: SQLite in a folder of its own")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        registry = Registry.open(arguments.url or f"sqlite:///{Path(folder) / 'registry.db'}")
        measure(registry, arguments.jobs)
        registry.close()


def measure(registry: Registry, jobs: int) -> None:
    """Fills a registry with jobs and looks at it."""
    requests = [request(number) for number in range(jobs)]
    bare = bare_inserts(registry)
    remaining = iter(requests)
    submits = timed(lambda: submit(registry, next(remaining)), jobs)
    rate = jobs / sum(submits)
    median, slowest = 1e3 * statistics.median(submits), 1e3 * max(submits)
    print(f"{jobs} submits: {rate:.0f}/s, median {median:.2f} ms, slowest {slowest:.0f} ms")
    print(f"the last tenth: {len(submits[-jobs // 10 :]) / sum(submits[-jobs // 10 :]):.0f}/s")
    print(f"bare inserts: {bare:.0f}/s; a submit takes {bare / rate:.1f} times as long as one")
    listings: dict[str, Callable[[], object]] = {
        "first page (100)": lambda: list_jobs(registry),
        "of a state": lambda: list_jobs(registry, states=[JobState.QUEUED]),
        "of a state that none has": lambda: list_jobs(registry, states=[JobState.FAILED]),
        "of a kind": lambda: list_jobs(registry, kind="tokenizer"),
        "of a label": lambda: list_jobs(registry, labels={"team": "team-7"}),
        "largest page (1000)": lambda: list_jobs(registry, page_size=1000),
    }
    for name, listing in listings.items():
        seconds = timed(listing, _LISTINGS)
        median, slowest = 1e3 * statistics.median(seconds), 1e3 * max(seconds)
        print(f"{name:26} median {median:6.1f} ms, slowest of {_LISTINGS} {slowest:6.1f} ms")


if __name__ == "__main__":
    main()
