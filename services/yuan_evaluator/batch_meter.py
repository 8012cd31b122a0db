"""How full the engine's batch was while it was asked, from the inference service's own metrics."""

import re
import threading
import time
from types import TracebackType
from typing import Self
from urllib.request import urlopen

_SECONDS_BETWEEN_LOOKS = 0.1
_TIMEOUT = 2.0


class BatchMeter:
    """Looks at `yuan_num_requests_running` in a thread of its own, for the time of a block."""

    def __init__(self, host: str, port: int | None, model: str) -> None:
        """Args: host, port: of the metrics page; port None: there is none. model: whose batch."""
        self._url = None if port is None else f"http://{host}:{port}/metrics"
        self._pattern = re.compile(rf'^yuan_num_requests_running\{{model_name="{re.escape(model)}"\}} (\S+)$', re.M)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="batch meter", daemon=True)
        self.samples: list[float] = []

    @property
    def mean(self) -> float | None:
        """Requests that ran at once, on average from the first one on; None where that was not to be seen."""
        begun = next((index for index, value in enumerate(self.samples) if value), len(self.samples))
        last = next((at for at in range(len(self.samples), begun, -1) if self.samples[at - 1]), begun)
        seen = self.samples[begun:last]
        return sum(seen) / len(seen) if seen else None

    def _watch(self) -> None:
        while not self._ended.is_set():
            began = time.monotonic()
            try:
                page = urlopen(str(self._url), timeout=_TIMEOUT).read().decode()  # noqa: S310 - our own http://
            except OSError:
                self._ended.wait(1.0)
                continue
            found = self._pattern.search(page)
            self.samples.append(float(found[1]) if found else 0.0)
            self._ended.wait(max(0.0, _SECONDS_BETWEEN_LOOKS - (time.monotonic() - began)))

    def __enter__(self) -> Self:
        if self._url is not None:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._url is not None:
            self._thread.join()
