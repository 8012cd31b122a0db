"""How fast the inference service streams through gRPC: a server in one process, its client in another.

    python benchmarks/serving_rpc.py [--tokens 64] [--rounds 3]

A 30M-parameter model with random weights (bf16) and a tokenizer of 8,192 pieces trained on Python's library are served
as any model is; 1, 16 and 64 streams ask at once, greedily and drawing (temperature, top-k, top-p). Prints tokens a
second, tokens a message, the median and 99th percentile of the time between messages of one stream, and processor
seconds that server and client spend on a token: on a machine of few cores they share them with the network.
"""

import argparse
import asyncio
import dataclasses
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from grpc import aio
from prometheus_client import CollectorRegistry

from yuan_checkpoint import write_native
from yuan_corpus import Algorithm, train_tokenizer
from yuan_inference.engine import EngineMetrics, EngineOptions
from yuan_inference.served import ServedModels, Wanted
from yuan_inference.server import SERVICE, InferenceServicer
from yuan_model import Yuan, YuanConfig, initialize_
from yuan_rpc import Mount
from yuan_rpc.inference.v1 import inference_pb2 as pb
from yuan_rpc.inference.v1 import inference_pb2_grpc
from yuan_rpc.security import Security
from yuan_rpc.server import RpcServer

SMALL = YuanConfig(8192, 512, 8, 8, 1408, 4096)
DRAWN = {"temperature": 0.8, "top_k": 40, "top_p": 0.9, "seed": 1}


def prompts(count: int, length: int = 64, seed: int = 1) -> list[list[int]]:
    """Returns the same random prompts each time."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 8000, (count, length), generator=generator).tolist()


@dataclass(frozen=True)
class Streamed:
    """What came of some streams.

    Attributes:
        seconds: for all of them.
        tokens, messages: that came.
        gaps: seconds between messages of one stream, ascending.
        server, client: processor seconds a token.
    """

    seconds: float
    tokens: int
    messages: int
    gaps: list[float]
    server: float
    client: float

    @property
    def rate(self) -> float:
        """Tokens a second."""
        return self.tokens / self.seconds


async def serve(folder: Path) -> None:
    """Serves a model until standard input ends; prints the port."""
    models = ServedModels("cpu", EngineMetrics(CollectorRegistry()))
    store: Any = None  # nothing is deployed: the model is loaded below
    mount = Mount(inference_pb2_grpc.add_InferenceServiceServicer_to_server, InferenceServicer(models, store), SERVICE)
    options = EngineOptions(max_batch=64, prefix_cache=False)
    await models.load("small", lambda *_: Wanted("small", "model/small@1", folder, "bf16", options))
    async with RpcServer("inference", "127.0.0.1", 0, Security(), [mount]) as server:
        print(server.port, flush=True)
        await asyncio.to_thread(sys.stdin.read)
    await models.close()


def write_model(folder: Path) -> None:
    """Writes a model folder with its tokenizer."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))[:100]
    texts = [file.read_text(encoding="utf-8", errors="ignore") for file in files]
    (folder / "tokenizer").mkdir(parents=True)
    tokenizer = train_tokenizer(texts, folder / "tokenizer", Algorithm.BPE, SMALL.vocab_size, threads=2)
    config = dataclasses.replace(SMALL, eod_token_id=tokenizer.eod_id)
    model = Yuan(config)
    initialize_(model, config, 1)
    write_native(folder, config, model.named_parameters())


@contextmanager
def server() -> Iterator[tuple[int, int]]:
    """Yields the port and process id of a server."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        write_model(folder)
        command = [sys.executable, __file__, "--serve", str(folder)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline()), process.pid
        finally:
            process.communicate(timeout=60)


def spent(process: int) -> float:
    """Returns the processor seconds of a process."""
    fields = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def streamed(port: int, process: int, count: int, tokens: int, **sampling: Any) -> Streamed:
    """Reads some streams at once."""
    params = pb.SamplingParams(**{"temperature": 0.0, "max_tokens": tokens, "ignore_eos": True, **sampling})
    gaps: list[float] = []
    async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)

        async def read(prompt: list[int]) -> tuple[int, int]:
            request = pb.GenerateRequest(prompt_token_ids=prompt, sampling_params=params)
            found = messages = 0
            last = 0.0
            async for message in stub.GenerateStream(pb.GenerateStreamRequest(request=request)):
                now = time.perf_counter()
                if messages:
                    gaps.append(now - last)
                found, messages, last = found + len(message.token_ids), messages + 1, now
            return found, messages

        before, own, started = spent(process), time.process_time(), time.perf_counter()
        read_all = await asyncio.gather(*(read(prompt) for prompt in prompts(count)))
        seconds = time.perf_counter() - started
    found = sum(one for one, _ in read_all)
    assert found == count * tokens
    server_seconds, client_seconds = (spent(process) - before) / found, (time.process_time() - own) / found
    return Streamed(seconds, found, sum(one for _, one in read_all), sorted(gaps), server_seconds, client_seconds)


def through_grpc(tokens: int, rounds: int) -> dict[int, float]:
    """Measures, prints, and returns tokens a second by the number of greedy streams."""
    best: dict[int, float] = {}
    with server() as (port, process):
        asyncio.run(streamed(port, process, 2, 4))
        for name, sampling in (("greedy", {}), ("drawing", DRAWN)):
            for count in (1, 16, 64):
                found = max(
                    (asyncio.run(streamed(port, process, count, tokens, **sampling)) for _ in range(rounds)),
                    key=lambda one: one.rate,
                )
                if not sampling:
                    best[count] = found.rate
                middle, late = (1000 * found.gaps[int(len(found.gaps) * part)] for part in (0.5, 0.99))
                print(
                    f"gRPC, {count:2d} streams, {name}: {found.rate:6.0f} tokens/s, "
                    f"{found.tokens / found.messages:.2f} tokens a message, {middle:.1f} ms between messages "
                    f"(99 %: {late:.1f}); processor time a token: server {found.server * 1e6:.0f} us, "
                    f"client {found.client * 1e6:.0f} us",
                    flush=True,
                )
    return best


def main() -> None:
    """Measures and prints, or serves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--serve", type=Path, help="a model's folder, in the process of the server")
    options = parser.parse_args()
    if options.serve is not None:
        asyncio.run(serve(options.serve))
        return
    through_grpc(options.tokens, options.rounds)


if __name__ == "__main__":
    main()
