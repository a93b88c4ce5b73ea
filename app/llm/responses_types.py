"""The request shapes of the Responses API, as Ostiary serves it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from app.llm.openai_types import Body, Penalty, Role, Temperature, TopP, Wire

TEXT_PARTS = ("input_text", "output_text", "text", "summary_text", "reasoning_text")
PASSED_OVER = ("reasoning", "file_search_call")  # items of an answer that come back in an input


class InputPart(Wire):
    """One part of an input item: text, or an image for a model that sees."""

    type: str = Field(min_length=1, max_length=64)
    text: str | None = None
    refusal: str | None = None
    image_url: str | None = None
    detail: str | None = None

    @model_validator(mode="after")
    def _is_known(self) -> InputPart:
        if self.type in TEXT_PARTS:
            if self.text is None:
                raise ValueError(f"a part of type '{self.type}' needs 'text'")
        elif self.type == "input_image":
            if not self.image_url:
                raise ValueError("an input_image needs 'image_url', for instance a data: address")
        elif self.type == "input_file":
            raise ValueError(
                "input_file is not served: upload the file, attach it to a vector store and give "
                "the tool file_search"
            )
        elif self.type != "refusal":
            raise ValueError(f"parts of type '{self.type}' are not served")
        return self


class InputItem(Wire):
    """One item of a Responses input: a message, what a model thought, or a function call."""

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
        elif kind == "function_call_output":
            if not self.call_id or self.output is None:
                raise ValueError("a function_call_output needs 'call_id' and 'output'")
        elif kind not in PASSED_OVER:
            raise ValueError(
                f"items of type '{kind}' are not served; previous_response_id goes on from a "
                "response that was kept"
            )
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


class TextFormat(Wire):
    """What form the text has: free, any JSON, or JSON of a schema."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = Field(None, max_length=64)
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None
    description: str | None = None

    @model_validator(mode="after")
    def _has_schema(self) -> TextFormat:
        if self.type == "json_schema" and (self.schema_ is None or not self.name):
            raise ValueError("a format of type 'json_schema' needs 'name' and 'schema'")
        return self


class TextOptions(Wire):
    """The field ``text``."""

    format: TextFormat | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class Reasoning(Wire):
    """How much a model that thinks is to think."""

    effort: str | None = Field(None, max_length=32)
    summary: str | None = Field(None, max_length=32)


class ResponsesRequest(Body):
    """Body of `POST /v1/responses`."""

    model: str = Field(min_length=1, max_length=256)
    input: str | Annotated[list[InputItem], Field(min_length=1, max_length=4096)]
    instructions: str | None = None
    tools: list[Tool] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    max_tool_calls: int | None = Field(None, strict=True, ge=1)
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    include: list[str] | None = None
    max_output_tokens: int | None = Field(None, strict=True, ge=1)
    temperature: Temperature = None
    top_p: TopP = None
    presence_penalty: Penalty = None
    frequency_penalty: Penalty = None
    text: TextOptions | None = None
    reasoning: Reasoning | None = None
    truncation: str | None = None
    previous_response_id: str | None = None
    metadata: dict[str, str] | None = Field(None, max_length=16)
    store: bool | None = None
    background: bool | None = None
    service_tier: str | None = None
    user: str | None = None
    safety_identifier: str | None = Field(None, max_length=128)
    prompt_cache_key: str | None = Field(None, max_length=128)
    top_logprobs: int | None = Field(None, strict=True, ge=0, le=20)
    conversation: Any = None
    prompt: Any = None

    @model_validator(mode="after")
    def _is_served(self) -> ResponsesRequest:
        if self.background:
            raise ValueError("'background' is not served; POST /v1/batches works in the background")
        if self.truncation not in (None, "disabled"):
            raise ValueError("'truncation' is 'disabled' here: shorten the input instead")
        if self.top_logprobs:
            raise ValueError("'top_logprobs' are told by /v1/chat/completions only")
        if self.conversation is not None:
            raise ValueError("'conversation' is not served; use 'previous_response_id'")
        if self.prompt is not None:
            raise ValueError("'prompt' templates are not served; send 'instructions' and 'input'")
        if self.file_search() is not None:
            if self.text_format() is not None:
                raise ValueError(
                    "an answer of file_search is cited text: a JSON 'text.format' cannot be had "
                    "with it"
                )
            if any(isinstance(t, FunctionTool) for t in self.tools or ()):
                raise ValueError(
                    "file_search and functions are not served in one request: search with "
                    "POST /v1/vector_stores/{id}/search in a function of yours, or ask twice"
                )
        return self

    def file_search(self) -> FileSearchTool | None:
        """Return the first `file_search` tool, if one is asked for."""
        return next((t for t in self.tools or () if isinstance(t, FileSearchTool)), None)

    def text_format(self) -> TextFormat | None:
        """The form of JSON that the answer is to have; None for free text."""
        found = None if self.text is None else self.text.format
        return None if found is None or found.type == "text" else found
