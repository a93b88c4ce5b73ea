"""One HTTP request on its way through the corridor."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import MutableMapping
from functools import partial
from typing import TYPE_CHECKING, Any

import orjson

from app.errors import BadRequest, Forbidden, OstiaryError, TooLarge, Unavailable
from app.gateway.acting import acting_for
from app.gateway.body import Receive
from app.gateway.call import HIDING, SECRET_PATHS, Call, Principal, Usage
from app.gateway.tags import tags_of
from app.ids import new_id

if TYPE_CHECKING:
    from app.gateway.corridor import Corridor, Scope
    from app.gateway.idempotency import Ticket

log = logging.getLogger("ostiary.gateway")
Message = MutableMapping[str, Any]
# whoever must see what was spent, and set other budgets, is not stopped by a spent one
NEVER_STOPPED = frozenset({"admin", "admin:platform", "monitoring:read", "audit:read"})
PRIORITIES = (b"interactive", b"background")
REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class Passage:
    """One HTTP request on its way: what was read, what was sent, what must be settled."""

    def __init__(
        self,
        corridor: Corridor,
        route: str,
        required: Scope,
        scope: MutableMapping[str, Any],
        receive: Any,
        send: Any,
    ) -> None:
        self.corridor = corridor
        self.required = required
        self.scope = scope
        self.receive_raw = receive
        self.send_raw = send
        self.headers = {k: v for k, v in scope["headers"]}
        self.limit = (
            corridor.max_file_bytes + 65_536 if required.upload else corridor.max_json_bytes
        )
        self.read = 0
        self.start: Message | None = None
        self.started = False  # the reply's head has been sent
        self.streaming = False
        self.finished = False
        self.sent = bytearray()
        self.ticket: Ticket | None = None
        self.failure: OstiaryError | None = None  # ours; wins over what the room makes of it
        call_id = new_id("call_")
        given = self.headers.get(b"x-request-id", b"").decode("latin-1")
        self.bad_request_id = bool(given) and not REQUEST_ID.fullmatch(given)
        self.call = Call(
            call_id,
            given if given and not self.bad_request_id else call_id,
            scope.get("ostiary_door", "rest"),
            f"{scope['method']} {route}",
        )
        self.call.settler = partial(corridor.settle, to_store=self._to_store)
        self.call.left = self._left
        self.call.times = corridor.prices.parts.timed
        if required.name not in NEVER_STOPPED:
            self.call.budgets = corridor.limits.check_budgets
        self.call.stream_limit = corridor.limits.begin_stream
        wanted = self.headers.get(b"x-ostiary-priority")
        if (control := self.headers.get(b"cache-control")) is not None:
            asked = {part.strip() for part in control.lower().split(b",")}
            if b"no-store" in asked:
                self.call.cache_control = "no-store"
            elif b"no-cache" in asked:
                self.call.cache_control = "no-cache"
        self.bad_priority = wanted not in (None, *PRIORITIES)
        named = self.headers.get(b"x-ostiary-conversation")
        if named is not None:
            self.call.conversation = named.decode("latin-1")
        self.bad_conversation = named is not None and not REQUEST_ID.fullmatch(
            named.decode("latin-1")
        )
        if wanted == b"background" or self.call.door == "batch":
            self.call.priority = "background"
        scope["ostiary_call"] = self.call

    async def walk(self, inner: Any) -> None:
        call, corridor = self.call, self.corridor
        try:
            if self.bad_request_id:
                raise BadRequest(
                    "x-request-id may hold 1 to 128 letters, digits and . _ : - only.",
                    param="x-request-id",
                )
            if self.bad_priority:
                raise BadRequest(
                    "x-ostiary-priority is `interactive` or `background`.",
                    param="x-ostiary-priority",
                )
            if self.bad_conversation:
                raise BadRequest(
                    "x-ostiary-conversation may hold 1 to 128 letters, digits and . _ : - only.",
                    param="x-ostiary-conversation",
                )
            # a client cannot set it: app/gateway/inside.py does, for who was let in before
            known: Principal | None = self.scope.get("ostiary_principal")
            call.principal = known or await corridor.identity.authenticate(self.scope, self.headers)
            chosen = corridor.decide(call)
            if not call.principal.may(self.required.name):
                raise Forbidden(
                    f"This credential lacks the scope '{self.required.name}'. "
                    "Ask an administrator for a key that has it."
                )
            if known is None:
                call.principal = acting_for(call.principal, self.scope["headers"])
            call.tags = tags_of(call.principal, self.headers)
            self._check_length()
            await corridor.limits.admit(call)
            if self.required.screens:
                chosen.require()
            receive: Receive = self.receive
            if self.scope["method"] == "POST" and b"idempotency-key" in self.headers:
                self.ticket, receive = await corridor.idempotency.begin(
                    call, self.headers[b"idempotency-key"], self.scope, self.receive
                )
                if self.ticket.replay is not None:
                    await self._replay(self.ticket)
                    return
            await inner(self.scope, receive, self.send)
            if self.failure is not None:
                await self._refuse(self.failure)
            elif not self.finished:
                await self._finish_stream()
        except OstiaryError as error:
            await self._refuse(error)
        except asyncio.CancelledError:
            call.error_code = "client_closed"
            await asyncio.shield(self._settle_quietly(499))
            raise
        except Exception:
            if self.failure is None:
                log.exception("unhandled error request_id=%s route=%s", call.request_id, call.route)
            await self._refuse(
                self.failure
                or OstiaryError(
                    "Something failed inside the gateway. Send the request again; if it keeps "
                    f"failing, give the operator the request id {call.request_id}."
                )
            )
        finally:
            if self.ticket is not None and self.ticket.replay is None:
                await asyncio.shield(corridor.idempotency.release(self.ticket))

    def _check_length(self) -> None:
        length = self.headers.get(b"content-length")
        if length is not None and length.isdigit() and int(length) > self.limit:
            raise self._too_large()

    def _too_large(self) -> TooLarge:
        return TooLarge(
            f"The request body is larger than {self.limit:,} bytes. Send less at a time, or "
            "ask the operator to raise the limit."
        )

    async def _left(self) -> None:
        """Return once the client has gone; the body has been read."""
        while (await self.receive_raw())["type"] != "http.disconnect":
            pass

    async def receive(self) -> Message:
        message: Message = await self.receive_raw()
        if message["type"] == "http.request":
            self.read += len(message.get("body", b""))
            if self.read > self.limit:
                self.failure = self._too_large()
                raise self.failure
        return message

    async def send(self, message: Message) -> None:
        """Forward the reply; commit the audit record before its last byte."""
        if self.failure is not None:
            return  # the room answers a request that we refuse
        try:
            await self._send(message)
        except OstiaryError as error:
            self.failure = error
            raise

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.start = message
            return
        if message["type"] != "http.response.body":
            await self.send_raw(message)
            return
        more = message.get("more_body", False)
        body = message.get("body", b"")
        if not self.started:
            await self._send_head(body, more)
            if self.finished:
                return
        elif not more:
            # The last message of a stream: nothing acknowledged before it is durable.
            await self.call.settle(self.status)
        self._remember(body)
        self.finished = not more
        await self.send_raw(message)

    @property
    def status(self) -> int:
        return int(self.start["status"]) if self.start is not None else 500

    async def _send_head(self, body: bytes, more: bool) -> None:
        call = self.call
        self._require_screened()
        if not more:
            self._remember(body)
            if self.status >= 400 and call.error_code is None:
                call.error_code = _code_of(body)
            shows_secrets = self.scope["path"].startswith(SECRET_PATHS)
            # values that were restored are in no audit
            if (
                self.corridor.keep_bodies
                and len(body) < 1_000_000
                and not (call.pseudonyms or shows_secrets)
            ):
                call.bodies["response"] = body.decode("utf-8", "replace")
            await call.settle(self.status)
            self.sent.clear()
        assert self.start is not None
        self.start["headers"] = [*self.start.get("headers", ()), *self._told_headers(not more)]
        self.started = True
        self.streaming = more
        if more:
            call.first_s = time.perf_counter() - call.clock
        await self.send_raw(self.start)

    def _require_screened(self) -> None:
        missing = self.required.screens - self.call.screened
        if missing and self.status < 300:
            raise Unavailable(
                "The guardrails did not see this call, so it was refused.",
                code="guardrail_unavailable",
            )

    def _told_headers(self, final: bool) -> list[tuple[bytes, bytes]]:
        call = self.call
        told = [(b"x-request-id", call.request_id.encode())]
        if final:
            told.append((b"x-ostiary-cost-usd", f"{call.cost_usd:.9f}".encode()))
        if self.required.screens or call.findings:
            blocked = sum(n for (_, _, a), n in call.findings.items() if a == "block")
            masked = sum(n for (_, _, a), n in call.findings.items() if a in HIDING)
            summary = b"masked=%d;blocked=%d" % (masked, blocked)
            for action in ("annotate", "retry"):
                if count := sum(n for (_, _, a), n in call.findings.items() if a == action):
                    summary += b";%s=%d" % (action.encode(), count)
            told.append((b"x-ostiary-guardrails", summary))
        if call.cache:
            told.append((b"x-ostiary-cache", call.cache.encode()))
        if call.degraded:
            told.append((b"x-ostiary-degraded", call.degraded.encode()))
        told.extend(self.corridor.limits.headers(call))
        return told

    def _remember(self, body: bytes) -> None:
        if self.ticket is not None:
            self.sent += body

    def _to_store(self, status: int, tail: bytes) -> dict[str, Any] | None:
        """The reply to keep under the idempotency key, or None."""
        if self.ticket is None or not self.ticket.keeps(status):
            return None
        head = self.start or {"headers": []}
        own = self.call.pseudonyms
        return self.ticket.stored(
            status,
            head.get("headers", []),
            bytes(self.sent) + tail,
            own.tokens.enclosed if own else None,  # values were restored in it
        )

    async def _replay(self, ticket: Ticket) -> None:
        assert ticket.replay is not None
        status, headers, body = ticket.replay
        self.call.lineage["replayed"] = True
        self.call.usage = Usage()
        await self.call.settle(status)
        self.finished = True
        await self.send_raw(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [
                    *headers,
                    (b"x-request-id", self.call.request_id.encode()),
                    (b"idempotent-replayed", b"true"),
                ],
            }
        )
        await self.send_raw({"type": "http.response.body", "body": body})

    async def _finish_stream(self) -> None:
        """The room ended without a last message (the client went away)."""
        self.call.error_code = self.call.error_code or "client_closed"
        await self._settle_quietly(499)

    async def _settle_quietly(self, status: int) -> None:
        try:
            await self.call.settle(status)
        except OstiaryError:
            log.error("call not audited request_id=%s", self.call.request_id)

    async def _refuse(self, error: OstiaryError) -> None:
        call = self.call
        if self.finished:
            return
        call.error_code = error.code
        body = orjson.dumps(error.body(call.request_id))
        if self.started:  # a stream: tell inside it, the head is gone
            await self._settle_quietly(error.status)
            await self.send_raw(
                {"type": "http.response.body", "body": b"event: error\ndata: " + body + b"\n\n"}
            )
            return
        headers = [(b"content-type", b"application/json")]
        headers += [(k.encode(), v.encode()) for k, v in error.headers.items()]
        if error.status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        self.start = {"type": "http.response.start", "status": error.status, "headers": headers}
        self._remember(body)
        try:
            await call.settle(error.status)
        except OstiaryError as audit_error:
            body = orjson.dumps(audit_error.body(call.request_id))
            self.start["status"] = audit_error.status
        # after settle: the head tells the cost
        self.start["headers"] = [*headers, *self._told_headers(True)]
        self.started = self.finished = True
        await self.send_raw(self.start)
        await self.send_raw({"type": "http.response.body", "body": body})


def _code_of(body: bytes) -> str | None:
    try:
        return str(orjson.loads(body)["error"]["code"])
    except (ValueError, KeyError, TypeError):
        return None
