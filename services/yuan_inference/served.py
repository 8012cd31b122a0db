"""The models that a server serves, by name: loading beside what runs, swapping, and who is asked for.

Requests that run when a model is replaced finish on the engine they began on.
"""

import asyncio
import gc
import logging
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from weakref import WeakValueDictionary

import torch

from yuan_events import YuanError, one_line
from yuan_inference.engine import Engine, EngineMetrics, EngineOptions
from yuan_inference.loaded import load
from yuan_inference.ranks import RankLost
from yuan_rpc import FailedPrecondition, InvalidArgument, NotFound, Unavailable

_LOGGER = logging.getLogger("yuan_inference.served")

_SECONDS_BETWEEN_LOOKS = 0.2
_COLLECTIONS, _SECONDS_BETWEEN_COLLECTIONS = 10, 1.0
_SECONDS_BETWEEN_LINES = 5.0
"""Of the log, while a model is loaded."""


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter.

    Attributes:
        artifact: the model whose fine-tuning made it, `model/NAME@VERSION`.
        folder: its files.
    """

    artifact: str
    folder: Path


@dataclass(frozen=True)
class Wanted:
    """What is to be served.

    Attributes:
        name: that clients ask for it by.
        artifact: the model, `model/NAME@VERSION`.
        folder: its files.
        dtype: of its weights; None: the default of the device.
        options: of its engine.
        adapters: of it, by the names that requests ask for them by.
    """

    name: str
    artifact: str
    folder: Path
    dtype: str | None = None
    options: EngineOptions = field(default_factory=EngineOptions)
    adapters: Mapping[str, Adapter] = field(default_factory=dict[str, Adapter])


@dataclass(frozen=True)
class Served:
    """What is served.

    Attributes:
        wanted: what was asked for.
        engine: that computes it.
        loaded: since when, in seconds since 1970.
    """

    wanted: Wanted
    engine: Engine
    loaded: float = field(default_factory=time.time)


class ServedModels:
    """All models of one server; to be used in its event loop. `close` it."""

    def __init__(self, device: str, metrics: EngineMetrics) -> None:
        """Begins empty.

        Args:
            device: `auto`, `cpu` or `cuda`.
            metrics: where engines show their load.
        """
        self._device = device
        self._metrics = metrics
        self._served: dict[str, Served] = {}
        self._loading: dict[str, float] = {}
        self._progress: dict[str, float] = {}
        self._failed: dict[str, str] = {}
        self._retired: list[Engine] = []
        self._tasks: set[asyncio.Task[None]] = set()
        # A lock is kept for as long as somebody holds it or waits for it: names come from callers.
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._closed = False

    @property
    def names(self) -> list[str]:
        """Names that are served now."""
        return sorted(self._served)

    @property
    def engines(self) -> list[Engine]:
        """All engines that have or may have requests, also those of replaced versions."""
        return [*(served.engine for served in self._served.values()), *self._retired]

    def get(self, name: str) -> Served:
        """Returns the model of a name; an empty name is the only one's.

        Raises:
            RpcError: with the status that says why there is none.
        """
        if not name:
            names = sorted({*self._served, *self._loading})
            if len(names) > 1:
                raise InvalidArgument(
                    f"model: {len(names)} models are served ({', '.join(names)}); name one",
                    {"model": f"expected one of {', '.join(names)}"},
                )
            name = names[0] if names else next(iter(self._failed), "")
        if self._closed:
            raise Unavailable("the inference service is shutting down", retry_after=1.0)
        if name in self._served:
            return self._served[name]
        if name in self._loading:
            seconds = time.monotonic() - self._loading[name]
            part = self._progress.get(name, 0.0)
            raise Unavailable(
                f"model {name} is being loaded, for {seconds:.0f} s now: {part:.0%} of its weights", retry_after=1.0
            )
        if name in self._failed:
            raise FailedPrecondition(f"model {name} is deployed but could not be loaded: {self._failed[name]}")
        if not self._served and not self._loading:
            raise FailedPrecondition("no model is deployed; yuan deploy MODEL")
        names = ", ".join(sorted({*self._served, *self._loading}))
        raise NotFound("model", name, f"no model is served as {name}; served: {names}; yuan deploy MODEL")

    def find(self, name: str) -> tuple[Served, str]:
        """Returns the model of a name with an adapter of it: `MODEL:ADAPTER`, or the adapter's name alone.

        Raises:
            RpcError: as `get`.
        """
        if name in self._served or not name:
            return self.get(name), ""
        model, colon, adapter = name.partition(":")
        if colon and model in self._served:
            return self.get(model), adapter
        holder = next((one for one in self._served if name in self._served[one].engine.adapters), None)
        return (self.get(name), "") if holder is None else (self.get(holder), name)

    @property
    def served(self) -> list[Served]:
        """What is served now, by name."""
        return [self._served[name] for name in self.names]

    @property
    def loading(self) -> list[str]:
        """Names that are being loaded."""
        return sorted(self._loading)

    @property
    def progress(self) -> dict[str, float]:
        """Of each model that is being loaded, the part of its weights that has been read."""
        return {name: self._progress.get(name, 0.0) for name in self.loading}

    @property
    def failed(self) -> dict[str, str]:
        """Deployments that could not be loaded, and why."""
        return dict(self._failed)

    @property
    def healthy(self) -> bool:
        """Whether all engines can compute."""
        return all(served.engine.healthy for served in self._served.values())

    async def unload(self, name: str, *, unless: Callable[[], bool] | None = None) -> Served:
        """Serves a model no more; requests that run on it finish.

        Args:
            name: that it is served under.
            unless: called in a thread; where it is true the model is served on.

        Raises:
            RpcError: if none is served under that name.
        """
        async with self._locks.setdefault(name, asyncio.Lock()):
            present = self.get(name)
            if unless is not None and await asyncio.to_thread(unless):
                return present
            del self._served[name]
            self._retire(present.engine)
            _LOGGER.info("model %s is served no more: %s", name, present.wanted.artifact)
            return present

    def announce(self, names: Iterable[str]) -> None:
        """Says that models will be loaded, so that who asks for them early is told to come again."""
        for name in names:
            self._loading.setdefault(name, time.monotonic())

    def tell_failed(self, name: str, reason: str) -> None:
        """Says that a deployment could not be loaded, so that who asks for it is told why; not so of other names."""
        self._failed[name] = reason

    def forget_failed(self, name: str) -> None:
        """Says that a deployment that could not be loaded is wanted no more."""
        self._failed.pop(name, None)

    async def load(self, name: str, prepare: Callable[[], Wanted]) -> Served:
        """Loads a model and puts it in place of the one of the same name; one that is served already stays.

        Args:
            name: that clients ask for it by.
            prepare: finds the model; called in a thread.

        Raises:
            YuanError: if it cannot be loaded; what was served under the name is served on.
        """
        async with self._locks.setdefault(name, asyncio.Lock()):
            self._loading[name] = time.monotonic()
            self._progress[name] = 0.0
            try:
                wanted = await asyncio.to_thread(prepare)
                present = self._served.get(name)
                if present is not None and present.wanted == wanted:
                    return present
                if present is not None and replace(present.wanted, adapters=wanted.adapters) == wanted:
                    served = await asyncio.to_thread(_with_adapters, present, wanted)
                else:
                    served = await self._start(wanted)
            except Exception as error:
                _LOGGER.error("model %s could not be loaded: %s", name, one_line(error))
                raise
            finally:
                self._loading.pop(name, None)
                self._progress.pop(name, None)
            self._failed.pop(name, None)
            self._served[name] = served
            if present is not None and present.engine is not served.engine:
                self._retire(present.engine)
            _LOGGER.info("model %s is served: %s", name, wanted.artifact)
            return served

    def _retire(self, engine: Engine) -> None:
        """Lets an engine finish what it has, and forgets it then, with its memory."""
        engine.close(abort=False, timeout=0)
        self._retired.append(engine)
        task = asyncio.create_task(self._forget_when_done(engine))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _forget_when_done(self, engine: Engine) -> None:
        while engine.unfinished or engine.is_alive:
            await asyncio.sleep(_SECONDS_BETWEEN_LOOKS)
        self._retired.remove(engine)
        known = weakref.ref(engine)
        del engine
        # An engine's parts know each other: nothing else would give its memory back before some later collection. Who
        # has just been answered may hold it a moment longer.
        for _ in range(_COLLECTIONS):
            await asyncio.to_thread(gc.collect)
            if known() is None:
                return
            await asyncio.sleep(_SECONDS_BETWEEN_COLLECTIONS)

    async def _start(self, wanted: Wanted) -> Served:
        task = asyncio.ensure_future(asyncio.to_thread(self._make, wanted))
        try:
            served = await asyncio.shield(task)
        except asyncio.CancelledError:
            # Nobody waits for it any more, but a thread cannot be stopped: what it makes is given back.
            task.add_done_callback(lambda done: done.exception() or done.result().engine.close(timeout=0))
            raise
        if self._closed:
            served.engine.close()
            raise Unavailable("the inference service is shutting down")
        return served

    def _device_of(self, wanted: Wanted) -> str:
        """Returns where a model lies: of CUDA's devices the one that the registry gave it."""
        if self._device == "cpu" or not wanted.options.devices or not torch.cuda.is_available():
            return self._device
        return f"cuda:{wanted.options.devices[0] % torch.cuda.device_count()}"

    def _make(self, wanted: Wanted) -> Served:
        shown = self._metrics.load_progress.labels(wanted.name)
        told = time.monotonic()

        def watch(part: float) -> None:
            nonlocal told
            if wanted.name in self._progress:  # not so where it is an engine that starts its ranks anew
                self._progress[wanted.name] = part
            shown.set(part)
            if time.monotonic() - told > _SECONDS_BETWEEN_LINES:
                told = time.monotonic()
                _LOGGER.info("model %s: %.0f %% of its weights are read", wanted.name, 100 * part)

        try:
            shown.set(0.0)
            loaded = load(wanted.folder, device=self._device_of(wanted), dtype=wanted.dtype)
            engine = Engine(wanted.name, loaded, wanted.options, self._metrics, watch)
            try:
                engine.set_adapters(_folders(wanted))
            except BaseException:
                engine.close(timeout=0)
                raise
            return Served(wanted, engine)
        except RankLost as error:
            raise Unavailable(one_line(error), retry_after=1.0) from error
        except (MemoryError, RuntimeError) as error:  # torch raises the latter where memory is short
            if isinstance(error, YuanError):
                raise
            reason = "no memory for its weights and its cache" if isinstance(error, MemoryError) else one_line(error)
            raise FailedPrecondition(f"{wanted.artifact}: {reason}") from error

    async def close(self) -> None:
        """Ends all engines and what they still do."""
        self._closed = True
        engines = self.engines
        self._served.clear()
        await asyncio.gather(*(asyncio.to_thread(engine.close) for engine in engines))
        for task in self._tasks:
            task.cancel()


def _folders(wanted: Wanted) -> dict[str, Path]:
    return {name: adapter.folder for name, adapter in wanted.adapters.items()}


def _with_adapters(present: Served, wanted: Wanted) -> Served:
    """Changes the adapters of what is served; requests that run go on with those that they began with."""
    try:
        present.engine.set_adapters(_folders(wanted))
    except RankLost as error:
        raise Unavailable(one_line(error), retry_after=1.0) from error
    return replace(present, wanted=wanted)
