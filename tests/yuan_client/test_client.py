"""The Python client against a real server: values, streams, safe retries; and the load that a benchmark makes."""

import asyncio
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.http_stack import HttpStack, http_stack
from tests.tiny_models import CONTEXT, make_model, make_tokenizer, write_text
from tests.yuan_inference.engines import Watched, wait_for

from yuan_cli.benching import ServeBench, bench_serve, table
from yuan_client import AsyncClient, Client, FinishReason, Retry, RpcFailed, RpcRefused, Sampling, Structure
from yuan_client.load import LoadPlan, percentiles, run_load
from yuan_corpus import Tokenizer
from yuan_events import InputError, WorkFailed
from yuan_rpc import StatusCode

GREEDY = Sampling(temperature=0, max_tokens=6, ignore_eos=True)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpStack]:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("client")
    make_tokenizer(folder / "tokenizer", write_text(folder / "text.txt"))
    make_model(folder / "model", Tokenizer.load(folder / "tokenizer").eod_id)
    shutil.copytree(folder / "tokenizer", folder / "model" / "tokenizer")
    with http_stack(folder, folder / "model") as made:
        yield made


@pytest.fixture
def client(stack: HttpStack) -> Iterator[Client]:
    with Client.of_cluster(stack.file, retry=Retry(first_seconds=0.01)) as made:
        yield made


def test_whole_and_streamed_answers_and_their_tokens_agree(client: Client) -> None:
    whole = client.generate("shall I", sampling=GREEDY)
    assert (whole.model, whole.finish_reason, whole.usage.completion_tokens) == ("tiny", FinishReason.length, 6)
    pieces = list(client.stream("shall I", sampling=GREEDY))
    assert "".join(piece.text for piece in pieces) == whole.text
    assert [token for piece in pieces for token in piece.token_ids] == list(whole.token_ids)
    assert [piece.finish_reason for piece in pieces if piece.finish_reason] == [FinishReason.length]
    ids = client.tokenize("shall I").ids
    assert client.generate(ids, sampling=GREEDY).text == whole.text
    assert client.detokenize(ids) == "shall I"
    assert client.tokenize("shall I").max_model_len == CONTEXT


def test_what_the_server_is_and_does_is_told_in_values(client: Client) -> None:
    assert client.model().artifact == "model/tiny@1"
    assert [model.name for model in client.server_info().models] == ["tiny"]
    assert client.loads()[0].running == 0
    options = {"max_batch": 3, "prompt_lookup": 2, "kv_tokens": 320, "max_waiting": 5}
    assert client.load_model("tiny", name="other", **options).name == "other"
    (load,) = (one for one in client.loads() if one.model == "other")
    assert (load.max_batch, load.max_waiting, load.total_blocks) == (3, 5, 20)
    with pytest.raises(RpcFailed, match="has no adapter x"):
        client.score("shall I", model="other", adapter="x")
    assert {load.model: load.max_batch for load in client.loads()}["other"] == 3
    with pytest.raises(RpcFailed, match="model/nobody does not exist"):
        client.load_model("tiny", name="other", adapters={"x": "nobody"})
    assert client.unload_model("other") == "model/tiny@1"
    assert client.abort("nobody") == ()
    scores = client.score("shall I compare", logprobs=1)
    assert scores.logprobs[0].logprob is None
    assert scores.sum == pytest.approx(sum(one.logprob or 0 for one in scores.logprobs))


def test_a_stream_that_is_left_stops_the_server_too(stack: HttpStack, client: Client) -> None:
    pieces = client.stream("shall I", sampling=Sampling(max_tokens=50, ignore_eos=True))
    next(pieces)
    pieces.close()
    wait_for(lambda: stack.idle)


