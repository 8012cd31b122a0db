"""Fine-tuning as a job: it learns answers, from a model of any layout, in whole or by low-rank additions."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.tiny_models import make_model, make_tokenizer
from yuan_checkpoint import open_checkpoint, write_hugging_face, write_native
from yuan_checkpoint.training_state import finished_states
from yuan_corpus import DatasetStatistics, IndexedDatasetWriter, Tokenizer, open_dataset, tokenize_corpus
from yuan_corpus.statistics import ShardStatistics
from yuan_events import InputError, Interrupted, Message, Metrics, RecordingSink
from yuan_jobs import ArtifactHandle, WorkContext
from yuan_manifest import job_of_plain, load_cluster, resolve_topology
from yuan_manifest.schema import TrainSection
from yuan_model import ModelFolder, Yuan, YuanConfig, cross_entropy, load_model
from yuan_parallel.tensor import ALONE
from yuan_trainer.batches import micro_batch
from yuan_trainer.lora import ADAPTER_CONFIG_FILE, ADAPTER_FILE
from yuan_trainer.network import BlockLayer, LayerOptions
from yuan_trainer.preparation import check_inputs, prepare
from yuan_trainer.samples import open_samples
from yuan_trainer.starting import Start, check_same_network, fingerprint
from yuan_trainer.work import training_work

from .conftest import ForkingRunner

LENGTH = 48
COLOURS = ["red", "green", "blue", "black", "white", "grey"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Questions whose answers follow from them, a tokenizer, the dataset that it cuts, and a model."""
    folder = tmp_path_factory.mktemp("finetune")
    things = [f"thing {number}" for number in range(60)]
    lines = [f"what colour has {thing}?[SEP]{thing} is {COLOURS[number % 6]}" for number, thing in enumerate(things)]
    text = folder / "answers.txt"
    text.write_text("\n".join(lines) + "\n", encoding="utf-8")
    tokenizer = make_tokenizer(folder / "tokenizer", text)
    (folder / "dataset").mkdir()
    tokenize_corpus([text], tokenizer, folder / "dataset")
    make_model(folder / "model", tokenizer.eod_id, context=64)
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.load(folder / "tokenizer")


Make = Callable[..., WorkContext[Any]]


@pytest.fixture
def make(folder: Path, tmp_path: Path) -> Make:
    """Returns what the work of a run gets; changes are sections of the manifest."""

    def make(attempt: str = "one", dataset: Path | None = None, **changes: Any) -> WorkContext[Any]:
        tree = {
            "version": 1,
            "kind": "finetune",
            "name": "answers",
            "inputs": {"tokenizer": "small", "datasets": [{"name": "small"}], "model": "small"},
            "data": {"sequence_length": LENGTH, "split": [0.8, 0.2, 0]},
            "train": {"steps": 12, "global_batch_size": 4, "micro_batch_size": 2, "precision": "fp32"},
            "optimizer": {"lr": 1e-2, "warmup_steps": 2},
            "evaluation": {"samples": 4},
            "outputs": {"model": "answers"},
            **changes,
        }
        job = job_of_plain(tree)
        cluster = tmp_path / "cluster.yaml"
        cluster.write_text(f"version: 1\ncluster: {{home: {tmp_path}/home}}\n")
        handles = {
            "tokenizer": ArtifactHandle("tokenizer", "small", 1, folder / "tokenizer", "t" * 64),
            "datasets[0].name": ArtifactHandle(
                "dataset",
                "small",
                1,
                dataset or folder / "dataset",
                "d" * 64,
                {"inputs": {"tokenizer": {"digest": "t" * 64}}},
            ),
            "model": ArtifactHandle("model", "small", 1, folder / "model", "m" * 64),
        }
        run, output = tmp_path / attempt, tmp_path / f"{attempt}-output"
        run.mkdir(exist_ok=True)
        output.mkdir(exist_ok=True)
        topology = resolve_topology(job, load_cluster(cluster))
        return WorkContext(job=job, topology=topology, inputs=handles, output=output, run=run, sink=RecordingSink())

    return make


