"""The console without a browser's scripts: login, roles, forms of others, hostile text, lists, languages."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import pytest
from tests.yuan_gateway.console_stack import HOSTILE, Browser, ConsoleStack, badly, console_stack, well

from yuan_gateway.console.access import SESSION_COOKIE
from yuan_gateway.console.pages import Pages
from yuan_gateway.console.streams import thinned
from yuan_jobs.states import JobState


@dataclass(frozen=True)
class Known:
    """Ids of jobs that the home has."""

    done: str
    failed: str
    queued: str
    hostile: str


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsoleStack]:
    with console_stack(tmp_path_factory.mktemp("console")) as made:
        yield made


@pytest.fixture(scope="module")
def known(console: ConsoleStack) -> Known:
    """The home's jobs; what a test changes is one of its own."""
    done = console.run("small", well)
    failed = console.run("broken", badly)
    queued = console.submit("waits", scheduling={"labels": {"team": "yuan"}})
    hostile = console.submit("renamed")
    console.rename(hostile, HOSTILE)
    return Known(done, failed, queued, hostile)


@pytest.fixture(scope="module")
def owner(console: ConsoleStack, known: Known) -> Browser:
    return console.browser()


# --- who may ---------------------------------------------------------------------------------------------------------


def test_a_page_sends_who_is_not_logged_in_to_the_login_and_back(console: ConsoleStack, known: Known) -> None:
    browser = console.browser(None)
    page = browser.get(f"/console/jobs/{known.done}?tab=logs")
    assert page.status == 303
    assert page.headers["location"] == f"/console/login?next=%2Fconsole%2Fjobs%2F{known.done}%3Ftab%3Dlogs"
    login = browser.post("/console/login", {"token": console.token(), "next": f"/console/jobs/{known.done}?tab=logs"})
    assert (login.status, login.headers["location"]) == (303, f"/console/jobs/{known.done}?tab=logs")
    assert browser.get(f"/console/jobs/{known.done}?tab=logs").status == 200


def test_the_session_is_a_cookie_that_hides_the_token_from_scripts_and_other_sites(console: ConsoleStack) -> None:
    browser = Browser(console.port)
    answer = browser.login(console.token("alice"))
    cookie = answer.headers["set-cookie"]
    assert {"HttpOnly", "Path=/console", "SameSite=strict"} <= {part.strip() for part in cookie.split(";")}
    assert console.token("alice") not in browser.cookies[SESSION_COOKIE]
    browser.post("/console/logout", {})
    assert browser.get("/console/jobs").status == 303


@pytest.mark.parametrize("token", ["", "wrong", "\u5143", "x" * 5000])
def test_a_wrong_token_is_told_in_one_line(console: ConsoleStack, token: str) -> None:
    page = Browser(console.port).login(token)
    assert page.status == 401
    assert "token" in page.problem


def test_an_expired_token_opens_nothing(console: ConsoleStack) -> None:
    page = Browser(console.port).login(console.token("expired"))
    assert (page.status, "has expired" in page.problem) == (401, True)


def test_a_session_that_somebody_made_up_is_none(console: ConsoleStack) -> None:
    assert Browser(console.port, {SESSION_COOKIE: "gAAAAAB" + "a" * 80}).get("/console/jobs").status == 303


@pytest.mark.parametrize("where", ["https://evil.example/console", "//evil.example", "/v1/models", "/console\\@evil"])
def test_a_login_leads_nowhere_but_into_the_console(console: ConsoleStack, where: str) -> None:
    answer = Browser(console.port).post("/console/login", {"token": console.token(), "next": where})
    assert answer.headers["location"] == "/console/jobs"


def test_a_viewer_sees_jobs_and_cannot_cancel_them(console: ConsoleStack, known: Known) -> None:
    viewer = console.browser("alice")
    page = viewer.get(f"/console/jobs/{known.queued}")
    assert page.status == 200
    assert 'id="cancel"' not in page.text
    refused = viewer.post(f"/console/jobs/{known.queued}/cancel", {})
    assert (refused.status, "operator" in refused.problem) == (403, True)
    with console.client() as jobs:
        assert jobs.get(known.queued).job.state == 2


