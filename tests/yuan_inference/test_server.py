"""InferenceService on a real port: text, errors with their statuses, models that come and go, nothing left held."""

import asyncio
import gc
import shutil
import threading
import time
import urllib.request
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from prometheus_client import CollectorRegistry
from tests.served_models import make_cluster, publish_model
from tests.tiny_models import CONTEXT, make_model
from tests.yuan_inference.engines import Watched, wait_for
from tests.yuan_inference.test_adapters import TARGETS, make_adapter
from tests.yuan_inference.test_ranks import compiled

from yuan_corpus import Tokenizer
from yuan_inference.engine import EngineMetrics, EngineOptions
from yuan_inference.loaded import LoadedModel
from yuan_inference.served import ServedModels, Wanted
from yuan_inference.server import SERVICE, InferenceServicer
from yuan_jobs.artifacts import ArtifactStore
from yuan_jobs.deployments import deploy, deployment, remove_deployment
from yuan_jobs.home import Home
from yuan_jobs.job_service import TRANSLATIONS
from yuan_jobs.states import DeploymentState
from yuan_manifest import ClusterManifest
from yuan_model import FolderWeights, generate
from yuan_rpc import Connection, Mount, RpcFailed, connect, server_of
from yuan_rpc.inference.v1 import inference_pb2 as pb
from yuan_rpc.inference.v1 import inference_pb2_grpc
from yuan_stack.models import LoadWatch, models_of


@dataclass
class Serving:
    """A server in this process, in an event loop of its own."""

    cluster: ClusterManifest
    store: ArtifactStore
    models: ServedModels
    servicer: InferenceServicer
    connection: Connection
    loop: asyncio.AbstractEventLoop

    @property
    def stub(self) -> Any:
        return self.connection.stub(inference_pb2_grpc.InferenceServiceStub)

    def load(self, artifact: str, **values: object) -> pb.LoadModelResponse:
        return self.call("LoadModel", pb.LoadModelRequest(artifact=artifact, **values))

    def call(self, method: str, request: Any, **options: Any) -> Any:
        with self.connection.errors():
            return getattr(self.stub, method)(request, **options)

    def generate(self, prompt: str = "shall I", model: str = "", request_id: str = "", **params: object) -> Any:
        return self.call("Generate", asked(prompt, model, request_id, **params))

    def stream(self, prompt: str = "shall I", model: str = "", request_id: str = "", **params: object) -> Any:
        request = pb.GenerateStreamRequest(request=asked(prompt, model, request_id, **params))
        return self.stub.GenerateStream(request, timeout=params.pop("timeout", 60))

    @property
    def idle(self) -> bool:
        """Whether no engine holds anything."""
        return all(engine.unfinished == 0 and engine.used_blocks == 0 for engine in self.models.engines)


def asked(prompt: str, model: str = "", request_id: str = "", **params: object) -> pb.GenerateRequest:
    values = {"temperature": 0.0, "max_tokens": 10, **params}
    return pb.GenerateRequest(
        prompt=prompt, model=model, request_id=request_id, sampling_params=pb.SamplingParams(**values)
    )


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, model_folder: Path, tokenizer_folder: Path) -> Any:
    """A cluster whose store has model/tiny@1, tiny@2 (other weights) and broken@1 (no tokenizer)."""
    folder = tmp_path_factory.mktemp("stack")
    _, cluster = make_cluster(folder)
    publish_model(cluster, model_folder, "tiny")
    make_model(folder / "other", Tokenizer.load(tokenizer_folder).eod_id, seed=6)
    publish_model(cluster, folder / "other", "broken")
    shutil.copytree(tokenizer_folder, folder / "other" / "tokenizer")
    publish_model(cluster, folder / "other", "tiny")
    return cluster


@pytest.fixture
def serving(published: ClusterManifest) -> Iterator[Serving]:
    cluster = published
    store = ArtifactStore.open(Home.of(cluster.cluster))
    started, stop = threading.Event(), asyncio.Event()
    made: list[Serving] = []

    async def serve() -> None:
        metrics = CollectorRegistry()
        models = ServedModels("cpu", EngineMetrics(metrics))
        servicer = InferenceServicer(models, store)
        mount = Mount(inference_pb2_grpc.add_InferenceServiceServicer_to_server, servicer, SERVICE)
        server = server_of("inference", cluster.cluster, [mount], translations=TRANSLATIONS, drain_seconds=5)
        server.registry.register(metrics)
        async with server:
            connection = connect("inference", cluster.cluster)
            made.append(Serving(cluster, store, models, servicer, connection, asyncio.get_running_loop()))
            started.set()
            await stop.wait()
        await models.close()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert started.wait(60)
    yield made[0]
    made[0].connection.close()
    made[0].loop.call_soon_threadsafe(stop.set)
    thread.join(60)
    store.registry.close()