def losses(context: WorkContext[Any], name: str = "loss") -> dict[int, float]:
    assert isinstance(context.sink, RecordingSink)
    found = [event for event in context.sink.events if isinstance(event, Metrics) and name in event.values]
    return {event.step: event.values[name] for event in found}


def said(context: WorkContext[Any]) -> str:
    assert isinstance(context.sink, RecordingSink)
    return "\n".join(event.text for event in context.sink.events if isinstance(event, Message))


def pipeline(*stages: int) -> dict[str, Any]:
    return {"nodes": {"devices": len(stages)}, "parallel": {"pipeline": len(stages), "stages": list(stages)}}


def answer_loss(model: Yuan, folder: Path, tokenizer: Tokenizer, *, of_answers: bool) -> float:
    """Mean loss of the first documents' answers, or of their questions."""
    dataset = open_dataset(folder / "dataset")
    total, count = 0.0, 0
    for item in range(20):
        ids = torch.tensor(dataset.get(item).astype("int64"))
        separator = int((ids == tokenizer.sep_id).nonzero()[0])
        with torch.no_grad():
            found = torch.nn.functional.cross_entropy(model(ids[None, :-1])[0].float(), ids[1:], reduction="none")
        part = found[separator:] if of_answers else found[: separator - 1]
        total, count = total + float(part.sum()), count + len(part)
    return total / count


def test_answers_are_learnt_and_the_model_is_one_to_serve(make: Make, folder: Path, tokenizer: Tokenizer) -> None:
    context = make(topology=pipeline(1, 1))
    summary = training_work(context).summary
    assert summary["validation_loss_after"] < summary["validation_loss_before"] - 1
    assert "unigram_validation_loss" not in summary
    before, after = load_model(folder / "model"), load_model(context.output)
    assert answer_loss(after, folder, tokenizer, of_answers=True) < 0.6 * answer_loss(
        before, folder, tokenizer, of_answers=True
    )
    assert (context.output / "tokenizer" / "tokenizer.model").is_file()
    assert ModelFolder(context.output).native


@pytest.mark.slow
@pytest.mark.parametrize("packing", ["documents", "stream"])
def test_what_the_labels_of_questions_are_does_not_matter(
    make: Make, folder: Path, tokenizer: Tokenizer, packing: str
) -> None:
    specification, _ = prepare(make(finetune={"packing": packing}), None)
    inputs, (labels, mask) = micro_batch(open_samples(specification).training, 0, 8, None)
    for row, tokens in enumerate(labels.tolist()):
        counted = [token for token, counts in zip(tokens, mask[row].tolist(), strict=True) if counts]
        assert "what" not in tokenizer.decode(counted)
        assert tokenizer.sep_id in counted
    scrambled = torch.where(mask == 0, torch.randint_like(labels, 300), labels)
    assert not torch.equal(scrambled, labels)
    logits = load_model(folder / "model")(inputs)
    assert torch.equal(cross_entropy(logits, labels, mask), cross_entropy(logits, scrambled, mask))


def test_lora_trains_its_additions_alone_and_merges_them(make: Make, folder: Path, tokenizer: Tokenizer) -> None:
    targets = ["qk_proj", "v_proj", "o_proj", "down_proj"]
    finetune = {"method": "lora", "lora": {"rank": 4, "alpha": 8, "targets": targets}}
    context = make(
        finetune=finetune,
        topology=pipeline(1, 1),
        optimizer={"lr": 5e-2, "warmup_steps": 2},
        checkpoint={"every_steps": 4, "keep": 9},
    )
    summary = training_work(context).summary
    assert summary["validation_loss_after"] < summary["validation_loss_before"] - 0.3
    before, after = dict(ModelFolder(folder / "model").tensors()), dict(ModelFolder(context.output).tensors())
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if name.split(".")[-2] in targets}
    adapter = load_file(context.output / ADAPTER_FILE)
    for name in changed:
        a, b = (adapter[name.removesuffix("weight") + part] for part in ("lora_a", "lora_b"))
        assert a.shape[0] == b.shape[1] == 4
        torch.testing.assert_close(after[name], before[name] + 2.0 * b @ a)
    assert '"rank": 4' in (context.output / ADAPTER_CONFIG_FILE).read_text()
    assert sorted(path.name for path in context.output.glob("adapter*")) == [ADAPTER_FILE, ADAPTER_CONFIG_FILE]
    state = sorted((context.run / "checkpoints").glob("step-*"))[-1]
    held = {name for file in state.glob("*.safetensors") for name in load_file(file)}
    assert held
    assert all(name.endswith((".lora_a", ".lora_b")) for name in held)