def test_what_cannot_be_sent_is_bad_input_before_anything_is_sent(client: Client) -> None:
    for sampling, field in ((Sampling(top_k=2**40), "top_k"), (Sampling(seed=-1), "seed")):
        with pytest.raises(InputError, match=rf"^sampling\.{field}: .* does not fit"):
            client.generate("a", sampling=sampling)
    with pytest.raises(InputError, match=r"^structure: expected exactly one constraint, found 2"):
        client.generate("a", sampling=Sampling(structured_outputs=Structure(regex="a", json_object=True)))
    with pytest.raises(InputError, match=r"^prompt: "):
        client.generate("\ud800")
    with pytest.raises(RpcRefused, match="temperature"):
        client.generate("a", sampling=Sampling(temperature=-1))


def test_the_async_client_does_the_same(stack: HttpStack, client: Client) -> None:
    expected = client.generate("shall I", sampling=GREEDY)

    async def ask() -> None:
        async with AsyncClient.of_cluster(stack.file) as other:
            several = await asyncio.gather(*(other.generate("shall I", sampling=GREEDY) for _ in range(4)))
            assert {answer.text for answer in several} == {expected.text}
            pieces = [piece async for piece in other.stream("shall I", sampling=GREEDY)]
            assert "".join(piece.text for piece in pieces) == expected.text
            assert (await other.model()).name == "tiny"

    asyncio.run(ask())


def test_a_full_queue_is_asked_again_when_it_says_so_and_a_refusal_is_not(stack: HttpStack) -> None:
    with Client.of_cluster(stack.file, retry=Retry(attempts=3, first_seconds=0.01)) as client:
        calls: list[int] = []
        engine = stack.engine
        submit = engine.submit

        def full(*request: Any) -> None:
            from yuan_inference.engine import QueueFull

            calls.append(1)
            if len(calls) < 3:
                raise QueueFull("full")
            submit(*request)

        engine.submit = full
        try:
            assert client.generate("shall I", sampling=GREEDY).text
            assert len(calls) == 3
            calls.clear()
            assert list(client.stream("shall I", sampling=GREEDY))
            assert len(calls) == 3
            calls.clear()
            with Client.of_cluster(stack.file, retry=Retry(attempts=1)) as once, pytest.raises(RpcFailed) as caught:
                once.generate("shall I")
            assert caught.value.code is StatusCode.RESOURCE_EXHAUSTED
        finally:
            engine.submit = submit


def test_a_stream_that_broke_after_its_first_piece_is_not_begun_anew(stack: HttpStack, client: Client) -> None:
    steps: list[int] = []

    def breaks(runner: Any, chunks: Any) -> Any:
        steps.append(1)
        if len(steps) > 2:
            raise RuntimeError("broken")
        return runner.step(chunks)

    before = stack.engine._stepper.runner
    Watched(stack.engine, breaks)
    try:
        pieces = []
        with pytest.raises(RpcFailed, match="broken"):
            pieces.extend(piece for piece in client.stream("shall I", sampling=GREEDY))
    finally:
        stack.engine._stepper.runner = before


def test_a_wait_is_the_servers_or_grows_and_ends_before_the_deadline() -> None:
    error = RpcFailed("full", StatusCode.UNAVAILABLE)
    waits = Retry(attempts=4, first_seconds=1, most_seconds=3).waits()
    found = [waits.after(error, 100) for _ in range(3)]
    assert all(least <= wait <= 1.3 * least for wait, least in zip(found, (1, 2, 3), strict=True))
    with pytest.raises(RpcFailed):
        waits.after(error, 100)
    told = RpcFailed("full", StatusCode.RESOURCE_EXHAUSTED, retry_after=5)
    assert 5 <= Retry().waits().after(told, 100) <= 6.5
    with pytest.raises(RpcFailed):
        Retry().waits().after(told, 4)
    with pytest.raises(RpcFailed):
        Retry().waits().after(RpcFailed("wrong", StatusCode.INVALID_ARGUMENT), 100)


def test_percentiles_lie_between_their_neighbours() -> None:
    assert percentiles([]) == {}
    assert percentiles([1.0]) == {"p50": 1.0, "p95": 1.0, "p99": 1.0}
    assert percentiles([float(value) for value in range(101)]) == {"p50": 50.0, "p95": 95.0, "p99": 99.0}