@pytest.fixture
def tiny(serving: Serving) -> Serving:
    """The server with model/tiny@1."""
    serving.load("tiny@1")
    return serving


def expected(loaded: LoadedModel, prompt: str, count: int) -> list[int]:
    ids = loaded.tokenizer.encode(prompt)
    return list(generate(loaded.model, ids, count, stop_token_ids=loaded.end_ids))


def test_generate_returns_the_models_continuation(tiny: Serving, loaded: LoadedModel) -> None:
    response = tiny.generate("shall I compare", request_id="mine")
    tokens = expected(loaded, "shall I compare", 10)
    assert list(response.token_ids) == tokens
    ids = loaded.tokenizer.encode("shall I compare")
    assert "shall I compare" + response.text == loaded.tokenizer.decode([*ids, *tokens])
    assert response.finish_reason == pb.FINISH_REASON_LENGTH
    assert (response.request_id, response.usage.prompt_tokens, response.usage.completion_tokens) == (
        "mine",
        len(ids),
        10,
    )
    same = tiny.call("Generate", pb.GenerateRequest(prompt_token_ids=ids, sampling_params={"temperature": 0}))
    assert list(same.token_ids)[:10] == tokens
    assert len(same.token_ids) == 16


def test_a_stream_joined_is_the_whole_and_says_why_it_ended_in_its_last_message_alone(tiny: Serving) -> None:
    whole = tiny.generate("你好", max_tokens=30)
    parts = list(tiny.stream("你好", max_tokens=30))
    assert "".join(part.text for part in parts) == whole.text
    assert [token for part in parts for token in part.token_ids] == list(whole.token_ids)
    assert [part.finish_reason for part in parts[:-1]] == [pb.FINISH_REASON_UNSPECIFIED] * (len(parts) - 1)
    assert parts[-1].finish_reason == whole.finish_reason
    assert parts[-1].usage == whole.usage
    assert len({part.request_id for part in parts}) == 1


def test_many_requests_at_once_have_the_text_that_each_has_alone(tiny: Serving) -> None:
    prompts = [f"shall I {word} {number}" for number, word in enumerate(["compare", "thee", "day", "你好"] * 5)]
    alone = [tiny.generate(prompt, temperature=0.9, seed=7, max_tokens=20).text for prompt in prompts]
    with ThreadPoolExecutor(20) as pool:
        together = list(
            pool.map(lambda prompt: tiny.generate(prompt, temperature=0.9, seed=7, max_tokens=20).text, prompts)
        )
    assert together == alone


def test_stop_strings_stop_tokens_and_ignored_ends_work_over_the_wire(tiny: Serving) -> None:
    whole = tiny.generate(ignore_eos=True, max_tokens=30)
    stop = whole.text[3:6]
    stopped = tiny.generate(ignore_eos=True, max_tokens=30, stop=["never", stop])
    assert (stopped.finish_reason, stopped.stop_reason) == (pb.FINISH_REASON_STOP, stop)
    assert stopped.text == whole.text[: whole.text.index(stop)]
    by_token = tiny.generate(ignore_eos=True, max_tokens=30, stop_token_ids=[whole.token_ids[4]])
    assert list(by_token.token_ids) == list(whole.token_ids)[: list(whole.token_ids).index(whole.token_ids[4])]


