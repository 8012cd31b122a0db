"""The cluster: its services with how they are, its workers with what they do, the hosts that train."""

import asyncio
from dataclasses import fields
from typing import Any

from fastapi import APIRouter, Request, Response

from yuan_events import YuanError
from yuan_gateway.console.access import PATH, Somebody
from yuan_gateway.console.pictures import cluster_picture, hosts_picture
from yuan_gateway.console.shell import console_of
from yuan_manifest.schema import Services, as_plain
from yuan_manifest.yaml_source import dump_yaml
from yuan_rpc.jobs.v1 import jobs_pb2

router = APIRouter(prefix=PATH, include_in_schema=False)


@router.get("/cluster")
async def cluster_page(request: Request, visitor: Somebody) -> Response:
    """Shows the cluster; htmx gets the part that changes."""
    console = console_of(request)
    stack, manifest = console.stack, console.manifest
    names = [one.name for one in fields(Services) if one.name != "gateway" and stack.has(one.name)]

    async def health(name: str) -> tuple[str, str]:
        try:
            return ("serving" if await stack.is_serving(name) else "stopping"), ""
        except YuanError as error:
            return "silent", str(error)

    found = dict(zip(names, await asyncio.gather(*(health(name) for name in names)), strict=True))
    values: dict[str, Any] = {"status": None, "problem": ""}
    try:
        values["status"] = await stack.jobs("GetStatus", jobs_pb2.GetStatusRequest(), visitor.token)
    except YuanError as error:
        values["problem"] = str(error)
    values |= {
        "health": found,
        "picture_of": cluster_picture(manifest.cluster, manifest.topology, {k: v for k, (v, _) in found.items()}),
        "hosts": hosts_picture(manifest.topology),
        "topology": dump_yaml(as_plain(manifest.topology)),
        "nodes": manifest.topology.nodes,
    }
    template = "cluster_part.html" if "hx-request" in request.headers else "cluster.html"
    return console.pages.answer(request, visitor, template, values)
