"""The application: routers and what stands around them. A further part of the gateway is a further router here."""

from fastapi import FastAPI

from yuan_gateway import operations, yuan_api
from yuan_gateway.errors import ErrorBody, add_handlers
from yuan_gateway.guard import Guard
from yuan_gateway.openai import chat, completions, models, tokens
from yuan_gateway.state import Gateway
from yuan_rpc import VERSION

_ERRORS = {code: {"model": ErrorBody} for code in (400, 401, 404, 408, 413, 429, 499, 500, 503, 504)}

ROUTERS = (operations.router, models.router, completions.router, chat.router, tokens.router)


def create_app(gateway: Gateway) -> FastAPI:
    """Returns the application of a gateway."""
    app = FastAPI(
        title="Yuan Stack gateway",
        description="The OpenAI API and the original's PUT /yuan over the models that a Yuan Stack serves.",
        version=VERSION,
        docs_url=None,
        redoc_url=None,
    )
    app.state.gateway = gateway
    for router in ROUTERS:
        app.include_router(router, responses=_ERRORS)  # type: ignore[arg-type]
    app.include_router(yuan_api.router)
    if gateway.console is not None:
        from yuan_gateway.console.shell import add_console  # noqa: PLC0415 - as in state.py

        add_console(app)
    add_handlers(app)
    app.add_middleware(Guard, gateway=gateway)
    return app
