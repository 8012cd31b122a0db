"""The console in headless Chromium: its scripts, on a phone, in the dark, by keyboard alone, in Chinese."""

import re
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.http_stack import HttpStack
from tests.yuan_gateway.console_stack import HOSTILE, ConsoleStack, console_stack, pretraining, well
from tests.yuan_inference.engines import Watched, wait_for

from yuan_events import Message, Metrics, Progress
from yuan_jobs import WorkContext, WorkResult

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = playwright.expect

pytestmark = pytest.mark.slow

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PHONE = {"width": 360, "height": 740}
PATIENCE_MS = 60_000
expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], timeout=60_000)
        try:
            yield browser
        finally:
            browser.close()


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsoleStack]:
    with console_stack(tmp_path_factory.mktemp("console")) as made:
        yield made


@pytest.fixture
def opened(chromium: Any) -> Iterator[Callable[..., Any]]:
    """Opens a browser of its own for somebody, logged in by the form; whatever its pages complain of fails the test."""
    contexts: list[Any] = []
    complaints: list[str] = []

    def open_page(url: str, token: str, **options: Any) -> Any:
        context = chromium.new_context(**options)
        context.set_default_timeout(PATIENCE_MS)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.goto(f"{url}/login")
        page.get_by_label(re.compile("Token|令牌")).fill(token)
        page.keyboard.press("Enter")
        page.wait_for_url("**/console/jobs")
        return page

    yield open_page
    for context in contexts:
        context.close()
    # What a page says of a service that is not there, or of a wrong token, has a status that the browser tells, too.
    assert not [one for one in complaints if "net::ERR" not in one and "Failed to load resource" not in one]


class Held:
    """Work that goes on when it is told to."""

    def __init__(self) -> None:
        self.on, self.end = threading.Event(), threading.Event()

    def __call__(self, context: WorkContext[Any]) -> WorkResult:
        context.sink.emit(Progress("train", 1, 4, "steps", "loss 4.0"))
        context.sink.emit(Metrics(1, {"loss": 4.0, "learning_rate": 0.1, "tokens_per_second": 9.0, "memory_gib": 0.5}))
        self.on.wait(120)
        context.sink.emit(Metrics(2, {"loss": 3.0, "learning_rate": 0.2, "tokens_per_second": 9.5, "memory_gib": 0.5}))
        context.sink.emit(Message(f"half way {HOSTILE}"))
        self.end.wait(120)
        (context.output / "text.txt").write_text("text")
        return WorkResult()


def overflow(page: Any) -> int:
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


def test_a_wrong_token_stays_outside_and_a_filter_narrows_the_list_as_it_is_typed(
    console: ConsoleStack, opened: Callable[..., Any]
) -> None:
    for name in ("apple", "pear"):
        console.submit(name)
    page = opened(console.url, console.token())
    expect(page.get_by_role("link", name="apple", exact=True)).to_be_visible()
    page.get_by_label("Name or id").press_sequentially("ear")
    expect(page.get_by_role("link", name="apple", exact=True)).to_have_count(0, timeout=PATIENCE_MS)
    expect(page.get_by_role("link", name="pear", exact=True)).to_be_visible()
    assert "text=ear" in page.url
    page.get_by_role("button", name="Log out").click()
    page.wait_for_url("**/console/login")
    page.get_by_label("Token").fill("wrong")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("alert")).to_contain_text("does not know the token")


def test_a_running_jobs_page_follows_it_without_being_loaded_again(
    console: ConsoleStack, opened: Callable[..., Any]
) -> None:
    work = Held()
    thread = threading.Thread(target=console.run, args=("live", work), daemon=True)
    thread.start()
    try:
        page = opened(console.url, console.token())
        page.get_by_role("link", name="live", exact=True).click()
        expect(page.locator("#standing")).to_contain_text("25%", timeout=PATIENCE_MS)
        expect(page.locator(".chart h3")).to_contain_text(
            ["Loss", "Learning rate", "Tokens per second", "Memory, GiB a rank"], timeout=PATIENCE_MS
        )
        page.evaluate("window.notLoadedAgain = true")
        work.on.set()
        expect(page.locator("#events")).to_contain_text(f"half way {HOSTILE}", timeout=PATIENCE_MS)
        work.end.set()
        expect(page.locator("#standing .state").first).to_have_text("succeeded", timeout=PATIENCE_MS)
        assert page.evaluate("window.notLoadedAgain")
        assert page.locator(".chart canvas").first.bounding_box()["width"] > 200
    finally:
        work.on.set()
        work.end.set()
        thread.join(60)


