"""Services call each other: seen in the metrics of the one that is called, in a stack as `yuan up` starts it."""

import re
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest

from .conftest import User

pytestmark = pytest.mark.slow


class Stack:
    """A stack of the user's, up, whose data service tells its metrics."""

    def __init__(self, user: User) -> None:
        opened = [socket.create_server(("127.0.0.1", 0)) for _ in range(5)]
        data, trainer, converter, inference, self.metrics = [one.getsockname()[1] for one in opened]
        for one in opened:
            one.close()
        self.user = user
        self.file: Path = user.folder / "cluster.yaml"
        self.file.write_text(
            f"version: 1\ncluster:\n  home: {user.home}\n  services:\n"
            f"    data: {{port: {data}, metrics_port: {self.metrics}}}\n    trainer: {{port: {trainer}}}\n"
            f"    converter: {{port: {converter}}}\n    evaluator: null\n    gateway: null\n"
            f"    inference: {{port: {inference}}}\n"
        )

    def does(self, *arguments: str) -> str:
        return self.user.does("-f", str(self.file), *arguments)

    def calls(self, method: str) -> int:
        """Returns how often a method of the data service was answered."""
        page = urlopen(f"http://127.0.0.1:{self.metrics}/metrics", timeout=60).read().decode()
        pattern = rf'^yuan_rpc_handled_total{{grpc_code="OK",grpc_method="{method}",.*}} (\S+)$'
        return sum(int(float(count)) for count in re.findall(pattern, page, re.MULTILINE))


@pytest.fixture
def stack(user: User) -> Iterator[Stack]:
    """The user's stack, up; it is ended whatever the test does."""
    stack = Stack(user)
    try:
        stack.does("up", "--detach")
        yield stack
    finally:
        stack.does("down")


def test_the_trainer_asks_the_data_service_before_it_starts_and_refuses_what_does_not_fit(stack: Stack) -> None:
    stack.does("submit", "tokenizer.yaml", "--watch")
    stack.does("submit", "tokenize.yaml", "--watch")
    assert stack.calls("DescribeDataset") == 0
    stack.does("submit", "pretrain.yaml", "train.steps=2", "--watch")
    assert stack.calls("DescribeDataset") == 1
    stack.does("submit", "tokenizer.yaml", "tokenizer.vocab_size=500", "outputs.tokenizer=other", "--watch")
    refused = stack.user.types("-f", str(stack.file), "submit", "pretrain.yaml", "inputs.tokenizer=other", "--watch")
    assert refused.returncode != 0
    assert "was cut by another tokenizer than tokenizer/other@1" in refused.stdout + refused.stderr
    assert stack.calls("DescribeDataset") == 2
