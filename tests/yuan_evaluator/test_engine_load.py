"""The evaluator keeps a real engine's batch full, and evaluates on the queue of a real stack. Real processes: slow."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.machine import free_port
from tests.served_models import make_cluster, publish_model
from tests.tiny_models import make_model, make_tokenizer, write_text

from yuan_jobs.artifacts import ArtifactStore
from yuan_jobs.home import Home
from yuan_manifest import load_cluster

pytestmark = pytest.mark.slow
DATA = Path(__file__).parents[2].parent / "shared/data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data")


@pytest.fixture
def cluster(tmp_path: Path) -> Path:
    """The file of a cluster with model/tiny, whose evaluator has a port too."""
    file, manifest = make_cluster(tmp_path)
    text = write_text(tmp_path / "text.txt")
    tokenizer = make_tokenizer(tmp_path / "tokenizer", text)
    make_model(tmp_path / "model", tokenizer.eod_id, context=1024)
    shutil.copytree(tmp_path / "tokenizer", tmp_path / "model/tokenizer")
    publish_model(manifest, tmp_path / "model", "tiny")
    text_of = file.read_text()
    file.write_text(text_of.replace("evaluator: null", f"evaluator: {{port: {free_port()}}}").replace(
        next(line for line in text_of.splitlines() if "trainer:" in line), "    trainer: null"))  # fmt: skip
    return file


def yuan(file: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "yuan_cli.main", "-f", str(file), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=file.parent)


def report_of(file: Path, name: str) -> dict:
    store = ArtifactStore.open(Home.of(load_cluster(file).cluster))
    try:
        return json.loads((store.open_artifact(f"report/{name}").path / "report.json").read_text())
    finally:
        store.registry.close()


@needs_data
def test_the_batch_is_full_while_the_evaluator_asks(cluster: Path) -> None:
    arguments = ["evaluate", "tiny", "--suite", "gsm8k", "--data", str(DATA), "--report", "load", "--foreground"]
    ended = yuan(cluster, *arguments, "--limit", "500", "--max-tokens", "120")
    assert ended.returncode == 0, ended.stderr
    generation = report_of(cluster, "load")["generation"]
    assert generation["mean_running"] >= 0.9 * generation["max_batch"], generation


@needs_data
def test_an_evaluation_on_the_queue_whose_worker_is_killed_goes_on_and_repeats_nothing(cluster: Path) -> None:
    ended = yuan(cluster, "up", "--detach")
    assert ended.returncode == 0, ended.stderr
    try:
        arguments = ["evaluate", "tiny", "--suite", "gsm8k", "--data", str(DATA), "--max-tokens", "60"]
        submitted = yuan(cluster, *arguments, "--report", "queued", "--no-wait")
        assert submitted.returncode == 0, submitted.stderr
        job = submitted.stdout.strip()
        journal = load_cluster(cluster).cluster.home + f"/runs/{job}/answers.jsonl"
        deadline = time.monotonic() + 300
        while not Path(journal).exists() or len(Path(journal).read_text().splitlines()) < 100:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        status = json.loads(yuan(cluster, "status", "--json").stdout)
        worker = next(one for one in status["processes"] if one["name"] == "evaluator-worker-1")
        subprocess.run(["kill", f"-{signal.SIGKILL}", str(worker["pid"])], check=True)
        waited = yuan(cluster, "wait", job)
        assert waited.returncode == 0, waited.stdout + waited.stderr
        keys = [json.loads(line)["key"] for line in Path(journal).read_text().splitlines() if line]
        assert len(keys) == len(set(keys)) == 1319
        assert report_of(cluster, "queued")["suite"]["gsm8k"]["items"] == 1319
        listed = json.loads(yuan(cluster, "evaluate", "--leaderboard", "--json").stdout)
        assert [row["model"] for row in listed if not row["published"]] == ["model/tiny@1"]
        assert {row["model"] for row in listed if row["published"]} >= {"Yuan2.0-102B", "Yuan2.0-102B-SC"}
    finally:
        yuan(cluster, "down")


@needs_data
def test_likelihoods_without_a_stack_are_asked_of_a_server_of_ones_own(cluster: Path) -> None:
    arguments = ["evaluate", "tiny", "--suite", "mathqa", "--data", str(DATA), "--report", "likely", "--foreground"]
    ended = yuan(cluster, *arguments, "--likelihood", "--limit", "5")
    assert ended.returncode == 0, ended.stderr
    report = report_of(cluster, "likely")
    assert (report["suite"]["mathqa"]["how"], report["suite"]["mathqa"]["not_answered"]) == ("likelihood", 0)
    assert report["generation"]["requests"] == 4 * 5
