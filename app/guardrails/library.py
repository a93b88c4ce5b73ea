"""The policy documents that a tenant can see: shipped, of the settings, and stored in versions."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import RowMapping, Select, delete, select, update

from app.errors import BadRequest, Conflict, NotFound, Unprocessable
from app.gateway.call import DEFAULT_TENANT
from app.guardrails.documents import BadDocument, document_of, read_document
from app.guardrails.in_force import InForce
from app.guardrails.policy import Policy
from app.ids import new_id
from app.store.db import Database
from app.store.models import policies, policy_assignments, policy_versions
from app.store.paging import Page, page_of

NUMBER = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a policy document, as it was given or stored."""

    name: str
    version: str
    source: Literal["shipped", "settings", "stored"]
    document: dict[str, Any]
    owner: str | None = None  # the tenant that stored it
    id: str | None = None
    number: int | None = None  # from 1
    made_by: str | None = None
    created_at: float | None = None  # Unix seconds

    def policy(self) -> Policy:
        """The policy that it describes.

        Raises:
            BadDocument: this gateway cannot read it, as one of an older release might not.
        """
        found = read_document(self.name, self.document)
        return found.model_copy(update={"version": self.version})

    def usable(self) -> Policy:
        """The policy, for a caller who named it.

        Raises:
            Unprocessable: this gateway cannot read it.
        """
        try:
            return self.policy()
        except BadDocument as error:
            raise Unprocessable(
                f"The stored policy '{self.name}' cannot be used by this gateway: "
                f"{str(error).rstrip('.')}. Store a correct version of it.",
                code="invalid_policy",
            ) from None


