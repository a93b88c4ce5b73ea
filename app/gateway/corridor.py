"""The corridor: the one way from a door to a room and back."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from fastapi import Request
from fastapi.routing import APIRoute

from app.errors import OstiaryError, Unavailable
from app.gateway.body import Receive
from app.gateway.call import Call, Direction, Principal
from app.gateway.following import following
from app.gateway.passage import Passage
from app.gateway.scopes import SCOPES
from app.ids import new_id
from app.monitoring.logs import log_access

if TYPE_CHECKING:
    from app.gateway.idempotency import Idempotency
    from app.gateway.identity import Identity
    from app.gateway.limits import Limits
    from app.guardrails.assignments import Choice
    from app.monitoring.audit import AuditLog
    from app.monitoring.cost import Prices
    from app.monitoring.drift import DriftMonitor
    from app.monitoring.metrics import Metrics
    from app.monitoring.tracing import Tracing

log = logging.getLogger("ostiary.gateway")


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
        call.settler, call.tags = self.settle, dict(principal.tags)
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
        passage = Passage(self, route, required, scope, receive, send)
        self.under_way += 1
        traceparent = passage.headers.get(b"traceparent")
        try:
            with following(passage.call, self.tracing, traceparent, lambda: passage.status):
                await passage.walk(inner)
        finally:
            self.under_way -= 1

    async def settle(
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
        except Exception as error:
            log.exception("audit commit failed request_id=%s", call.request_id)
            raise Unavailable(
                "The audit log cannot be written, so the call was refused. Nothing was lost on "
                "your side: send it again once the operator has mended the audit log.",
                code="audit_unavailable",
            ) from error
        self.limits.committed(call)
        log_access(call, status, latency)
