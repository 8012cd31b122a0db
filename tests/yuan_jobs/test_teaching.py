"""Teaching requests: what one must be, their states, who decided when, and that a cycle answers each once."""

from typing import Any

import pytest

from yuan_events import InputError
from yuan_jobs.cycles import Answer, CycleBook, digest_of_waiting
from yuan_jobs.models import JobRow
from yuan_jobs.records import Claim
from yuan_jobs.registry import Registry, StaleAttemptError, now
from yuan_jobs.states import JobState
from yuan_jobs.teaching import (
    LONGEST_SIDE,
    BadRequest,
    Example,
    RequestState,
    TeachingRequest,
    held_out,
    request_of_plain,
)
from yuan_jobs.teaching_registry import (
    NoSuchRequest,
    SameRequest,
    WrongRequestState,
    edit_request,
    file_request,
    find_request,
    list_requests,
    review_request,
)

EXAMPLES = [{"input": f"say {word}", "output": word} for word in ("one", "two", "three", "four")]


def asked(scenario: str = "talk", **changes: Any) -> dict[str, Any]:
    """Returns a good request as YAML has it, changed."""
    return {"scenario": scenario, "behaviour": "repeat the word", "examples": EXAMPLES, "author": "Ada", **changes}


def filed(registry: Registry, scenario: str = "talk") -> TeachingRequest:
    return file_request(registry, request_of_plain(asked(scenario)), "ada")


def accepted(registry: Registry, scenario: str = "talk") -> TeachingRequest:
    request = filed(registry, scenario)
    return review_request(registry, request.id, accept=True, why="useful", who="bo", revision=1)


def gatherer(registry: Registry, name: str = "gather") -> CycleBook:
    """Returns the book of a gathering job that runs in its first attempt."""
    job_id = f"{name}-1"
    with registry.database.writing() as session:
        session.add(running(job_id))
    return CycleBook(registry, Claim(job_id, 1, None))


def running(job_id: str) -> JobRow:
    return JobRow(
        id=job_id, kind="gather", name="gather", recipe={}, inputs={}, topology={}, state=JobState.RUNNING, attempt=1,
        created=now(), queue="data",
    )  # fmt: skip


def end(registry: Registry, job_id: str, state: JobState, attempt: int = 1) -> None:
    with registry.database.writing() as session:
        row = session.get_one(JobRow, job_id)
        row.state, row.attempt = state, attempt


NOT_PUBLISHED = Answer(published=False, model="model/base@1", why="the gate", changelog="report/log@1")