@pytest.mark.parametrize(
    ("params", "field", "problem"),
    [
        ({"temperature": -1.0}, "sampling_params.temperature", "expected 0 to 100, found -1"),
        ({"temperature": float("nan")}, "sampling_params.temperature", "found nan"),
        ({"temperature": float("inf")}, "sampling_params.temperature", "found inf"),
        ({"top_p": 1.5}, "sampling_params.top_p", "expected more than 0 and at most 1, found 1.5"),
        ({"top_p": 0.0}, "sampling_params.top_p", "found 0"),
        ({"top_p": float("nan")}, "sampling_params.top_p", "found nan"),
        ({"top_k": -3}, "sampling_params.top_k", "expected at least 0 (0: all), found -3"),
        ({"max_tokens": 0}, "sampling_params.max_tokens", "expected at least 1 (0 with prompt_logprobs), found 0"),
        ({"stop": [""]}, "sampling_params.stop", "expected strings of 1 to 1024 characters"),
        ({"stop": ["x"] * 1000}, "sampling_params.stop", "expected at most 64 strings, found 1000"),
        ({"min_p": float("nan")}, "sampling_params.min_p", "expected 0 to 1, found nan"),
        ({"repetition_penalty": 0.0}, "sampling_params.repetition_penalty", "expected 0.01 to 100, found 0"),
        ({"repetition_penalty": float("inf")}, "sampling_params.repetition_penalty", "found inf"),
        ({"presence_penalty": 1e30}, "sampling_params.presence_penalty", "expected -2 to 2, found 1e+30"),
        ({"frequency_penalty": float("nan")}, "sampling_params.frequency_penalty", "found nan"),
        ({"n": 0}, "sampling_params.n", "expected 1 to 128, found 0"),
        ({"n": 3, "best_of": 2}, "sampling_params.best_of", "expected n to 128, found 2"),
        ({"logprobs": 2**31 - 1}, "sampling_params.logprobs", "expected 0 to 100"),
        ({"min_tokens": 20}, "sampling_params.min_tokens", "expected 0 to max_tokens, found 20"),
        ({"top_p": 0.5, "top_p_bound": 0.6}, "sampling_params.top_p_bound", "expected 0 to top_p, found 0.6"),
        ({"beam_width": 1000}, "sampling_params.beam_width", "expected 0 (no beam search), or n to 64, found 1000"),
        ({"length_penalty": float("nan")}, "sampling_params.length_penalty", "found nan"),
        ({"seed": 2**64 - 1}, "sampling_params.seed", "expected at most 2^63 - 1"),
        ({"logit_bias": {5: float("nan")}}, "sampling_params.logit_bias", "expected values from -100 to 100"),
        ({"logit_bias": {360: 1.0}}, "sampling_params.logit_bias", "expected ids from 0 to 359"),
        ({"structured_outputs": {"regex": ""}}, "sampling_params.structured_outputs.regex", "empty"),
        (
            {"structured_outputs": {"choice": {}}},
            "sampling_params.structured_outputs.choice",
            "expected 1 to 1024 texts",
        ),
        ({"structured_outputs": {}}, "sampling_params.structured_outputs", "expected one constraint"),
        ({"structured_outputs": {"json_object": False}}, "sampling_params.structured_outputs", "expected one"),
        ({"beam_width": 30}, "sampling_params.beam_width", "expected at most 16, as run at once here, found 30"),
        ({"stop_token_ids": [99999]}, "sampling_params.stop_token_ids", "expected ids from 0 to 359"),
    ],
)
def test_a_wrong_value_is_refused_by_its_field(tiny: Serving, params: dict[str, Any], field: str, problem: str) -> None:
    with pytest.raises(RpcFailed) as caught:
        tiny.generate(**params)
    assert caught.value.code == grpc.StatusCode.INVALID_ARGUMENT
    assert problem in caught.value.violations[field]
    assert str(caught.value).startswith(f"{field}: ")
    assert tiny.idle


def test_prompts_that_cannot_be_are_refused(tiny: Serving) -> None:
    def refused(request: pb.GenerateRequest) -> dict[str, str]:
        with pytest.raises(RpcFailed) as caught:
            tiny.call("Generate", request)
        assert caught.value.code == grpc.StatusCode.INVALID_ARGUMENT
        return caught.value.violations

    assert refused(pb.GenerateRequest()) == {"prompt": "empty; a prompt needs at least one token"}
    assert "expected ids from 0 to 359" in refused(pb.GenerateRequest(prompt_token_ids=[5, 400]))["prompt_token_ids"]
    assert "found both" in refused(pb.GenerateRequest(prompt="a", prompt_token_ids=[5]))["prompt"]
    long = refused(pb.GenerateRequest(prompt_token_ids=[5] * CONTEXT))["prompt_token_ids"]
    assert long.startswith(f"has {CONTEXT} tokens, but the model's context is {CONTEXT} tokens")
    assert (
        "more than the model's context of 64 tokens holds" in refused(pb.GenerateRequest(prompt="q" * 10**7))["prompt"]
    )
    several = refused(pb.GenerateRequest(sampling_params={"top_p": 7, "temperature": -1}))
    assert set(several) == {"prompt", "sampling_params.top_p", "sampling_params.temperature"}


def test_before_anything_is_deployed_the_mend_is_said(serving: Serving) -> None:
    for method, request in (
        ("Generate", pb.GenerateRequest(prompt="a")),
        ("Tokenize", pb.TokenizeRequest(text="a")),
        ("GetModelInfo", pb.GetModelInfoRequest()),
        ("Generate", pb.GenerateRequest(prompt="a", model="tiny")),
    ):
        with pytest.raises(RpcFailed, match=r"^no model is deployed; yuan deploy MODEL$") as caught:
            serving.call(method, request)
        assert caught.value.code == grpc.StatusCode.FAILED_PRECONDITION


