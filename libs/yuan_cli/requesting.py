"""`yuan request …`: what is asked for, read from a file, options or a terminal; one call of the stack; printing."""

import getpass
import json
import sys
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path
from typing import Any

import typer
from google.protobuf.timestamp_pb2 import Timestamp

from yuan_cli.facts import labelled
from yuan_events import InputError, Interrupted
from yuan_jobs.client import JobClient
from yuan_jobs.teaching import FEWEST_EXAMPLES, MOST_EXAMPLES, BadRequest, NewRequest, RequestState, request_of_plain
from yuan_jobs.teaching_client import TeachingClient
from yuan_jobs.teaching_messages import plain_text, request_state_of
from yuan_manifest import ManifestError, load_cluster
from yuan_manifest.errors import Origins
from yuan_manifest.values import is_section
from yuan_manifest.yaml_source import LARGEST_FILE, Document, parse_yaml, read_yaml
from yuan_rpc.cotraining.v1 import cotraining_pb2
from yuan_stack.tables import aligned

_LONGEST_SHOWN = 60


@dataclass(frozen=True)
class Given:
    """What the command line says of a request; None and nothing: it does not."""

    file: Path | None
    scenario: str | None
    behaviour: str | None
    inputs: Sequence[str]
    outputs: Sequence[str]
    author: str | None

    @property
    def options(self) -> dict[str, Any]:
        """The fields that options give.

        Raises:
            InputError: if there are not as many outputs as inputs.
        """
        if len(self.inputs) != len(self.outputs):
            raise InputError(f"request: {len(self.inputs)} of --input and {len(self.outputs)} of --output; give pairs")
        found = {"scenario": self.scenario, "behaviour": self.behaviour, "author": self.author}
        fields: dict[str, Any] = {name: value for name, value in found.items() if value is not None}
        if self.inputs:
            pairs = zip(self.inputs, self.outputs, strict=True)
            fields["examples"] = [{"input": one, "output": other} for one, other in pairs]
        return fields


def file_new(given: Given, by: str | None, cluster: Path | None, *, as_json: bool) -> int:
    """Files a request and prints its id."""
    who = by or _user()
    asked = _asked(given, who, {})
    with _client(cluster, who) as client:
        made = client.file(asked)
    if as_json:
        _print_json(facts_of(made))
    else:
        typer.echo(f"filed as {made.id}; it waits for a review: yuan request accept {made.id} --why …", err=True)
        typer.echo(made.id)
    return 0


def edit(request_id: str, given: Given, by: str | None, cluster: Path | None, *, as_json: bool) -> int:
    """Puts another text in place of a request's; what is not given stays as it is."""
    who = by or _user()
    with _client(cluster, who) as client:
        found = client.get(request_id)
        made = client.edit(found.id, _asked(given, who, plain_text(found.text)))
    if as_json:
        _print_json(facts_of(made))
    else:
        typer.echo(f"{made.id}: is revision {made.revision} now and waits for a review")
    return 0


def review(request_id: str, by: str | None, cluster: Path | None, *, accept: bool, why: str, as_json: bool) -> int:
    """Accepts or rejects a request."""
    with _client(cluster, by or _user()) as client:
        found = client.get(request_id)
        made = client.review(found.id, found.revision, accept=accept, why=why)
    if as_json:
        _print_json(facts_of(made))
    else:
        typer.echo(f"{made.id}: {_standing(made)} by {made.reviewer}")
    return 0


def print_requests(states: Sequence[str], cluster: Path | None, *, as_json: bool) -> int:
    """Lists requests, newest first."""
    wanted = [_state(text) for text in states]
    with _client(cluster, "") as client:
        found = list(client.list(wanted))
    if as_json:
        _print_json([facts_of(one) for one in found])
        return 0
    if not found:
        nothing = "nothing has been asked for yet; yuan request new does that"
        typer.echo("no request is so; yuan request list lists all" if states else nothing, err=True)
        return 0
    rows = [
        (one.id, _standing(one), _moment(one.filed_at), one.text.author, str(len(one.text.examples)), _line(one.text))
        for one in found
    ]
    for line in aligned(("request", "state", "filed", "author", "examples", "scenario"), rows, right=("examples",)):
        typer.echo(line)
    return 0


def print_request(request_id: str, cluster: Path | None, *, as_json: bool) -> int:
    """Prints one request."""
    with _client(cluster, "") as client:
        found = client.get(request_id)
    if as_json:
        _print_json(facts_of(found))
        return 0
    for line in _shown(found):
        typer.echo(line)
    return 0


def facts_of(request: cotraining_pb2.TeachingRequest) -> dict[str, Any]:
    """Returns a request for programs."""

    def iso(name: Any) -> str | None:
        return getattr(request, name).ToDatetime(UTC).isoformat() if request.HasField(name) else None

    return {
        "id": request.id,
        "state": request_state_of(request.state).value,
        "revision": request.revision,
        "asked": plain_text(request.text),
        "filed_by": request.filed_by,
        "filed": iso("filed_at"),
        "reviewer": request.reviewer or None,
        "reviewed": iso("reviewed_at"),
        "why": request.why or None,
        "cycle": request.cycle or None,
        "gathered": iso("gathered_at"),
        "answer": _answer_facts(request.answer) if request.HasField("answer") else None,
        "answered": iso("answered_at"),
        "history": [
            {
                "when": one.at.ToDatetime(UTC).isoformat(),
                "who": one.who,
                "what": one.what,
                "revision": one.revision,
                "why": one.why or None,
            }
            for one in request.history
        ],
    }


