"""Liveness, readiness and metrics: the three addresses that need no credential."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

router = APIRouter(tags=["health"])


@router.get("/healthz", summary="The process answers")
async def healthz() -> dict[str, str]:
    return {"status": "ok"}


@router.get(
    "/readyz",
    summary="The gateway can serve",
    responses={503: {"description": "A part that every call needs is missing."}},
)
async def readyz(request: Request) -> JSONResponse:
    """Ready when the database answers; the model server's state is told, not required.

    Without a model server calls are still answered from the passages.
    """
    services = request.app.state.services
    parts: dict[str, Any] = {"llm": services.llm_state()}
    try:
        await services.db.ping()
        parts["database"] = "ok"
    except Exception:
        parts["database"] = "down"
    ready = parts["database"] == "ok"
    return JSONResponse(
        {"status": "ready" if ready else "unready", **parts}, status_code=200 if ready else 503
    )


@router.get("/metrics", summary="Prometheus metrics", response_class=Response)
async def metrics(request: Request) -> Response:
    body = request.app.state.services.metrics.exposition()
    return Response(body, media_type="text/plain; version=0.0.4; charset=utf-8")
