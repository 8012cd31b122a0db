"""One JSON line a request on stderr, for whoever collects logs; of prompts and answers nothing unless asked."""

import json
import logging
import sys
from datetime import UTC, datetime

from yuan_manifest.schema import ObservabilitySection

_LOGGER = logging.getLogger("yuan_rpc.requests")


class RequestLog:
    """Writes the lines of one server."""

    def __init__(self, service: str, section: ObservabilitySection | None = None) -> None:
        """Prepares to write.

        Args:
            service: whose lines they are.
            section: what may be told; None: nothing is written.
        """
        self._service = service
        self._enabled = section is not None and section.log_requests
        self._prompts = section is not None and section.log_prompts
        if self._enabled and not _LOGGER.handlers:
            handler = logging.StreamHandler(sys.stderr)
            handler.setFormatter(logging.Formatter("%(message)s"))
            _LOGGER.addHandler(handler)
            _LOGGER.propagate = False
            _LOGGER.setLevel(logging.INFO)

    @property
    def prompts(self) -> bool:
        """Whether prompts and answers are wanted."""
        return self._prompts

    def write(self, **facts: object) -> None:
        """Writes one line; what is None or empty is left out.

        Args:
            facts: JSON's values by name; of text only `prompt` and `text`, which go where they were asked for.
        """
        if not self._enabled:
            return
        told = {key: value for key, value in facts.items() if value is not None and value != ""}
        if not self._prompts:
            told.pop("prompt", None)
            told.pop("text", None)
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        _LOGGER.info("%s", json.dumps({"time": time, "service": self._service, **told}, ensure_ascii=False))
