"""Responses, as in OpenAI's API: answers with `file_search`, kept conversations."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response, StreamingResponse

from app.api.common import ERRORS, Deleted, Id
from app.errors import OstiaryError
from app.gateway.call import Call
from app.gateway.corridor import GovernedRoute, Scope
from app.llm.openai_replies import ResponseObject
from app.llm.response_events import Event, Events
from app.llm.responses_types import ResponsesRequest

if TYPE_CHECKING:
    from app.llm.responses import Responses

router = APIRouter(prefix="/v1", route_class=GovernedRoute, tags=["llm"], responses=ERRORS)
Write = Annotated[Call, Depends(Scope("responses:write", screens=("input", "output")))]
Read = Annotated[Call, Depends(Scope("responses:read"))]
Erase = Annotated[Call, Depends(Scope("responses:write"))]


@router.post(
    "/responses",
    response_model=ResponseObject,
    responses={200: {"content": {"text/event-stream": {}}, "description": "The answer."}},
)
async def create_response(request: Request, call: Write, body: ResponsesRequest) -> Response:
    """Answer, whole or streamed; with the `file_search` tool from documents, cited."""
    service: Responses = request.app.state.services.responses
    body = await service.screen_input(call, body)
    if body.stream:
        await call.begin_stream()
        events, pairs = await service.open_stream(call, body)
        return StreamingResponse(_sse(call, events, pairs), media_type="text/event-stream")
    final = await service.complete(call, body)
    return Response(orjson.dumps(final), media_type="application/json")


async def _sse(call: Call, events: Events, pairs: AsyncIterator[Event]) -> AsyncIterator[bytes]:
    try:
        async for kind, value in pairs:
            wire = _wire(kind, value)
            if kind in ("response.completed", "response.incomplete"):
                await call.settle(200, wire)
            yield wire
    except OstiaryError as error:
        call.error_code = error.code
        await call.settle(error.status)
        for kind, value in events.fail(error, call.request_id):
            yield _wire(kind, value)


def _wire(kind: str, value: dict[str, Any]) -> bytes:
    return b"event: " + kind.encode() + b"\ndata: " + orjson.dumps(value) + b"\n\n"


@router.get("/responses/{response_id}")
async def get_response(request: Request, call: Read, response_id: Id) -> ResponseObject:
    """Get a kept response of the caller's own."""
    service: Responses = request.app.state.services.responses
    return await service.get(call, response_id)


@router.delete("/responses/{response_id}")
async def delete_response(request: Request, call: Erase, response_id: Id) -> Deleted:
    """Forget a kept response."""
    service: Responses = request.app.state.services.responses
    await service.delete(call, response_id)
    return Deleted(id=response_id, object="response")
