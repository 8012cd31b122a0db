"""When a job runs, before whom, how often it is tried: the section `scheduling` of every job.

It says nothing of what is done, so it is no part of a job's identity: the same work with another priority is the same
job.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from yuan_manifest import rules
from yuan_manifest.rules import Problem
from yuan_manifest.values import shown

HIGHEST_PRIORITY = 100
LONGEST_LABEL = 63
MOST_LABELS = 32
MOST_RETRIES = 100
LONGEST_DELAY_SECONDS = 3600.0

_WEBHOOK = re.compile(r"https?://[A-Za-z0-9.\-\[\]:]+(?:/[^\s@]*)?")
_LABEL = re.compile(rf"[A-Za-z0-9](?:[A-Za-z0-9._/-]{{0,{LONGEST_LABEL - 1}}})")
_LABEL_RULE = f"1 to {LONGEST_LABEL} of A-Z a-z 0-9 . _ / -, the first a letter or digit"


@dataclass
class SchedulingSection:
    """When a job runs.

    Attributes:
        priority: -100 to 100; a waiting job of a higher one runs first. Of a pipeline: of its steps, too.
        preemptible: it may be asked to save its state and step aside for a job of a higher priority.
        labels: names and values of the user's own, to find jobs by.
        time_limit_seconds: of one attempt; then the job saves its state and has FAILED. null: none.
        retries: how often it is tried again after it failed, each time from its last checkpoint.
        retry_delay_seconds: before the first of these; doubled before each further one, an hour at most.
        cron: when `yuan schedule` lets it run, as cron has it (`0 3 1 * *`: at 3:00 on the first of each month); `yuan
            submit` does not look at it.
        timezone: of `cron`, as the IANA database names it.
        notify: URLs that are told how it ended, by a POST of JSON; their hosts are in `cluster.security.webhook_hosts`.
    """

    priority: int = 0
    preemptible: bool = True
    labels: dict[str, str] = field(default_factory=dict[str, str])
    time_limit_seconds: int | None = None
    retries: int = 0
    retry_delay_seconds: int = 10
    cron: str | None = None
    timezone: str = "UTC"
    notify: list[str] = field(default_factory=list[str])


def check_scheduling(section: SchedulingSection) -> Iterator[Problem]:
    """Yields what is wrong with a section."""
    if abs(section.priority) > HIGHEST_PRIORITY:
        yield "priority", f"expected -{HIGHEST_PRIORITY} to {HIGHEST_PRIORITY}, found {shown(section.priority)}"
    yield from rules.at_least(section, 1, "time_limit_seconds")
    yield from rules.at_least(section, 0, "retries", "retry_delay_seconds")
    yield from rules.at_most(section, MOST_RETRIES, "retries")
    if section.cron is not None and (problem := cron_problem(section.cron)) is not None:
        yield "cron", problem
    if not _is_timezone(section.timezone):
        yield "timezone", f"expected a time zone such as UTC or Asia/Shanghai, found {shown(section.timezone)}"
    for index, url in enumerate(section.notify):
        if not _WEBHOOK.fullmatch(url):
            yield f"notify[{index}]", f"expected http://HOST/… or https://HOST/…, found {shown(url)}"
    if len(section.labels) > MOST_LABELS:
        yield "labels", f"expected at most {MOST_LABELS}, found {len(section.labels)}"
    for name, value in section.labels.items():
        if not _LABEL.fullmatch(name):
            yield ("labels", name), f"expected a label's name ({_LABEL_RULE}), found {shown(name)}"
        elif value and not _LABEL.fullmatch(value):
            yield ("labels", name), f"expected a label's value ({_LABEL_RULE}), or nothing, found {shown(value)}"


def cron_problem(text: str) -> str | None:
    """Returns what is wrong with a cron expression; None: nothing."""
    # A library of its own: only who schedules loads it.
    from cronsim import CronSim, CronSimError  # noqa: PLC0415

    try:
        CronSim(text, datetime(2026, 1, 1, tzinfo=UTC))
    except CronSimError as error:
        return f"expected minute hour day month weekday, as in '0 3 1 * *', found {shown(text)}: {error}"
    return None


def next_time(section: SchedulingSection, after: datetime) -> datetime | None:
    """Returns when a schedule's next run is, in UTC; None: never (`0 0 30 2 *`), or it has no `cron`.

    Args:
        section: with `cron`.
        after: a moment with its zone.
    """
    if section.cron is None:
        return None
    from cronsim import CronSim  # noqa: PLC0415

    moment = next(CronSim(section.cron, after.astimezone(ZoneInfo(section.timezone))), None)
    return None if moment is None else moment.astimezone(UTC)


def _is_timezone(name: str) -> bool:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return False
    return True


def step_scheduling(pipeline: SchedulingSection, step: SchedulingSection) -> SchedulingSection:
    """Returns how a pipeline's step is scheduled: as it says itself, and where it says nothing, as its pipeline."""
    standard = SchedulingSection()
    values = {
        name: own if (own := getattr(step, name)) != getattr(standard, name) else getattr(pipeline, name)
        for name in ("priority", "preemptible", "time_limit_seconds", "retries", "retry_delay_seconds")
    }
    labels: Mapping[str, str] = {**pipeline.labels, **step.labels}
    return SchedulingSection(labels=dict(labels), **values)


def retry_delay(section: SchedulingSection, failures: int) -> float:
    """Returns how many seconds a job waits before it is tried again after so many failures (at least 1)."""
    return min(section.retry_delay_seconds * 2.0 ** min(failures - 1, 30), LONGEST_DELAY_SECONDS)
