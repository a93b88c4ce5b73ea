"""The request shapes of the OpenAI API that Ostiary serves; the replies are offered here too."""

from __future__ import annotations

from typing import Annotated, Any, Literal

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
    refusal: str | None = None


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
