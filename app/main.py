"""Builds the application: settings, state, engines, services, routes, in reading order."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute, iter_route_contexts
from starlette.exceptions import HTTPException

from app import __version__
from app.api import (
    admin,
    admin_alert_policies,
    admin_models,
    admin_policies,
    admin_retention,
    admin_webhooks,
    audit,
    batches,
    budgets,
    builds,
    chat,
    completions,
    connectors,
    docs,
    drift,
    embeddings,
    files,
    guardrails,
    health,
    incidents,
    jobs,
    models,
    moderations,
    monitoring,
    policies,
    rerank,
    responses,
    rollouts,
    vector_stores,
)
from app.errors import OstiaryError
from app.gateway.garbage import collect_when_quiet
from app.monitoring.logs import configure
from app.settings import Settings
from app.ui import pages

log = logging.getLogger("ostiary")

ROUTERS = (
    chat.router,
    completions.router,
    responses.router,
    models.router,
    embeddings.router,
    rerank.router,
    moderations.router,
    batches.router,
    files.router,
    vector_stores.router,
    builds.router,
    connectors.sources,
    connectors.router,
    jobs.router,
    guardrails.router,
    policies.router,
    monitoring.router,
    budgets.router,
    incidents.router,
    drift.router,
    audit.router,
    admin.router,
    admin_models.router,
    admin_policies.router,
    admin_retention.router,
    admin_alert_policies.router,
    admin_webhooks.router,
    rollouts.router,
    health.router,
    docs.router,
    pages.router,
)


def create_app(settings: Settings | None = None) -> FastAPI:
    """Return the gateway; engines and state are opened when the server starts it."""
    settings = settings or Settings()
    configure(settings.log_level, settings.log_format)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        from app.wiring import open_services

        async with AsyncExitStack() as stack:
            services, corridor = await open_services(settings, stack)
            app.state.services = services
            app.state.corridor = corridor
            services.inside.opened(app)
            # what was loaded stays; looking through it again cost calls 100 ms now and then
            gc.collect()
            gc.freeze()
            gc.enable()
            collecting = asyncio.create_task(collect_when_quiet(lambda: corridor.under_way))
            stack.callback(collecting.cancel)
            yield

    app = FastAPI(
        title="Ostiary",
        version=__version__,
        summary="A private AI service layer: one governed gateway for your models and your data.",
        lifespan=lifespan,
        openapi_url=None,  # app/api/docs.py: not in the event loop
        docs_url=None,  # there too: without a CDN
        redoc_url=None,
        separate_input_output_schemas=False,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # ours is app/monitoring
    )
    for router in ROUTERS:
        # not included but taken over: an included router matches each call a second time
        app.router.routes.extend(router.routes)
    app.mount(docs.ASSETS, docs.assets(), name="docs-assets")
    app.mount("/static", pages.static_files(), name="static")
    app.add_exception_handler(OstiaryError, _on_ostiary_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    return app


def _request_id(request: Request) -> str | None:
    call = request.scope.get("ostiary_call")
    return None if call is None else str(call.request_id)


async def _on_ostiary_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, OstiaryError)
    return JSONResponse(
        error.body(_request_id(request)), status_code=error.status, headers=error.headers
    )


_TYPES = ("str", "int", "float", "bool")  # alternatives, as pydantic names them in a place
_SENT_IN = ("body", "query", "path", "header")  # how the place of a field begins


async def _on_validation_error(request: Request, error: Exception) -> JSONResponse:
    """Name the first bad field and what is wrong with it, never its value."""
    assert isinstance(error, RequestValidationError)
    found = [dict(e) for e in error.errors()]
    # of a field that may be of several types, the one that was understood furthest
    same = [e for e in found if e["loc"][:2] == found[0]["loc"][:2]]
    first: dict[str, Any] = max(same, key=lambda e: len(e["loc"]))
    loc = first["loc"]
    named = [str(p) for p in (loc[1:] if loc[0] in _SENT_IN else loc)]
    where = ".".join(p for p in named if p not in _TYPES and not set(p) & set("[](), "))
    if first["type"] == "json_invalid":
        message, where = "The body is not valid JSON. Send one JSON object.", ""
    elif first["type"] == "union_tag_invalid":  # pydantic's message repeats the value
        message = f"{where}: 'type' must be one of {first['ctx']['expected_tags']}."
    else:
        message = f"{where or 'The body'}: {first['msg']}. Correct it and send the request again."
    body = OstiaryError(message, param=where or None, code="invalid_request")
    body.type = "invalid_request_error"
    return JSONResponse(body.body(_request_id(request)), status_code=400)


async def _on_http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    headers = error.headers
    if error.status_code == 405:  # Starlette tells the methods of one of the path's routes only
        headers = {"allow": ", ".join(_methods_of(request))}
    texts = {
        404: ("There is nothing at this address. /docs lists what there is.", "not_found"),
        405: ("This address does not take this method. /docs lists what it takes.", "bad_method"),
    }
    message, code = texts.get(error.status_code, (str(error.detail), "http_error"))
    body = OstiaryError(message, code=code)
    body.type = "invalid_request_error" if error.status_code < 500 else "server_error"
    return JSONResponse(
        body.body(_request_id(request)), status_code=error.status_code, headers=headers
    )


def _methods_of(request: Request) -> list[str]:
    """The methods that this address takes."""
    path = request.scope["path"]
    found: set[str] = set()
    for route in iter_route_contexts(request.app.routes):
        if isinstance(route.original_route, APIRoute) and route.path_regex.match(path):
            found |= route.methods or set()
    return sorted(found)
