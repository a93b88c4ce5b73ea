"""The policies in force: kept in SQL as assignments, decided for each call from memory."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Set
from dataclasses import asdict, dataclass, fields
from typing import get_args

from sqlalchemy import and_, delete, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.errors import Forbidden, NotFound, OstiaryError, Unavailable
from app.gateway.call import DEFAULT_TENANT, Direction
from app.guardrails.assignments import EVERY, MANDATORY, Assignment, Choice, Mode, best
from app.guardrails.catalogue import CATALOGUE, recognizer
from app.guardrails.documents import named, read_document, shipped_policies, version_of
from app.guardrails.entities import NER_ENTITIES
from app.guardrails.json_answers import require_validator
from app.guardrails.languages import Languages
from app.guardrails.policy import Policy, PolicyError
from app.ids import new_id
from app.store.db import Database
from app.store.models import policies, policy_assignments, policy_versions

log = logging.getLogger("ostiary.guardrails")
MOST_CHOICES = 10_000  # remembered
_COLUMNS = [policy_assignments.c[f.name] for f in fields(Assignment)]


@dataclass(frozen=True, slots=True)
class Standing:
    """An assigned policy as this gateway has it: loaded, or why it could not be."""

    named: str  # name@version
    policy: Policy | None
    fault: str = ""


class InForce:
    """Chooses the policy of a call; follows what other gateways on the database assign.

    Args:
        default: of calls for which nothing is assigned.
        warm: loads the models that find names of some types in some languages; blocking.
        embeds: this gateway has an embedding model.
    """

    def __init__(
        self,
        db: Database,
        default: Policy,
        warm: Callable[[Languages, Set[str]], None],
        *,
        embeds: bool = True,
    ) -> None:
        self._db, self._warm, self._embeds = db, warm, embeds
        self.default = default
        # found by name where nobody stored one; that of the settings may have a shipped name
        self.given = shipped_policies() | {default.name: default}
        self._standings: dict[Assignment, Standing] = {}
        self._loaded: dict[tuple[str, str, str], Policy] = {}  # by owner, name and version
        self._choices: dict[tuple[str, str], Choice] = {}
        # languages and types of names whose models are loaded
        self._warmed: set[tuple[Languages, frozenset[str]]] = set()
        self._changing = asyncio.Lock()

    def choose(self, tenant_id: str, route: str) -> Choice:
        """What a tenant's calls of a route obey, as ``POST /v1/embeddings``."""
        key = (tenant_id, route)
        found = self._choices.get(key)
        if found is None:
            found = self._choose(tenant_id, route)
            if len(self._choices) >= MOST_CHOICES:
                self._choices.clear()
            self._choices[key] = found
        return found

    def _choose(self, tenant_id: str, route: str) -> Choice:
        enforced = best(self._standings, "enforce", tenant_id, route)
        tried = best(self._standings, "dry_run", tenant_id, route)
        dry_run = None if tried is None else self._standings[tried].policy
        if enforced is None:
            return Choice(named(self.default), self.default, dry_run=dry_run)
        standing = self._standings[enforced]
        return Choice(standing.named, standing.policy, standing.fault, dry_run)

    def standing(self, assignment: Assignment) -> Standing:
        """How an assigned policy stands in this gateway."""
        found = self._standings.get(assignment)
        return found or Standing(assignment.policy, None, "It is being put in force.")

    def assigned(self, tenant_id: str | None) -> list[Assignment]:
        """What is assigned to a tenant's calls, or to anybody's for None; by tenant and route."""
        of = (tenant_id, EVERY)
        found = [a for a in self._standings if tenant_id is None or a.tenant_id in of]
        return sorted(found, key=lambda a: (a.tenant_id, a.route, a.mode))

    def lent_to(self, tenant_id: str) -> set[str]:
        """The names of the platform's own policies that are assigned to a tenant's calls."""
        return {a.policy for a in self.assigned(tenant_id) if a.owner == DEFAULT_TENANT}

    async def prepare(self, policy: Policy) -> None:
        """Load what the policy needs.

        Raises:
            MissingExtra: the model that finds names, or a check of digits or of JSON, is not
                installed.
            Unavailable: the policy needs an embedding model, and this gateway has none; or it
                wants names in a language whose model is missing or finds no such names.
        """
        if policy.embeds and not self._embeds:
            raise Unavailable(
                f"The policy '{policy.name}' judges by embeddings, and this gateway runs without "
                "an embedding model. Set OSTIARY_EMBEDDED_RETRIEVAL=true, or leave out "
                "groundedness and the examples of topics.",
                code="policy_unavailable",
            )
        if policy.json_answers is not None:
            require_validator()
        watched = frozenset[str]().union(*map(policy.watched, get_args(Direction)))
        wanted = (policy.languages, watched & NER_ENTITIES)
        if wanted[1] and wanted not in self._warmed:
            await asyncio.to_thread(self._warm, *wanted)
            self._warmed.add(wanted)
        if by_country := watched & CATALOGUE:
            await asyncio.to_thread(lambda: [recognizer(entity) for entity in by_country])

    async def assign(
        self,
        policy: Policy,
        owner: str | None,
        *,
        tenant_id: str,
        route: str,
        mode: Mode,
        pinned: bool,
        mandatory: bool,
        by_platform: bool,
        made_by: str,
    ) -> tuple[Assignment, str | None]:
        """Assign a policy, in place of what the same tenant and route had; in force on return.

        Args:
            mandatory: nothing that a tenant assigns goes before it.
            by_platform: a mandatory assignment may be replaced.

        Returns:
            The assignment, and what was in force by the one before, as ``name@version``.

        Raises:
            NotFound: the policy was deleted meanwhile.
            MissingExtra: the policy finds names, and the model for that is not installed.
            Forbidden: what is there is mandatory, and was made by the platform.
        """
        await self.prepare(policy)
        wanted = Assignment(
            new_id("pas_"),
            tenant_id,
            route,
            mode,
            policy.name,
            owner,
            policy.version if pinned else None,
            mandatory,
            made_by,
            time.time(),
        )
        values = asdict(wanted)
        place = ("tenant_id", "route", "mode")
        async with self._db.write() as connection:
            if owner is not None:
                await _hold(connection, owner, policy.name)
            written = await connection.execute(
                self._db.insert(policy_assignments)
                .values(values)
                .on_conflict_do_update(
                    index_elements=place,
                    set_={k: v for k, v in values.items() if k not in ("id", *place)},
                    where=None if by_platform else policy_assignments.c.mandatory.is_(False),
                )
                .returning(*_COLUMNS)
            )
            row = written.mappings().one_or_none()
            if row is None:
                raise Forbidden(MANDATORY)
            made = Assignment(**row)
        before = next((s.named for a, s in self._standings.items() if a.id == made.id), None)
        await self.sync()
        return made, before

    async def unassign(self, assignment: Assignment) -> None:
        """End an assignment; what is less specific is in force on return."""
        async with self._db.write() as connection:
            await connection.execute(
                delete(policy_assignments).where(policy_assignments.c.id == assignment.id)
            )
        await self.sync()

    async def sync(self) -> None:
        """Take over what is assigned by now; called again and again."""
        async with self._changing:
            stored = and_(
                policies.c.tenant_id == policy_assignments.c.owner,
                policies.c.name == policy_assignments.c.policy,
            )
            query = select(*_COLUMNS, policies.c.version.label("newest")).outerjoin(
                policies, stored
            )
            standings = {}
            for row in await self._db.rows(query):
                assignment = Assignment(**{c.name: row[c.name] for c in _COLUMNS})
                version = assignment.version or row["newest"]
                standings[assignment] = await self._stand(assignment, version)
            if standings != self._standings:
                self._tell(standings)
                self._standings = standings
                self._choices.clear()
                used = {s.named for s in standings.values()}
                self._loaded = {k: p for k, p in self._loaded.items() if named(p) in used}

    def _tell(self, standings: dict[Assignment, Standing]) -> None:
        for assignment, standing in standings.items():
            if standing.fault and self._standings.get(assignment) != standing:
                log.error("policy %s is not in force: %s", standing.named, standing.fault)

    async def _stand(self, assignment: Assignment, version: str | None) -> Standing:
        name = f"{assignment.policy}@{version or '?'}"
        try:
            policy = await self._load(assignment, version)
            await self.prepare(policy)
        except (PolicyError, OstiaryError) as error:
            return Standing(name, None, f"{str(error).rstrip('.')}.")
        return Standing(named(policy), policy)

    async def _load(self, assignment: Assignment, version: str | None) -> Policy:
        """The policy of an assignment; raises PolicyError."""
        name, owner = assignment.policy, assignment.owner
        if owner is None:
            given = self.given.get(name)
            if given is None:
                raise PolicyError(f"This gateway comes without a policy '{name}'")
            if assignment.version not in (None, given.version):
                raise PolicyError(f"This gateway has it in the version {given.version}")
            return given
        if version is None:
            raise PolicyError("It is not stored any more")
        known = self._loaded.get((owner, name, version))
        if known is None:
            known = await self._read(owner, name, version)
            self._loaded[owner, name, version] = known
        return known

    async def _read(self, owner: str, name: str, version: str) -> Policy:
        of = policy_versions.c
        found = await self._db.rows(
            select(of.document)
            .where(of.tenant_id == owner, of.name == name, of.version == version)
            .order_by(of.number.desc())
            .limit(1)
        )
        if not found:
            raise PolicyError("This version is not stored")
        document = found[0]["document"]
        if not isinstance(document, dict) or version_of(document) != version:
            raise PolicyError("The stored document is not the one that was put there")
        return read_document(name, document).model_copy(update={"version": version})


async def _hold(connection: AsyncConnection, owner: str, name: str) -> None:
    """Keep a stored policy from being deleted until the transaction ends."""
    kept = select(policies.c.name).where(policies.c.tenant_id == owner, policies.c.name == name)
    if (await connection.execute(kept.with_for_update())).first() is None:
        raise NotFound(
            "policy", name, remedy="It was deleted meanwhile; store it again.", param="policy"
        )
