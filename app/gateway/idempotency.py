"""Replay of keyed requests: the same key and body is served once and answered again."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Iterable, MutableMapping
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, delete, func, or_, select

from app.errors import BadRequest, Conflict, Unavailable
from app.gateway.body import SPOOL_BYTES, Receive, give_again, spool_body
from app.gateway.call import SECRET_PATHS, Call
from app.gateway.person import Person
from app.store.db import Database
from app.store.models import idempotency

if TYPE_CHECKING:
    from cryptography.fernet import Fernet

KEPT_S = 24 * 3600
WAIT_S = 10.0
ENCLOSED = ["enclosed", "1"]  # among the kept headers: the guardrail key opens the reply
NOT_KEPT = frozenset({401, 402, 403, 409, 429, 499})

Reply = tuple[int, list[tuple[bytes, bytes]], bytes]


@dataclass(slots=True)
class Ticket:
    """One keyed request: either a stored reply to repeat, or the right to serve it."""

    tenant_id: str
    key: str
    owner: str
    spool: IO[bytes]
    caller: str = ""  # whose reply it is
    claimed_at: float = 0.0  # Unix seconds; tells this claim from a later one of the same owner
    seal: Fernet | None = None
    replay: Reply | None = None
    done: asyncio.Event = field(default_factory=asyncio.Event)

    def keeps(self, status: int) -> bool:
        """Whether a reply with ``status`` is kept: not one that a retry may turn."""
        return status < 500 and status not in NOT_KEPT

    def stored(
        self,
        status: int,
        headers: Iterable[tuple[bytes, bytes]],
        body: bytes,
        enclose: Callable[[bytes, str], bytes] | None = None,
    ) -> dict[str, Any]:
        """The values that the audit writer keeps in the transaction of the call's record."""
        kept = [
            [name.decode("latin-1"), value.decode("latin-1")]
            for name, value in headers
            if name == b"content-type" or name.startswith(b"x-ostiary-")
        ]
        if self.seal is not None:
            body = self.seal.encrypt(body)
        if enclose is not None:
            body = enclose(body, self.key)
            kept.append(ENCLOSED)
        return {
            "of": self.tenant_id,
            "under": self.key,
            "by": self.owner,
            "status": status,
            "headers": json.dumps(kept),
            "body": body,
        }