def test_an_operator_cancels_and_resumes(console: ConsoleStack, known: Known) -> None:
    job_id = console.submit("steered")
    operator = console.browser("oscar")
    assert 'id="cancel"' in operator.get(f"/console/jobs/{job_id}").text
    assert operator.post(f"/console/jobs/{job_id}/cancel", {}).status == 303
    page = operator.get(f"/console/jobs/{job_id}")
    assert 'class="state cancelled"' in page.text
    assert 'id="resume"' in page.text
    part = operator.post(f"/console/jobs/{job_id}/resume", {}, hx_request="true")
    assert part.status == 200
    assert 'class="state queued"' in part.text
    assert "<html" not in part.text


@pytest.mark.parametrize(
    "path", ["/console/login", "/console/logout", "/console/preferences", "/console/jobs/JOB/cancel"]
)
def test_a_form_that_is_not_the_consoles_is_refused(console: ConsoleStack, known: Known, path: str) -> None:
    browser = console.browser("oscar")
    for options in ({"proof": ""}, {"proof": "0" * 64}, {"sec_fetch_site": "cross-site"}):
        page = browser.post(path.replace("JOB", known.queued), {"token": console.token()}, **options)
        assert (page.status, "load the page again" in page.problem) == (403, True)
    # Another browser's proof is none here.
    stolen = console.browser("oscar").proof()
    assert browser.post(path.replace("JOB", known.queued), {}, proof=stolen).status == 403
    with console.client() as jobs:
        assert jobs.get(known.queued).job.state == 2


# --- what is shown -----------------------------------------------------------------------------------------------


def test_nothing_of_a_page_runs_but_the_consoles_own_files(owner: Browser) -> None:
    page = owner.get("/console/jobs")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'; script-src 'self'" in policy
    assert "unsafe" not in policy
    assert not re.findall(r"<script(?![^>]*src=)|\son[a-z]+=|\sstyle=|https?://", page.text)
    for address in re.findall(r'(?:src|href)="(/console/static/[^"#]+)', page.text):
        assert owner.get(address).status == 200


def test_text_of_jobs_is_text(owner: Browser, known: Known) -> None:
    shown = "&lt;script&gt;"
    for path in (
        f"/console/jobs?text={HOSTILE}",
        "/console/jobs",
        f"/console/jobs/{known.hostile}",
        f"/console/jobs/{known.failed}",
        f"/console/jobs/compare?job={known.hostile}&job={HOSTILE}",
        f"/console/jobs?state={HOSTILE}",
        f"/console/jobs?label={HOSTILE}",
        f"/console/jobs/{known.done}?tab=manifest&against={HOSTILE}",
        f"/console/{HOSTILE}",
    ):
        page = owner.get(path.replace("<", "%3C").replace(">", "%3E").replace("'", "%27"))
        assert "<script>" not in page.text
        assert shown in page.text or page.status == 404, path


def test_the_list_is_filtered_by_state_kind_label_and_text(owner: Browser, known: Known) -> None:
    def listed(query: str) -> set[str]:
        return set(re.findall(r'id="job-([^"]+)"', owner.get(f"/console/jobs?{query}").text))

    assert known.failed in listed("state=FAILED")
    assert known.done not in listed("state=FAILED")
    assert listed("kind=pretrain") == set()
    assert listed("label=team%3Dyuan") == {known.queued}
    assert listed("text=AIT") == {known.queued}
    assert listed(f"text={known.done[:-1]}") == {known.done}
    assert listed("text=%25") == set()


