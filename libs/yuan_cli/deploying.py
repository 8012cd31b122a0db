"""`yuan deploy`: a deploy job from arguments, submitted and followed. `yuan undeploy`: a call."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from yuan_cli.following import follow
from yuan_cli.jobs import facts_of
from yuan_events import InputError
from yuan_jobs.client import JobClient
from yuan_jobs.references import Reference
from yuan_jobs.requests import request_of
from yuan_manifest import Job, job_of_plain, load_cluster, to_yaml
from yuan_rpc import connect
from yuan_rpc.inference.v1 import inference_pb2, inference_pb2_grpc


def deploy_model(
    model: str,
    serving: Mapping[str, object],
    adapters: Sequence[str],
    cluster_path: Path | None,
    *,
    wait: bool,
    as_json: bool,
    print_manifest: bool,
) -> int:
    """Has the stack serve a model.

    Args:
        model: `[model/]NAME[@VERSION]`.
        serving: the manifest's `serving`; None: the default.
        adapters: LoRA additions, each `NAME=MODEL`, or a model's name alone.
        cluster_path: the cluster's file.
        wait: follow the job to its end.
        as_json: print JSON.
        print_manifest: only print the manifest that this comes to.
    """
    reference = Reference.parse(model, "model")
    named = dict(_named(adapter) for adapter in adapters)
    job = _job(model, reference.name, serving, named)
    if print_manifest:
        typer.echo(to_yaml(job), nl=False)
        return 0
    manifest = load_cluster(cluster_path)
    if manifest.cluster.services.inference is None:
        raise InputError("this cluster has no inference service; see cluster.services.inference")
    with JobClient(manifest.cluster, notice=lambda line: typer.echo(line, err=True)) as client:
        # Asked first, so that a name that does not exist is bad input at once, and no failed job.
        for given in (model, *named.values()):
            client.artifact(given if given.startswith("model/") else f"model/{given}")
        made, _ = client.submit(request_of(job, [], manifest))
        if as_json:
            typer.echo(json.dumps(facts_of(made), indent=None if wait else 2, ensure_ascii=False))
        elif not wait:
            typer.echo(f"{job.name}: submitted; follow it with: yuan wait {made.id}", err=True)
            typer.echo(made.id)
        return follow(client, made.id, as_json=as_json) if wait else 0


def undeploy_model(name: str, cluster_path: Path | None) -> int:
    """Has the stack serve a model no more.

    Args:
        name: that it is served under.
        cluster_path: the cluster's file.
    """
    with connect("inference", load_cluster(cluster_path).cluster) as connection, connection.errors():
        stub: Any = connection.stub(inference_pb2_grpc.InferenceServiceStub)
        artifact = stub.UnloadModel(inference_pb2.UnloadModelRequest(model=name)).artifact
    typer.echo(f"{name} is served no more; it was {artifact}", err=True)
    return 0


def _named(adapter: str) -> tuple[str, str]:
    name, equals, model = adapter.partition("=")
    model = model if equals else name
    return (name if equals else Reference.parse(model, "model").name), model


def _job(model: str, name: str, serving: Mapping[str, object], adapters: Mapping[str, str]) -> Job:
    given = {key: value for key, value in serving.items() if value is not None}
    tree: dict[str, Any] = {"version": 1, "kind": "deploy", "name": f"deploy-{name}", "inputs": {"model": model}}
    tree["inputs"] |= {"adapters": dict(adapters)} if adapters else {}
    return job_of_plain({**tree, "serving": given}, "yuan deploy")