@pytest.mark.parametrize(
    "topology",
    [
        pytest.param({"tensor": 2, "sequence": True}, id="tensor 2, sequence"),
        pytest.param({"tensor": 2}, id="tensor 2", marks=pytest.mark.slow),
        pytest.param({"tensor": 2, "stages": (1, 1)}, id="tensor 2, pipeline 2", marks=pytest.mark.slow),
        pytest.param({"replicas": 2, "zero_stage": 2}, id="ZeRO 2", marks=pytest.mark.slow),
        pytest.param({"replicas": 2, "zero_stage": 3}, id="ZeRO 3", marks=pytest.mark.slow),
    ],
)
def test_lora_learns_the_same_additions_however_it_is_divided(
    make: Make, quick_run: ForkingRunner, topology: dict[str, Any]
) -> None:
    targets = ["qk_proj", "v_proj", "o_proj", "up_proj", "gate_proj", "down_proj"]
    finetune = {"method": "lora", "lora": {"rank": 3, "alpha": 6, "targets": targets}}
    optimizer = {"lr": 2e-2, "warmup_steps": 2}
    alone, _ = prepare(make("alone", finetune=finetune, optimizer=optimizer), None)
    expected = quick_run(alone)
    divided, _ = prepare(make("divided", finetune=finetune, optimizer=optimizer, checkpoint={"every_steps": 6}), None)
    assert list(quick_run(divided, **topology).values()) == pytest.approx(list(expected.values()), abs=1e-4)
    assert min(expected.values()) < expected[1] - 0.2
    mine, theirs = (load_file(specification.output / ADAPTER_FILE) for specification in (divided, alone))
    assert mine.keys() == theirs.keys()
    for name, addition in theirs.items():
        torch.testing.assert_close(mine[name], addition, atol=2e-3, rtol=1e-2, msg=name)
    # Its state goes on undivided.
    state = finished_states(divided.state_root)[0]
    after = quick_run(divided, resume_from=state)
    assert list(after.values()) == pytest.approx([expected[step] for step in after], abs=1e-4)
    assert min(after) == 7


@pytest.mark.slow
def test_a_stopped_lora_run_goes_on_with_the_same_losses(make: Make) -> None:
    changes: dict[str, Any] = {
        "finetune": {"method": "lora", "lora": {"rank": 2, "dropout": 0.1}},
        "optimizer": {"lr": 2e-2, "warmup_steps": 2},
        # Far from its end when the stop arrives, however busy the machine is.
        "train": {"steps": 120, "global_batch_size": 4, "micro_batch_size": 2, "precision": "fp32"},
    }
    whole = make("whole", **changes)
    training_work(whole)
    stopped = make("stopped", **changes)
    stopped = replace(stopped, should_stop=lambda: len(losses(stopped)) >= 4)
    with pytest.raises(Interrupted):
        training_work(stopped)
    done = losses(stopped)
    assert 4 <= max(done) < 120
    again = make("stopped", **changes)
    training_work(again)
    assert min(losses(again)) == max(done) + 1
    assert done | losses(again) == losses(whole)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["native", "huggingface"])
