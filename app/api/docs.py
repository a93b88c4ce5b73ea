"""The contract for people: Swagger UI from packaged files, so that no browser asks a CDN."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.staticfiles import StaticFiles

ASSETS = "/docs/assets"
router = APIRouter(include_in_schema=False)


def assets() -> StaticFiles:
    """Script and style sheet of Swagger UI, as the package fastapi-offline brings them."""
    return StaticFiles(packages=[("fastapi_offline", "static")])


@router.get("/openapi.json")
async def show_document(request: Request) -> JSONResponse:
    """The OpenAPI document; made at the first call, in a thread, as that takes a second."""
    return JSONResponse(await asyncio.to_thread(request.app.openapi))


@router.get("/docs")
async def show_docs() -> HTMLResponse:
    """The OpenAPI document as a page."""
    return get_swagger_ui_html(
        openapi_url="/openapi.json",
        title="Ostiary API",
        swagger_js_url=f"{ASSETS}/swagger-ui-bundle.js",
        swagger_css_url=f"{ASSETS}/swagger-ui.css",
        swagger_favicon_url="/static/door.svg",
    )