def test_models_are_asked_for_by_name_and_the_only_one_needs_none(tiny: Serving) -> None:
    tiny.load("tiny@2", name="second")
    assert tiny.generate(model="tiny").text != tiny.generate(model="second").text
    with pytest.raises(RpcFailed, match=r"2 models are served \(second, tiny\); name one") as caught:
        tiny.generate()
    assert caught.value.code == grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(RpcFailed, match="no model is served as third; served: second, tiny") as caught:
        tiny.generate(model="third")
    assert caught.value.code == grpc.StatusCode.NOT_FOUND
    assert caught.value.resource == ("model", "third")


def test_tokens_and_text_go_both_ways(tiny: Serving, loaded: LoadedModel) -> None:
    reply = tiny.call("Tokenize", pb.TokenizeRequest(text="compare<sep>你好"))
    assert list(reply.token_ids) == loaded.tokenizer.encode("compare<sep>你好")
    assert "<sep>" in reply.pieces
    assert tiny.call("Detokenize", pb.DetokenizeRequest(token_ids=reply.token_ids)).text == "compare<sep>你好"
    with pytest.raises(RpcFailed, match="token 999 is out of range") as caught:
        tiny.call("Detokenize", pb.DetokenizeRequest(token_ids=[999]))
    assert caught.value.code == grpc.StatusCode.INVALID_ARGUMENT
    assert list(caught.value.violations) == ["token_ids"]


def test_model_info_says_what_is_served(tiny: Serving) -> None:
    info = tiny.call("GetModelInfo", pb.GetModelInfoRequest())
    assert (info.model, info.artifact, info.dtype, info.device) == ("tiny", "model/tiny@1", "fp32", "cpu")
    assert (info.max_model_len, info.vocab_size, info.config["hidden_size"]) == (CONTEXT, 360, 32)
    for dtype in ("bf16", "int8") if compiled() else ("bf16",):
        assert tiny.load("tiny@1", name="half", dtype=dtype).info.dtype == dtype


def test_a_new_version_is_swapped_in_and_requests_on_the_old_one_finish_on_it(tiny: Serving) -> None:
    whole = tiny.generate(max_tokens=60, ignore_eos=True).text
    running = tiny.stream(max_tokens=60, ignore_eos=True, request_id="old")
    first = next(running)
    assert tiny.load("tiny@2").info.artifact == "model/tiny@2"
    assert tiny.generate(max_tokens=60, ignore_eos=True).text != whole
    assert first.text + "".join(part.text for part in running) == whole
    wait_for(lambda: tiny.idle and len(tiny.models.engines) == 1)


def test_the_memory_of_a_model_that_is_served_no_more_is_free_once_its_last_request_has_ended(tiny: Serving) -> None:
    call = slow(tiny)
    engine = weakref.ref(tiny.models.get("tiny").engine)
    gc.disable()  # nobody's luck
    try:
        tiny.call("UnloadModel", pb.UnloadModelRequest(model="tiny"))
        assert list(call)[-1].finish_reason == pb.FINISH_REASON_LENGTH
        del call
        wait_for(lambda: engine() is None)
    finally:
        gc.enable()


def test_what_is_still_deployed_is_not_unloaded_by_who_wants_it_unloaded_only_if_it_is_not(tiny: Serving) -> None:
    request = pb.UnloadModelRequest(model="tiny", unless_deployed=True)
    deploy(tiny.store.registry, "tiny", "model/tiny@1", {})
    assert tiny.call("UnloadModel", request).artifact == "model/tiny@1"
    assert tiny.models.names == ["tiny"]
    remove_deployment(tiny.store.registry, "tiny")
    tiny.call("UnloadModel", request)
    assert tiny.models.names == []


def test_a_deployment_that_could_not_be_loaded_can_be_given_up(tiny: Serving) -> None:
    deploy(tiny.store.registry, "bad", "model/broken@1", {})
    with pytest.raises(RpcFailed, match="has no tokenizer"):
        tiny.load("model/broken@1", name="bad")
    with pytest.raises(RpcFailed, match="is deployed but could not be loaded"):
        tiny.generate(model="bad")
    assert tiny.call("UnloadModel", pb.UnloadModelRequest(model="bad")).artifact == "model/broken@1"
    assert deployment(tiny.store.registry, "bad") is None
    with pytest.raises(RpcFailed, match="no model is served as bad"):
        tiny.generate(model="bad")


def test_loading_what_is_served_already_changes_nothing(tiny: Serving) -> None:
    engine = tiny.models.get("tiny").engine
    tiny.load("model/tiny@1")
    assert tiny.models.get("tiny").engine is engine


