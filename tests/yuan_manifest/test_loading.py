"""What a sound manifest becomes: extends, overrides, interpolation, YAML's traps, clusters, topologies, pipelines."""

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from yuan_manifest import (
    Kind,
    ManifestError,
    PipelineJob,
    Precision,
    PretrainJob,
    TokenizerJob,
    check_run,
    data_size,
    load_cluster,
    load_job,
    load_pipeline,
    load_steps,
    origins_of,
    rank_count,
    resolve_topology,
    split_overrides,
    to_yaml,
)

Replace = Callable[[str, str, str], None]


def pretrain(*overrides: str, path: str = "job.yaml") -> PretrainJob:
    job = load_job(path, overrides)
    assert isinstance(job, PretrainJob)
    return job


@pytest.mark.usefixtures("folder")
def test_a_job_is_the_dataclass_of_its_kind_with_defaults_filled_in() -> None:
    job = pretrain()
    assert (job.kind, job.name, job.model.num_hidden_layers) == (Kind.pretrain, "small", 4)
    assert job.train.precision is Precision.auto
    assert job.inputs.datasets[0].weight == 1.0
    assert job.topology == {}


def test_later_parents_win_over_earlier_ones_and_the_file_over_all(folder: Path) -> None:
    (folder / "a.yaml").write_text("train: {seed: 1, steps: 1}\nmodel: {rope_theta: 1}\ndata: {split: [1, 0, 0]}\n")
    (folder / "b.yaml").write_text("train: {seed: 2, steps: 2}\n")
    job = (folder / "job.yaml").read_text().replace("extends: model.yaml", "extends: [model.yaml, a.yaml, b.yaml]")
    (folder / "job.yaml").write_text(job)
    loaded = pretrain()
    assert (loaded.train.seed, loaded.train.steps, loaded.model.rope_theta) == (2, 20, 1.0)
    assert loaded.data.split == [0.8, 0.1, 0.1]


def test_parents_are_found_relative_to_the_file_that_names_them(folder: Path) -> None:
    for name in ("jobs", "models"):
        (folder / name).mkdir()
    (folder / "model.yaml").rename(folder / "models/base.yaml")
    (folder / "models/wide.yaml").write_text("extends: base.yaml\nmodel: {hidden_size: 128}\n")
    job = (folder / "job.yaml").read_text().replace("model.yaml", "../models/wide.yaml")
    (folder / "jobs/job.yaml").write_text(job)
    loaded = pretrain(path="jobs/job.yaml")
    assert (loaded.model.hidden_size, loaded.model.vocab_size) == (128, 512)
    origins = origins_of(loaded)
    assert str(origins.find(("model", "hidden_size"))) == "models/wide.yaml:2"
    assert str(origins.find(("model", "vocab_size"))) == "models/base.yaml:3"


def test_one_parent_may_be_reached_in_two_ways(folder: Path) -> None:
    (folder / "a.yaml").write_text("extends: model.yaml\n")
    text = (folder / "job.yaml").read_text().replace("extends: model.yaml", "extends: [model.yaml, a.yaml]")
    (folder / "job.yaml").write_text(text)
    assert pretrain().model.vocab_size == 512