def test_an_operator_cancels_after_a_question_and_a_viewer_is_not_offered_to(
    console: ConsoleStack, opened: Callable[..., Any]
) -> None:
    job_id = console.submit("unwanted")
    viewer = opened(console.url, console.token("alice"))
    viewer.goto(f"{console.url}/jobs/{job_id}")
    expect(viewer.locator("#standing")).to_be_visible()
    expect(viewer.get_by_role("button", name="Cancel")).to_have_count(0)
    page = opened(console.url, console.token("oscar"))
    page.goto(f"{console.url}/jobs/{job_id}")
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("dialog").get_by_role("button", name="No").click()
    expect(page.locator("#standing .state")).to_have_text("queued")
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("dialog").get_by_role("button", name="Yes").click()
    expect(page.locator("#standing .state")).to_have_text("cancelled", timeout=PATIENCE_MS)
    page.get_by_role("button", name="Resume").click()
    expect(page.locator("#standing .state")).to_have_text("queued", timeout=PATIENCE_MS)


def test_two_runs_share_their_charts(console: ConsoleStack, opened: Callable[..., Any]) -> None:
    ids = [console.run(name, well) for name in ("first-run", "second-run")]
    page = opened(console.url, console.token())
    page.goto(f"{console.url}/jobs/compare?job={ids[0]}&job={ids[1]}")
    legend = page.locator(".chart", has_text="Loss").first.locator(".u-legend")
    expect(legend).to_contain_text(ids[0], timeout=PATIENCE_MS)
    expect(legend).to_contain_text(ids[1])


def test_no_page_scrolls_sideways_on_a_phone_and_its_menu_leads_on(
    console: ConsoleStack, opened: Callable[..., Any]
) -> None:
    job_id = console.run("narrow", well)
    page = opened(console.url, console.token(), viewport=PHONE, has_touch=True, is_mobile=True)
    pages = ["jobs", "jobs/compare", "artifacts", "artifacts/tokenizer/narrow@1", "datasets", "models", "playground"]
    pages += ["load", "cluster", *(f"jobs/{job_id}?tab={tab}" for tab in ("overview", "logs", "manifest"))]
    for path in pages:
        page.goto(f"{console.url}/{path}")
        page.wait_for_load_state("load")
        assert overflow(page) <= 0, path
    page.goto(f"{console.url}/jobs")
    page.locator(".menu summary").tap()
    page.get_by_role("link", name="Cluster").tap()
    page.wait_for_url("**/console/cluster")


def test_it_is_dark_where_the_browser_is_or_where_somebody_says_so(
    console: ConsoleStack, opened: Callable[..., Any]
) -> None:
    def brightness(page: Any) -> int:
        return sum(map(int, re.findall(r"\d+", page.evaluate("getComputedStyle(document.body).backgroundColor"))[:3]))

    page = opened(console.url, console.token(), color_scheme="dark")
    assert brightness(page) < 150
    page.get_by_role("button", name="Light").click()
    page.wait_for_load_state("load")
    assert brightness(page) > 600
    page.goto(f"{console.url}/artifacts")
    assert brightness(page) > 600


def test_the_keyboard_alone_reaches_a_job_and_its_manifest(console: ConsoleStack, opened: Callable[..., Any]) -> None:
    job_id = console.submit("by-keyboard")
    page = opened(console.url, console.token(), reduced_motion="reduce")
    page.goto(f"{console.url}/jobs?text=by-keyboard")

    def tab_to(wanted: str) -> None:
        for _ in range(60):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.textContent.trim()") == wanted:
                outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
                assert outline != "none"
                return
        pytest.fail(f"Tab does not reach {wanted}")

    tab_to("To the content")
    page.keyboard.press("Enter")
    tab_to("by-keyboard")
    # The list refreshes itself under the focus, which stays where it was.
    with page.expect_response(lambda reply: "/console/jobs?text=by-keyboard" in reply.url, timeout=PATIENCE_MS):
        pass
    page.wait_for_function(f"document.activeElement.id === 'job-{job_id}'", timeout=PATIENCE_MS)
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/console/jobs/{job_id}")
    tab_to("Manifest")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Recipe")).to_be_visible()


def test_it_speaks_chinese(console: ConsoleStack, opened: Callable[..., Any]) -> None:
    page = opened(console.url, console.token(), locale="zh-CN")
    expect(page.get_by_role("heading", level=1)).to_have_text("作业")
    page.get_by_role("link", name="集群").click()
    expect(page.get_by_role("heading", name="服务", exact=True)).to_be_visible()
    page.get_by_role("button", name="English").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Cluster")