def test_a_folder_of_any_layout_starts_the_same_run(make: Make, folder: Path, tmp_path: Path, layout: str) -> None:
    source = ModelFolder(folder / "model")
    write = write_native if layout == "native" else write_hugging_face
    write(tmp_path / "from", source.config, source.tensors())
    train = {"steps": 2, "global_batch_size": 4, "precision": "fp32"}
    artifact = make("artifact", train=train)
    training_work(artifact)
    inputs = {"tokenizer": "small", "datasets": [{"name": "small"}], "model": f"{tmp_path}/from"}
    path = make("path", train=train, inputs=inputs)
    path = replace(path, inputs={key: value for key, value in path.inputs.items() if key != "model"})
    training_work(path)
    assert losses(path) == losses(artifact)
    digest = fingerprint(path.job)
    assert set(digest) == {"model"}
    assert fingerprint(artifact.job) == {}


@pytest.mark.slow
def test_a_checkpoint_of_the_original_is_read_once_and_learns_answers(make: Make, shared: Path) -> None:
    inputs = {
        "tokenizer": "small",
        "datasets": [{"name": "small"}],
        "model": str(shared / "golden" / "megatron-tiny-tp2pp2"),
    }
    context = make(inputs=inputs, topology=pipeline(2, 1))
    summary = training_work(context).summary
    assert summary["validation_loss_after"] < summary["validation_loss_before"] - 1
    started_from = dict(ModelFolder(context.run / "start").tensors())
    published = ModelFolder(shared / "golden" / "yuan-hf-tiny")
    assert all(torch.equal(started_from[name][: len(tensor)], tensor) for name, tensor in published.tensors())


def test_a_model_of_another_architecture_is_refused_with_every_field_that_differs(make: Make, folder: Path) -> None:
    model = {**vars(ModelFolder(folder / "model").config), "num_hidden_layers": 3, "intermediate_size": 64}
    del model["eod_token_id"]
    with pytest.raises(InputError) as raised:
        check_inputs(make(kind="pretrain", model=model))
    assert "model/small@1 is of another architecture: num_hidden_layers 2 (the model section says 3)" in str(
        raised.value
    )
    assert "intermediate_size 48 (the model section says 64)" in str(raised.value)


def test_rope_precision_is_the_manifests_to_say_unless_the_model_says_another(make: Make, shared: Path) -> None:
    golden = shared / "golden" / "megatron-tiny-tp2pp2"
    inputs = {"tokenizer": "small", "datasets": [{"name": "small"}], "model": str(golden)}
    start = Start(open_checkpoint(golden), "golden")
    model = {**vars(start.config), "rope_precision": "bf16"}
    del model["eod_token_id"]
    for kind in ("finetune", "pretrain"):
        _, _, config = check_inputs(make(kind=kind, inputs=inputs, model=model))
        assert config.rope_precision == "bf16"
    trained = replace(start.config, rope_precision="bf16")
    start.source.network.config = trained
    with pytest.raises(InputError, match=r"rope_precision bf16 \(the model section says fp32\)"):
        check_same_network(start, replace(trained, rope_precision="fp32"))


def test_samples_longer_than_the_model_are_refused(make: Make) -> None:
    with pytest.raises(
        InputError, match=r"data\.sequence_length: 65 is above the max_position_embeddings 64 of model/"
    ):
        check_inputs(make(data={"sequence_length": 65, "split": [0.8, 0.2, 0]}))


def test_a_dataset_of_another_tokenizer_is_refused(make: Make) -> None:
    context = make()
    tokenizer = replace(context.inputs["tokenizer"], digest="0" * 64)
    with pytest.raises(InputError, match="dataset/small@1 was cut by another tokenizer than tokenizer/small@1"):
        check_inputs(replace(context, inputs={**context.inputs, "tokenizer": tokenizer}))