@pytest.mark.parametrize(
    ("tree", "line"),
    [
        (asked(examples=None), "request: examples: missing; expected 2 to 200 of {input: …, output: …}"),
        (asked(examples=EXAMPLES[:1]), "request: examples: expected 2 to 200 .* found 1; one is learned and"),
        (asked(examples="none"), "request: examples: expected 2 to 200"),
        (asked(scenario=" "), "request: scenario: is empty text; say where and when"),
        (asked(scenario=None), "request: scenario: missing; say where and when"),
        (asked(behaviour="x" * 4001), "request: behaviour: is 4001 characters long; expected 4000 at most"),
        (asked(beaviour="x"), "request: beaviour: unknown; did you mean behaviour?"),
        (asked(colour="x"), "request: colour: unknown; expected scenario, behaviour, examples, author"),
        (asked(examples=[*EXAMPLES, {"input": "a"}]), r"request: examples\[4\].output: missing"),
        (asked(examples=[*EXAMPLES, {"input": "a", "outputs": "b"}]), r"examples\[4\].outputs: unknown; did you mean"),
        (asked(examples=[*EXAMPLES, EXAMPLES[1]]), r"examples\[4\].input: is the same as that of examples\[1\]"),
        (asked(examples=[*EXAMPLES, {"input": "a", "output": "x" * (LONGEST_SIDE + 1)}]), r"\[4\].output: is 8001"),
        (asked(examples=[*EXAMPLES, {"input": "a <sep> b", "output": "c"}]), r"\[4\].input: has <sep>, which is"),
        (asked(examples=[*EXAMPLES, {"input": "a", "output": [1]}]), r"examples\[4\].output: expected text"),
        (asked(examples=[*EXAMPLES, {"input": "a", "output": 1.5}]), "put it in quotes"),
        (asked(author="x" * 101), "request: author: is 101 characters long"),
        ([1], "request: expected scenario, behaviour, examples, author, found"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_request_is_one_line_with_its_field(tree: Any, line: str) -> None:
    with pytest.raises(BadRequest, match=line) as caught:
        request_of_plain(tree)
    assert "\n" not in str(caught.value)


def test_blanks_and_line_ends_around_texts_do_not_make_another_request() -> None:
    plain = request_of_plain(asked())
    spaced = [{"input": f"  {one['input']}\r\n", "output": one["output"]} for one in EXAMPLES]
    assert request_of_plain(asked(" talk\n", examples=spaced, author="Bo")).digest == plain.digest


def test_a_request_is_filed_reviewed_and_each_step_is_written_down(registry: Registry) -> None:
    request = filed(registry)
    assert (request.state, request.revision) == (RequestState.FILED, 1)
    done = review_request(registry, request.id[:12], accept=False, why="too vague", who="bo", revision=1)
    assert (done.state, done.reviewer, done.why) == (RequestState.REJECTED, "bo", "too vague")
    assert done.reviewed is not None
    done = review_request(registry, request.id, accept=True, why="on second thoughts", who="cy", revision=1)
    assert [(one["who"], one["what"]) for one in done.history] == [
        ("ada", "filed"), ("bo", "rejected"), ("cy", "accepted"),
    ]  # fmt: skip
    assert find_request(registry, request.id) == done
    assert [one.id for one in list_requests(registry, [RequestState.ACCEPTED])] == [request.id]
    assert list_requests(registry, [RequestState.FILED]) == []


def test_an_edit_after_the_review_needs_a_new_one_of_the_text_that_was_read(registry: Registry) -> None:
    request = accepted(registry)
    edited = edit_request(registry, request.id, request_of_plain(asked(behaviour="shout the word")), "ada")
    assert (edited.state, edited.revision, edited.reviewer) == (RequestState.FILED, 2, "")
    assert gatherer(registry).gather() == []
    with pytest.raises(WrongRequestState, match=r"was edited since \(revision 2, not 1\); read it again"):
        review_request(registry, request.id, accept=True, why="as before", who="bo", revision=1)
    with pytest.raises(WrongRequestState, match="that is its text already"):
        edit_request(registry, request.id, request_of_plain(asked(behaviour="shout the word")), "ada")
    review_request(registry, request.id, accept=True, why="fine", who="bo", revision=2)


def test_the_same_is_not_asked_for_twice_while_it_is_open(registry: Registry) -> None:
    first = filed(registry)
    with pytest.raises(SameRequest, match=f"the same is asked for by {first.id} of Ada, which is filed"):
        filed(registry)
    review_request(registry, first.id, accept=False, why="no", who="bo", revision=1)
    second = filed(registry)
    with pytest.raises(SameRequest, match=second.id):
        review_request(registry, first.id, accept=True, why="yes", who="bo", revision=1)


def test_what_cannot_be_named_or_decided_is_one_line(registry: Registry) -> None:
    first, second = filed(registry), filed(registry, "walk")
    with pytest.raises(NoSuchRequest, match="request nothing does not exist; `yuan request list`"):
        find_request(registry, "nothing")
    with pytest.raises(InputError, match="several begin so"):
        find_request(registry, "request-")
    with pytest.raises(InputError, match="why: missing"):
        review_request(registry, first.id, accept=True, why=" ", who="bo", revision=1)
    review_request(registry, second.id, accept=True, why="yes", who="bo", revision=1)
    with pytest.raises(WrongRequestState, match="is accepted already, by bo"):
        review_request(registry, second.id, accept=True, why="yes", who="cy", revision=1)


def test_pages_of_a_list_follow_one_another(registry: Registry) -> None:
    ids = [filed(registry, f"scenario {number}").id for number in range(5)]
    page = list_requests(registry, limit=2)
    rest = list_requests(registry, limit=9, before=page[-1].id)
    assert [one.id for one in (*page, *rest)] == ids[::-1]


def test_a_cycle_takes_what_is_accepted_and_answers_each_once(registry: Registry) -> None:
    request, other = accepted(registry), filed(registry, "walk")
    before = digest_of_waiting(registry)
    book = gatherer(registry)
    assert [one.id for one in book.gather()] == [request.id]
    assert [one.state for one in book.gather()] == [RequestState.IN_CYCLE]
    assert digest_of_waiting(registry, "gather-1") == before
    with pytest.raises(WrongRequestState, match=r"is in a cycle \(gather-1\) and cannot be edited; file another one"):
        edit_request(registry, request.id, request_of_plain(asked("new")), "ada")
    assert gatherer(registry, "second").gather() == []
    assert book.answer(request.id, "gather-1", NOT_PUBLISHED)
    assert not book.answer(request.id, "gather-1", NOT_PUBLISHED)
    assert not book.answer(other.id, "gather-1", NOT_PUBLISHED)
    done = find_request(registry, request.id)
    assert (done.state, done.answer["why"]) == (RequestState.ANSWERED, "the gate")
    assert [one["what"] for one in done.history] == ["filed", "accepted", "gathered", "answered"]
    with pytest.raises(WrongRequestState, match="is answered and cannot be reviewed"):
        review_request(registry, request.id, accept=False, why="no", who="bo", revision=1)


def test_what_a_dead_cycle_left_the_next_one_takes_and_the_dead_one_answers_no_more(registry: Registry) -> None:
    request = accepted(registry)
    dead = gatherer(registry)
    dead.gather()
    assert gatherer(registry, "beside").gather() == []
    end(registry, "gather-1", JobState.FAILED)
    assert [one.cycle for one in gatherer(registry, "later").gather()] == ["later-1"]
    assert not gatherer(registry, "answers").answer(request.id, "gather-1", NOT_PUBLISHED)
    assert find_request(registry, request.id).state == RequestState.IN_CYCLE


def test_an_attempt_that_was_taken_for_dead_changes_nothing(registry: Registry) -> None:
    request = accepted(registry)
    book = gatherer(registry)
    end(registry, "gather-1", JobState.RUNNING, attempt=2)
    with pytest.raises(StaleAttemptError):
        book.gather()
    with pytest.raises(StaleAttemptError):
        book.answer(request.id, "gather-1", NOT_PUBLISHED)
    assert find_request(registry, request.id).state == RequestState.ACCEPTED


def test_which_examples_are_held_out_depends_on_nothing_but_seed_request_and_inputs() -> None:
    examples = tuple(Example(f"say {number}", str(number)) for number in range(10))
    chosen = {examples[index] for index in held_out("request-1", examples, 0.25, 7)}
    back = examples[::-1]
    assert {back[index] for index in held_out("request-1", back, 0.25, 7)} == chosen
    assert len(chosen) == 2
    assert {examples[index] for index in held_out("request-1", examples, 0.25, 8)} != chosen
    assert len(held_out("request-1", examples[:2], 0.0, 7)) == 1
    assert len(held_out("request-1", examples[:2], 1.0, 7)) == 1