def test_a_model_is_served_with_adapters_that_come_and_go_while_it_is(
    tiny: Serving, loaded: LoadedModel, published: ClusterManifest, tmp_path: Path
) -> None:
    merged = {name: make_adapter(tmp_path / name, loaded, TARGETS, seed) for name, seed in (("ada", 1), ("bob", 2))}
    for name in merged:
        publish_model(published, tmp_path / name, name)
    texts = {name: expected(model, "shall I", 12) for name, model in {**merged, "": loaded}.items()}
    assert len(set(map(tuple, texts.values()))) == 3
    engine = tiny.models.get("tiny").engine
    whole = tiny.generate(max_tokens=60, ignore_eos=True).text
    running = tiny.stream(max_tokens=60, ignore_eos=True, request_id="meanwhile")
    first = next(running).text
    assert list(tiny.load("tiny@1", adapters={"ada": "ada@1"}).info.adapters) == ["ada"]
    assert list(tiny.load("tiny@1", adapters={"ada": "ada", "b": "bob"}).info.adapters) == ["ada", "b"]
    assert tiny.models.get("tiny").engine is engine
    for model, text in {"tiny": texts[""], "tiny:ada": texts["ada"], "ada": texts["ada"], "b": texts["bob"]}.items():
        assert list(tiny.generate(model=model, max_tokens=12).token_ids) == text
    for adapters, problem in (
        ({"ada": "ada", "x": "tiny@1"}, "holds no LoRA adapter"),
        ({"x": "nobody"}, "model/nobody does not exist"),
        ({"x": "dataset/tiny"}, "adapters: "),
        ({"a b": "ada"}, "adapters: "),
    ):
        with pytest.raises(RpcFailed, match=problem):
            tiny.load("tiny@1", adapters=adapters)
    assert engine.adapters == ("ada", "b")
    tiny.load("tiny@1", adapters={"b": "bob"})
    with pytest.raises(RpcFailed, match="model tiny has no adapter ada"):
        tiny.generate(model="tiny:ada")
    with pytest.raises(RpcFailed, match="model tiny has no adapter ada"):
        tiny.call("GetModelInfo", pb.GetModelInfoRequest(model="tiny:ada"))
    assert tiny.call("GetModelInfo", pb.GetModelInfoRequest(model="tiny:b")).model == "tiny"
    assert first + "".join(part.text for part in running) == whole
    deploy(tiny.store.registry, "kept", "model/tiny@1", {"adapters": {"b": "model/bob@1"}, "prompt_lookup": 3})
    try:
        asyncio.run_coroutine_threadsafe(tiny.servicer.load_deployments(), tiny.loop).result(60)
    finally:
        remove_deployment(tiny.store.registry, "kept")
    assert tiny.models.get("kept").engine.options.prompt_lookup == 3
    assert list(tiny.generate(model="kept:b", max_tokens=12).token_ids) == texts["bob"]


def test_a_model_is_loaded_with_guesses_of_its_next_tokens_and_says_the_same(tiny: Serving) -> None:
    alone = tiny.generate(max_tokens=50, ignore_eos=True).token_ids
    tiny.load("tiny@1", name="guessing", prompt_lookup=4)
    assert tiny.models.get("guessing").engine.options.prompt_lookup == 4
    assert tiny.generate(model="guessing", max_tokens=50, ignore_eos=True).token_ids == alone
    for wrong in (-1, 33):
        with pytest.raises(RpcFailed, match="prompt_lookup: expected at"):
            tiny.load("tiny@1", name="guessing", prompt_lookup=wrong)


@pytest.mark.parametrize("asked_for", [{"kv_tokens": 10**12}, {"max_batch": 2**31 - 1}], ids=["cache", "batch"])
def test_more_than_the_machines_memory_is_refused_before_it_is_taken(tiny: Serving, asked_for: dict[str, int]) -> None:
    (name,) = asked_for
    with pytest.raises(RpcFailed, match=rf"serving\.{name}: \d+ would need [\d,.]+ GiB of memory, and") as caught:
        tiny.load("tiny@1", name="huge", **asked_for)
    assert caught.value.code == grpc.StatusCode.INVALID_ARGUMENT
    assert tiny.models.names == ["tiny"]


