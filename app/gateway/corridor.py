"""The corridor: the one way from a door to a room and back."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator, Callable, MutableMapping
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import orjson
from fastapi import Request
from fastapi.routing import APIRoute

from app.errors import BadRequest, Forbidden, OstiaryError, TooLarge, Unavailable
from app.gateway.acting import acting_for
from app.gateway.body import Receive
from app.gateway.call import HIDING, SECRET_PATHS, Call, Direction, Principal, Usage
from app.gateway.following import following
from app.gateway.scopes import SCOPES
from app.gateway.tags import tags_of
from app.ids import new_id
from app.monitoring.logs import log_access

if TYPE_CHECKING:
    from app.gateway.idempotency import Idempotency, Ticket
    from app.gateway.identity import Identity
    from app.gateway.limits import Limits
    from app.guardrails.assignments import Choice
    from app.monitoring.audit import AuditLog
    from app.monitoring.cost import Prices
    from app.monitoring.drift import DriftMonitor
    from app.monitoring.metrics import Metrics
    from app.monitoring.tracing import Tracing

log = logging.getLogger("ostiary.gateway")
Message = MutableMapping[str, Any]
# whoever must see what was spent, and set other budgets, is not stopped by a spent one
NEVER_STOPPED = frozenset({"admin", "admin:platform", "monitoring:read", "audit:read"})
PRIORITIES = (b"interactive", b"background")
REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class Scope:
    """The scope a route needs, visible in its signature.

    ``call: Annotated[Call, Depends(Scope("chat:write", screens=("input", "output")))]``
    gives the route its ``Call``. A route that names screened directions and answers 200
    without having screened them is refused (fail closed).
    """

    def __init__(
        self, name: str, *, screens: tuple[Direction, ...] = (), upload: bool = False
    ) -> None:
        if name not in SCOPES:
            raise TypeError(f"app/gateway/scopes.py does not know the scope {name!r}")
        self.name = name
        self.screens = frozenset(screens)
        self.upload = upload

    async def __call__(self, request: Request) -> Call:  # a plain one costs a thread switch
        call: Call = request.scope["ostiary_call"]
        return call


class GovernedRoute(APIRoute):
    """A route that can be reached through the corridor alone."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        found = [d.call for d in self.dependant.dependencies if isinstance(d.call, Scope)]
        if len(found) != 1:
            raise TypeError(f"{self.path}: a governed route names exactly one Scope")
        self.required = found[0]

    async def handle(self, scope: MutableMapping[str, Any], receive: Receive, send: Any) -> None:
        """Where every way of including a router ends, so here the corridor begins."""
        if scope["method"] not in (self.methods or ()):
            await super().handle(scope, receive, send)  # 405; no room is reached
            return
        corridor: Corridor = scope["app"].state.corridor
        await corridor.walk(super().handle, self.path, self.required, scope, receive, send)


class Corridor:
    """Authenticate, authorise, limit, replay; then charge, observe and audit.

    Args:
        choose: the guardrail policy of a tenant's calls of a route; from memory.
    """

    def __init__(
        self,
        identity: Identity,
        limits: Limits,
        idempotency: Idempotency,
        prices: Prices,
        drift: DriftMonitor,
        audit: AuditLog,
        metrics: Metrics,
        *,
        choose: Callable[[str, str], Choice],
        max_json_bytes: int,
        max_file_bytes: int,
        keep_bodies: bool,
        tracing: Tracing | None = None,
    ) -> None:
        self.tracing = tracing
        self.identity = identity
        self.limits = limits
        self.idempotency = idempotency
        self.prices = prices
        self.drift = drift
        self.audit = audit
        self.metrics = metrics
        self.choose = choose
        self.max_json_bytes = max_json_bytes
        self.max_file_bytes = max_file_bytes
        self.keep_bodies = keep_bodies
        self.under_way = 0  # calls
        metrics.inflight.set_function(lambda: float(self.under_way))

    @asynccontextmanager
    async def govern(
        self, door: str, route: str, principal: Principal, *, duty: bool = False
    ) -> AsyncIterator[Call]:
        """Govern a call that comes through no HTTP door: a job, a batch line.

        The principal was authenticated when the work was accepted. A spent budget does not
        keep the gateway from a ``duty``, such as erasing what must not be kept.
        """
        call_id = new_id("call_")
        call = Call(call_id, call_id, door, route, principal, priority="background")
        self.decide(call)
        call.settler, call.tags = self._settle, dict(principal.tags)
        call.times = self.prices.parts.timed
        with following(call, self.tracing):
            try:
                if not duty:
                    call.budgets = self.limits.check_budgets
                    await self.limits.check_budget(principal)
                    call.budgets(call)
                yield call
            except OstiaryError as error:
                call.error_code = error.code
                await call.settle(error.status)
                raise
            except BaseException:
                call.error_code = call.error_code or "internal_error"
                await asyncio.shield(call.settle(500))
                raise
            await call.settle(200)

    def decide(self, call: Call) -> Choice:
        """Decide, once, which guardrail policy the call obeys."""
        call.obeys = chosen = self.choose(call.tenant_id, call.route)
        call.versions["policy"] = chosen.named
        return chosen

    async def walk(
        self,
        inner: Any,
        route: str,
        required: Scope,
        scope: MutableMapping[str, Any],
        receive: Any,
        send: Any,
    ) -> None:
        """Take one HTTP request through the corridor to ``inner`` and its reply back."""
        passage = _Passage(self, route, required, scope, receive, send)
        self.under_way += 1
        traceparent = passage.headers.get(b"traceparent")
        try:
            with following(passage.call, self.tracing, traceparent, lambda: passage.status):
                await passage.walk(inner)
        finally:
            self.under_way -= 1

    async def _settle(
        self,
        call: Call,
        status: int,
        tail: bytes,
        to_store: Callable[[int, bytes], dict[str, Any] | None] | None = None,
    ) -> None:
        call.costs, call.work = self.prices.costs(call)
        call.cost_nano_usd = sum(call.costs.values())
        if call.usage.estimated:
            call.lineage["usage"] = "estimated"
        latency = time.perf_counter() - call.clock
        await self.limits.charge(call)
        self.prices.served(call.model, call.usage)
        self.drift.observe(call, latency)
        self.metrics.observe(call, status, latency)
        stored = to_store(status, tail) if to_store is not None else None
        try:
            await self.audit.commit(call, status, latency, stored)
            log_access(call, status, latency)
        except Exception as error:
            log.exception("audit commit failed request_id=%s", call.request_id)
            raise Unavailable(
                "The audit log cannot be written, so the call was refused. Nothing was lost on "
                "your side: send it again once the operator has mended the audit log.",
                code="audit_unavailable",
            ) from error
        self.limits.committed(call)


class _Passage:
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
        self.call.settler = partial(corridor._settle, to_store=self._to_store)
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