def test_a_dataset_without_answers_is_refused_and_lost_ones_are_told(
    make: Make, tokenizer: Tokenizer, folder: Path, tmp_path: Path
) -> None:
    def dataset(name: str, *documents: str) -> Path:
        (tmp_path / name).mkdir()
        text = tmp_path / f"{name}.txt"
        text.write_text("\n".join(documents) + "\n")
        tokenize_corpus([text], tokenizer, tmp_path / name)
        return tmp_path / name

    evaluation, data = {"samples": 0}, {"sequence_length": 10, "split": [1, 0, 0]}
    with pytest.raises(InputError, match="no document of dataset/small@1 has a <sep>"):
        check_inputs(make(dataset=dataset("none", "a", "b"), evaluation=evaluation, data=data))
    some = make(dataset=dataset("some", "a[SEP]b", "c", "d[SEP]" + "e" * 40), evaluation=evaluation, data=data)
    check_inputs(some)
    assert "of 3 documents 1 have no <sep> and so no answer, 1 are longer than a sample" in said(some)


def test_a_dataset_that_has_lost_a_shard_is_refused_with_its_name(make: Make, folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "dataset"
    shutil.copytree(folder / "dataset", copy)
    written = DatasetStatistics.read(copy)
    replace(written, shards=(*written.shards, ShardStatistics("part-00001", 3, 30))).write(copy)
    with pytest.raises(
        InputError, match=r"dataset/small@1 has lost a shard: .*/part-00001\.bin is missing; put it back"
    ):
        check_inputs(make(dataset=copy))


def test_a_model_with_a_value_that_is_not_finite_is_refused_by_the_tensors_name(folder: Path, tmp_path: Path) -> None:
    source = ModelFolder(folder / "model")
    tensors = {name: tensor.clone() for name, tensor in source.tensors()}
    tensors["model.layers.1.mlp.down_proj.weight"][0, 3] = float("nan")
    write_native(tmp_path / "model", source.config, iter(tensors.items()))
    train = TrainSection(steps=1, global_batch_size=1, micro_batch_size=1)
    options = LayerOptions(source.config, train, ALONE, start=ModelFolder(tmp_path / "model"))
    BlockLayer(options, 0)
    with pytest.raises(
        InputError, match=r"inputs\.model: model\.layers\.1\.mlp\.down_proj\.weight has values that are not"
    ):
        BlockLayer(options, 1)


@pytest.mark.slow
def test_a_damaged_dataset_ends_the_run_with_one_line(
    make: Make, tokenizer: Tokenizer, folder: Path, tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for file in (folder / "dataset").iterdir():
        (damaged / file.name).write_bytes(file.read_bytes())
    (damaged / "part-00000.bin").unlink()
    (damaged / "part-00000.idx").unlink()
    with IndexedDatasetWriter(damaged / "part-00000", "uint16") as writer:
        for _ in range(50):
            writer.add_document([5, tokenizer.sep_id, 60000, tokenizer.eod_id])
    with pytest.raises(InputError, match=r"damaged: document \d+ has token 60000, and the model's ids end at 359"):
        training_work(make(dataset=damaged))


def test_a_config_is_what_the_tokenizer_and_the_model_say(make: Make, tokenizer: Tokenizer) -> None:
    _, start, config = check_inputs(make())
    assert isinstance(config, YuanConfig)
    assert config.eod_token_id == tokenizer.eod_id
    assert start is not None
    assert start.is_native


def test_a_base_that_changed_since_a_lora_run_began_is_refused(make: Make, folder: Path, tmp_path: Path) -> None:
    source = ModelFolder(folder / "model")
    write_native(tmp_path / "base", source.config, source.tensors())
    inputs = {"tokenizer": "small", "datasets": [{"name": "small"}], "model": f"{tmp_path}/base"}
    context = make(inputs=inputs, finetune={"method": "lora"})
    prepare(context, None)
    prepare(context, None)
    write_native(tmp_path / "base", source.config, ((name, tensor + 1) for name, tensor in source.tensors()))
    with pytest.raises(InputError, match=r"inputs\.model: .*/base has changed since this run began"):
        prepare(context, None)
