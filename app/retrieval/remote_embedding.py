"""Asks an OpenAI-compatible server (vLLM, text-embeddings-inference) for vectors."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import aiohttp
import numpy as np
import orjson
from numpy.typing import NDArray
from yarl import URL

from app.errors import BadRequest, Unavailable
from app.retrieval.embedding import check_cut, unit
from app.retrieval.known_models import known
from app.retrieval.onnx import readable

log = logging.getLogger("ostiary.embedding")

MOST_TEXTS = 32  # of one request: what text-embeddings-inference takes by default
MOST_TOKENS = 8192  # of one request
AT_ONCE = 4  # requests with passages in flight
MOST_QUERIES = 1024
MOST_PASSAGES = 16_384
QUERY_PATIENCE_S, PASSAGE_PATIENCE_S = 10.0, 120.0  # with all tries, from the first
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.1, 10.0
_KEEPALIVE_S = 4.0  # vLLM closes idle connections after 5 s
_MOST_REPLY = 64 << 20  # bytes
_SHORTER = 0.75
_LEAST_CHARS = 16
_TOO_LONG = re.compile(r"token|length|too (long|large)|maximum|exceed", re.IGNORECASE)
_PIECE = re.compile(r"(?P<word>[^\W\d_]+)|(?P<number>\d+)|\S")
# of a token, on the low side, so that texts are not cut
_LETTERS, _SIGNS = 4, 2


def estimated_tokens(text: str) -> int:
    """A count on the high side of a vocabulary that knows the text's language.

    4 letters (2 of an abbreviation), 2 digits, or one other sign is a token.
    """
    total = 0
    for piece in _PIECE.finditer(text):
        size = piece.end() - piece.start()
        if not piece.group().isascii():
            total += size
        elif piece["word"] and not piece["word"].isupper():
            total += -(-size // _LETTERS)
        else:
            total += -(-size // _SIGNS)
    return total


class _Refused(Exception):
    """The server refuses this body; another try would not help."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


class _Again(Exception):
    """The server may answer at another try, after ``wait_s`` where it said so."""

    def __init__(self, why: str, wait_s: float = 0.0) -> None:
        super().__init__(why)
        self.wait_s = wait_s


