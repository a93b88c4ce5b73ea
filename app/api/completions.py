"""Completions, as in OpenAI's older API, for models that are not chat models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import orjson
from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response, StreamingResponse

from app.api.common import ERRORS
from app.gateway.call import Call
from app.gateway.corridor import GovernedRoute, Scope
from app.llm.openai_replies import Completion
from app.llm.openai_types import CompletionRequest

if TYPE_CHECKING:
    from app.llm.completions import Completions

router = APIRouter(prefix="/v1", route_class=GovernedRoute, tags=["llm"], responses=ERRORS)
Write = Annotated[Call, Depends(Scope("completions:write", screens=("input", "output")))]


@router.post(
    "/completions",
    response_model=Completion,
    responses={200: {"content": {"text/event-stream": {}}, "description": "The text."}},
)
async def create_completion(request: Request, call: Write, body: CompletionRequest) -> Response:
    """Go on with a text, whole or streamed."""
    completions: Completions = request.app.state.services.completions
    body = await completions.screen_input(call, body)
    if body.stream:
        await call.begin_stream()
        events = await completions.open_stream(call, body)
        return StreamingResponse(events, media_type="text/event-stream")
    reply = await completions.complete(call, body)
    return Response(orjson.dumps(reply), media_type="application/json")