@pytest.mark.parametrize(
    ("query", "problem"), [("state=no", "no state"), ("kind=no", "no kind"), ("label=x", "NAME=VALUE")]
)
def test_a_filter_that_is_none_is_told(owner: Browser, query: str, problem: str) -> None:
    page = owner.get(f"/console/jobs?{query}")
    assert (page.status, problem in page.problem) == (400, True)


def test_pages_of_a_list_have_every_job_once(console: ConsoleStack, owner: Browser) -> None:
    made = {console.submit(f"paged-{number}") for number in range(30)}
    path, seen = "/console/jobs?text=paged-", []
    while path:
        page = owner.get(path)
        seen += re.findall(r'id="job-([^"]+)"', page.text)
        older = re.search(r'id="page-older" class="button" href="([^"]+)"', page.text)
        path = older.group(1).replace("&amp;", "&") if older else ""
    assert len(seen) == 30
    assert set(seen) == made


def test_a_jobs_page_shows_its_attempts_its_reason_and_what_it_made(owner: Browser, known: Known) -> None:
    failed = owner.get(f"/console/jobs/{known.failed}").text
    assert "it went wrong" in failed
    assert "FAILED" in failed
    done = owner.get(f"/console/jobs/{known.done}").text
    assert (
        'href="/console/artifacts/tokenizer/small%401"' in done or 'href="/console/artifacts/tokenizer/small@1"' in done
    )


def test_a_manifest_stands_beside_the_run_of_its_name_before_it(console: ConsoleStack, owner: Browser) -> None:
    first = console.submit("again")
    second = console.submit("again", tokenizer={"vocab_size": 400})
    page = owner.get(f"/console/jobs/{second}?tab=manifest").text
    assert first in page
    row = re.search(r"<tr><td[^>]*>tokenizer\.vocab_size</td>.*?</tr>", page, re.DOTALL)
    assert row is not None
    assert re.findall(r">(\d+)", row.group())[:2] == ["300", "400"]
    assert "has no parent" in owner.get(f"/console/jobs/{first}?tab=manifest").text


def test_runs_are_compared_key_by_key(console: ConsoleStack, owner: Browser) -> None:
    one, other = console.submit("left"), console.submit("right", tokenizer={"vocab_size": 301})
    page = owner.get(f"/console/jobs/compare?job={one}&job={other}").text
    assert ">tokenizer.vocab_size</td>" in page
    assert f'data-jobs="{one} {other}"' in page


def test_a_stream_tells_how_a_job_went_as_data(owner: Browser, known: Known) -> None:
    text = owner.get(f"/console/stream?job={known.done}&logs=true").text
    items = [item for line in re.findall(r"^data: (\[.*)$", text, re.MULTILINE) for item in json.loads(line)]
    assert [item["values"]["loss"] for item in items if item["kind"] == "metrics"] == [4.0, 2.0, 4.0 / 3]
    assert {"begun", HOSTILE} <= {item["text"] for item in items if item["kind"] == "message"}
    assert [item["state"] for item in items if item["kind"] == "state"] == [JobState.SUCCEEDED]
    assert text.endswith("event: end\ndata: {}\n\n")


def test_long_curves_and_logs_are_thinned_and_keep_their_ends() -> None:
    points = [{"kind": "metrics", "job": "a", "step": "", "at": at, "values": {"loss": 1.0}} for at in range(4000)]
    validation = {"kind": "metrics", "job": "a", "step": "", "at": 3, "values": {"validation_loss": 1.0}}
    lines = [{"kind": "log", "text": str(number)} for number in range(2500)]
    found = thinned([*points, validation, *lines])
    kept = [item["at"] for item in found if item["kind"] == "metrics" and "loss" in item["values"]]
    assert len(kept) <= 1500
    assert kept[-1] == 3999
    assert validation in found
    assert found[0] == {"kind": "skipped", "lines": 1500}
    assert found[-1] == lines[-1]


def test_what_does_not_exist_is_a_page_of_one_line(owner: Browser) -> None:
    page = owner.get("/console/jobs/nobody")
    assert (page.status, "nobody" in page.problem) == (404, True)
    assert owner.get("/console/nowhere").status == 404


