"""The health probe as a container engine runs it."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from yuan_rpc.probe import main

Start = Callable[[], tuple["subprocess.Popen[str]", int]]


def test_a_server_that_serves_gives_0_and_one_that_is_gone_1(
    start_process: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    process, port = start_process()
    assert main([f"127.0.0.1:{port}"]) == 0
    assert "serving" in capsys.readouterr().out
    process.kill()
    process.wait()
    assert main([f"127.0.0.1:{port}", "--timeout", "1"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_a_grpc_service_that_the_server_does_not_have_gives_1(start_process: Start) -> None:
    _, port = start_process()
    assert main([f"127.0.0.1:{port}", "--service", "yuan.none.v1.NoService"]) == 1


def test_a_service_is_found_through_its_cluster(tmp_path: Path, start_process: Start) -> None:
    _, port = start_process()
    (tmp_path / "token").write_text("word")
    (tmp_path / "token").chmod(0o600)
    cluster = tmp_path / "cluster.yaml"
    cluster.write_text(f"version: 1\ncluster:\n  home: {tmp_path}\n  services: {{data: {{port: {port}}}}}\n")
    assert main(["data", "-f", str(cluster)]) == 0


@pytest.mark.parametrize("target", ["nothing", "127.0.0.1:http"])
def test_a_wrong_target_gives_2_and_one_line(target: str) -> None:
    command = [sys.executable, "-m", "yuan_rpc.probe", target]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