@pytest.mark.parametrize("asked_for", [{"kv_tokens": 400_000}, {"max_batch": 20_000}], ids=["cache", "batch"])
def test_more_than_is_free_is_refused_though_the_machine_has_it(
    tiny: Serving, asked_for: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("yuan_inference.engine.options.free_bytes", lambda device: 50 << 20)
    with pytest.raises(RpcFailed, match=r"would need 0\.\d GiB of memory, and 0\.0 GiB are free; choose less"):
        tiny.load("tiny@1", name="huge", **asked_for)
    assert tiny.models.names == ["tiny"]


def test_a_model_that_cannot_be_loaded_is_refused_and_the_old_one_is_served_on(tiny: Serving) -> None:
    before = tiny.generate().text
    for artifact, code, problem in (
        ("nobody", grpc.StatusCode.NOT_FOUND, "model/nobody does not exist"),
        ("broken", grpc.StatusCode.INVALID_ARGUMENT, "has no tokenizer/tokenizer.model"),
        ("dataset/tiny", grpc.StatusCode.INVALID_ARGUMENT, "dataset"),
        ("", grpc.StatusCode.INVALID_ARGUMENT, "artifact: empty"),
    ):
        with pytest.raises(RpcFailed, match=problem) as caught:
            tiny.load(artifact, name="tiny")
        assert caught.value.code == code
    with pytest.raises(RpcFailed, match="expected one of fp32, bf16, fp16, int8, found int3"):
        tiny.load("tiny", dtype="int3")
    assert tiny.generate().text == before


@pytest.mark.parametrize("name", ["a\nb", "'quoted'", "a\0", "x" * 5000, "a b"])
def test_a_model_is_served_under_names_that_an_artifact_could_have(serving: Serving, name: str) -> None:
    with pytest.raises(RpcFailed, match="cannot be a name") as caught:
        serving.load("tiny@1", name=name)
    assert (caught.value.code, list(caught.value.violations)) == (grpc.StatusCode.INVALID_ARGUMENT, ["name"])
    assert serving.models.names == []


@pytest.mark.parametrize("artifact", ["tiny@" + "9" * 5000, "dataset/tiny", "a b"])
def test_what_is_no_reference_to_a_model_is_refused_by_its_field(serving: Serving, artifact: str) -> None:
    with pytest.raises(RpcFailed) as caught:
        serving.load(artifact)
    assert (caught.value.code, list(caught.value.violations)) == (grpc.StatusCode.INVALID_ARGUMENT, ["artifact"])


def test_what_nobody_deployed_is_not_said_to_be_deployed_after_it_could_not_be_loaded(serving: Serving) -> None:
    def asked_for(name: str) -> RpcFailed:
        with pytest.raises(RpcFailed) as caught:
            serving.call("GetModelInfo", pb.GetModelInfoRequest(model=name))
        return caught.value

    for number in range(3):
        with pytest.raises(RpcFailed, match="does not exist"):
            serving.load("nosuch", name=f"nosuch-{number}")
    assert str(asked_for("nosuch-1")) == str(asked_for("")) == "no model is deployed; yuan deploy MODEL"
    serving.load("tiny@1")
    assert asked_for("nosuch-1").code == grpc.StatusCode.NOT_FOUND
    assert not serving.models._failed
    assert not serving.models._locks


def test_where_there_are_devices_each_model_takes_one_and_gives_it_back_if_it_cannot_be_loaded(
    serving: Serving,
) -> None:
    from yuan_jobs.slots import release_deployment

    serving.servicer.deploying.cuda_devices = 2
    try:
        with pytest.raises(RpcFailed, match="has no tokenizer"):
            serving.load("broken")
        for artifact, name, device in (("tiny@1", "first", 0), ("tiny@1", "second", 1), ("tiny@2", "second", 1)):
            serving.load(artifact, name=name)
            assert serving.models.get(name).engine.options.devices == (device,)
        with pytest.raises(RpcFailed, match="deployment third: wants 1 devices, 0 of 2 are free"):
            serving.load("tiny@1", name="third")
        serving.call("UnloadModel", pb.UnloadModelRequest(model="first"))
        serving.load("tiny@1", name="third")
        assert serving.models.get("third").engine.options.devices == (0,)
    finally:
        for name in ("first", "second", "third"):
            release_deployment(serving.store.registry, name)


def test_a_model_lies_on_the_device_that_the_registry_gave_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    models = ServedModels("auto", EngineMetrics(CollectorRegistry()))
    for devices, place in (((1,), "cuda:1"), ((2, 3), "cuda:0"), ((), "auto")):  # slots count over all hosts
        wanted = Wanted("tiny", "model/tiny@1", tmp_path, options=EngineOptions(devices=devices))
        assert models._device_of(wanted) == place


def slow(serving: Serving, request_id: str = "", seconds: float = 0.2) -> Any:
    """Starts a stream whose model takes its time, and waits for its first message."""

    def step(runner: Any, chunks: Any) -> Any:
        time.sleep(seconds)
        return runner.step(chunks)

    Watched(serving.models.get("tiny").engine, step)
    call = serving.stream(max_tokens=60, ignore_eos=True, request_id=request_id)
    next(call)
    return call


def test_a_client_that_goes_away_frees_its_blocks_at_once(tiny: Serving) -> None:
    call = slow(tiny)
    assert not tiny.idle
    call.cancel()
    wait_for(lambda: tiny.idle)
    assert tiny.generate().text


def test_a_deadline_frees_blocks_at_once(tiny: Serving) -> None:
    slow(tiny).cancel()
    with pytest.raises(RpcFailed) as caught:
        tiny.call("Generate", asked("day", max_tokens=60, ignore_eos=True), timeout=0.2)
    assert caught.value.code == grpc.StatusCode.DEADLINE_EXCEEDED
    wait_for(lambda: tiny.idle)


def test_abort_ends_a_request_by_its_id(tiny: Serving) -> None:
    call = slow(tiny, request_id="long", seconds=0.1)
    with pytest.raises(RpcFailed, match="there is a request long already") as caught:
        tiny.generate(request_id="long")
    assert caught.value.code == grpc.StatusCode.ALREADY_EXISTS
    # The one that has the id goes on.
    assert [next(call).finish_reason for _ in range(4)] == [pb.FINISH_REASON_UNSPECIFIED] * 4
    reply = tiny.call("Abort", pb.AbortRequest(request_ids=["long", "nobody"]))
    assert list(reply.aborted) == ["long"]
    assert list(call)[-1].finish_reason == pb.FINISH_REASON_ABORT
    assert tiny.idle


def test_a_full_queue_answers_when_to_come_again(serving: Serving) -> None:
    serving.load("tiny@1", max_batch=1, max_waiting=1)
    calls = [slow(serving, "first"), serving.stream(request_id="second")]
    wait_for(lambda: serving.models.get("").engine.unfinished == 2)
    with pytest.raises(RpcFailed, match="requests wait for model tiny") as caught:
        serving.generate()
    assert caught.value.code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert caught.value.retry_after == 1.0
    for call in calls:
        call.cancel()
    wait_for(lambda: serving.idle)


def test_a_forward_pass_that_raises_ends_one_call_and_not_the_others(tiny: Serving) -> None:

    def refuse(runner: Any, chunks: Any) -> Any:
        if any(99 in chunk.tokens for chunk in chunks):
            raise RuntimeError("broken for 99")
        return runner.step(chunks)

    Watched(tiny.models.get("tiny").engine, refuse)
    with ThreadPoolExecutor(4) as pool:
        good = [pool.submit(tiny.generate, f"day {number}") for number in range(3)]
        bad = pool.submit(tiny.call, "Generate", pb.GenerateRequest(prompt_token_ids=[99]))
        with pytest.raises(RpcFailed, match="the request failed: RuntimeError: broken for 99") as caught:
            bad.result()
        assert caught.value.code == grpc.StatusCode.INTERNAL
        assert all(call.result().text for call in good)
    assert tiny.idle


def test_what_is_deployed_is_loaded_at_the_start_and_what_cannot_be_says_why(serving: Serving) -> None:
    registry = serving.store.registry
    deploy(registry, "a", "model/broken@1", {})
    deploy(registry, "b", "model/tiny@2", {"max_batch": 3, "dtype": "bf16"})
    try:
        asyncio.run_coroutine_threadsafe(serving.servicer.load_deployments(), serving.loop).result(60)
        assert serving.models.names == ["b"]
        assert serving.models.get("b").engine.options.max_batch == 3
        assert serving.call("GetModelInfo", pb.GetModelInfoRequest(model="b")).dtype == "bf16"
        ready, failed = deployment(registry, "b"), deployment(registry, "a")
        assert ready is not None
        assert failed is not None
        assert ready.state == DeploymentState.READY
        assert failed.state == DeploymentState.FAILED
        assert "has no tokenizer" in str(failed.reason)
        lines: list[str] = []
        LoadWatch(serving.cluster, lines.append).look()
        assert lines[1:] == ["model b is served: model/tiny@2"]
        assert "has no tokenizer" in lines[0]
        with pytest.raises(
            RpcFailed, match=r"model a is deployed but could not be loaded: .*has no tokenizer"
        ) as caught:
            serving.generate(model="a")
        assert caught.value.code == grpc.StatusCode.FAILED_PRECONDITION
    finally:
        for name in ("a", "b"):
            remove_deployment(registry, name)


def test_metrics_have_vllms_names_and_count(tiny: Serving, published: ClusterManifest) -> None:
    tiny.generate(max_tokens=10, ignore_eos=True)
    list(tiny.stream(max_tokens=5, ignore_eos=True))
    inference = published.cluster.services.inference
    assert inference is not None
    page = urllib.request.urlopen(f"http://127.0.0.1:{inference.metrics_port}/metrics", timeout=60).read().decode()
    values = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in page.splitlines() if line[:1] != "#"}
    assert values['yuan_generation_tokens_total{model_name="tiny"}'] == 15
    assert values['yuan_request_success_total{finished_reason="length",model_name="tiny"}'] == 2
    assert values['yuan_num_requests_running{model_name="tiny"}'] == 0
    assert values['yuan_kv_cache_usage_perc{model_name="tiny"}'] == 0
    assert values['yuan_time_to_first_token_seconds_count{model_name="tiny"}'] == 2
    assert values['yuan_inter_token_latency_seconds_count{model_name="tiny"}'] == 13


