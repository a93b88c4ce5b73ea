"""The link to a Milvus Lite file, server or cluster; its errors say what to do."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote, urlsplit

from app.errors import BadRequest, MissingExtra, Unavailable

if TYPE_CHECKING:
    from pymilvus import MilvusClient

Answer = TypeVar("Answer")
_CONNECT_FAILED = 2
_OVERLOADED = (8, 9)  # rate limit; writes denied because memory or disk is short
_NO_COLLECTION = 100


class MilvusLink:
    """Connects at the first call, again by itself after a loss, and is safe to share by threads.

    Args:
        uri: the path of a Milvus Lite file (``.db``), or ``http(s)://host:port[/database]``.
        token: ``user:password`` or an API key; else what the URI holds.
        timeout_s: seconds one call may take, retries included.

    Raises:
        BadRequest: ``uri`` is neither.
    """

    def __init__(self, uri: str, token: str | None = None, timeout_s: float = 10.0) -> None:
        self.timeout_s = timeout_s
        self.lite = "://" not in uri and uri.endswith(".db")
        self._token = token or ""
        if self.lite:
            self._uri = uri
            self.name = f"the Milvus Lite file {Path(uri).name!r}"
        else:
            self._uri, self.name = self._parsed(uri)
        self._lock = threading.Lock()
        self._client: MilvusClient | None = None

    def _parsed(self, uri: str) -> tuple[str, str]:
        """Take the credentials out of a URL, so that no message of the client can show them."""
        wrong = BadRequest(
            "The Milvus URL must be http://host:port, https://host:port or the path of a file "
            "that ends in .db. Operator: correct OSTIARY_MILVUS_URL."
        )
        try:
            parts = urlsplit(uri)
            host, port = parts.hostname, parts.port
        except ValueError:
            raise wrong from None
        if parts.scheme not in ("http", "https", "tcp") or not host:
            raise wrong
        if parts.username and not self._token:
            given = (parts.username, parts.password)
            self._token = ":".join(unquote(part) for part in given if part is not None)
        address = f"[{host}]" if ":" in host else host
        if port:
            address += f":{port}"
        return f"{parts.scheme}://{address}{parts.path}", f"Milvus at {address}"

    def ask(self, doing: str, call: Callable[[MilvusClient], Answer]) -> Answer:
        """Return ``call(client)``.

        Args:
            doing: what the call does, for the message of an error: "search".

        Raises:
            Unavailable: with what to do; never with the token.
        """
        import grpc
        from pymilvus.exceptions import MilvusException

        try:
            return call(self._connected())
        except (MilvusException, grpc.RpcError) as error:
            raise self._explained(doing, error) from error

    def _connected(self) -> MilvusClient:
        with self._lock:
            if self._client is None:
                self._client = self._connect()
            return self._client

    def _connect(self) -> MilvusClient:
        try:
            from pymilvus import MilvusClient

            if self.lite:
                import milvus_lite  # noqa: F401
        except ImportError:
            raise MissingExtra("The Milvus client", "milvus") from None
        # it prints each error with a traceback on its own handler; ours say it once
        logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
        if self.lite:
            Path(self._uri).absolute().parent.mkdir(parents=True, exist_ok=True)
        return MilvusClient(self._uri, token=self._token, timeout=self.timeout_s)

    def _explained(self, doing: str, error: Exception) -> Unavailable:
        code, status = getattr(error, "code", None), _grpc_status(error)
        if status in ("UNAUTHENTICATED", "PERMISSION_DENIED"):
            return Unavailable(
                f"{self.name} did not accept the credentials to {doing}. Operator: set "
                "OSTIARY_MILVUS_TOKEN to user:password, or grant that user the right.",
                code="milvus_refused",
            )
        if status == "DEADLINE_EXCEEDED":
            return self._lost("did not answer in time")
        if code == _CONNECT_FAILED or status == "UNAVAILABLE":
            return self._lost("cannot be reached")
        if self.lite and "local milvus failed" in str(error):
            return Unavailable(
                f"{self.name} cannot be opened. Operator: only one process may use it; check "
                "that no other one does and that the folder can be written.",
                code="milvus_unreachable",
            )
        if code in _OVERLOADED or status == "RESOURCE_EXHAUSTED":
            return Unavailable(
                f"{self.name} is overloaded or short of memory or disk and refused to {doing}. "
                "Try again later. Operator: give it more, or raise its quota.",
                code="milvus_overloaded",
            )
        if code == _NO_COLLECTION:
            return Unavailable(
                f"{self.name} has lost the collection of this vector store. Operator: restore "
                "it from a backup of Milvus, or attach the files anew.",
                code="milvus_collection_missing",
            )
        reason = " ".join(str(getattr(error, "message", "") or status or "").split())
        if self._token:
            for secret in (self._token, self._token.partition(":")[2]):
                reason = reason.replace(secret, "***") if secret else reason
        return Unavailable(
            f"{self.name} could not {doing}: {reason[:300]}. Operator: see its log.",
            code="milvus_failed",
        )

    def _lost(self, how: str) -> Unavailable:
        return Unavailable(
            f"{self.name} {how}. Try again soon. Operator: check that it runs and that "
            "OSTIARY_MILVUS_URL is right.",
            code="milvus_unreachable",
        )


def _grpc_status(error: BaseException | None) -> str:
    """The gRPC status behind an error, by name; empty when there is none."""
    import grpc

    while error is not None:
        code: Any = getattr(error, "code", None)
        if isinstance(error, grpc.RpcError) and callable(code):
            code = code()
        if isinstance(code, grpc.StatusCode):
            return str(code.name)
        error = error.__cause__ if error.__cause__ is not error else None
    return ""