class Idempotency:
    """Rows by tenant and key; ``owner`` names this gateway among its replicas."""

    def __init__(
        self,
        db: Database,
        owner: str,
        disclose: Callable[[str, bytes, str], bytes] | None = None,
    ) -> None:
        """``disclose`` opens what a tenant's guardrail key closed under a name."""
        self._db = db
        self._owner = owner
        self._disclose = disclose
        self._running: dict[tuple[str, str], Ticket] = {}

    async def begin(
        self, call: Call, key: bytes, scope: MutableMapping[str, Any], receive: Receive
    ) -> tuple[Ticket, Receive]:
        """Read the body, claim the key, and return a ticket and a way to read the body again.

        Raises:
            BadRequest: the key is empty, too long or not printable ASCII.
            Conflict: the key was used for another request, or its twin is still running.
        """
        if not 1 <= len(key) <= 255 or not all(32 <= b <= 126 for b in key):
            raise BadRequest(
                "Idempotency-Key must be 1 to 255 printable ASCII characters.",
                param="Idempotency-Key",
            )
        spool: IO[bytes] = tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES)  # noqa: SIM115
        ticket = Ticket(call.tenant_id, key.decode(), self._owner, spool, call.principal.owner)
        if scope["path"].startswith(SECRET_PATHS):
            ticket.seal = _seal(ticket, scope)
        try:
            fingerprint = _of_caller(call, await spool_body(spool, scope, receive))
            await self._claim(ticket, fingerprint)
        except BaseException:
            # cancelled after the insert, the key would stay claimed until a restart
            await asyncio.shield(self.release(ticket))
            raise
        return ticket, give_again(spool, receive)

    async def _claim(self, ticket: Ticket, fingerprint: str) -> None:
        name = (ticket.tenant_id, ticket.key)
        deadline = time.monotonic() + WAIT_S
        while True:
            if await self._insert(ticket, fingerprint):
                self._running[name] = ticket
                return
            ticket.claimed_at = 0.0
            row = await self._load(*name)
            if row is None:
                continue  # the twin failed and gave the key back
            if row["fingerprint"] != fingerprint:
                raise _reused()
            if row["done"]:
                enclosed = ENCLOSED in row["headers"]
                body = self._disclosed(ticket, row["body"]) if enclosed else row["body"]
                headers = [
                    (n.encode("latin-1"), v.encode("latin-1"))
                    for n, v in row["headers"]
                    if [n, v] != ENCLOSED
                ]
                ticket.replay = (row["status"], headers, _opened(ticket, body))
                ticket.spool.close()
                return
            left = deadline - time.monotonic()
            if left <= 0:
                raise Conflict(
                    "A request with this Idempotency-Key is still running. Wait for it, then "
                    "send yours again.",
                    code="idempotency_in_progress",
                    param="Idempotency-Key",
                    headers={"retry-after": "5"},
                )
            await self._wait_for_twin(name, left)

    def _disclosed(self, ticket: Ticket, body: bytes) -> bytes:
        try:
            assert self._disclose is not None
            return self._disclose(ticket.tenant_id, body, ticket.key)
        except Exception as error:
            raise Unavailable(
                "The kept reply cannot be read, so the call was refused. Send the request with a "
                "new Idempotency-Key, or tell the operator: the guardrail key may have changed.",
                code="pseudonyms_unavailable",
            ) from error

    async def _wait_for_twin(self, name: tuple[str, str], left: float) -> None:
        twin = self._running.get(name)
        if twin is None:  # it runs in another gateway: only the database tells
            await asyncio.sleep(min(0.25, left))
            return
        try:
            await asyncio.wait_for(twin.done.wait(), left)
        except TimeoutError:
            return

    async def _insert(self, ticket: Ticket, fingerprint: str) -> bool:
        now = ticket.claimed_at = time.time()
        async with self._db.write() as connection:
            await connection.execute(
                delete(idempotency).where(
                    idempotency.c.tenant_id == ticket.tenant_id,
                    idempotency.c.key == ticket.key,
                    idempotency.c.expires_at < now,
                )
            )
            done = await connection.execute(
                self._db.insert(idempotency)
                .values(
                    tenant_id=ticket.tenant_id,
                    key=ticket.key,
                    fingerprint=fingerprint,
                    owner=ticket.owner,
                    done=False,
                    created_at=now,
                    expires_at=now + KEPT_S,
                    caller=ticket.caller,
                )
                .on_conflict_do_nothing()
                .returning(idempotency.c.key)  # the row count is -1 on PostgreSQL
            )
            return done.first() is not None

    async def _load(self, tenant_id: str, key: str) -> Any:
        async with self._db.read() as connection:
            rows = await connection.execute(
                select(idempotency).where(
                    idempotency.c.tenant_id == tenant_id, idempotency.c.key == key
                )
            )
            return rows.mappings().one_or_none()

    async def release(self, ticket: Ticket) -> None:
        """End a request: give the key back unless its reply was stored, and wake its twins."""
        name = (ticket.tenant_id, ticket.key)
        try:
            if ticket.claimed_at:
                async with self._db.write() as connection:
                    await connection.execute(
                        delete(idempotency).where(
                            idempotency.c.tenant_id == ticket.tenant_id,
                            idempotency.c.key == ticket.key,
                            idempotency.c.owner == ticket.owner,
                            idempotency.c.created_at == ticket.claimed_at,
                            idempotency.c.done.is_(False),
                        )
                    )
        finally:
            if self._running.get(name) is ticket:
                del self._running[name]
            ticket.done.set()
            ticket.spool.close()

    async def recover(self) -> None:
        """Forget what this gateway was serving when it was killed, and what has expired."""
        async with self._db.write() as connection:
            await connection.execute(
                delete(idempotency).where(
                    or_(
                        (idempotency.c.owner == self._owner) & idempotency.c.done.is_(False),
                        idempotency.c.expires_at < time.time(),
                    )
                )
            )

    async def count_of(self, person: Person) -> int:
        """How many kept replies are the person's."""
        async with self._db.read() as connection:
            return int(await connection.scalar(select(func.count()).where(_of(person))) or 0)

    async def erase_of(self, person: Person) -> int:
        """Forget them; returns how many there were. A retry is then served anew."""
        async with self._db.write() as connection:
            return int((await connection.execute(delete(idempotency).where(_of(person)))).rowcount)


def _of(person: Person) -> ColumnElement[bool]:
    mine = (idempotency.c.tenant_id == person.tenant_id) & idempotency.c.done
    return mine & person.owns(idempotency.c.caller)


def _seal(ticket: Ticket, scope: MutableMapping[str, Any]) -> Fernet:
    """A cipher whose key only the caller's credential gives.

    The reply that shows a new API key must be repeated to who asked for it, yet no key may
    lie readable in the database.
    """
    from cryptography.fernet import Fernet

    digest = hashlib.sha256(f"ostiary reply\0{ticket.tenant_id}\0{ticket.key}\0".encode())
    for name, value in scope.get("headers", ()):
        if name == b"authorization":
            digest.update(value)
    return Fernet(base64.urlsafe_b64encode(digest.digest()))


def _of_caller(call: Call, fingerprint: str) -> str:
    """The fingerprint of a request by its caller: a reply shows what he may see."""
    who = call.principal
    sight = [who.owner, who.user, sorted(who.groups), who.sees_all]
    return hashlib.sha256(f"{fingerprint}{json.dumps(sight)}".encode()).hexdigest()


def _opened(ticket: Ticket, body: bytes) -> bytes:
    if ticket.seal is None:
        return body
    from cryptography.fernet import InvalidToken

    try:
        return ticket.seal.decrypt(body)
    except InvalidToken:
        raise _reused() from None  # by another credential of the tenant


def _reused() -> Conflict:
    return Conflict(
        "This Idempotency-Key was used for another request. Use a new key for a new request.",
        code="idempotency_key_reused",
        param="Idempotency-Key",
    )
