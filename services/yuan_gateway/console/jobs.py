"""Jobs: the list, one job with all that is known of it, cancelling and resuming, several jobs side by side."""

from collections.abc import Iterator
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request, Response

from yuan_events import InputError, YuanError
from yuan_gateway.console.access import PATH, Form, Somebody, Visitor, require
from yuan_gateway.console.pictures import division_picture
from yuan_gateway.console.shell import Console, console_of
from yuan_jobs.differences import Difference, differences
from yuan_jobs.messages import plain_of, state_numbers, state_of
from yuan_jobs.states import JobState
from yuan_manifest import Kind, ManifestError, job_of_plain, topology_of_plain
from yuan_manifest.schema import as_plain
from yuan_manifest.yaml_source import dump_yaml
from yuan_rpc import RpcFailed
from yuan_rpc.jobs.v1 import jobs_pb2

router = APIRouter(prefix=f"{PATH}/jobs", include_in_schema=False)

_PAGE = 25
MOST_COMPARED = 6
_LONGEST = 200

TABS = ("overview", "logs", "manifest", "division")
_TRAININGS = ("pretrain", "finetune")


@router.get("")
async def list_page(  # noqa: PLR0917 - a query's parameters
    request: Request,
    visitor: Somebody,
    state: str = "",
    kind: str = "",
    label: str = "",
    text: str = "",
    steps: str = "",
    page: str = "",
) -> Response:
    """Lists jobs, newest first; htmx gets the table alone."""
    console = console_of(request)
    chosen = {"state": state, "kind": kind, "label": label, "text": text, "steps": steps}
    chosen = {name: value.strip()[:_LONGEST] for name, value in chosen.items()}
    values: dict[str, Any] = {
        **chosen,
        "page": page,
        "jobs": [],
        "next": "",
        "problem": "",
        "states": list(JobState),
        "filtered": any(chosen.values()),
        "first": f"{PATH}/jobs?{urlencode({name: value for name, value in chosen.items() if value})}",
    }
    status = 200
    try:
        message = _list_request(chosen, page)
        reply = await console.stack.jobs("List", message, visitor.token)
        values |= {"jobs": reply.jobs}
        if reply.next_page_token:
            query = {name: value for name, value in chosen.items() if value}
            values["next"] = f"{PATH}/jobs?{urlencode({**query, 'page': reply.next_page_token})}"
    except YuanError as error:
        values["problem"], status = str(error), 200 if "hx-request" in request.headers else _status(error)
    template = "jobs_table.html" if "hx-request" in request.headers else "jobs.html"
    return console.pages.answer(request, visitor, template, values, status=status)


def _list_request(chosen: dict[str, str], page: str) -> jobs_pb2.ListRequest:
    """Returns the request of a filter.

    Raises:
        InputError: if a state, a kind or a label is none.
    """
    state, kind, label = chosen["state"], chosen["kind"], chosen["label"]
    if state and state not in JobState.__members__:
        raise InputError(f"no state {state!r}; expected one of {', '.join(JobState)}")
    if kind and kind not in Kind.__members__:
        raise InputError(f"no kind {kind!r}; expected one of {', '.join(Kind)}")
    labels: dict[str, str] = {}
    for one in label.replace(",", " ").split():
        name, found, value = one.partition("=")
        if not found or not name:
            raise InputError(f"a label is NAME=VALUE, found {one!r}")
        labels[name] = value
    return jobs_pb2.ListRequest(
        states=state_numbers([JobState(state)] if state else []),
        kind=kind,
        labels=labels,
        text=chosen["text"],
        include_children=bool(chosen["steps"]),
        page_size=_PAGE,
        page_token=page,
    )