def test_numbers_that_are_none_end_one_call_and_not_the_others(tiny: Serving, loaded: LoadedModel) -> None:
    def poison(runner: Any, chunks: Any) -> Any:
        logits, row = runner.step(chunks), 0
        for chunk in chunks:
            if 99 in chunk.tokens:
                logits[row : row + chunk.outputs] = float("nan")
            row += chunk.outputs
        return logits

    Watched(tiny.models.get("tiny").engine, poison)
    with ThreadPoolExecutor(4) as pool:
        good = [pool.submit(tiny.generate, "shall I") for _ in range(3)]
        with pytest.raises(RpcFailed, match="the model computed no finite numbers for it") as caught:
            tiny.call("Generate", pb.GenerateRequest(prompt_token_ids=[99, 5]))
        assert caught.value.code == grpc.StatusCode.INTERNAL
        assert {tuple(call.result().token_ids) for call in good} == {tuple(expected(loaded, "shall I", 10))}
    assert tiny.idle


def test_where_memory_is_short_fewer_run_at_once_and_who_never_fits_is_told_so(
    tiny: Serving, loaded: LoadedModel
) -> None:
    engine = tiny.models.get("tiny").engine
    sizes: list[int] = []

    def want(runner: Any, chunks: Any) -> Any:
        if len(chunks) > 2 or any(99 in chunk.tokens for chunk in chunks):
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
        sizes.append(len(chunks))
        return runner.step(chunks)

    Watched(engine, want)
    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(tiny.generate, "shall I", max_tokens=20) for _ in range(8)]
        assert {tuple(call.result().token_ids) for call in calls} == {tuple(expected(loaded, "shall I", 20))}
        with pytest.raises(RpcFailed, match="the request failed: RuntimeError: CUDA out of memory") as caught:
            tiny.call("Generate", pb.GenerateRequest(prompt_token_ids=[99]))
    assert caught.value.code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert caught.value.retry_after == 1.0
    assert max(sizes) <= 2
    assert tiny.idle
    assert tiny.models.healthy