class RemoteEmbedder:
    """A model behind ``/v1/embeddings``; ``start`` it before use.

    Queries never wait for passages here: these have a bounded number of requests in flight,
    and queries go out at once. Prefixes are put before texts by us, since the servers do not.

    Args:
        base_url: ends in ``/v1``.
        model: its name on the server.
        api_key: sent as a bearer token.
        dimensions: asked of the server where the model can be cut; also lets the gateway
            start while the server is away.
        query_prefix: put before a query; that of the model's family where None.
        passage_prefix: put before a passage; that of the model's family where None.
        max_tokens: of a passage; longer ones are left to the server to refuse, and then cut.
        count: counts a text's tokens; an estimate where None.
        timeout_s: the longest silence of the server, seconds.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        api_key: str | None = None,
        *,
        dimensions: int | None = None,
        query_prefix: str | None = None,
        passage_prefix: str | None = None,
        max_tokens: int = 512,
        count: Callable[[str], int] | None = None,
        timeout_s: float = 30.0,
        at_once: int = AT_ONCE,
    ) -> None:
        base = URL(base_url.rstrip("/"))
        if base.scheme not in ("http", "https") or not base.host:
            raise BadRequest(
                "OSTIARY_EMBEDDING_URL is no HTTP address. Write it as http://host:8000/v1."
            )
        self._url = base / "embeddings"
        self._model = model
        family = known(model)
        self.query_prefix = _first(query_prefix, family.query if family else "")
        self.passage_prefix = _first(passage_prefix, family.passage if family else "")
        self.max_tokens = max_tokens
        self.dim = dimensions or 0
        self._asked = dimensions
        self._matryoshka = family is not None and family.matryoshka
        self._count = count or estimated_tokens
        self._headers = {"content-type": "application/json", "accept-encoding": "identity"}
        if api_key:
            self._headers["authorization"] = f"Bearer {api_key}"
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=3.0, sock_read=timeout_s)
        self._session: aiohttp.ClientSession | None = None
        self._at_once = at_once
        self._slots = asyncio.Semaphore(at_once)
        self._texts = {True: 0, False: 0}  # under way: queries, passages

    @property
    def name(self) -> str:
        return self._model

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what is known here: the name, the length and the passages' prefix.

        A server that changes its weights under the same name cannot be told apart.
        """
        made_by = ("remote", self._model, self.dim, self.passage_prefix)
        return hashlib.sha256(repr(made_by).encode()).hexdigest()

    @property
    def waiting(self) -> int:
        return self._texts[True] + self._texts[False]

    def count_tokens(self, text: str) -> int:
        """Return the number of tokens of ``text``, or an estimate on the high side."""
        return self._count(text)

    def cut(self, vectors: NDArray[np.float32], dimensions: int) -> NDArray[np.float32]:
        """Shorten vectors to their first ``dimensions`` and make their length 1 again.

        Raises:
            BadRequest: the model was not trained for it.
        """
        check_cut(self.name, self.dim, dimensions, self._matryoshka)
        return vectors if dimensions == self.dim else unit(vectors[..., :dimensions])

    async def start(self, patience_s: float = 30.0) -> None:
        """Ask for one vector, and learn or check the number of dimensions.

        Raises:
            Unavailable: the server refuses, or is away and no ``dimensions`` were given.
        """
        try:
            await self._ask(["warm"], patience_s)
        except Unavailable as error:
            if error.code != "embedding_server_away" or not self._asked:
                raise
            log.warning("the embedding server is not there yet; starting without it")

    async def aclose(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    async def embed_query(self, text: str) -> NDArray[np.float32]:
        """Embed one query: float32 array of shape (dim,) and length 1.

        Raises:
            Unavailable: the server did not answer within 10 seconds, or refuses; or too many
                queries wait.
        """
        with self._counted(1, query=True):
            made = await self._whole([self.query_prefix + text], QUERY_PATIENCE_S)
        vector: NDArray[np.float32] = made[0]
        return vector

    async def embed_passages(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed passages: float32 array of shape (n, dim), rows of length 1.

        Raises:
            Unavailable: the server did not answer within 2 minutes, or refuses; or too many
                passages wait.
        """
        given = [self.passage_prefix + text for text in texts]
        made: list[tuple[list[int], NDArray[np.float32]]] = []
        with self._counted(len(given), query=False):
            requests = iter(requests_of([self._count(text) for text in given]))

            async def work() -> None:  # calls take turns, however many texts each has
                for places in requests:
                    async with self._slots:
                        part = await self._whole([given[i] for i in places], PASSAGE_PATIENCE_S)
                    made.append((places, part))

            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(min(self._at_once, len(given))):
                        group.create_task(work())
            except ExceptionGroup as errors:
                raise errors.exceptions[0] from None
        vectors = np.empty((len(given), self.dim), np.float32)
        for places, part in made:
            vectors[places] = part
        return vectors

    @contextmanager
    def _counted(self, texts: int, query: bool) -> Iterator[None]:
        if self._texts[query] >= (MOST_QUERIES if query else MOST_PASSAGES):
            raise Unavailable(
                "The embedding queue is full. Wait a moment and send the request again.",
                code="overloaded",
                headers={"retry-after": "1"},
            )
        self._texts[query] += texts
        try:
            yield
        finally:
            self._texts[query] -= texts

    async def _whole(self, texts: list[str], patience_s: float) -> NDArray[np.float32]:
        """Embed texts even where the server refuses some: alone, and shortened if too long."""
        try:
            return await self._ask(texts, patience_s)
        except _Refused as refused:
            if len(texts) > 1:
                parts = [await self._whole([text], patience_s) for text in texts]
                return np.concatenate(parts)
            if not (_TOO_LONG.search(refused.message) and len(texts[0]) > _LEAST_CHARS):
                raise Unavailable(
                    f"The embedding server refused a text with status {refused.status}. Check "
                    "that OSTIARY_EMBEDDING_MODEL names an embedding model.",
                    code="embedding_server_refused",
                ) from None
        return await self._whole([texts[0][: int(len(texts[0]) * _SHORTER)]], patience_s)

    async def _ask(self, texts: list[str], patience_s: float) -> NDArray[np.float32]:
        """Post until there is an answer, with growing waits; gives up after ``patience_s``."""
        body: dict[str, Any] = {
            "model": self._model,
            "input": [readable(text) or " " for text in texts],  # OpenAI refuses an empty text
            "encoding_format": "float",
        }
        if self._asked and self._matryoshka:
            body["dimensions"] = self._asked
        data = orjson.dumps(body)
        gives_up = time.monotonic() + patience_s
        wait_s = _FIRST_WAIT_S
        while True:
            try:
                async with asyncio.timeout_at(asyncio.get_running_loop().time() + patience_s):
                    reply = await self._post(data)
                return self._vectors(reply, len(texts))
            except (_Again, TimeoutError) as error:
                # Up to half more, so that all who were refused do not come back together.
                pause = max(getattr(error, "wait_s", 0.0), wait_s * (1 + random.random() / 2))  # noqa: S311
                patience_s = gives_up - time.monotonic() - pause
                if patience_s <= 0:
                    raise Unavailable(
                        f"The embedding server does not answer ({str(error) or 'timeout'}). Check "
                        "that it runs, or try again later.",
                        code="embedding_server_away",
                        headers={"retry-after": "5"},
                    ) from None
                await asyncio.sleep(pause)
                wait_s = min(wait_s * 2, _LONGEST_WAIT_S)

    async def _post(self, data: bytes) -> Any:
        try:
            async with self._client().post(self._url, data=data, allow_redirects=False) as reply:
                raw = await _body(reply)
                status, retry_after = reply.status, reply.headers.get("retry-after", "")
        except aiohttp.ServerTimeoutError:
            raise _Again("timeout") from None
        except (aiohttp.ClientError, OSError):
            raise _Again("not reachable") from None
        if status == 429 or status in (408, 425) or status >= 500:
            seconds = float(retry_after) if retry_after.isdecimal() else 0.0
            raise _Again(f"status {status}", min(seconds, 60.0))
        found = _decoded(raw)
        if status in (401, 403, 404) or 300 <= status < 400:
            raise Unavailable(
                f"The embedding server answered {status}. Check OSTIARY_EMBEDDING_URL, "
                "OSTIARY_EMBEDDING_API_KEY and OSTIARY_EMBEDDING_MODEL.",
                code="embedding_server_refused",
            )
        if status != 200:
            raise _Refused(status, _message(found))
        return found

    def _vectors(self, reply: Any, count: int) -> NDArray[np.float32]:
        """The vectors of a reply in the order of the texts, checked."""
        try:
            items = sorted(reply["data"], key=lambda item: item["index"])
            if [item["index"] for item in items] != list(range(count)):
                raise ValueError
            made = np.array([item["embedding"] for item in items], np.float32)
        except (KeyError, TypeError, ValueError):
            raise _Again("an unreadable answer") from None
        if made.ndim != 2 or not made.shape[1] or not np.isfinite(made).all():
            raise _Again("an answer without vectors")
        if self._asked and self._matryoshka and made.shape[1] > self._asked:
            made = made[:, : self._asked]  # a server that does not know the field
        if not self.dim:
            self.dim = made.shape[1]
        elif made.shape[1] != self.dim:
            raise Unavailable(
                f"The embedding server answers with vectors of {made.shape[1]} numbers instead "
                f"of {self.dim}. Check OSTIARY_EMBEDDING_MODEL and OSTIARY_EMBEDDING_DIMENSIONS.",
                code="embedding_dimensions",
            )
        return unit(made)

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


def requests_of(sizes: Sequence[int]) -> list[list[int]]:
    """Return the places of texts by request, in order: at most 32 texts and 8,192 tokens."""
    requests: list[list[int]] = []
    total = 0
    for place, size in enumerate(sizes):
        if requests and len(requests[-1]) < MOST_TEXTS and total + size <= MOST_TOKENS:
            requests[-1].append(place)
            total += size
        else:
            requests.append([place])
            total = size
    return requests


async def _body(reply: aiohttp.ClientResponse) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in reply.content.iter_any():
        parts.append(part)
        size += len(part)
        if size > _MOST_REPLY:
            raise _Again("an answer without end")
    return b"".join(parts)


def _decoded(raw: bytes) -> Any:
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None


def _message(reply: Any) -> str:
    """What a server says of a refusal, in OpenAI's shape or in TEI's."""
    error = reply.get("error", reply.get("message")) if isinstance(reply, dict) else None
    return str(error.get("message") if isinstance(error, dict) else error or "")


def _first(given: str | None, otherwise: str) -> str:
    return otherwise if given is None else given
