"""EleutherAI's lm_eval asks our OpenAI API with its `local-completions` model: its numbers are the evaluator's."""

import json
import math
import os
import shutil
import subprocess
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.http_stack import HttpStack, http_stack

from yuan_checkpoint import write_hugging_face
from yuan_evaluator.asking import Ask, Asked, Likelihood, Reply, Sampling
from yuan_evaluator.generating import Telling, generate_all
from yuan_model import load_model
from yuan_rpc import connect
from yuan_rpc.inference.v1 import inference_pb2 as pb

pytestmark = pytest.mark.slow

QUESTIONS = [
    ("shall I compare thee", ["to a day", "to thee", "x = y + 1;"]),
    ("你好", ["世界", "naïve day"]),
    ("a summer's", ["day", "thee to", "你好 世界"]),
    ("x = y", ["+ 1;", "summer's"]),
]
BEGINNINGS = ["shall I compare", "你好 世界", "a summer's day to", "naïve"]
TOKENS = 8
TEXTS = ["shall I compare thee to a summer's day", "你好 世界 naïve"]


def prompt_of(question: str) -> str:
    return f"{question} :"


def asked(stack: HttpStack, asks: list[Any]) -> list[Reply]:
    """Returns what the evaluator hears, in order."""
    found: dict[Asked, Reply] = {}
    telling = Telling(found.__setitem__)
    generate_all(lambda: connect("inference", stack.cluster.cluster), "tiny", asks, telling, in_flight=4)
    return [found[ask] for ask in asks]


@pytest.fixture(scope="module")
def lm_eval(request: pytest.FixtureRequest) -> Path:
    """The harness in an environment of its own, which is kept in pytest's cache."""
    folder = request.config.cache.mkdir("lm_eval")  # type: ignore[union-attr]
    tool = folder / "bin" / "lm_eval"
    if not tool.exists():
        venv.create(folder, with_pip=True, clear=True)
        command = [
            folder / "bin" / "pip",
            "install",
            "-q",
            "lm_eval[api]==0.4.13",
            "transformers==5.24.0",
            "sentencepiece",
        ]
        made = subprocess.run(command, check=False, capture_output=True, text=True)
        if made.returncode:
            pytest.skip(f"pip cannot install lm_eval: {made.stderr.strip().splitlines()[-1]}")
    return tool


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Iterator[HttpStack]:
    with http_stack(tmp_path_factory.mktemp("harness"), model_folder) as stack:
        yield stack


def written(stack: HttpStack) -> list[str]:
    """Returns what the model greedily writes after each beginning."""
    return [reply.text for reply in asked(stack, [Ask(text, Sampling(TOKENS)) for text in BEGINNINGS])]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory, served: HttpStack) -> Path:
    """A folder with three tasks and their data, as the harness reads them."""
    folder = tmp_path_factory.mktemp("tasks")
    # Of every second beginning the wanted end is one that the model does not write.
    wanted = [text if number % 2 == 0 else f"{text}!" for number, text in enumerate(written(served))]
    data = {
        "local_choice": [
            {"text": prompt_of(question), "choices": choices, "gold": 0} for question, choices in QUESTIONS
        ],
        "local_writing": [{"text": text, "gold": end} for text, end in zip(BEGINNINGS, wanted, strict=True)],
        "local_texts": [{"text": "", "gold": text} for text in TEXTS],
    }
    settings = {
        "local_choice": {"output_type": "multiple_choice", "doc_to_choice": "choices", "target_delimiter": " "},
        "local_writing": {
            "output_type": "generate_until",
            "generation_kwargs": {"until": ["\n\n"], "max_gen_toks": TOKENS, "do_sample": False, "temperature": 0},
        },
        "local_texts": {"output_type": "loglikelihood_rolling"},
    }
    metrics = {"local_choice": "acc", "local_writing": "exact_match", "local_texts": "byte_perplexity"}
    for name, rows in data.items():
        file = folder / f"{name}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        task = {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(file)}},
            "test_split": "test",
            "doc_to_text": "{{text}}",
            "doc_to_target": "{{gold}}",
            "metric_list": [{"metric": metrics[name]}],
            **settings[name],
        }
        (folder / f"{name}.yaml").write_text(json.dumps(task))  # JSON is YAML
    return folder