class Library:
    """Keeps documents; what changes of an assigned one is in force on return."""

    def __init__(self, db: Database, in_force: InForce) -> None:
        self._db, self._in_force = db, in_force

    async def find(self, tenant_id: str, name: str, version: str | None = None) -> Version:
        """A policy by its name: the tenant's own, one lent to it, or one that is given.

        Args:
            version: hash or running number; None: the newest.

        Raises:
            NotFound: the tenant can see no such policy, or it has no such version.
        """
        for owner in self._owners(tenant_id, name):
            found = await self._stored(owner, name, version)
            if found is not None:
                return found
            if await self._stored(owner, name, None) is not None:
                raise _no_version(name, version)
        given = self._in_force.given.get(name)
        if given is None:
            raise NotFound("policy", name, remedy="GET /v1/guardrails/policies lists them.")
        if version not in (None, given.version):
            raise _no_version(name, version)
        return self._given(given)

    def _owners(self, tenant_id: str, name: str) -> list[str]:
        lent = name in self._in_force.lent_to(tenant_id)
        return [tenant_id, *([DEFAULT_TENANT] if lent and tenant_id != DEFAULT_TENANT else [])]

    def _given(self, policy: Policy) -> Version:
        of_settings = policy is self._in_force.default
        source: Literal["settings", "shipped"] = "settings" if of_settings else "shipped"
        return Version(policy.name, policy.version, source, document_of(policy))

    async def _stored(self, owner: str, name: str, version: str | None) -> Version | None:
        query = _newest_first(owner, name)
        if version is not None and NUMBER.fullmatch(version):
            query = query.where(policy_versions.c.number == int(version))
        elif version is not None:
            query = query.where(policy_versions.c.version == version)
        found = await self._db.rows(query.limit(1))
        return _version(found[0]) if found else None

    async def all(self, tenant_id: str) -> list[Version]:
        """The newest version of each policy that a tenant can see."""
        of = policies.c
        query = (
            select(policy_versions)
            .join(
                policies,
                (of.tenant_id == policy_versions.c.tenant_id)
                & (of.name == policy_versions.c.name)
                & (of.number == policy_versions.c.number),
            )
            .where(of.tenant_id.in_((tenant_id, DEFAULT_TENANT)))
            .order_by(of.name)
        )
        lent = self._in_force.lent_to(tenant_id)
        stored = [
            _version(row)
            for row in await self._db.rows(query)
            if row["tenant_id"] == tenant_id or row["name"] in lent
        ]
        return [*map(self._given, self._in_force.given.values()), *stored]

    async def versions(self, tenant_id: str, name: str, **paging: Any) -> Page[Version]:
        """The versions of a stored policy.

        Raises:
            NotFound: the tenant can see no such policy.
        """
        first = await self.find(tenant_id, name)
        if first.owner is None:
            return Page([first], False)
        query = _all_of(first.owner, name)
        page = await page_of(self._db, query, policy_versions.c.id, **paging)
        return Page([_version(row) for row in page.rows], page.has_more)

    def read(self, name: str, document: Mapping[str, Any]) -> Policy:
        """The policy that a caller's document describes.

        Raises:
            BadRequest: it is none; names the place.
        """
        try:
            return read_document(name, document)
        except BadDocument as error:
            raise BadRequest(
                f"{str(error).rstrip('.')}. Correct the document and send it again.",
                param=error.place or None,
                code="invalid_policy",
            ) from None

    async def put(
        self, tenant_id: str, name: str, document: Mapping[str, Any], made_by: str
    ) -> tuple[Version, str | None]:
        """Store a document as the newest version of a policy, unless the newest is the same.

        Returns:
            The newest version, and the version before this call.

        Raises:
            BadRequest: the document is no policy.
            Conflict: the name is that of a policy which is given.
            MissingExtra: the policy is assigned, and what it needs is not installed.
        """
        if name in self._in_force.given:
            raise Conflict(
                f"'{name}' is a policy that comes with this gateway. Choose another name.",
                param="name",
            )
        policy = self.read(name, document)
        if any(
            (a.owner, a.policy, a.version) == (tenant_id, name, None)
            for a in self._in_force.assigned(None)
        ):
            await self._in_force.prepare(policy)
        key = {"tenant_id": tenant_id, "name": name}
        async with self._db.write() as connection:
            written = await connection.execute(  # an update too, as it locks the row
                self._db.insert(policies)
                .values(**key, number=0, version="")
                .on_conflict_do_update(index_elements=list(key), set_={"name": name})
                .returning(policies.c.number, policies.c.version)
            )
            number, before = written.one()
            if before != policy.version:
                number += 1
                kept = {"number": number, "version": policy.version}
                await connection.execute(
                    policy_versions.insert().values(
                        id=new_id("pol_"),
                        **key,
                        **kept,
                        document=document_of(policy),
                        made_by=made_by,
                        created_at=time.time(),
                    )
                )
                await connection.execute(update(policies).where(*_is(key)).values(**kept))
        await self._in_force.sync()
        found = await self._stored(tenant_id, name, str(number))
        if found is None:
            raise Conflict(f"The policy '{name}' was deleted meanwhile. Send it again.")
        return found, before or None

    async def delete(self, tenant_id: str, name: str) -> str:
        """Forget a stored policy with all its versions; returns the newest.

        Raises:
            NotFound: the tenant has stored no such policy.
            Conflict: it is assigned.
        """
        key = {"tenant_id": tenant_id, "name": name}
        async with self._db.write() as connection:
            newest = await connection.scalar(
                select(policies.c.version).where(*_is(key)).with_for_update()
            )
            if newest is None:
                raise NotFound(
                    "stored policy", name, remedy="Those that come with the gateway stay."
                )
            of = policy_assignments.c
            assigned = select(of.id).where(of.owner == tenant_id, of.policy == name)
            if (await connection.execute(assigned.limit(1))).first() is not None:
                raise Conflict(
                    f"The policy '{name}' is assigned. End its assignments first; "
                    "GET /v1/admin/policies lists them."
                )
            versions = policy_versions.c
            await connection.execute(
                delete(policy_versions).where(
                    versions.tenant_id == tenant_id, versions.name == name
                )
            )
            await connection.execute(delete(policies).where(*_is(key)))
        return str(newest)


def _is(key: dict[str, str]) -> list[Any]:
    return [policies.c[column] == value for column, value in key.items()]


def _all_of(owner: str, name: str) -> Select[Any]:
    of = policy_versions.c
    return select(policy_versions).where(of.tenant_id == owner, of.name == name)


def _newest_first(owner: str, name: str) -> Select[Any]:
    return _all_of(owner, name).order_by(policy_versions.c.number.desc())


def _version(row: RowMapping | dict[str, Any]) -> Version:
    values = {**row, "owner": row["tenant_id"], "source": "stored"}
    del values["tenant_id"]
    return Version(**values)


def _no_version(name: str, version: str | None) -> NotFound:
    return NotFound(
        "version of this policy",
        str(version),
        remedy=f"GET /v1/guardrails/policies/{name}/versions lists them.",
        param="version",
    )
