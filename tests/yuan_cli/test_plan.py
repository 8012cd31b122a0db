"""`yuan plan`: the paper's cases, the published trainings, and what is said of a plan that is wrong."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from toy_home import Toys

from yuan_cli.app import run
from yuan_cli.pictures import check_picture
from yuan_events import InputError

REPOSITORY = Path(__file__).parents[2]

TABLE_5 = {"compute": 36.666, "bubble": 2.826, "pipeline": 2.643, "tensor": 2.602, "data": 0.455, "total": 45.192}
TABLE_6 = {
    "method1-96chips": (584.28, 405.45, 316.32),
    "method1-256chips": (224.10, 156.64, 123.21),
    "method2-96chips": (239.06, 238.40, 238.10),
    "method2-256chips": (101.22, 100.92, 100.81),
}


@pytest.fixture(autouse=True)
def repository(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setenv("YUAN_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("YUAN_CLUSTER", raising=False)


def plan(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert run(["plan", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_table_5_comes_out_to_three_digits(capsys: pytest.CaptureFixture[str]) -> None:
    found = plan(capsys, "configs/paper/table5.yaml")["time_s"]
    for part, seconds in TABLE_5.items():
        assert float(f"{found[part]:.3g}") == float(f"{seconds:.3g}"), part
    assert found["optimizer"] == 0


@pytest.mark.parametrize("case", TABLE_6)
def test_table_6_comes_out(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    near = 0.005 if case.startswith("method2") else 0.02
    for bandwidth, seconds in zip((100, 200, 400), TABLE_6[case], strict=True):
        found = plan(capsys, f"configs/paper/table6-{case}-{bandwidth}gbps.yaml")
        assert found["time_s"]["total"] == pytest.approx(seconds, rel=near), bandwidth
        assert found["ranks"] == int(case.partition("-")[2].removesuffix("chips"))


def test_the_papers_uneven_stages_save_as_much_on_the_first_as_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    even = plan(capsys, "configs/paper/memory-uniform.yaml")["memory_bytes"]
    uneven = plan(capsys, "configs/paper/memory-nonuniform.yaml")["memory_bytes"]
    assert len(even) == len(uneven) == 8
    assert even[0]["total"] == max(stage["total"] for stage in even) == pytest.approx(78e9, rel=0.01)
    assert 1 - uneven[0]["total"] / even[0]["total"] == pytest.approx(0.282, abs=0.03)
    for stage in (*even, *uneven):
        parts = ("weights", "gradients", "optimizer", "activations", "logits")
        assert stage["total"] == pytest.approx(sum(stage[part] for part in parts), abs=5)


@pytest.mark.parametrize("size", ["2b", "51b", "102b"])
@pytest.mark.parametrize("kind", ["pretrain", "finetune"])
def test_the_published_trainings_are_planned(kind: str, size: str, capsys: pytest.CaptureFixture[str]) -> None:
    for devices in (8, 96) if size == "2b" else (96, 256):
        found = plan(capsys, f"configs/jobs/{kind}-{size}.yaml", "-f", f"configs/clusters/{devices}-gpus.yaml")
        assert found["parameters"] == {"2b": 2088724480, "51b": 51842105344, "102b": 102577954816}[size]
        assert found["ranks"] == devices
        assert sum(found["stages"]) == {"2b": 24, "51b": 42, "102b": 84}[size]
        assert len(found["memory_bytes"]) == len(found["stages"]) == {"2b": 1, "51b": 16, "102b": 32}[size]
        assert 0.2 < found["mfu"] < found["hfu"] < 0.55
        assert not any("does not fit" in line for line in found["warnings"])
        assert found["days"] > 0
        assert found["devices"]["sources"]["tflops"] == "given"


def test_a_plan_says_all_of_it_in_lines(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    picture = tmp_path / "schedule.svg"
    arguments = ["configs/jobs/pretrain-51b.yaml", "-f", "configs/clusters/96-gpus.yaml", "--picture", str(picture)]
    assert run(["plan", *arguments]) == 0
    out = capsys.readouterr().out
    for words in ("51.84 G parameters in 42 layers", "activations", "bubble", "tokens/s, MFU", "days to the end"):
        assert words in out
    assert "warning: uneven: stage 5" in out
    assert picture.read_text().startswith("<?xml")


def test_a_sweep_names_the_best_topology(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("configs/jobs/pretrain-2b.yaml", "-f", "configs/clusters/8-gpus.yaml", "--sweep")
    found = plan(capsys, *arguments)["sweep"]
    speeds = [one["tokens_per_second"] for one in found]
    assert speeds == sorted(speeds, reverse=True)
    assert len({(one["pipeline"], one["tensor"], one["data"], one["zero_stage"]) for one in found}) == len(found) > 8


def test_the_cost_model_can_be_chosen_on_the_way(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("configs/jobs/pretrain-102b.yaml", "-f", "configs/clusters/96-gpus.yaml")
    exact, printed = plan(capsys, *arguments), plan(capsys, *arguments, "--cost-model", "paper")
    assert (exact["cost_model"], printed["cost_model"]) == ("exact", "paper")
    assert exact["parameters"] == pytest.approx(printed["parameters"], rel=0.001)
    assert exact["time_s"]["compute"] > printed["time_s"]["compute"]


def test_what_is_not_said_of_this_machine_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    found = plan(capsys, "configs/jobs/pretrain-demo.yaml", "topology.nodes.device=cpu", "train.precision=fp32")
    sources = found["devices"]["sources"]
    assert sources == dict.fromkeys(("memory_gib", "tflops", "link_gbps"), "measured (CPU)")
    assert found["stages"] == [3, 1]


def fine_tuning(folder: Path, model: str) -> Path:
    tree = yaml.safe_load((REPOSITORY / "configs/jobs/finetune-2b.yaml").read_text())
    del tree["extends"]
    tree["inputs"]["model"] = model
    path = folder / "finetune.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def test_fine_tuning_has_the_sizes_of_its_models_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = yaml.safe_load((REPOSITORY / "configs/models/2b.yaml").read_text())["model"]
    (tmp_path / "config.json").write_text(json.dumps(sizes))
    manifest = fine_tuning(tmp_path, str(tmp_path))
    found = plan(capsys, str(manifest), "-f", "configs/clusters/8-gpus.yaml")
    assert found["parameters"] == 2088724480


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ("pretrain-102b.yaml",),
            "topology.parallel.pipeline: data 1 x pipeline 32 x tensor 1 are 32 ranks, more than",
        ),
        (("tokenizer-demo.yaml",), "kind: yuan plan takes pretrain, finetune and plan, found tokenizer"),
        (
            ("pretrain-2b.yaml", "topology.launcher=slurm", "topology.nodes.device=cuda"),
            "topology.nodes.tflops: missing; launcher slurm computes else",
        ),
        (
            ("pretrain-demo.yaml", "--picture", "x.bmp"),
            "--picture x.bmp: expected a name that ends in .png, .svg, .pdf",
        ),
        (
            ("pretrain-demo.yaml", "--cost-model", "exactly"),
            "--cost-model: expected one of exact, paper, found 'exactly'",
        ),
    ],
)
def test_what_cannot_be_planned_is_one_line(arguments: tuple[str, ...], line: str) -> None:
    manifest, *others = arguments
    with pytest.raises(InputError) as error:
        run(["plan", f"configs/jobs/{manifest}", *others])
    assert line in str(error.value)
    assert "\n" not in str(error.value)


def test_a_model_that_is_not_here_is_one_line_with_the_key(tmp_path: Path) -> None:
    manifest = fine_tuning(tmp_path, "yuan-2b")
    with pytest.raises(InputError) as error:
        run(["plan", str(manifest), "-f", "configs/clusters/8-gpus.yaml"])
    assert "finetune.yaml:" in str(error.value)
    assert "inputs.model: its sizes cannot be read:" in str(error.value)
    assert "\n" not in str(error.value)


def test_the_command_has_help(toys: Toys) -> None:
    ended = toys.yuan("plan", "--help")
    assert ended.returncode == 0
    assert "Usage: yuan plan" in ended.stdout
    assert "--sweep" in ended.stdout


def test_a_plan_is_validated_and_never_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["validate", "configs/paper/table5.yaml"]) == 0
    assert "done by yuan plan" in capsys.readouterr().out
    with pytest.raises(InputError, match="table5 is a plan, which is only computed; yuan plan MANIFEST does that"):
        run(["run", "configs/paper/table5.yaml"])


def test_a_picture_that_cannot_be_written_is_refused_before_anything_else(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--picture .*expected a name that ends in \.png, \.svg, \.pdf"):
        check_picture("--picture", tmp_path / "schedule.bmp")
    with pytest.raises(InputError, match="there is no folder"):
        check_picture("--picture", tmp_path / "nowhere" / "schedule.png")
