"""`python -m yuan_gateway server`."""

from collections.abc import Sequence

from yuan_jobs import service_main


def _server(arguments: Sequence[str]) -> int:
    from yuan_gateway.server import run  # noqa: PLC0415 - loads FastAPI and gRPC: after the arguments' errors

    return run(arguments)


if __name__ == "__main__":
    service_main("gateway", {}, {"server": _server}, jobs=False)
