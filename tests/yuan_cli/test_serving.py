"""`yuan generate` and `yuan chat` against a real inference server, typed as a user types them."""

import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.served_models import make_cluster, publish_model, server_process
from tests.tiny_models import make_model, make_tokenizer, write_text

from yuan_manifest import ClusterManifest
from yuan_rpc import connect
from yuan_rpc.inference.v1 import inference_pb2, inference_pb2_grpc


@dataclass
class User:
    """Types commands; YUAN_CLUSTER names the cluster."""

    folder: Path
    file: Path
    cluster: ClusterManifest

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "YUAN_CLUSTER": str(self.file), "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"}

    def yuan(self, *arguments: str, typed: str = "") -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "yuan_cli.main", *arguments],
            input=typed,
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def prints(self, *arguments: str, typed: str = "") -> str:
        ended = self.yuan(*arguments, typed=typed)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    def refused(self, *arguments: str) -> str:
        ended = self.yuan(*arguments)
        assert ended.returncode == 2, ended
        assert ended.stderr.count("\n") == 1
        return ended.stderr.strip()

    def load(self, artifact: str, name: str) -> None:
        with connect("inference", self.cluster.cluster) as connection, connection.errors():
            stub = connection.stub(inference_pb2_grpc.InferenceServiceStub)
            stub.LoadModel(inference_pb2.LoadModelRequest(artifact=artifact, name=name))


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[User]:
    folder = tmp_path_factory.mktemp("cli")
    file, cluster = make_cluster(folder)
    tokenizer = make_tokenizer(folder / "tokenizer", write_text(folder / "text.txt"))
    make_model(folder / "tiny", tokenizer.eod_id)
    shutil.copytree(folder / "tokenizer", folder / "tiny" / "tokenizer")
    publish_model(cluster, folder / "tiny", "tiny")
    with server_process("inference", file, cluster):
        yield User(folder, file, cluster)


@pytest.fixture(scope="module")
def served(user: User) -> User:
    """The user, whose stack serves the model."""
    user.load("tiny", "tiny")
    return user


def test_a_prompt_alone_is_continued_by_the_stack_as_the_foreground_does_it(served: User) -> None:
    foreground = served.prints("generate", "./tiny", "shall I compare", "--max-tokens", "12")
    for arguments in (("shall I compare",), ("shall I compare", "--stream"), ("tiny", "shall I compare")):
        assert served.prints("generate", *arguments, "--max-tokens", "12") == foreground


@pytest.mark.slow
def test_json_is_that_of_the_foreground(served: User) -> None:
    for options in (["--json"], ["--json", "--stream"]):
        arguments = ["shall I", "--max-tokens", "8", "--temperature", "0.9", "--seed", "5", *options]
        ours = [json.loads(line) for line in served.prints("generate", *arguments).splitlines()]
        theirs = [json.loads(line) for line in served.prints("generate", "./tiny", *arguments).splitlines()]
        if "--stream" in options:
            assert "".join(event["text"] for event in ours) == "".join(event["text"] for event in theirs)
            assert (ours[0], ours[-1]) == (theirs[0], theirs[-1])
        else:
            assert ours == theirs


@pytest.mark.slow
def test_a_model_that_is_not_served_is_loaded_in_the_foreground(served: User) -> None:
    publish_model(served.cluster, served.folder / "tiny", "other")
    text = served.prints("generate", "other", "shall I", "--max-tokens", "5")
    assert text == served.prints("generate", "shall I", "--max-tokens", "5")
    assert "nobody" in served.refused("generate", "nobody", "shall I")


def test_what_the_server_refuses_is_one_line(served: User) -> None:
    assert "sampling_params.temperature: expected 0 to 100, found -1" in served.refused(
        "generate", "x", "--temperature=-1"
    )
    assert served.refused("generate", "x", "--seed", "-1") == "--seed: expected 0 to 2^63 - 1, found -1"
    assert "--max-tokens: 99999999999 is too large" in served.refused("generate", "x", "--max-tokens", "99999999999")
    assert "empty; a prompt needs at least one token" in served.refused("generate", "")
    assert "context is 64 tokens" in served.refused("generate", "q7" * 100)
    assert "no model is served as nobody; served: tiny" in served.refused("chat", "nobody")


def test_chat_answers_line_by_line_and_forgets_on_reset(served: User) -> None:
    options = ("--max-tokens", "8", "--temperature", "0")
    first, again, unknown, after = "compare", "compare", "/what", "compare"
    ended = served.yuan("chat", *options, typed=f"{first}\n{again}\n{unknown}\n/reset\n{after}\n/exit\nnever\n")
    assert ended.returncode == 0
    assert "no command /what; /reset forgets" in ended.stderr
    alone = served.prints("chat", *options, typed="compare\n")
    assert ended.stdout.startswith(alone)
    assert ended.stdout.endswith(alone)
    assert len(ended.stdout) > 2 * len(alone)


def test_chat_leaves_out_the_oldest_turns_where_the_context_is_full(served: User) -> None:
    ended = served.yuan("chat", "--max-tokens", "20", "--temperature", "0", typed="compare thee\n" * 6)
    assert ended.returncode == 0
    assert "(the context is full: the first" in ended.stderr
    long = served.yuan("chat", "--max-tokens", "20", typed="q7" * 100 + "\ncompare\n")
    assert "44 of the context's 64 are left for it" in long.stderr
    assert long.stdout.strip()


