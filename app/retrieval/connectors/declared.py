"""The sources of the settings, and which tenant may follow which."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from app.errors import NotFound
from app.gateway.identity import Tenant
from app.retrieval.connectors.base import Source, SourceError
from app.retrieval.connectors.choice import open_source
from app.retrieval.connectors.settings import SourceSettings


class DeclaredSources:
    """What the operator declared; a tenant sees only what names it."""

    def __init__(
        self,
        declared: Mapping[str, SourceSettings],
        find_tenant: Callable[[str], Awaitable[Tenant | None]],
    ) -> None:
        self._declared, self._find_tenant = declared, find_tenant

    async def of(self, tenant_id: str) -> dict[str, SourceSettings]:
        """The sources that a tenant may follow, by name; none where it is disabled."""
        tenant = await self._find_tenant(tenant_id)
        if tenant is None or tenant.disabled_at is not None:
            return {}
        return {name: s for name, s in sorted(self._declared.items()) if s.serves(tenant.name)}

    async def require(self, tenant_id: str, name: str) -> None:
        """Raises NotFound for a source that is not there, or not for this tenant."""
        if name not in await self.of(tenant_id):
            raise NotFound(
                "source",
                name,
                remedy="GET /v1/sources lists those that may be followed.",
                param="source",
                code="source_not_found",
            )

    async def open(self, tenant_id: str, name: str) -> Source:
        """Open a source for a tenant's connector.

        Raises:
            SourceError: it was taken out of the settings, or away from the tenant.
            MissingExtra: its kind needs an extra that is not installed.
        """
        found = (await self.of(tenant_id)).get(name)
        if found is None:
            raise SourceError(
                f"The source '{name}' is not declared for this tenant any more. The documents "
                "stay until the connector is deleted. Operator: declare it again, or delete the "
                "connector.",
                code="source_revoked",
            )
        return open_source(found)
