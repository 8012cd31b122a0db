"""Servicers that do on request what handlers may do, and a server of them as a process.

python -m tests.yuan_rpc.toys PORT     prints `ready PORT`, serves until SIGTERM, prints what it still finished
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc

from yuan_events import InputError, WorkFailed
from yuan_rpc import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    Mount,
    NotFound,
    ResourceExhausted,
    RpcServer,
    Security,
    Unavailable,
)
from yuan_rpc.data.v1 import data_pb2, data_pb2_grpc
from yuan_rpc.jobs.v1 import jobs_pb2, jobs_pb2_grpc

DATA = data_pb2.DESCRIPTOR.services_by_name["DataService"].full_name
JOBS = jobs_pb2.DESCRIPTOR.services_by_name["JobService"].full_name


class Unforeseen(Exception):
    """An error of another layer that the server knows only by translation."""


@dataclass
class ToyData(data_pb2_grpc.DataServiceServicer):
    """Tokenize does what its text says; the others count, fail, stream and wait.

    Attributes:
        failures: how many more calls of DescribeDataset and Submit fail with UNAVAILABLE.
        calls: how many of those came.
        released: set by the `finally` of a handler that waits for ever.
        entered: set when such a handler has begun.
        hold: what streams of "held" wait for after their first message.
    """

    failures: int = 0
    calls: list[str] = field(default_factory=list[str])
    released: asyncio.Event = field(default_factory=asyncio.Event)
    entered: asyncio.Event = field(default_factory=asyncio.Event)
    hold: asyncio.Event = field(default_factory=asyncio.Event)

    async def Tokenize(self, request: data_pb2.TokenizeRequest, context: Any) -> data_pb2.TokenizeResponse:  # noqa: N802
        if request.text in _RAISED:
            raise _RAISED[request.text]()
        if request.text == "abort":
            await context.abort(grpc.StatusCode.DATA_LOSS, "the handler's own words")
        if request.text == "wait":
            await self._wait()
        if request.text.startswith("big "):
            return data_pb2.TokenizeResponse(pieces=["x" * int(request.text[4:])])
        return data_pb2.TokenizeResponse(pieces=list(request.text))

    async def DescribeDataset(self, request: data_pb2.DescribeDatasetRequest, context: Any) -> Any:  # noqa: N802
        self.calls.append("DescribeDataset")
        self._fail()
        return data_pb2.DescribeDatasetResponse(reference=request.dataset)

    async def SampleDataset(  # noqa: N802
        self, request: data_pb2.SampleDatasetRequest, context: Any
    ) -> AsyncIterator[data_pb2.SampleDatasetResponse]:
        self.calls.append("SampleDataset")
        self._fail()
        yield data_pb2.SampleDatasetResponse(document=0)
        if request.dataset == "held":
            await self.hold.wait()
        if request.dataset == "broken":
            raise Unavailable("the disk went away")
        if request.dataset == "endless":
            await self._wait()
        if request.dataset == "flood":
            self.entered.set()
            try:
                while True:
                    yield data_pb2.SampleDatasetResponse(text="x" * 1_000_000)
            finally:
                self.released.set()
        yield data_pb2.SampleDatasetResponse(document=1)

    async def _wait(self) -> None:
        self.entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.released.set()

    def _fail(self) -> None:
        if self.failures > 0:
            self.failures -= 1
            raise Unavailable("not now")


@dataclass
class ToyJobs(jobs_pb2_grpc.JobServiceServicer):
    """Submit, which changes something, fails as often as `data` says."""

    data: ToyData

    async def Submit(self, request: jobs_pb2.SubmitRequest, context: Any) -> jobs_pb2.SubmitResponse:  # noqa: N802
        self.data.calls.append("Submit")
        self.data._fail()
        return jobs_pb2.SubmitResponse()


_RAISED: dict[str, Callable[[], Exception]] = {
    "invalid": lambda: InvalidArgument("text: is wrong; say something else", {"text": "is wrong"}),
    "missing": lambda: NotFound("tokenizer", "dmeo", "no tokenizer `dmeo`; did you mean `demo`?"),
    "exists": lambda: AlreadyExists("idempotency_key", "k", "key `k` stands for another job"),
    "early": lambda: FailedPrecondition("nothing is deployed; run: yuan deploy MODEL"),
    "full": lambda: ResourceExhausted("16 requests wait already", retry_after=2.5),
    "away": lambda: Unavailable("the store is away", retry_after=0.5),
    "input": lambda: InputError("a plain input error; mend it"),
    "work": lambda: WorkFailed("loss is not a number at step 3"),
    "unforeseen": lambda: Unforeseen("x"),
    "bug": lambda: ZeroDivisionError("secret of the house"),
    "long": lambda: InvalidArgument("错" * 20_000, {f"field_{number}": "误" * 2000 for number in range(20)}),
}


def mounts(data: ToyData) -> list[Mount]:
    """Returns both services."""
    return [
        Mount(data_pb2_grpc.add_DataServiceServicer_to_server, data, DATA),
        Mount(jobs_pb2_grpc.add_JobServiceServicer_to_server, ToyJobs(data), JOBS),
    ]


def toy_server(data: ToyData, security: Security | None = None, **options: Any) -> RpcServer:
    """Returns a server of both services on a free port of loopback; it stops at once unless told otherwise."""
    settings = {"name": "data", "bind": "127.0.0.1", "port": 0, "drain_seconds": 5.0, **options}
    return RpcServer(security=security or Security(), servicers=mounts(data), **settings)


async def _serve(port: int) -> None:
    data = ToyData()
    server = toy_server(data, port=port, drain_seconds=60.0, end_at_drain=[f"/{JOBS}/Watch"])
    held = asyncio.ensure_future(_let_go(server, data))
    await server.run(ready=lambda: _say(f"ready {server.port}"))
    held.cancel()
    _say("released" if data.released.is_set() else "stopped")


async def _let_go(server: RpcServer, data: ToyData) -> None:
    await server.draining.wait()
    data.hold.set()


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