def test_a_chat_is_streamed_with_its_probabilities_and_stops_at_the_button(
    stack: HttpStack, opened: Callable[..., Any]
) -> None:
    page = opened(f"{stack.url}/console", stack.token())
    page.goto(f"{stack.url}/console/playground")
    page.get_by_label("Message").fill("shall I compare")
    page.get_by_label("New tokens at most").fill("8")
    page.get_by_role("button", name="Send").click()
    tokens = page.locator(".turn.model .tok")
    expect(tokens.first).to_be_visible(timeout=PATIENCE_MS)
    expect(page.get_by_role("button", name="Send")).to_be_enabled(timeout=PATIENCE_MS)
    tokens.first.hover()
    expect(page.locator("#hint")).to_contain_text(re.compile(r"probability \d+\.\d%"))
    assert page.locator("#hint tr").count() == 5

    before = stack.engine._stepper.runner

    def slowly(runner: Any, chunks: Any) -> Any:
        threading.Event().wait(0.5)  # all of them take long enough to find the button
        return runner.step(chunks)

    Watched(stack.engine, slowly)
    try:
        page.get_by_role("button", name="Clear").click()
        page.get_by_label("Message").fill("shall I")
        page.get_by_label("New tokens at most").fill("50")
        page.get_by_role("button", name="Send").click()
        expect(tokens.first).to_be_visible(timeout=PATIENCE_MS)
        page.get_by_role("button", name="Stop").click()
        expect(page.locator("#speed")).to_contain_text("Stopped")
        wait_for(lambda: stack.idle)
        assert tokens.count() < 50
    finally:
        stack.engine._stepper.runner = before


def test_the_serving_load_is_drawn(stack: HttpStack, opened: Callable[..., Any]) -> None:
    page = opened(f"{stack.url}/console", stack.token())
    page.goto(f"{stack.url}/console/load")
    expect(page.locator("#gauges h3")).to_have_text("tiny", timeout=PATIENCE_MS)
    expect(page.locator(".chart h3")).to_have_text(
        ["Requests", "KV cache in use, %", "Tokens per second"], timeout=PATIENCE_MS
    )


def test_a_dataset_of_a_real_stack_is_shown(small: ConsoleStack, opened: Callable[..., Any]) -> None:
    page = opened(small.url, small.token())
    page.goto(f"{small.url}/datasets")
    page.get_by_role("link", name="small").click()
    expect(page.get_by_role("heading", name="Documents by their tokens")).to_be_visible()
    assert page.locator(".bars progress").count() > 0
    assert page.locator(".token").count() > 20
    assert page.locator(".token.masked").count() >= 1
    page.get_by_role("link", name="Draw others").click()
    page.wait_for_url("**seed=1")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsoleStack]:
    """A dataset that was really cut, behind a data service that can be asked about it."""
    from tests.tiny_models import VOCABULARY, write_text

    from yuan_data.server import mounts
    from yuan_data.tokenize_text import tokenize_work
    from yuan_data.train_tokenizer import tokenizer_work

    folder: Path = tmp_path_factory.mktemp("small")
    text = {"text": [str(write_text(folder / "text.txt"))]}
    with console_stack(folder, mounts=mounts) as made:
        sizes = {"vocab_size": VOCABULARY, "algorithm": "bpe"}
        made.run("small", tokenizer_work, inputs=text, tokenizer=sizes, outputs={"tokenizer": "small"})
        made.run(
            "cut",
            tokenize_work,
            kind="tokenize",
            tokenizer=None,
            inputs={**text, "tokenizer": "small"},
            tokenize={"workers": 1},
            outputs={"dataset": "small"},
        )
        yield made


def test_a_training_shows_its_stages(console: ConsoleStack, opened: Callable[..., Any]) -> None:
    console.run("tokens", well, outputs={"tokenizer": "tokens"})
    cut = {"kind": "tokenize", "tokenizer": None, "outputs": {"dataset": "tokens"}}
    console.run("tokens-cut", well, inputs={"tokenizer": "tokens", "text": ["*.txt"]}, **cut)
    inputs = {"tokenizer": "tokens", "datasets": [{"name": "tokens"}]}
    topology = {"nodes": {"devices": 4}, "parallel": {"pipeline": 2, "stages": [1, 3]}}
    tree = pretraining(inputs=inputs, topology=topology, outputs={"model": "drawn"}, tokenizer=None)
    job_id = console.run("drawn", well, **tree)
    page = opened(console.url, console.token())
    page.goto(f"{console.url}/jobs/{job_id}")
    page.get_by_role("link", name="Stages and devices").click()
    picture = page.get_by_role("img", name="Stages and devices")
    expect(picture).to_contain_text("layers 1-3")
    assert picture.locator(".host0").count() == 4