@pytest.fixture
def how(request: pytest.FixtureRequest, model_folder: Path, tmp_path: Path) -> dict[str, Any]:
    """Whose tokenizer the harness takes: the gateway's, or that of the exported folder."""
    if request.param != "exported tokenizer":
        return {"tokenizer_backend": "remote", "tokenized_requests": request.param == "token arrays"}
    model, export = load_model(model_folder), tmp_path / "export"
    write_hugging_face(export, model.config, model.named_parameters(), tokenizer=model_folder / "tokenizer")
    shutil.copy(model_folder / "tokenizer/tokenizer.model", export)
    return {"tokenizer_backend": "huggingface", "tokenizer": export, "trust_remote_code": True}


@pytest.mark.parametrize("how", ["token arrays", "texts", "exported tokenizer"], indirect=True)
def test_the_harness_gets_our_likelihoods_and_our_texts(
    lm_eval: Path, served: HttpStack, tasks: Path, tmp_path: Path, how: dict[str, Any]
) -> None:
    arguments = {
        **how,
        "model": "tiny",
        "base_url": f"{served.url}/v1/completions",
        "auth_token": served.token(),
        "num_concurrent": 4,
        "max_length": 64,
    }
    command = [lm_eval, "--model", "local-completions"]
    command += ["--model_args", ",".join(f"{name}={value}" for name, value in arguments.items())]
    command += ["--tasks", "local_choice,local_writing,local_texts", "--include_path", tasks]
    command += ["--output_path", tmp_path / "out", "--log_samples", "--batch_size", "2"]
    names = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")
    environment = os.environ | dict.fromkeys(names, "1") | {"HF_HOME": str(tmp_path), "OPENAI_API_KEY": served.token()}
    done = subprocess.run(command, env=environment, cwd=tmp_path, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-5000:]

    def samples(task: str) -> list[dict[str, Any]]:
        (file,) = (tmp_path / "out").rglob(f"samples_{task}_*.jsonl")
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        return sorted(rows, key=lambda row: row["doc_id"])

    (file,) = (tmp_path / "out").rglob("results_*.json")
    results = json.loads(file.read_text())["results"]

    right = 0
    for sample, (question, choices) in zip(samples("local_choice"), QUESTIONS, strict=True):
        ours = [reply.logprob for reply in asked(served, [Likelihood(prompt_of(question), f" {c}") for c in choices])]
        theirs = [float(logprob) for ((logprob, _),) in sample["resps"]]
        assert theirs == pytest.approx(ours, abs=1e-3)
        right += ours.index(max(ours)) == 0
    assert results["local_choice"]["acc,none"] == right / len(QUESTIONS)

    assert [sample["resps"] for sample in samples("local_writing")] == [[[text]] for text in written(served)]
    assert results["local_writing"]["exact_match,none"] == 0.5

    total = 0.0
    for sample, text in zip(samples("local_texts"), TEXTS, strict=True):
        end = served.ask("/tokenizer_info").json["eos_token_id"]
        ids = [end, *served.ask("/tokenize", {"prompt": text}).json["tokens"]]
        ours = served.call("Score", pb.ScoreRequest(prompt_token_ids=ids)).sum
        ((theirs,),) = sample["resps"]
        assert float(theirs) == pytest.approx(ours, abs=1e-3)
        total += ours
    size = sum(len(text.encode()) for text in TEXTS)
    assert results["local_texts"]["byte_perplexity,none"] == pytest.approx(math.exp(-total / size), rel=1e-4)