@pytest.mark.parametrize(
    ("item", "where", "value"),
    [
        ("train.steps=5", "train.steps", 5),
        ("train.steps=1_000", "train.steps", 1000),
        ("optimizer.lr=1e-4", "optimizer.lr", 1e-4),
        ("optimizer.lr=1", "optimizer.lr", 1.0),
        ("data.split=[1, 0, 0]", "data.split", [1.0, 0.0, 0.0]),
        ("data.split[1]=0.2", "data.split", [0.8, 0.2, 0.1]),
        ("data.split.1=0.2", "data.split", [0.8, 0.2, 0.1]),
        ("train={seed: 3, steps: 4}", "train.seed", 3),
        ("name=2024", "name", "2024"),
        ("name=off", "name", "off"),
        ("name='1e5'", "name", "1e5"),
        ("checkpoint.keep=3", "checkpoint.keep", 3),
        ("train.eod_mask_loss=true", "train.eod_mask_loss", True),
        ("topology.parallel.stages=[1,3]", "topology", {"parallel": {"stages": [1, 3]}}),
        ("inputs.tokenizer=other@3", "inputs.tokenizer", "other@3"),
        ("inputs.tokenizer=other@latest", "inputs.tokenizer", "other@latest"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_an_override_is_read_as_the_schema_wants_it(item: str, where: str, value: object) -> None:
    found: Any = pretrain(item)
    for name in where.split("."):
        found = getattr(found, name)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.usefixtures("folder")
def test_the_last_of_two_overrides_wins_and_a_section_is_merged() -> None:
    job = pretrain("train.steps=5", "train={steps: 6}", "train.steps=7")
    assert (job.train.steps, job.train.global_batch_size) == (7, 8)


def test_overrides_are_parted_between_job_and_cluster() -> None:
    items = ["cluster.home=x", "topology.parallel.pipeline=2", "train.steps=1", "cluster={home: y}"]
    assert split_overrides(items) == (items[1:3], [items[0], items[3]])
    with pytest.raises(ManifestError, match="expected key=value, found 'steps'"):
        split_overrides(["steps"])


def test_what_yaml_1_1_would_take_for_something_else_is_read_as_written(folder: Path) -> None:
    (folder / "x.yaml").write_text(
        "version: 1\nkind: generate\nname: no\noutputs: {report: off}\n"
        "inputs: {model: demo, prompts: [yes, 12:30, 2024-01-01, =, 1.2.3, 'true']}\n"
        "sampling: {temperature: 1e-3, top_k: 010}\n"
    )
    job: Any = load_job("x.yaml")
    assert (job.name, job.outputs.report) == ("no", "off")
    assert job.inputs.prompts == ["yes", "12:30", "2024-01-01", "=", "1.2.3", "true"]
    assert (job.sampling.temperature, job.sampling.top_k) == (1e-3, 10)


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm(folder: Path) -> None:
    text = (folder / "job.yaml").read_text().replace("\n", "\r\n")
    (folder / "job.yaml").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert pretrain().name == "small"


def test_an_alias_is_another_name_for_a_value(folder: Path) -> None:
    (folder / "x.yaml").write_text(
        "version: 1\nkind: generate\nname: x\ninputs: {model: a, prompts: [&p say it, *p]}\noutputs: {report: a}\n"
    )
    job: Any = load_job("x.yaml")
    assert job.inputs.prompts == ["say it", "say it"]


def test_interpolation_reads_the_environment_and_other_keys(replaced: Replace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("YUAN_TEST_STEPS", "7")
    replaced("job.yaml", "steps: 20", "steps: '${oc.env:YUAN_TEST_STEPS}', seed: '${train.steps}'")
    job = pretrain()
    assert (job.train.steps, job.train.seed) == (7, 7)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("${oc.env:YUAN_TEST_UNSET,~/.yuan}", "~/.yuan"),
        ("${oc.env:YUAN_TEST_UNSET, ~/a b }", "~/a b"),
        ("${oc.env:YUAN_TEST_UNSET,'~/.yuan'}", "~/.yuan"),
        ("${oc.env:YUAN_TEST_UNSET,a~b}/c~d,~}", "a~b/c~d,~}"),
        ("${oc.env:YUAN_TEST_UNSET,~/${name}/x}", "~/small/x"),
        ("${oc.env:YUAN_TEST_UNSET,${oc.env:YUAN_TEST_UNSET,~}}", "~"),
        ('${oc.env:YUAN_TEST_UNSET,"it\'s ~"}', "it's ~"),
        ("~/${name}", "~/small"),
        (r"~ \${name} ${name}", "~ ${name} small"),
        (r"\${oc.env:X,~} ~", "${oc.env:X,~} ~"),
        ("${name}~${name}", "small~small"),
    ],
)
def test_a_tilde_needs_no_quotes_inside_an_interpolation(written: str, read: str, folder: Path) -> None:
    (folder / "x.yaml").write_text(
        "version: 1\nkind: generate\nname: small\nsampling: {max_tokens: 1}\noutputs: {report: a}\n"
        f"inputs:\n  model: a\n  prompts: [{json.dumps(written)}]\n"
    )
    job: Any = load_job("x.yaml")
    assert job.inputs.prompts == [read]


@pytest.mark.usefixtures("folder")
def test_a_recipe_is_json_without_topology_and_does_not_depend_on_it() -> None:
    recipe = pretrain("topology.parallel.pipeline=2").recipe()
    assert recipe == pretrain().recipe()
    assert recipe == json.loads(json.dumps(recipe))
    assert list(recipe)[:3] == ["version", "kind", "name"]
    assert "topology" not in recipe
    assert recipe["train"]["precision"] == "auto"
    assert type(recipe["kind"]) is str


@pytest.mark.usefixtures("folder")
def test_a_printed_manifest_loads_to_an_equal_one() -> None:
    cluster = load_cluster("cluster.yaml")
    for name in ("job", "tokenizer", "pipeline"):
        job = load_job(f"{name}.yaml", ["topology.parallel.pipeline=2"])
        Path("printed.yaml").write_text(to_yaml(job))
        assert load_job("printed.yaml") == job
    Path("printed.yaml").write_text(to_yaml(cluster))
    assert load_cluster("printed.yaml") == cluster


def test_loading_leaves_no_mark_in_what_is_compared_or_stored(folder: Path) -> None:
    (folder / "copy.yaml").write_text((folder / "job.yaml").read_text())
    assert load_job("copy.yaml") == load_job("job.yaml")
    assert "origins" not in json.dumps(load_job("job.yaml").recipe())


# --- clusters ----------------------------------------------------------------------------------------------------


def test_the_cluster_is_the_argument_else_the_environments_else_the_folders_else_built_in(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load_cluster().topology.nodes.devices == 2
    (folder / "configs/clusters").mkdir(parents=True)
    (folder / "configs/clusters/local.yaml").write_text("version: 1\ntopology: {nodes: {devices: 3}}\n")
    assert load_cluster().topology.nodes.devices == 3
    monkeypatch.setenv("YUAN_CLUSTER", "cluster.yaml")
    assert load_cluster().topology.nodes.devices == 4
    assert load_cluster("configs/clusters/local.yaml").topology.nodes.devices == 3


def test_a_cluster_named_by_the_environment_must_exist(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("YUAN_CLUSTER", "clusters.yaml")
    with pytest.raises(ManifestError, match=r"^clusters\.yaml: no such file; did you mean cluster\.yaml\?$"):
        load_cluster()


def test_paths_of_a_cluster_follow_its_home_and_a_tilde_is_the_users(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(folder))
    cluster = load_cluster().cluster
    assert cluster.home == f"{folder}/.yuan"
    assert cluster.registry == f"sqlite:///{folder}/.yuan/registry.db"
    assert cluster.store == f"{folder}/.yuan/store"
    monkeypatch.setenv("YUAN_HOME", "/elsewhere")
    assert load_cluster().cluster.registry == "sqlite:////elsewhere/registry.db"
    assert load_cluster(overrides=["cluster.home=~/other"]).cluster.store == f"{folder}/other/store"
    assert load_cluster(overrides=["cluster.store=file://~/s"]).cluster.store == f"file://{folder}/s"
    assert load_cluster(overrides=["cluster.store=s3://bucket/~x"]).cluster.store == "s3://bucket/~x"


def test_the_built_in_cluster_is_the_one_in_configs(repository: Path, folder: Path) -> None:
    assert load_cluster(repository / "configs/clusters/local.yaml") == load_cluster()


def test_a_second_cluster_shares_neither_home_nor_ports_with_the_first(repository: Path, folder: Path) -> None:
    clusters = [load_cluster(repository / f"configs/clusters/{name}.yaml").cluster for name in ("local", "second")]
    places = [
        {cluster.home, cluster.registry, cluster.store, cluster.security.token_file}
        | {section.port for section in vars(cluster.services).values()}
        for cluster in clusters
    ]
    assert places[0].isdisjoint(places[1])
    assert [len(found) for found in places] == [10, 10]


def test_services_on_several_hosts_are_fine_with_servers_for_registry_and_broker(folder: Path) -> None:
    items = [
        "cluster.services.data.host=one",
        "cluster.services.trainer.host=two",
        "cluster.services.trainer.port=7101",
        "cluster.registry=postgresql+psycopg://db/yuan",
        "cluster.broker=rediss://:secret@cache:6379/1",
    ]
    assert load_cluster(overrides=items).cluster.services.data is not None


def test_a_service_that_is_null_is_no_part_of_the_stack(folder: Path) -> None:
    services = load_cluster(
        overrides=["cluster.services.data=null", "cluster.services.trainer.port=7101"]
    ).cluster.services
    assert services.data is None
    assert services.trainer is not None


# --- topology ----------------------------------------------------------------------------------------------------


def test_the_clusters_topology_is_under_the_jobs_and_an_override_over_both(replaced: Replace) -> None:
    replaced("job.yaml", "name: small", "name: small\ntopology: {parallel: {stages: [2, 2], data: 1}}")
    cluster = load_cluster("cluster.yaml")
    topology = resolve_topology(pretrain("topology.parallel.data=2"), cluster)
    assert (topology.nodes.devices, topology.parallel.pipeline) == (4, 2)
    assert (topology.parallel.stages, topology.parallel.data) == ([2, 2], 2)
    assert cluster.topology.parallel.stages == [1, 3]


@pytest.mark.usefixtures("folder")
def test_sizes_of_a_topology() -> None:
    cluster = load_cluster("cluster.yaml")
    topology = resolve_topology(pretrain(), cluster)
    assert (data_size(topology), rank_count(topology)) == (2, 4)
    topology = resolve_topology(pretrain("topology.parallel.data=1"), cluster)
    assert (data_size(topology), rank_count(topology)) == (1, 2)
    check_run(pretrain(), topology)


@pytest.mark.usefixtures("folder")
def test_environment_variables_set_sizes_of_a_topology(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("YUAN_TEST_DEVICES", "6")
    job = pretrain("topology.nodes.devices=${oc.env:YUAN_TEST_DEVICES}")
    assert resolve_topology(job, load_cluster("cluster.yaml")).nodes.devices == 6


# --- pipelines ---------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("folder")
def test_steps_come_after_their_needs_with_their_overrides_applied() -> None:
    job, steps = load_pipeline("pipeline.yaml", ["train.train.seed=9", "steps.train.overrides.optimizer.lr=0.5"])
    assert isinstance(job, PipelineJob)
    assert [step.name for step in steps] == ["words", "train"]
    train = cast(PretrainJob, steps[1].job)
    assert (train.train.steps, train.train.seed, train.optimizer.lr) == (10, 9, 0.5)
    assert steps[1].needs == ("words",)
    assert steps[1].path == Path("job.yaml")


@pytest.mark.parametrize("order", [["a", "b", "c"], ["c", "b", "a"], ["b", "c", "a"]])
def test_steps_that_do_not_need_each_other_keep_their_order(order: list[str], folder: Path) -> None:
    lines = "".join(f"  {name}: {{manifest: tokenizer.yaml}}\n" for name in order)
    (folder / "x.yaml").write_text(f"version: 1\nkind: pipeline\nname: x\nsteps:\n{lines}")
    assert [step.name for step in load_pipeline("x.yaml")[1]] == order


def test_a_steps_manifest_with_its_overrides_loads_to_its_job(replaced: Replace) -> None:
    """They are what the step's own process is started with."""
    replaced("pipeline.yaml", "name: all", "name: all\ntopology: {parallel: {pipeline: 2, stages: [3, 1]}}")
    replaced("pipeline.yaml", "steps: 10", "steps: 10, seed: '${oc.decode:${oc.env:YUAN_TEST_UNSET,77}}'")
    replaced("job.yaml", "name: small", "name: small\ntopology: {parallel: {stages: [2, 2]}}")
    overrides = ["train.name='1e5'", "topology.nodes.devices=8", r"words.inputs.text=['\${x} a=b, \d ''q''', é]"]
    _, steps = load_pipeline("pipeline.yaml", overrides)
    for step in steps:
        assert load_job(step.path, step.overrides) == step.job
        assert all(len(item.splitlines()) == 1 for item in step.overrides)
    words, train = cast(TokenizerJob, steps[0].job), cast(PretrainJob, steps[1].job)
    assert words.inputs.text == [r"${x} a=b, \d 'q'", "é"]
    assert (train.name, train.train.seed) == ("1e5", 77)
    assert train.topology == {"parallel": {"pipeline": 2, "stages": [2, 2]}, "nodes": {"devices": 8}}


def test_steps_manifests_are_found_relative_to_the_pipeline(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    job = cast(PipelineJob, load_job("../pipeline.yaml", ["steps.words.manifest=own.yaml"]))
    (folder / "elsewhere/own.yaml").write_text((folder / "tokenizer.yaml").read_text())
    assert [str(step.path) for step in load_steps(job)] == ["own.yaml", "../job.yaml"]


# --- what is shipped ---------------------------------------------------------------------------------------------


def test_every_shipped_manifest_loads_and_says_what_it_is_for(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)
    monkeypatch.delenv("YUAN_CLUSTER", raising=False)
    files = sorted(Path("configs").rglob("*.yaml"))
    assert all(file.read_text().startswith("# ") for file in files)
    here, large = load_cluster(), load_cluster(Path("configs/clusters/96-gpus.yaml"))
    for file in files:
        if file.parts[1] in {"jobs", "pipelines"}:
            cluster = large if file.stem.endswith(("-51b", "-102b")) else here
            job = load_job(file, cluster=cluster)
            if isinstance(job, PipelineJob):
                load_steps(job, cluster)


def test_the_demo_goes_from_text_to_generated_text_in_one_pipeline(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)
    monkeypatch.delenv("YUAN_CLUSTER", raising=False)
    _, submitted = load_pipeline("configs/pipelines/demo.yaml")
    _, steps = load_pipeline("configs/pipelines/demo-foreground.yaml")
    assert [step.job.kind.value for step in steps] == ["tokenizer", "tokenize", "pretrain", "generate"]
    assert [step.job for step in submitted] == [step.job for step in steps[:3]]
    tokenizer, tokenize, train, generate = (cast(Any, step.job) for step in steps)
    assert tokenizer.inputs.text == tokenize.inputs.text
    assert tokenizer.outputs.tokenizer == tokenize.inputs.tokenizer == train.inputs.tokenizer
    assert tokenize.outputs.dataset == train.inputs.datasets[0].name
    assert train.outputs.model == generate.inputs.model
    assert train.model.vocab_size >= tokenizer.tokenizer.vocab_size
    topology = resolve_topology(train, load_cluster())
    assert (topology.parallel.stages, rank_count(topology)) == ([3, 1], 2)
    assert math.isclose(sum(train.data.split), 1)
    assert len(generate.inputs.prompts) == 3


def test_manifests_load_without_torch(repository: Path) -> None:
    import subprocess
    import sys

    code = "import sys, yuan_manifest; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, env=dict(os.environ)).returncode == 0
