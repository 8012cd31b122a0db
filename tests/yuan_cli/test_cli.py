"""`yuan` as a user types it: real processes, real homes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from toy_home import Toys


def test_yuan_alone_teaches_what_to_do(toys: Toys) -> None:
    ended = toys.yuan()
    assert (ended.returncode, ended.stderr) == (0, "")
    for words in ("yuan run configs/pipelines/demo.yaml", "yuan generate", "~/.yuan", "YUAN_HOME", "Exit codes"):
        assert words in ended.stdout
    assert toys.yuan("--help").stdout == toys.yuan("-h").stdout == ended.stdout


@pytest.mark.parametrize("command", ["run", "validate", "artifacts", "show", "generate", "version"])
def test_every_command_has_help(toys: Toys, command: str) -> None:
    ended = toys.yuan(command, "--help")
    assert ended.returncode == 0
    assert f"Usage: yuan {command}" in ended.stdout


@pytest.mark.parametrize("arguments", [(), ("--help",), ("version",), ("rnu",)])
def test_help_and_mistakes_load_no_numerical_and_no_database_library(toys: Toys, arguments: tuple[str, ...]) -> None:
    script = (
        "import sys\nfrom yuan_cli.main import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'numpy', 'sqlalchemy', 'alembic', 'omegaconf', 'fsspec'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    command = [sys.executable, "-c", script, *arguments]
    ended = subprocess.run(command, env=toys.environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("rnu",), "yuan: no command 'rnu'; did you mean run?"),
        (("frobnicate",), "expected one of run, validate, plan, artifacts, show, convert, "),
        (("run",), "missing argument 'MANIFEST'; see yuan run --help"),
        (("run", "tokenizer.yaml", "--forse"), "yuan run: no option --forse; did you mean --force?"),
        (("--jsn",), "no option --jsn"),
        (("run", "tokenizr.yaml"), "tokenizr.yaml"),
        (("run", "a.txt"), "a.txt"),
        (("run", "tokenizer.yaml", "tokenizer.vocab_sze=3"), "did you mean tokenizer.vocab_size?"),
        (("run", "tokenizer.yaml", "tokenizer.vocab_size=many"), "tokenizer.vocab_size"),
        (("run", "tokenizer.yaml", "nonsense"), "nonsense"),
        (
            ("run", "tokenize.yaml"),
            "artifact tokenizer/demo does not exist; no tokenizer has been made in this home yet",
        ),
        (("-f", "nowhere.yaml", "run", "tokenizer.yaml"), "nowhere.yaml"),
        (("run", "tokenizer.yaml", "-f", "tokenize.yaml"), "tokenize.yaml"),
        (("validate", "missing.yaml"), "missing.yaml"),
        (("artifacts", "modl"), "yuan artifacts: no kind 'modl'; did you mean model?"),
        (("show", "nothing"), "artifact nothing does not exist"),
        (("show", "model/a b"), "cannot be a name"),
        (("show", "model/tiny@99999999999999999999999"), "is not a number from 1 to 999999999 or `latest`"),
        (("generate",), "missing argument '[MODEL] PROMPT'"),
        (("generate", "demo", "x", "--top-k=many"), "--top-k"),
        (("generate", "a", "b", "c"), "expected [MODEL] PROMPT, found 3 words; quote the prompt"),
        (("generate", "a prompt"), "no token file; `yuan up` makes one"),
        (("run", "tokenizer.yaml", "cluster.home=/proc/yuan"), "home /proc/yuan: "),
        (("run", "tokenizer.yaml", "cluster.home=a.txt"), "not a folder; set YUAN_HOME"),
    ],
)
def test_bad_input_is_one_line_with_its_mend_and_exit_code_2(toys: Toys, arguments: tuple[str, ...], line: str) -> None:
    ended = toys.yuan(*arguments)
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr.count("\n") == 1
    assert line in ended.stderr
    assert toys.calls == []


def test_a_manifest_can_be_printed_as_what_it_comes_to_without_running(toys: Toys) -> None:
    ended = toys.yuan("run", "tokenizer.yaml", "tokenizer.vocab_size=777", "--print-manifest")
    assert ended.returncode == 0
    (toys.folder / "printed.yaml").write_text(ended.stdout)
    assert "vocab_size: 777" in ended.stdout
    assert toys.calls == []
    assert not toys.home.exists()
    toys.yuan("run", "tokenizer.yaml", "tokenizer.vocab_size=777")
    assert "done before" in toys.yuan("run", "printed.yaml").stdout


def test_validate_says_what_a_job_comes_to_and_makes_nothing(toys: Toys) -> None:
    ended = toys.yuan("validate", "tokenize.yaml")
    assert ended.returncode == 0
    assert ended.stdout.splitlines() == [
        "ok: tokenize.yaml is a tokenize named second",
        "  kind   tokenize, done by yuan_data",
        "  takes  a.txt, tokenizer/demo",
        "  makes  dataset/demo",
    ]
    assert not toys.home.exists()


def test_validate_notes_text_that_is_not_on_this_machine(toys: Toys) -> None:
    ended = toys.yuan("validate", "tokenize.yaml", "inputs.text=[a.txt,nowhere/*.txt,'s3://bucket/*.txt']")

    assert ended.returncode == 0
    (note,) = (line for line in ended.stdout.splitlines() if line.startswith("note:"))
    assert note.startswith("note: second: inputs.text[1]: nowhere/*.txt finds no file on this machine")


def test_validate_shows_the_steps_of_a_pipeline_in_their_order(toys: Toys) -> None:
    lines = toys.yuan("validate", "pipeline.yaml").stdout.splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["train", "cut"]
    described = json.loads(toys.yuan("validate", "pipeline.yaml", "--json").stdout)
    assert [(s["name"], s["needs"], s["makes"]) for s in described["steps"]] == [
        ("train", [], "tokenizer/demo"),
        ("cut", ["train"], "dataset/demo"),
    ]


def test_validate_checks_job_and_topology_together(toys: Toys, repository: Path) -> None:
    manifest = str(repository / "configs/jobs/pretrain-demo.yaml")
    right = toys.yuan("validate", manifest, "topology.parallel.pipeline=2", "topology.parallel.stages=[1,3]")
    assert "data 1 x pipeline 2 x tensor 1, stages [1, 3] of 4 layers" in right.stdout
    wrong = toys.yuan("validate", manifest, "topology.parallel.pipeline=2", "topology.parallel.stages=[1,4]")
    assert wrong.returncode == 2
    assert "sum to 5, but model.num_hidden_layers is 4" in wrong.stderr


def test_artifacts_are_listed_by_kind_and_as_json(toys: Toys) -> None:
    empty = toys.yuan("artifacts")
    assert (empty.returncode, empty.stdout) == (0, "")
    assert "nothing has been made in this home yet" in empty.stderr
    assert toys.yuan("artifacts", "--json").stdout.strip() == "[]"
    toys.yuan("run", "pipeline.yaml")
    lines = toys.yuan("artifacts").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["artifact", "dataset/demo@1", "tokenizer/demo@1"]
    (only,) = json.loads(toys.yuan("artifacts", "datasets", "--json").stdout)
    assert (only["artifact"], only["version"]) == ("dataset/demo@1", 1)


def test_show_tells_where_an_artifact_came_from_and_what_was_made_from_it(toys: Toys) -> None:
    toys.yuan("run", "pipeline.yaml")
    text = toys.yuan("show", "tokenizer/demo").stdout
    assert "used by  dataset/demo@1" in " ".join(text.split(" ")).replace("   ", "  ")
    described = json.loads(toys.yuan("show", "dataset/demo@1", "--json").stdout)
    assert described["made_from"] == {"tokenizer": "tokenizer/demo@1"}
    assert described["manifest"]["recipe"]["name"] == "second"
    assert Path(described["path"], "artifact.json").is_file()


def test_show_verify_finds_a_corrupted_file(toys: Toys) -> None:
    toys.yuan("run", "tokenizer.yaml")
    good = toys.yuan("show", "tokenizer/demo", "--verify")
    assert good.returncode == 0
    assert "every one as it was published" in good.stdout
    (file,) = (toys.home / "store").rglob("result.txt")
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[::-1])
    bad = toys.yuan("show", "tokenizer/demo", "--verify")
    assert bad.returncode == 1
    assert bad.stderr.count("\n") == 1
    assert "parts/result.txt is not what was published" in bad.stderr


def test_a_cluster_manifest_can_be_given_before_or_after_the_command(toys: Toys) -> None:
    (toys.folder / "cluster.yaml").write_text(f"version: 1\ncluster: {{home: {toys.folder}/there}}\n")
    assert toys.yuan("-f", "cluster.yaml", "run", "tokenizer.yaml").returncode == 0
    assert not toys.home.exists()
    before, after = toys.yuan("-f", "cluster.yaml", "artifacts"), toys.yuan("artifacts", "-f", "cluster.yaml")
    assert "tokenizer/demo@1" in before.stdout
    assert before.stdout == after.stdout


def test_generate_prints_what_the_inference_service_prints(toys: Toys) -> None:
    ended = toys.yuan("generate", "demo", "--prompt-like", "--stream")
    assert ended.returncode == 2
    ended = toys.yuan("generate", "demo", "a prompt", "--stream", "--top-k", "3")
    assert ended.stdout == "generated ['--top-k=3', '--stream', '--', 'demo', 'a prompt']\n"
    ended = toys.yuan("generate", "demo", "--", "--dashes")
    assert ended.stdout == "generated ['--', 'demo', '--dashes']\n"


def test_an_output_that_nobody_reads_to_its_end_is_no_error_to_see(toys: Toys) -> None:
    toys.yuan("run", "tokenizer.yaml")
    read, write = os.pipe()
    os.close(read)
    process = toys.start("yuan_cli.main", "show", "tokenizer/demo", stdout=write)
    os.close(write)
    _, stderr = process.communicate(timeout=60)
    assert stderr == ""


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("arguments", [("artifacts",), ("generate", "demo", "a prompt")])
def test_an_output_that_cannot_be_written_is_one_line(toys: Toys, arguments: tuple[str, ...], unbuffered: str) -> None:
    toys.yuan("run", "tokenizer.yaml")
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "yuan_cli.main", *arguments]
        environment = {**toys.environment, "PYTHONUNBUFFERED": unbuffered}
        ended = subprocess.run(
            command, cwd=toys.folder, env=environment, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (ended.returncode, ended.stderr) == (1, "cannot write the output: no space left on device\n")
    assert not list((toys.home / "logs").glob("error-*"))


def test_an_error_that_nobody_foresaw_is_one_line_and_a_log(toys: Toys) -> None:
    script = (
        "import yuan_cli.app as app, sys\n"
        "def broken(arguments):\n    raise RuntimeError('a bug\\nof ours')\n"
        "app.run = broken\nfrom yuan_cli.main import main\nmain()"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], env=toys.environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1
    assert ended.stderr.startswith("RuntimeError: a bug of ours (this should not happen; details: ")
    log = Path(ended.stderr.partition("details: ")[2].strip().rstrip(")"))
    assert "Traceback" in log.read_text()
    assert log.parent == toys.home / "logs"


def complete(toys: Toys, *words: str) -> list[str]:
    """Returns what bash would offer for the last word."""
    environment = {
        **toys.environment,
        "_YUAN_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(("yuan", *words)),
        "COMP_CWORD": str(len(words)),
    }
    command = [sys.executable, "-m", "yuan_cli.main"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=toys.folder)
    return ended.stdout.split()


def test_the_shell_completes_commands_kinds_and_names_of_artifacts(toys: Toys) -> None:
    assert complete(toys, "art") == ["artifacts"]
    assert complete(toys, "show", "tok") == []
    assert not toys.home.exists()
    toys.yuan("run", "pipeline.yaml")
    assert complete(toys, "artifacts", "to") == ["tokenizer"]
    assert complete(toys, "show", "tok") == ["tokenizer/demo"]
    assert complete(toys, "show", "dataset/demo@") == ["dataset/demo@1"]


def test_version_is_the_distributions(toys: Toys) -> None:
    assert toys.yuan("version").stdout.startswith("yuan-stack ")