@router.get("/compare")
async def compare_page(
    request: Request, visitor: Somebody, job: Annotated[list[str] | None, Query()] = None
) -> Response:
    """Shows the curves of several jobs in the same charts, and in what they differ."""
    console = console_of(request)
    wanted = list(dict.fromkeys(one.strip()[:_LONGEST] for one in job or [] if one.strip()))
    problems: list[str] = []
    if len(wanted) > MOST_COMPARED:
        problems.append(console.pages.text(visitor.language, "compare.too_many", n=MOST_COMPARED))
        wanted = wanted[:MOST_COMPARED]
    found: list[jobs_pb2.Job] = []
    for one in wanted:
        try:
            reply = await console.stack.jobs("Get", jobs_pb2.GetRequest(id=one), visitor.token)
            found.append(reply.job)
        except YuanError as error:
            problems.append(str(error))
    trees = [{**recipe_of(one), "topology": topology_of(one), "result": plain_of(one.result)} for one in found]
    rows: dict[str, list[Any]] = {}
    for number, tree in enumerate(trees[1:], start=1):
        for difference in differences(trees[0], tree):
            row = rows.setdefault(difference.key, [difference.first_text()] * len(trees))
            row[number] = difference.second_text()
    others: list[jobs_pb2.Job] = []
    try:
        listed = await console.stack.jobs(
            "List", jobs_pb2.ListRequest(include_children=True, page_size=200), visitor.token
        )
        taken = {one.id for one in found}
        others = [one for one in listed.jobs if one.kind in _TRAININGS and one.id not in taken][:50]
    except YuanError as error:
        problems.append(str(error))
    values = {"jobs": found, "rows": sorted(rows.items()), "problems": list(dict.fromkeys(problems)), "others": others}
    return console.pages.answer(request, visitor, "compare.html", values)


@router.get("/{job_id}")
async def job_page(
    request: Request, visitor: Somebody, job_id: str, tab: str = "overview", against: str = ""
) -> Response:
    """Shows a job."""
    console = console_of(request)
    reply = await console.stack.jobs("Get", jobs_pb2.GetRequest(id=job_id), visitor.token)
    tab = tab if tab in _tabs(reply.job) else "overview"
    values = {**_standing(reply), "tab": tab, "tabs": _tabs(reply.job), "against": against, "message": ""}
    if tab == "manifest":
        values |= await _manifest(console, visitor, reply.job, against)
    if tab == "division":
        values["picture_of"] = division_picture(
            recipe_of(reply.job), topology_of(reply.job), plain_of(reply.job.result)
        )
    return console.pages.answer(request, visitor, "job.html", values)


def _tabs(job: jobs_pb2.Job) -> list[str]:
    return [tab for tab in TABS if tab != "division" or job.kind in _TRAININGS]


@router.get("/{job_id}/standing")
async def standing(request: Request, visitor: Somebody, job_id: str) -> Response:
    """Returns the part of a job's page that changes by itself."""
    console = console_of(request)
    reply = await console.stack.jobs("Get", jobs_pb2.GetRequest(id=job_id), visitor.token)
    return console.pages.answer(request, visitor, "job_standing.html", {**_standing(reply), "message": ""})


@router.post("/{job_id}/{action}")
async def steer(request: Request, visitor: Somebody, fields: Form, job_id: str, action: str) -> Response:
    """Cancels or resumes a job."""
    del fields
    console = console_of(request)
    messages: dict[str, tuple[str, Any]] = {
        "cancel": ("Cancel", jobs_pb2.CancelRequest(id=job_id)),
        "resume": ("Resume", jobs_pb2.ResumeRequest(id=job_id)),
    }
    if action not in messages:
        raise InputError(f"a job cannot be asked to {action[:40]!r}")
    require(visitor, action)
    problem = ""
    try:
        await console.stack.jobs(*messages[action], visitor.token)
    except RpcFailed as error:
        problem = str(error)
    if "hx-request" not in request.headers and not problem:
        return console.pages.moved(request, f"{PATH}/jobs/{job_id}")
    reply = await console.stack.jobs("Get", jobs_pb2.GetRequest(id=job_id), visitor.token)
    template = "job_standing.html" if "hx-request" in request.headers else "job.html"
    values = {**_standing(reply), "message": problem, "tab": "overview", "tabs": _tabs(reply.job), "against": ""}
    return console.pages.answer(request, visitor, template, values)