def test_a_load_says_how_far_it_is_and_a_load_that_has_ended_says_so_no_more(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    halfway, on = threading.Event(), threading.Event()
    tell = FolderWeights._tell

    def wait_halfway(weights: FolderWeights, name: str) -> None:
        tell(weights, name)
        if name.startswith("model.layers.1."):
            halfway.set()
            assert on.wait(60)

    monkeypatch.setattr(FolderWeights, "_tell", wait_halfway)
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(serving.load, "tiny@1")
        assert halfway.wait(60)
        info = serving.call("GetServerInfo", pb.GetServerInfoRequest())
        assert list(info.loading) == ["tiny"]
        assert 0.1 < info.load_progress["tiny"] < 0.9
        percent = f"{info.load_progress['tiny']:.0%}"
        (shown,) = models_of(serving.cluster)
        assert str(shown) == f"tiny is being loaded, {percent} of its weights are read"
        with pytest.raises(RpcFailed, match=f"model tiny is being loaded, for .*: {percent} of its weights"):
            serving.generate()
        on.set()
        assert loading.result().info.tensor == 1
    info = serving.call("GetServerInfo", pb.GetServerInfoRequest())
    assert not info.load_progress
    assert [str(model) for model in models_of(serving.cluster)] == ["tiny is served: model/tiny@1"]
    text = serving.servicer._models._metrics.load_progress.labels("tiny")._value.get()
    assert text == pytest.approx(1.0)


def test_a_number_of_ranks_that_cannot_be_is_refused(serving: Serving) -> None:
    for tensor, text in ((-1, "tensor: expected at least 0"), (3, "serving.tensor: 3 does not divide")):
        with pytest.raises(RpcFailed, match=text) as caught:
            serving.load("tiny@1", tensor=tensor)
        assert caught.value.code == grpc.StatusCode.INVALID_ARGUMENT
    assert not serving.models.names