def test_jobs_without_a_server_that_answers_are_a_line_on_the_page(tmp_path: Path) -> None:
    with console_stack(tmp_path) as made:
        browser = made.browser()
        assert made.gateway is not None
        assert made.gateway.console is not None
        stack = made.gateway.console.stack
        stack._job_servers = ["trainer"]
        page = browser.get("/console/jobs")
        assert page.status == 503
        assert "trainer" in page.problem
        assert "Traceback" not in page.text


def test_a_gateway_without_a_console_has_no_page(tmp_path: Path) -> None:
    with console_stack(tmp_path, extra="") as made:
        assert made.browser().get("/console/jobs").status == 200
    text = made.file.read_text().replace(
        f"gateway: {{port: {made.port}}}", f"gateway: {{port: {made.port}, console: false}}"
    )
    (tmp_path / "without.yaml").write_text(text)
    from yuan_gateway.state import Gateway
    from yuan_manifest import load_cluster

    assert Gateway.of(load_cluster(tmp_path / "without.yaml")).console is None


# --- languages -------------------------------------------------------------------------------------------------------


def catalogues() -> dict[str, dict[str, str]]:
    folder = files("yuan_gateway.console") / "languages"
    return {entry.name: json.loads(entry.read_text(encoding="utf-8")) for entry in folder.iterdir()}


def test_all_languages_have_the_same_texts() -> None:
    found = catalogues()
    assert set(found) == {"en.json", "zh.json"}
    english = found["en.json"]
    for texts in found.values():
        assert list(texts) == list(english)
        for key, text in texts.items():
            assert text.strip(), key
            assert set(re.findall(r"\{\w+\}", text)) == set(re.findall(r"\{\w+\}", english[key])), key


def test_every_text_is_used_and_every_use_has_a_text() -> None:
    folder = files("yuan_gateway.console") / "templates"
    sources = [entry.read_text(encoding="utf-8") for entry in folder.iterdir()]
    modules = Path(str(files("yuan_gateway.console"))).glob("*.py")
    whole = "\n".join([*sources, *(path.read_text(encoding="utf-8") for path in modules)])
    used = set(re.findall(r"""\bt\(["']([\w.]+)["']""", whole)) | set(
        re.findall(r"""\.text\(\s*\S+?,\s*"([\w.]+)""", whole)
    )
    beginnings = set(re.findall(r"""\bt\(f?["']([\w.]+[._])(?:["']\s*\+|\{)""", whole))
    known = set(catalogues()["en.json"]) - {"language.name"}
    plain = {key for key in used if key not in beginnings}
    assert plain <= known
    assert {key for key in known if key not in used and not key.startswith(tuple(beginnings))} == set()


def test_the_language_is_the_browsers_until_one_is_chosen(console: ConsoleStack, owner: Browser) -> None:
    assert ">作业</h1>" in owner.get("/console/jobs", accept_language="zh-CN,zh;q=0.9").text
    assert ">Jobs</h1>" in owner.get("/console/jobs", accept_language="fr").text
    browser = console.browser()
    chosen = browser.post("/console/preferences", {"language": "zh", "theme": "dark", "next": "/console/jobs?text=x"})
    assert chosen.headers["location"] == "/console/jobs?text=x"
    page = browser.get("/console/jobs", accept_language="en").text
    assert 'lang="zh-CN" data-theme="dark"' in page


@pytest.mark.parametrize("tab", ["overview", "logs", "manifest", "division"])
@pytest.mark.parametrize("language", Pages().languages)
def test_every_part_of_a_jobs_page_is_there_in_every_language(
    console: ConsoleStack, owner: Browser, known: Known, tab: str, language: str
) -> None:
    for job_id in (known.done, known.failed, known.queued):
        assert owner.get(f"/console/jobs/{job_id}?tab={tab}", accept_language=language).status == 200