def _standing(reply: jobs_pb2.GetResponse) -> dict[str, Any]:
    """Returns what the changing part of a job's page shows."""
    job = reply.job
    state = state_of(job.state)
    return {
        "job": job,
        "state": state.value,
        "ended": state.ended,
        "to_be_cancelled": not state.ended and job.desired == jobs_pb2.DESIRED_STATE_CANCEL,
        "resumable": state in (JobState.FAILED, JobState.CANCELLED),
        "steps": reply.children,
        "attempts": reply.attempts,
        "result": [
            (key, value)
            for key, value in plain_of(job.result).items()
            if key not in ("steps",) and isinstance(value, str | int | float | bool)
        ],
        "is_training": job.kind in _TRAININGS,
    }


async def _manifest(console: Console, visitor: Visitor, job: jobs_pb2.Job, against: str) -> dict[str, Any]:
    """Returns a job's manifest and in what it differs from another's: one that is named, or its parent's."""
    parent, problem = against.strip()[:_LONGEST], ""
    why = "named" if parent else ""
    rows: list[Difference] = []
    try:
        if not parent:
            parent, why = await _parent(console, visitor, job)
        if parent:
            reply = await console.stack.jobs("Get", jobs_pb2.GetRequest(id=parent), visitor.token)
            parent = reply.job.id
            rows = list(_changes(reply.job, job))
    except YuanError as error:
        problem = str(error)
    return {
        "recipe": dump_yaml(recipe_of(job)),
        "topology": dump_yaml(topology_of(job)),
        "parent": parent,
        "why": why,
        "rows": rows,
        "problem": problem,
    }


async def _parent(console: Console, visitor: Visitor, job: jobs_pb2.Job) -> tuple[str, str]:
    """Returns the job whose work another goes on with, or else the one of its name and kind before it; and which."""
    model = plain_of(job.recipe).get("inputs", {}).get("model")
    if isinstance(model, str) and model:
        try:
            request = jobs_pb2.GetArtifactRequest(reference=model if "/" in model else f"model/{model}")
            reply = await console.stack.jobs("GetArtifact", request, visitor.token)
            if reply.artifact.job_id not in ("", job.id):
                return reply.artifact.job_id, "model"
        except RpcFailed:
            pass  # a model of a folder, or one that is gone
    request = jobs_pb2.ListRequest(kind=job.kind, text=job.name, include_children=True, page_size=200)
    reply = await console.stack.jobs("List", request, visitor.token)
    own = (job.created_at.ToNanoseconds(), job.id)
    before = [
        one
        for one in reply.jobs
        if one.name == job.name and one.kind == job.kind and (one.created_at.ToNanoseconds(), one.id) < own
    ]
    return (before[0].id, "before") if before else ("", "")


def _changes(first: jobs_pb2.Job, second: jobs_pb2.Job) -> Iterator[Difference]:
    yield from differences(recipe_of(first), recipe_of(second))
    yield from differences({"topology": topology_of(first)}, {"topology": topology_of(second)})


def recipe_of(job: jobs_pb2.Job) -> dict[str, Any]:
    """Returns a job's recipe, its keys in the schema's order."""
    tree = plain_of(job.recipe)
    try:
        return job_of_plain(tree).recipe()
    except ManifestError:  # a pipeline, or of a server of another version
        return tree


def topology_of(job: jobs_pb2.Job) -> dict[str, Any]:
    """Returns a job's topology, its keys in the schema's order."""
    tree = plain_of(job.topology)
    try:
        return as_plain(topology_of_plain(tree))
    except ManifestError:
        return tree


def _status(error: YuanError) -> int:
    return 400 if isinstance(error, InputError) and not isinstance(error, RpcFailed) else 503
