"""Which of several assigned policies a call obeys: a mandatory one, else the most specific."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from app.errors import Unavailable
from app.guardrails.policy import Policy

Mode = Literal["enforce", "dry_run"]
EVERY = "*"  # tenant, or route
MANDATORY = "The platform made this assignment mandatory; its administrators can change it."
_METHODS = "GET|POST|PUT|PATCH|DELETE"
# a path as routes name it, or its beginning, with or without a method
ROUTE = rf"^(\*|(({_METHODS}) )?/[A-Za-z0-9_./{{}}:-]{{0,200}}\*?)$"
_PARTS = re.compile(rf"(?:({_METHODS}) )?(.*)")


@dataclass(frozen=True, slots=True)
class Assignment:
    """A policy for a tenant and a route, either of which may be every one."""

    id: str
    tenant_id: str
    route: str
    mode: Mode
    policy: str
    owner: str | None  # the tenant that stored the policy; None: shipped, or of the settings
    version: str | None  # None: the newest
    mandatory: bool  # made by the platform: no tenant's own choice goes before it
    made_by: str
    created_at: float  # Unix seconds

    def governs(self, tenant_id: str, route: str) -> bool:
        """Whether it is for a tenant's calls of a route, as ``POST /v1/embeddings``."""
        return self.tenant_id in (EVERY, tenant_id) and covers(self.route, route)

    @property
    def rank(self) -> tuple[bool, bool, bool, bool, int, bool, str]:
        """What is mandatory first, then the more specific; no two of a mode have the same."""
        method, path = _split(self.route)
        return (
            self.mandatory,
            self.tenant_id != EVERY,
            self.route != EVERY,
            not path.endswith("*"),
            len(path),
            method is not None,
            self.route,
        )


def covers(pattern: str, route: str) -> bool:
    """Whether a pattern is of a route."""
    if pattern == EVERY:
        return True
    method, path = _split(pattern)
    asked, _, where = route.partition(" ")
    if method not in (None, asked):
        return False
    return where.startswith(path[:-1]) if path.endswith("*") else where == path


def best(
    assignments: Iterable[Assignment], mode: Mode, tenant_id: str, route: str
) -> Assignment | None:
    """What is mandatory, then the most specific: of tenant and route, tenant, route, everybody."""
    found = [a for a in assignments if a.mode == mode and a.governs(tenant_id, route)]
    return max(found, key=lambda a: a.rank, default=None)


def _split(pattern: str) -> tuple[str | None, str]:
    found = _PARTS.fullmatch(pattern)
    return (None, pattern) if found is None else (found[1], found[2])


@dataclass(frozen=True, slots=True)
class Choice:
    """What a call obeys, decided once; ``policy`` is None where it cannot be put in force."""

    named: str  # name@version
    policy: Policy | None
    fault: str = ""
    dry_run: Policy | None = None  # what is tried beside it

    def require(self) -> Policy:
        """The policy that the call obeys.

        Raises:
            Unavailable: it cannot be put in force, so nothing passes.
        """
        if self.policy is None:
            raise Unavailable(
                f"The guardrail policy '{self.named}', which is assigned to this call, cannot be "
                f"put in force, so the call was refused: {self.fault} An administrator can assign "
                "another policy with PUT /v1/admin/policies.",
                code="policy_unavailable",
            )
        return self.policy