def test_ctrl_c_stops_an_answer_and_not_the_chat_which_ctrl_d_leaves(served: User) -> None:
    make_model(served.folder / "long", 0, context=30_000)
    shutil.copytree(served.folder / "tokenizer", served.folder / "long" / "tokenizer")
    publish_model(served.cluster, served.folder / "long", "long")
    served.load("long", "long")
    main, child = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "yuan_cli.main", "chat", "long", "--max-tokens=25000", "--temperature=0"],
        cwd=served.folder,
        env={**served.environment, "TERM": "dumb"},
        stdin=child,
        stdout=child,
        stderr=child,
        start_new_session=True,
    )
    os.close(child)
    unread = ""

    def read_until(text: str) -> str:
        """Reads up to a text, and returns what it read."""
        nonlocal unread
        end = time.monotonic() + 180
        while text not in unread:
            assert time.monotonic() < end, unread
            if select.select([main], [], [], 0.1)[0]:
                unread += os.read(main, 4096).decode(errors="replace")
        read, _, unread = unread.partition(text)
        return read

    assert "long (model/long@1, context 30000 tokens); /reset forgets" in read_until("> ")
    # A signal between the prompt and the wait for a key is seen at the next key (CPython's readline).
    state = Path(f"/proc/{process.pid}/stat")
    waits = 0
    while waits < 20:  # times in a row
        time.sleep(0.05)
        waits = waits + 1 if state.read_text().rpartition(")")[2].split()[0] == "S" else 0
    process.send_signal(signal.SIGINT)
    assert "/exit or Ctrl-D leaves" in read_until("> ")
    os.write(main, b"compare\r")
    read_until("compare\r\n")
    while len(unread) < 100:  # the answer has begun, and goes on for 25,000 tokens
        assert select.select([main], [], [], 60)[0]
        unread += os.read(main, 4096).decode(errors="replace")
    process.send_signal(signal.SIGINT)
    read_until(" (stopped)")
    read_until("> ")
    os.write(main, b"\x04")
    assert process.wait(60) == 0
    os.close(main)


def test_without_a_stack_a_model_is_loaded_here_and_a_prompt_alone_names_the_mend(served: User, tmp_path: Path) -> None:
    file, cluster = make_cluster(tmp_path)
    publish_model(cluster, served.folder / "tiny", "tiny")
    alone = User(tmp_path, file, cluster)
    assert alone.prints("generate", "tiny", "shall I", "--max-tokens", "5")
    ended = alone.yuan("generate", "shall I")
    assert ended.returncode == 2
    assert "nothing answers at" in ended.stderr
    assert "yuan up" in ended.stderr
    with server_process("inference", file, cluster):
        for command in (("generate", "shall I"), ("chat",)):
            assert alone.refused(*command) == "no model is deployed; yuan deploy MODEL"


def test_a_model_is_undeployed_by_its_name(user: User, served: User) -> None:
    user.load("tiny", "passing")
    assert served.prints("generate", "passing", "shall I", "--max-tokens", "2")
    ended = served.yuan("undeploy", "passing")
    assert (ended.returncode, ended.stderr) == (0, "passing is served no more; it was model/tiny@1\n")
    assert served.refused("undeploy", "passing").startswith("no model is served as passing; served: ")
    assert "missing argument 'NAME'" in served.refused("undeploy")


def test_deploy_prints_the_manifest_that_it_means_and_refuses_what_cannot_be(served: User) -> None:
    printed = "--print-manifest"
    text = served.prints("deploy", "tiny@1", "--name", "mine", "--dtype", "bf16", printed)
    assert "kind: deploy" in text
    assert "name: mine" in text
    assert "dtype: bf16" in text
    assert "a b" in served.refused("deploy", "a b")
    text = served.prints(
        "deploy", "tiny", "--adapter", "x=tiny@1", "--adapter", "tiny", "--prompt-lookup", "4", printed
    )
    assert "adapters:\n    x: tiny@1\n    tiny: tiny\n" in text
    assert "prompt_lookup: 4" in text
    problem = served.refused("deploy", "tiny", "--adapter", "a b=tiny", printed)
    assert problem.startswith("yuan deploy: inputs.adapters.'a b': cannot be a name; use up to 100 letters")
    longest = "A" + "x" * 99  # as a served model's name, and as LoadModel takes it
    assert f"{longest}: tiny\n" in served.prints("deploy", "tiny", "--adapter", f"{longest}=tiny", printed)
    assert "cannot be a name" in served.refused("deploy", "tiny", "--adapter", f"{longest}x=tiny", printed)
    for option, problem in (
        (["--dtype", "int7"], "serving.dtype: expected one of fp32, bf16, fp16, int8, found 'int7'"),
        (["--name", "a b"], "serving.name: expected a name (up to 100 letters"),
        (["--max-batch", "0"], "serving.max_batch: expected at least 1, found 0"),
    ):
        assert served.refused("deploy", "tiny", *option).startswith(f"yuan deploy: {problem}")
