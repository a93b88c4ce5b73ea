"""Chat completions, as in OpenAI's API."""

from __future__ import annotations

from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response, StreamingResponse

from app.api.common import ERRORS, ErrorBody
from app.gateway.call import Call
from app.gateway.corridor import GovernedRoute, Scope
from app.llm.openai_types import ChatCompletion, ChatCompletionRequest

router = APIRouter(prefix="/v1", route_class=GovernedRoute, tags=["llm"], responses=ERRORS)
Write = Annotated[Call, Depends(Scope("chat:write", screens=("input", "output")))]


@router.post(
    "/chat/completions",
    response_model=ChatCompletion,
    responses={
        200: {"content": {"text/event-stream": {}}, "description": "The answer."},
        400: {**ERRORS[400], "model": ErrorBody},  # the document has the shape from here
    },
)
async def create_chat_completion(
    request: Request, call: Write, body: ChatCompletionRequest
) -> Response:
    """Answer a chat, whole or streamed; with `ostiary.vector_store_ids` from documents."""
    chat: Any = request.app.state.services.chat
    body = await chat.screen_input(call, body)
    if body.stream:
        await call.begin_stream()
        events = await chat.open_stream(call, body)
        return StreamingResponse(events, media_type="text/event-stream")
    # the model server's own JSON, not validated a second time
    return Response(orjson.dumps(await chat.complete(call, body)), media_type="application/json")
