"""The request shapes of the OpenAI API that Ostiary serves; the replies are offered here too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.llm.openai_replies import ChatCompletion as ChatCompletion
from app.llm.openai_replies import Chunk as Chunk
from app.llm.openai_replies import EmbeddingsResponse as EmbeddingsResponse
from app.llm.openai_replies import ErrorReply as ErrorReply
from app.llm.openai_replies import Model as Model
from app.llm.openai_replies import ModelList as ModelList
from app.llm.openai_replies import ResponseObject as ResponseObject
from app.llm.openai_replies import Usage as Usage

Temperature = Annotated[float | None, Field(strict=True, ge=0, le=2)]
TopP = Annotated[float | None, Field(strict=True, ge=0, le=1)]
Penalty = Annotated[float | None, Field(strict=True, ge=-2, le=2)]
Choices = Annotated[int | None, Field(strict=True, ge=1, le=128)]
Role = Literal["system", "developer", "user", "assistant", "tool", "function"]


class Wire(BaseModel):
    """A body from outside: types are taken as sent, unknown fields are kept and passed on."""

    model_config = ConfigDict(extra="allow", strict=True)


class Body(Wire):
    """A whole body: whatever it holds can be sent on as JSON."""

    @model_validator(mode="before")
    @classmethod
    def _is_json(cls, value: Any) -> Any:
        try:
            orjson.dumps(value, default=str)
        except TypeError:
            raise ValueError(
                "the body holds a broken character (half of a surrogate pair), a number beyond "
                "64 bits or too deep a nesting"
            ) from None
        return value


class Part(Wire):
    """One part of a message: text, or something the model server may understand (images)."""

    type: str = Field(min_length=1, max_length=64)
    text: str | None = None


class Message(Wire):
    """One message of a chat."""

    role: Role
    content: str | list[Part] | None = None
    tool_calls: list[dict[str, Any]] | None = None

    @model_validator(mode="after")
    def _has_content(self) -> Message:
        if self.content is None and self.role != "assistant":
            raise ValueError(f"a message of role '{self.role}' needs 'content'")
        return self


class Grounding(BaseModel):
    """The body field `ostiary`: ground a plain chat in these vector stores."""

    model_config = ConfigDict(extra="forbid", strict=True)

    vector_store_ids: list[str] = Field(min_length=1, max_length=16)
    max_num_results: int | None = Field(None, strict=True, ge=1, le=50)
    filters: dict[str, Any] | None = None


class StreamOptions(Wire):
    """What a stream carries besides text."""

    include_usage: bool | None = None


class ChatCompletionRequest(Body):
    """Body of `POST /v1/chat/completions`."""

    model: str = Field(min_length=1, max_length=256)
    messages: list[Message] = Field(min_length=1, max_length=4096)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, strict=True, ge=1)
    max_completion_tokens: int | None = Field(None, strict=True, ge=1)
    temperature: Temperature = None
    top_p: TopP = None
    frequency_penalty: Penalty = None
    presence_penalty: Penalty = None
    n: Choices = None
    stop: str | list[str] | None = None
    seed: int | None = Field(None, strict=True)
    user: str | None = None
    response_format: dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    ostiary: Grounding | None = None

    def upstream_body(self) -> dict[str, Any]:
        """Return what is sent on: every field that was set, unknown ones too, without ours."""
        return self.model_dump(exclude_unset=True, exclude={"ostiary"})


class CompletionRequest(Body):
    """Body of `POST /v1/completions`; `prompt` may be several texts, not token ids."""

    model: str = Field(min_length=1, max_length=256)
    prompt: (
        str
        | Annotated[list[str], Field(min_length=1, max_length=2048)]
        | Annotated[list[int], Field(min_length=1, max_length=65536)]
        | Annotated[list[list[int]], Field(min_length=1, max_length=2048)]
    )
    suffix: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, strict=True, ge=0)
    temperature: Temperature = None
    top_p: TopP = None
    frequency_penalty: Penalty = None
    presence_penalty: Penalty = None
    n: Choices = None
    stop: str | list[str] | None = None
    seed: int | None = Field(None, strict=True)
    echo: bool | None = None
    logprobs: int | None = Field(None, strict=True, ge=0, le=64)
    user: str | None = None

    @model_validator(mode="after")
    def _is_text(self) -> CompletionRequest:
        given = [self.prompt] if isinstance(self.prompt, str) else self.prompt
        if not all(isinstance(item, str) for item in given):
            raise ValueError("token ids are not taken, because the guardrails read text; send text")
        return self

    def upstream_body(self) -> dict[str, Any]:
        """Return what is sent on: every field that was set, unknown ones too."""
        return self.model_dump(exclude_unset=True)


class RerankDocument(Wire):
    """A document to judge, as an object."""

    text: str


class RerankRequest(Body):
    """Body of `POST /v1/rerank`, in the shape of Jina's and Cohere's APIs."""

    model: str = Field(min_length=1, max_length=256)
    query: str = Field(min_length=1)
    documents: list[str | RerankDocument] = Field(min_length=1, max_length=1000)
    top_n: int | None = Field(None, strict=True, ge=1)
    return_documents: bool | None = None

    def document_texts(self) -> list[str]:
        """Return the text of each document, in order."""
        return [d if isinstance(d, str) else d.text for d in self.documents]


class ModerationRequest(Body):
    """Body of `POST /v1/moderations`."""

    model: str | None = Field(None, min_length=1, max_length=256)
    input: str | Annotated[list[str | Part], Field(min_length=1, max_length=2048)]


class EmbeddingsRequest(Body):
    """Body of `POST /v1/embeddings`."""

    model: str = Field(min_length=1, max_length=256)
    input: (
        Annotated[str, Field(min_length=1)]
        | Annotated[list[str], Field(min_length=1, max_length=2048)]
        | Annotated[list[int], Field(min_length=1, max_length=65536)]
        | Annotated[list[list[int]], Field(min_length=1, max_length=2048)]
    )
    dimensions: int | None = Field(None, strict=True, ge=1, le=65536)
    encoding_format: Literal["float", "base64"] | None = None
    user: str | None = None

    @model_validator(mode="after")
    def _no_empty_input(self) -> EmbeddingsRequest:
        if isinstance(self.input, list) and any(item in ("", []) for item in self.input):
            raise ValueError("'input' holds an empty text; remove it or give it words")
        return self


class InputPart(Wire):
    """One part of an input item: `input_text`, `output_text`, or another type passed on."""

    type: str = Field(min_length=1, max_length=64)
    text: str | None = None


class InputItem(Wire):
    """One item of a Responses input: a message, or a function call and its output."""

    type: str | None = None
    role: Role | None = None
    content: str | list[InputPart] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: str | list[InputPart] | None = None

    @model_validator(mode="after")
    def _is_known(self) -> InputItem:
        kind = self.type or "message"
        if kind == "message":
            if self.role is None or self.content is None:
                raise ValueError("an input message needs 'role' and 'content'")
        elif kind == "function_call":
            if not self.call_id or not self.name or self.arguments is None:
                raise ValueError("a function_call needs 'call_id', 'name' and 'arguments'")
        elif kind == "function_call_output" and (not self.call_id or self.output is None):
            raise ValueError("a function_call_output needs 'call_id' and 'output'")
        return self


class RankingOptions(Wire):
    """How the passages of a file search are chosen."""

    ranker: str | None = None
    score_threshold: float | None = Field(None, strict=True, ge=0, le=1)


class FileSearchTool(Wire):
    """Ground the answer in these vector stores."""

    type: Literal["file_search"]
    vector_store_ids: list[str] = Field(min_length=1, max_length=16)
    max_num_results: int | None = Field(None, strict=True, ge=1, le=50)
    filters: dict[str, Any] | None = None
    ranking_options: RankingOptions | None = None


class FunctionTool(Wire):
    """A function the model may ask the client to call."""

    type: Literal["function"]
    name: str = Field(min_length=1, max_length=64)
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


Tool = Annotated[FileSearchTool | FunctionTool, Field(discriminator="type")]


class ResponsesRequest(Body):
    """Body of `POST /v1/responses`."""

    model: str = Field(min_length=1, max_length=256)
    input: str | Annotated[list[InputItem], Field(min_length=1, max_length=4096)]
    instructions: str | None = None
    tools: list[Tool] | None = None
    tool_choice: str | dict[str, Any] | None = None
    stream: bool | None = None
    include: list[str] | None = None
    max_output_tokens: int | None = Field(None, strict=True, ge=1)
    temperature: Temperature = None
    top_p: TopP = None
    previous_response_id: str | None = None
    metadata: dict[str, str] | None = Field(None, max_length=16)
    store: bool | None = None
    user: str | None = None

    def file_search(self) -> FileSearchTool | None:
        """Return the first `file_search` tool, if one is asked for."""
        return next((t for t in self.tools or () if isinstance(t, FileSearchTool)), None)

    def messages(self) -> list[dict[str, Any]]:
        """Return instructions and input as chat messages, in order."""
        found: list[dict[str, Any]] = []
        if self.instructions:
            found.append({"role": "system", "content": self.instructions})
        if isinstance(self.input, str):
            return [*found, {"role": "user", "content": self.input}]
        return found + [message for item in self.input for message in _as_messages(item)]


def _flat(content: str | list[InputPart] | None) -> str:
    if isinstance(content, list):
        return "\n".join(part.text for part in content if part.text is not None)
    return content or ""


def _as_messages(item: InputItem) -> Iterator[dict[str, Any]]:
    if item.type == "function_call":
        function = {"name": item.name, "arguments": item.arguments}
        call = {"id": item.call_id, "type": "function", "function": function}
        yield {"role": "assistant", "content": None, "tool_calls": [call]}
    elif item.type == "function_call_output":
        yield {"role": "tool", "tool_call_id": item.call_id, "content": _flat(item.output)}
    elif item.type in (None, "message"):
        role = "system" if item.role == "developer" else item.role
        yield {"role": role, "content": _flat(item.content)}


Screened = ChatCompletionRequest | CompletionRequest | ResponsesRequest
Request = TypeVar("Request", ChatCompletionRequest, CompletionRequest, ResponsesRequest)


def texts_of(request: Screened) -> list[str]:
    """Return every text of `request` that reaches a model, in a fixed order."""
    found: list[str] = []

    def collect(text: str) -> str:
        found.append(text)
        return text

    _visit(request, collect)
    return found


def replace_texts(request: Request, texts: list[str]) -> Request:
    """Return a copy of `request` with its texts, in the order of `texts_of`, replaced.

    Raises ValueError when the number of texts differs from the request's.
    """
    copy = request.model_copy(deep=True)
    supply = iter(texts)
    wanted = len(texts_of(request))
    if wanted != len(texts):
        raise ValueError(f"the request holds {wanted} texts, {len(texts)} were given")
    _visit(copy, lambda _: next(supply))
    return copy


def _visit(request: Screened, change: Callable[[str], str]) -> None:
    """Put each text of `request` through `change`, in place."""
    if isinstance(request, ChatCompletionRequest):
        for message in request.messages:
            message.content = _changed(message.content, change)
            for call in message.tool_calls or ():
                function = call.get("function")
                if isinstance(function, dict) and isinstance(function.get("arguments"), str):
                    function["arguments"] = change(function["arguments"])
    elif isinstance(request, CompletionRequest):
        if isinstance(request.prompt, str):
            request.prompt = change(request.prompt)
        else:
            request.prompt = [change(text) for text in request.prompt if isinstance(text, str)]
        if request.suffix is not None:
            request.suffix = change(request.suffix)
    else:
        if request.instructions is not None:
            request.instructions = change(request.instructions)
        if isinstance(request.input, str):
            request.input = change(request.input)
            return
        for item in request.input:
            item.content = _changed(item.content, change)
            if item.arguments is not None:
                item.arguments = change(item.arguments)
            item.output = _changed(item.output, change)


Content = TypeVar("Content", list[Part], list[InputPart])


def _changed(content: str | Content | None, change: Callable[[str], str]) -> str | Content | None:
    if isinstance(content, str):
        return change(content)
    for part in content or ():
        if part.text is not None:
            part.text = change(part.text)
    return content
