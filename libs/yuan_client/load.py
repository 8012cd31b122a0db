"""A load of requests that come as a Poisson process, and how the service bears it.

Requests come when they come, whether earlier ones are answered or not: a service that is too slow is seen to be.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass, field
from typing import Any

from yuan_client.aio import AsyncClient
from yuan_client.asking import Prompt
from yuan_client.values import Sampling
from yuan_rpc import RpcFailed

PERCENTILES = (50, 95, 99)


@dataclass(frozen=True)
class LoadPlan:
    """What is asked.

    Attributes:
        model: name that it is served under; empty: the only one.
        prompts: texts or token ids, drawn from.
        sampling: of every request.
        requests: in all.
        rate: requests a second on average; infinite: all at once.
        seed: of arrivals and of the prompts that are drawn.
        timeout: seconds that one request may take.
    """

    model: str
    prompts: Sequence[Prompt]
    sampling: Sampling
    requests: int
    rate: float
    seed: int = 1
    timeout: float = 600.0

    def arrivals(self) -> list[float]:
        """Returns when each request comes, in seconds from the start."""
        generator = random.Random(self.seed)
        moments, now = [0.0] * self.requests, 0.0
        for number in range(self.requests):
            now += 0.0 if self.rate == float("inf") else generator.expovariate(self.rate)
            moments[number] = now
        return moments


@dataclass
class Measured:
    """One request.

    Attributes:
        seconds: to its end.
        first: seconds to its first token; None: none came.
        gaps: seconds between tokens; those of one message share the time since the message before, and of those that
            came with the first token none is known.
        prompt_tokens, tokens: of the prompt, and drawn.
        status: `OK`, or the code that it failed with.
    """

    seconds: float = 0.0
    first: float | None = None
    gaps: list[float] = field(default_factory=list[float])
    prompt_tokens: int = 0
    tokens: int = 0
    status: str = "OK"


@dataclass(frozen=True)
class LoadResult:
    """How a load was borne; times in seconds, of answered requests alone, by percentile.

    Attributes:
        rate: that was asked, requests a second; None: all at once.
        requests, answered: in all, and those that ended well.
        failed: the others by status.
        seconds: from the first arrival to the last end.
        requests_per_second, prompt_tokens_per_second, tokens_per_second: that were answered, computed and drawn.
        time_to_first_token: from arrival.
        inter_token_latency: between tokens of one answer.
        request_latency: from arrival to the end.
    """

    rate: float | None
    requests: int
    answered: int
    failed: dict[str, int]
    seconds: float
    requests_per_second: float
    prompt_tokens_per_second: float
    tokens_per_second: float
    time_to_first_token: dict[str, float]
    inter_token_latency: dict[str, float]
    request_latency: dict[str, float]

    def to_plain(self) -> dict[str, Any]:
        """Returns it as JSON's types."""
        return asdict(self)

    @classmethod
    def of(cls, plan: LoadPlan, measured: Sequence[Measured], seconds: float) -> "LoadResult":
        """Returns the result of requests that have all ended."""
        good = [one for one in measured if one.status == "OK"]
        return cls(
            rate=None if plan.rate == float("inf") else plan.rate,
            requests=len(measured),
            answered=len(good),
            failed=dict(Counter(one.status for one in measured if one.status != "OK")),
            seconds=seconds,
            requests_per_second=len(good) / seconds,
            prompt_tokens_per_second=sum(one.prompt_tokens for one in good) / seconds,
            tokens_per_second=sum(one.tokens for one in good) / seconds,
            time_to_first_token=percentiles([one.first for one in good if one.first is not None]),
            inter_token_latency=percentiles([gap for one in good for gap in one.gaps]),
            request_latency=percentiles([one.seconds for one in good]),
        )


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """Returns `p50`, `p95` and `p99`, linear between neighbours; empty where there are no values."""
    found = sorted(values)
    if not found:
        return {}
    result: dict[str, float] = {}
    for percent in PERCENTILES:
        place = (len(found) - 1) * percent / 100
        low = int(place)
        high = min(low + 1, len(found) - 1)
        result[f"p{percent}"] = found[low] + (found[high] - found[low]) * (place - low)
    return result


async def run_load(
    client: AsyncClient, plan: LoadPlan, progress: Callable[[int], None] = lambda ended: None
) -> LoadResult:
    """Asks as planned, and waits for all answers.

    Args:
        client: that makes no call twice: what fails is to be seen.
        plan: what is asked.
        progress: told how many requests have ended, after each.
    """
    generator = random.Random(plan.seed + 1)
    prompts = [generator.choice(plan.prompts) for _ in range(plan.requests)]
    start = time.perf_counter()
    ended = 0

    async def one(arrival: float, prompt: Prompt) -> Measured:
        nonlocal ended
        await asyncio.sleep(max(0.0, arrival - (time.perf_counter() - start)))
        measured = await _measure(client, plan, prompt)
        ended += 1
        progress(ended)
        return measured

    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(one(arrival, prompt)) for arrival, prompt in zip(plan.arrivals(), prompts, strict=True)
        ]
    return LoadResult.of(plan, [task.result() for task in tasks], time.perf_counter() - start)


async def _measure(client: AsyncClient, plan: LoadPlan, prompt: Prompt) -> Measured:
    measured = Measured()
    begun = before = time.perf_counter()
    try:
        stream = client.stream(prompt, model=plan.model, sampling=plan.sampling, timeout=plan.timeout)
        async with aclosing(stream) as pieces:
            async for piece in pieces:
                now = time.perf_counter()
                fresh = len(piece.token_ids)
                if fresh and measured.first is None:
                    measured.first = now - begun
                elif fresh:
                    measured.gaps.extend([(now - before) / fresh] * fresh)
                before = now if fresh else before
                measured.tokens += fresh
                measured.prompt_tokens = piece.usage.prompt_tokens
    except RpcFailed as error:
        measured.status = error.code.name
    measured.seconds = time.perf_counter() - begun
    return measured