def test_arrivals_are_a_poisson_process_of_the_rate_and_the_same_for_one_seed() -> None:
    plan = LoadPlan("", ["a"], GREEDY, requests=4000, rate=20.0, seed=3)
    arrivals = plan.arrivals()
    gaps = [after - before for before, after in zip([0.0, *arrivals], arrivals, strict=False)]
    mean = sum(gaps) / len(gaps)
    variance = sum((gap - mean) ** 2 for gap in gaps) / len(gaps)
    assert mean == pytest.approx(1 / 20, rel=0.1)
    assert variance == pytest.approx(mean**2, rel=0.2)
    assert arrivals == plan.arrivals()
    assert LoadPlan("", ["a"], GREEDY, requests=3, rate=float("inf")).arrivals() == [0.0, 0.0, 0.0]


def test_a_load_counts_what_was_answered(stack: HttpStack) -> None:
    async def run() -> Any:
        async with AsyncClient.of_cluster(stack.file, retry=Retry(attempts=1)) as client:
            good = await run_load(client, LoadPlan("tiny", ["shall I", [5, 6]], GREEDY, 12, 200.0))
            bad = await run_load(client, LoadPlan("nobody", ["a"], GREEDY, 2, float("inf")))
            return good, bad

    good, bad = asyncio.run(run())
    assert (good.requests, good.answered, good.failed) == (12, 12, {})
    assert good.tokens_per_second * good.seconds == pytest.approx(72)
    assert list(good.time_to_first_token) == list(good.inter_token_latency) == ["p50", "p95", "p99"]
    assert (bad.answered, bad.failed) == (0, {"NOT_FOUND": 2})
    lines = table([good, bad])
    assert lines[0].split()[0] == "rate/s"
    assert "12/12" in lines[1]
    assert lines[-1] == "rate inf: 2 failed with NOT_FOUND"


def wanted(**values: Any) -> ServeBench:
    defaults: dict[str, Any] = {
        "model": "",
        "prompts": None,
        "dataset": None,
        "input_tokens": 8,
        "rates": "50,inf",
        "requests": 4,
        "max_tokens": 3,
        "temperature": 0.0,
        "ignore_eos": True,
        "seed": 1,
        "plot": None,
    }
    return ServeBench(**{**defaults, **values})


def test_the_command_prints_a_table_or_json_and_draws(
    stack: HttpStack, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("shall I\n\ncompare thee\n")
    assert bench_serve(wanted(prompts=prompts, plot=tmp_path / "load.png"), stack.file, as_json=True) == 0
    results = json.loads(capsys.readouterr().out)["results"]
    assert [result["rate"] for result in results] == [50.0, None]
    assert all(result["answered"] == 4 for result in results)
    assert (tmp_path / "load.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({}, "expected either --prompts FILE or --dataset NAME"),
        ({"prompts": Path("nowhere.txt")}, "--prompts nowhere.txt: no such file or directory"),
        ({"dataset": "nothing"}, "dataset/nothing does not exist"),
        ({"rates": "0"}, "--rate: expected numbers above 0"),
        ({"rates": "nan"}, "--rate: expected numbers above 0"),
        ({"rates": "fast"}, "--rate: expected numbers above 0"),
        ({"requests": 0}, "--requests: expected at least 1, found 0"),
        ({"plot": Path("x.txt")}, "--plot x.txt: expected a name that ends in"),
        ({"plot": Path("/nowhere/x.png")}, "there is no folder /nowhere"),
    ],
)
def test_what_cannot_be_measured_is_one_line(stack: HttpStack, values: dict[str, Any], problem: str) -> None:
    with pytest.raises(InputError) as caught:
        bench_serve(wanted(**values), stack.file, as_json=False)
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_load_that_nobody_answers_is_a_failure(stack: HttpStack, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("word " * 500)
    with pytest.raises(WorkFailed, match="no request was answered: INVALID_ARGUMENT"):
        bench_serve(wanted(prompts=prompts), stack.file, as_json=False)
