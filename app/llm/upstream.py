"""One streaming client for servers that speak the OpenAI API."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import aiohttp
import orjson
from yarl import URL

from app.errors import BadRequest, OstiaryError
from app.llm.sse import EventDecoder
from app.llm.upstream_errors import UpstreamCut, UpstreamUnavailable, rejection

if TYPE_CHECKING:
    from app.monitoring.tracing import ModelSpan

__all__ = [
    "CHAT",
    "COMPLETIONS",
    "ChatStream",
    "Upstream",
    "UpstreamCut",
    "UpstreamUnavailable",
    "delta_text",
]

CHAT, COMPLETIONS, EMBEDDINGS = "chat/completions", "completions", "embeddings"
_VLLM = {  # of its metrics; the last is the older name of the one before
    "vllm:num_requests_running": "running",
    "vllm:num_requests_waiting": "waiting",
    "vllm:kv_cache_usage_perc": "cache_usage",
    "vllm:gpu_cache_usage_perc": "cache_usage",
}
_MODEL_FIELDS = ("id", "object", "created", "owned_by", "max_model_len")
# vLLM closes idle connections after 5 s; leaving first avoids writing into a closing one.
_KEEPALIVE_S = 4.0
_LAST_BYTES_S = 0.05


def _encode(body: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(body)
    except TypeError as error:
        raise BadRequest(f"The body cannot be sent on as JSON: {error}.") from None


def _decode(data: bytes) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return None


def delta_text(chunk: dict[str, Any]) -> str:
    """Return the text that `chunk` adds to its first choice: '' when empty, null or absent."""
    content = _delta(chunk).get("content")
    return content if isinstance(content, str) else ""


def delta_reasoning(chunk: dict[str, Any]) -> str:
    """Return what the model thinks in `chunk`, by its newer or older name; '' when nothing."""
    delta = _delta(chunk)
    thought = delta.get("reasoning") or delta.get("reasoning_content")
    return thought if isinstance(thought, str) else ""


def _delta(chunk: dict[str, Any]) -> dict[str, Any]:
    for choice in chunk.get("choices") or ():
        return choice.get("delta") or {}
    return {}


class ChatStream:
    """The chunks of one streamed reply; iterate to the end, or `aclose` to stop the model."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self._first: dict[str, Any] | None = None
        self.model: str | None = None  # as the caller knows it; None: as the server does
        self.on_end: Callable[[], None] | None = None
        self._decoder = EventDecoder()
        self._ready: deque[bytes] = deque()
        self.span: ModelSpan | None = None  # traces it until its end
        self._open: set[int] = set()
        self._finished = self._over = False
        self.on_failure: Callable[[UpstreamUnavailable], None] | None = None
        self.on_chunk: Callable[[dict[str, Any] | None], None] | None = None  # None: the end

    def __del__(self) -> None:
        if not self._over:  # nobody came to read it
            self._response.close()
        self._ended()

    def __aiter__(self) -> Self:
        return self

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def __anext__(self) -> dict[str, Any]:
        """Return the next chunk.

        Raises UpstreamCut when the server breaks off or reports an error before the end.
        """
        if self._first is not None:
            chunk, self._first = self._first, None
        else:
            chunk = await self._next()
        if self.model is not None and "model" in chunk:
            chunk["model"] = self.model
        self._tell(chunk)
        return chunk

    def _tell(self, chunk: dict[str, Any] | None) -> None:
        if self.on_chunk is not None:
            self.on_chunk(chunk)

    async def prime(self) -> None:
        """Wait for the first chunk; raises as iterating does."""
        try:
            self._first = await self._next()
        except StopAsyncIteration:
            raise UpstreamCut("The model server sent an empty answer.") from None

    async def _next(self) -> dict[str, Any]:
        try:
            while True:
                if self._ready:
                    data = self._ready.popleft()
                    if data == b"[DONE]":
                        self._tell(None)
                        await self._end()
                        raise StopAsyncIteration
                    return self._chunk(data)
                if self._over:
                    self._tell(None)
                    raise StopAsyncIteration
                await self._fill()
        except StopAsyncIteration:
            raise
        except UpstreamUnavailable as error:
            if self.on_failure is not None:
                self.on_failure(error)
            if self.span is not None:
                self.span.failed(error)
            await self.aclose()
            raise
        except BaseException:
            await self.aclose()
            raise

    async def _end(self) -> None:
        """Hand the connection back for reuse if the server ends the reply at once."""
        self._over = True
        try:
            async with asyncio.timeout(_LAST_BYTES_S):
                while await self._response.content.readany():
                    pass
        except (aiohttp.ClientError, OSError, TimeoutError):
            self._response.close()
        self._response.release()
        self._ended()

    def _ended(self) -> None:
        if self.on_end is not None:
            ended, self.on_end = self.on_end, None
            ended()
        if self.span is not None:
            span, self.span = self.span, None
            span.end()

    async def _fill(self) -> None:
        try:
            data = await self._response.content.readany()
        except TimeoutError:
            raise UpstreamCut("The model server fell silent in mid-answer.") from None
        except (aiohttp.ClientError, OSError):
            raise UpstreamCut("The model server broke off in mid-answer.", gone=True) from None
        if data:
            self._ready.extend(self._decoder.feed(data))
            return
        self._ready.extend(self._decoder.close())
        self._over = True
        if not self._ready and not (self._finished and not self._open):
            raise UpstreamCut("The model server broke off in mid-answer.", gone=True)

    def _chunk(self, data: bytes) -> dict[str, Any]:
        chunk = _decode(data)
        if not isinstance(chunk, dict):
            raise UpstreamCut("The model server sent an unreadable event.")
        error = chunk.get("error")
        if error is not None:
            detail = error if isinstance(error, dict) else {"message": error}
            code = detail.get("code")
            if isinstance(code, int) and 400 <= code < 500:
                raise rejection(code, {"error": detail})
            raise UpstreamCut("The model server reported a failure in mid-answer.")
        if self.span is not None:
            self.span.answered(chunk)
        for choice in chunk.get("choices") or ():
            index = choice.get("index", 0)
            if choice.get("finish_reason") is None:
                self._open.add(index)
            else:
                self._finished = True
                self._open.discard(index)
        return chunk

    async def aclose(self) -> None:
        """Close the connection, so that the server stops generating; safe to call twice."""
        self._over = True
        self._ready.clear()
        self._first = None
        self._response.close()
        self._ended()


