"""The committed stubs are what the protos mean, and the retry policy names methods that exist."""

import importlib
import shutil
import subprocess
from pathlib import Path

import pytest
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health_pb2

from yuan_rpc.policy import IDEMPOTENT, SECONDS

SERVICES = ("converter", "cotraining", "data", "evaluator", "inference", "jobs", "trainer")


def check(folder: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["bash", "deploy/protos.sh", "check"], cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.fixture
def copy(repository: Path, tmp_path: Path) -> Path:
    """As much of the checkout as the check looks at."""
    for part in ("deploy", "protos", "libs/yuan_rpc"):
        shutil.copytree(repository / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / ".venv").symlink_to((repository / ".venv").resolve())
    return tmp_path


def test_the_committed_stubs_are_what_the_protos_mean(repository: Path) -> None:
    result = check(repository)
    assert result.returncode == 0, result.stdout + result.stderr


def test_a_changed_proto_without_new_stubs_is_noticed(copy: Path) -> None:
    proto = copy / "protos/yuan/data/v1/data.proto"
    proto.write_text(proto.read_text().replace("string text = 2;", "string texts = 2;"))
    result = check(copy)
    assert result.returncode == 1
    assert "data_pb2.py" in result.stdout
    assert "run: make protos" in result.stderr


def test_stubs_of_a_service_that_is_gone_are_noticed(copy: Path) -> None:
    shutil.rmtree(copy / "protos/yuan/trainer")
    result = check(copy)
    assert result.returncode == 1
    assert "trainer" in result.stdout


def test_methods_with_a_policy_exist_and_those_repeated_are_unary() -> None:
    for name in SERVICES:
        importlib.import_module(f"yuan_rpc.{name}.v1.{name}_pb2")
    assert health_pb2.DESCRIPTOR.package == "grpc.health.v1"
    pool = descriptor_pool.Default()
    for service, methods in IDEMPOTENT.items():
        descriptor: ServiceDescriptor = pool.FindServiceByName(service)
        for method in methods:
            assert not descriptor.methods_by_name[method].server_streaming
    for path in SECONDS:
        _, service, method = path.split("/")
        assert method in pool.FindServiceByName(service).methods_by_name