def _answer_facts(answer: cotraining_pb2.Answer) -> dict[str, Any]:
    return {
        "published": answer.published,
        "model": answer.model,
        "why": answer.why or None,
        "changelog": answer.changelog,
        "examples": [
            {
                "input": said.input,
                "wanted": said.wanted,
                "before": said.before if said.HasField("before") else None,
                "now": said.now if said.HasField("now") else None,
                "right": said.right,
                "held_out": said.held_out,
            }
            for said in answer.examples
        ],
    }


# --- what is asked for ---------------------------------------------------------------------------------------------


def _asked(given: Given, who: str, before: Mapping[str, Any]) -> NewRequest:
    """Returns the request that the command line means, over what there is already.

    Raises:
        ManifestError: if a file's is wrong, at its line.
        InputError: if something else is, or there is nobody to ask.
    """
    options = given.options
    document = Document({}, {})
    if given.file is not None:
        document = _read(given.file)
    elif not options:
        if not sys.stdin.isatty():
            raise InputError("yuan request: give a file or options (--scenario …); here is no terminal to ask")
        options = _ask(who, before)
    tree: Any = document.tree
    if is_section(tree):
        tree = {**(before if given.file is None else {}), **tree, **options}
    try:
        return request_of_plain(tree, author=who)
    except BadRequest as error:
        if given.file is None or (error.path and error.path[0] in options):
            raise
        origins = Origins(str(given.file), document.origins)
        raise ManifestError.at(origins.find(error.path), error.path, error.problem) from None


def _read(file: Path) -> Document:
    if str(file) == "-":
        text = sys.stdin.read(LARGEST_FILE)
        return parse_yaml(text, "standard input")
    return read_yaml(file, str(file))


def _ask(who: str, before: Mapping[str, Any]) -> dict[str, Any]:
    """Asks for everything in the terminal."""
    typer.echo("A request says where the model should do what, and shows it. Ctrl-C leaves without filing.", err=True)
    try:
        fields: dict[str, Any] = {
            "scenario": typer.prompt("scenario (where and when)", default=before.get("scenario")),
            "behaviour": typer.prompt("what the model should do", default=before.get("behaviour")),
            "author": typer.prompt("author", default=before.get("author", who)),
        }
        examples: list[dict[str, str]] = []
        while len(examples) < MOST_EXAMPLES:
            number = len(examples) + 1
            enough = number > FEWEST_EXAMPLES
            hint = " (empty: no more)" if enough else ""
            text = typer.prompt(f"example {number}, input{hint}", default="" if enough else None, show_default=False)
            if enough and not text:
                break
            examples.append({"input": text, "output": typer.prompt(f"example {number}, output")})
    except (KeyboardInterrupt, typer.Abort):
        raise Interrupted("nothing was filed") from None
    return fields | {"examples": examples}


def _user() -> str:
    with suppress(OSError, KeyError, ImportError):  # a container's user may have no name
        return getpass.getuser()
    return ""


@contextmanager
def _client(cluster: Path | None, who: str) -> Generator[TeachingClient]:
    with JobClient(load_cluster(cluster).cluster) as jobs:
        yield TeachingClient(jobs, who)


# --- printing ------------------------------------------------------------------------------------------------------


def _shown(request: cotraining_pb2.TeachingRequest) -> Iterator[str]:
    text = request.text
    rows = [
        ("state", _standing(request)),
        ("author", text.author),
        ("filed", f"{_moment(request.filed_at)} by {request.filed_by}, revision {request.revision}"),
        *labelled("scenario", text.scenario.splitlines()),
        *labelled("behaviour", text.behaviour.splitlines()),
    ]
    if request.reviewer:
        rows.append(("review", f"{_moment(request.reviewed_at)} by {request.reviewer}: {request.why}"))
    if request.cycle:
        rows.append(("cycle", f"{request.cycle}, since {_moment(request.gathered_at)}"))
    yield request.id
    yield from (f"  {line}" for line in aligned((), rows))
    yield "examples"
    for example in text.examples:
        yield f"  {_short(example.input)} => {_short(example.output)}"
    if request.HasField("answer"):
        yield from _answer(request.answer)
    yield "history"
    happened = [(_moment(one.at), one.who, one.what, f"revision {one.revision}", one.why) for one in request.history]
    yield from (f"  {line}" for line in aligned((), happened))


def _answer(answer: cotraining_pb2.Answer) -> Iterator[str]:
    yield "answer"
    if answer.published:
        yield f"  learned by {answer.model}"
    else:
        yield f"  not published: {answer.why}; {answer.model} stays"
    yield f"  changelog: yuan show {answer.changelog}"
    for said in answer.examples:
        kind = "held out" if said.held_out else "learned"
        verdict = "right" if said.right else f"wanted {_short(said.wanted)}"
        now = _short(said.now) if said.HasField("now") else "(not asked)"
        yield f"  {kind}: {_short(said.input)} => {now} ({verdict})"


def _standing(request: cotraining_pb2.TeachingRequest) -> str:
    return request_state_of(request.state).value.lower().replace("_", " ")


def _line(text: cotraining_pb2.Text) -> str:
    return _short(text.scenario)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_SHOWN else f"{line[: _LONGEST_SHOWN - 1]}…"


def _state(text: str) -> RequestState:
    name = text.upper().replace(" ", "_").replace("-", "_")
    if name not in RequestState.__members__:
        names = ", ".join(state.value.lower() for state in RequestState)
        raise InputError(f"yuan request list: no state {text!r}; expected one of {names}")
    return RequestState(name)


def _moment(moment: Timestamp) -> str:
    return f"{moment.ToDatetime(UTC):%Y-%m-%d %H:%M} UTC"


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))