class Upstream:
    """A model server at `base_url` (ends in `/v1`), over one pool of kept connections."""

    def __init__(
        self,
        base_url: str,
        api_key: str | None = None,
        *,
        timeout_s: float = 120.0,
        connect_timeout_s: float = 3.0,
    ) -> None:
        """`timeout_s` is the longest silence of the server, in seconds."""
        base = URL(base_url.rstrip("/"))
        self._paths = {path: base / path for path in (CHAT, COMPLETIONS, EMBEDDINGS)}
        self._models = base / "models"
        root = base.parent if base.name == "v1" else base
        self._health, self._metrics = root / "health", root / "metrics"
        self._headers = {"content-type": "application/json", "accept-encoding": "identity"}
        if api_key:
            self._headers["authorization"] = f"Bearer {api_key}"
        self._timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=connect_timeout_s, sock_read=timeout_s
        )
        self._session: aiohttp.ClientSession | None = None

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None or self._session.closed:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEPALIVE_S),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=self._timeout,
                headers=self._headers,
                skip_auto_headers=("user-agent", "accept"),
            )
        return self._session

    async def close(self) -> None:
        """Close the pool."""
        if self._session is not None:
            await self._session.close()

    async def send(
        self, body: dict[str, Any], path: str = CHAT, headers: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """Return the whole reply to `body`; `headers` are sent beside our own.

        Raises UpstreamUnavailable (refused, silent, 5xx) or the server's own refusal (4xx).
        """
        return await self._call(self._paths[path], body, headers)

    async def embed(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return the reply of `/v1/embeddings` for `body`; raises as `send` does."""
        return await self._call(self._paths[EMBEDDINGS], body)

    async def stream(
        self, body: dict[str, Any], path: str = CHAT, headers: Mapping[str, str] | None = None
    ) -> ChatStream:
        """Start a streamed reply; returns once the server has accepted it, raises as `send`."""
        return ChatStream(await self._post(self._paths[path], {**body, "stream": True}, headers))

    async def _call(
        self, url: URL, body: dict[str, Any], headers: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        response = await self._post(url, body, headers)
        try:
            reply = _decode(await response.read())
        except TimeoutError:
            raise UpstreamUnavailable("The model server did not answer in time.") from None
        except (aiohttp.ClientError, OSError):
            raise UpstreamCut("The model server broke off in mid-answer.", gone=True) from None
        finally:
            response.release()
        if not isinstance(reply, dict):
            raise UpstreamUnavailable("The model server sent an unreadable answer.")
        return reply

    async def _post(
        self, url: URL, body: dict[str, Any], headers: Mapping[str, str] | None = None
    ) -> aiohttp.ClientResponse:
        data = _encode(body)
        post = partial(self._client().post, url, data=data, headers=headers, allow_redirects=False)
        try:
            try:
                response = await post()
            except aiohttp.ServerDisconnectedError:
                # A kept connection that the server had closed; generating twice does no harm.
                response = await post()
        except aiohttp.ServerTimeoutError as error:
            gone = isinstance(error, aiohttp.ConnectionTimeoutError)
            raise UpstreamUnavailable(
                "The model server did not answer in time.", gone=gone
            ) from None
        except (aiohttp.ClientError, OSError):
            raise UpstreamUnavailable("The model server is not reachable.", gone=True) from None
        if response.status == 200:
            return response
        try:
            reply = _decode(await response.content.read(65536))
        except (aiohttp.ClientError, OSError, TimeoutError):
            reply = None
        finally:
            response.close()
        raise rejection(
            response.status,
            reply,
            model=str(body.get("model", "")),
            retry_after=response.headers.get("retry-after"),
        )

    async def models(self) -> list[dict[str, Any]]:
        """Return the models that the server offers, without its file paths."""
        try:
            async with self._client().get(self._models) as response:
                reply = _decode(await response.read())
                if response.status != 200:
                    raise rejection(response.status, reply)
        except (aiohttp.ClientError, OSError, TimeoutError):
            raise UpstreamUnavailable("The model server is not reachable.", gone=True) from None
        found = reply.get("data") if isinstance(reply, dict) else None
        return [{k: m[k] for k in _MODEL_FIELDS if k in m} for m in found or () if "id" in m]

    async def health(self, timeout_s: float = 3.0) -> bool:
        """Return whether the server says that it can answer, within `timeout_s` seconds."""
        try:
            async with asyncio.timeout(timeout_s):
                async with self._client().get(self._health) as response:
                    if response.status not in (404, 405):
                        return response.status == 200
                await self.models()  # not every server has /health
                return True
        except (aiohttp.ClientError, OSError, TimeoutError, OstiaryError):
            return False

    async def metrics(self, timeout_s: float = 2.0) -> dict[str, float]:
        """Return what vLLM tells of its load: `running`, `waiting`, `cache_usage` (0..1).

        Empty for a server that tells nothing. Of several engines of one server the requests are
        added up, and the fullest cache is told.
        """
        try:
            async with asyncio.timeout(timeout_s), self._client().get(self._metrics) as response:
                text = await response.text() if response.status == 200 else ""
        except (aiohttp.ClientError, OSError, TimeoutError, UnicodeDecodeError):
            return {}
        found: dict[str, float] = {}
        for line in text.splitlines():
            if not line.startswith("vllm:"):
                continue
            name = line.partition("{")[0].partition(" ")[0]
            key = _VLLM.get(name)
            if key is not None:
                with contextlib.suppress(ValueError):
                    value, before = float(line.rpartition(" ")[2]), found.get(key, 0.0)
                    found[key] = max(before, value) if key == "cache_usage" else before + value
        return found
