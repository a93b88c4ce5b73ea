"""The audit log of a tenant: read, verify, sign, export, keep for a time, erase from."""

from __future__ import annotations

import asyncio
import base64
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field

from app.api.common import ERRORS, AccessName, Id, with_times
from app.api.jobs import JobObject, show_job
from app.errors import BadRequest, NotFound
from app.gateway.call import Call
from app.gateway.corridor import GovernedRoute, Scope

if TYPE_CHECKING:
    from app.monitoring.erasure import Erasure
    from app.services import Services

router = APIRouter(prefix="/v1/audit", route_class=GovernedRoute, tags=["audit"], responses=ERRORS)
Read = Annotated[Call, Depends(Scope("audit:read"))]
Admin = Annotated[Call, Depends(Scope("admin"))]
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}[Tt ]")


def _rfc3339(value: Any) -> Any:
    """Refuse numbers, which would be taken for Unix seconds."""
    if isinstance(value, str) and not _DATE.match(value):
        raise ValueError("write a time as 2026-01-31T00:00:00Z")
    return value


Time = Annotated[AwareDatetime, BeforeValidator(_rfc3339)]
MEDIA = {"jsonl": "application/jsonl", "parquet": "application/vnd.apache.parquet"}


class AuditPage(BaseModel):
    object: Literal["list"] = "list"
    data: list[dict[str, Any]]
    first_id: str | None
    last_id: str | None
    has_more: bool


class AuditFault(BaseModel):
    tenant_id: str
    seq: int
    kind: str
    message: str


class AuditVerdict(BaseModel):
    object: Literal["audit.verdict"] = "audit.verdict"
    valid: bool
    records: int
    checkpoints: int
    fault: str | None
    faults: list[AuditFault]


class AuditKey(BaseModel):
    object: Literal["audit.key"] = "audit.key"
    id: str
    public_key: Annotated[str, Field(description="Ed25519, PEM.")]
    signs: Annotated[bool, Field(description="Whether new checkpoints are signed with it here.")]
    first_at: AwareDatetime


class AuditKeyList(BaseModel):
    object: Literal["list"] = "list"
    data: list[AuditKey]


class AuditCheckpoint(BaseModel):
    object: Literal["audit.checkpoint"] = "audit.checkpoint"
    number: int
    tenant_id: str
    seq: int
    hash: str
    previous: str
    at: Annotated[float, Field(description="Unix seconds, as it was signed.")]
    key_id: str
    signature: str


class AuditCheckpointList(BaseModel):
    object: Literal["list"] = "list"
    data: list[AuditCheckpoint]
    first_id: str | None
    last_id: str | None
    has_more: bool


class ErasureBody(BaseModel):
    """Either the user that access lists and calls know, or the subject of a key or token."""

    model_config = ConfigDict(extra="forbid")
    user: AccessName | None = None
    subject: Annotated[
        str | None, Field(max_length=300, pattern=r"^(key|oidc):[^\x00-\x1f\x7f]+$")
    ] = None


class ErasedPlace(BaseModel):
    told: str
    found: int = 0
    removed: int = 0
    left: Annotated[int | None, Field(description="Found again afterwards; null: not yet.")] = None


class KeptPlace(BaseModel):
    told: str
    count: int


class ErasureReport(BaseModel):
    places: dict[str, ErasedPlace]
    kept: dict[str, KeptPlace] = {}
    not_found_by_person: list[str] = []
    complete: bool = False


class ErasureObject(BaseModel):
    object: Literal["audit.erasure"] = "audit.erasure"
    id: str
    job_id: str
    named_sha256: Annotated[
        str, Field(description="SHA-256 of the id, a NUL, and the name that was given.")
    ]
    report: ErasureReport | None
    created_at: AwareDatetime
    ended_at: AwareDatetime | None


def _erasure(found: Erasure) -> ErasureObject:
    values = {n: getattr(found, n) for n in ErasureObject.model_fields if n != "object"}
    return ErasureObject(**with_times(values))


def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


@router.get("")
async def list_audit(
    request: Request,
    call: Read,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    after: Annotated[int | None, Query(ge=1, le=2**53, description="A seq; older follow.")] = None,
    request_id: Annotated[str | None, Query(max_length=128)] = None,
) -> AuditPage:
    """List the tenant's audit records, newest first."""
    rows = await _services(request).audit.page(
        call.tenant_id, limit=limit + 1, before_seq=after, request_id=request_id
    )
    shown = rows[:limit]
    return AuditPage(
        data=shown,
        first_id=str(shown[0]["seq"]) if shown else None,
        last_id=str(shown[-1]["seq"]) if shown else None,
        has_more=len(rows) > limit,
    )


@router.get("/verify")
async def verify_audit(request: Request, call: Read) -> AuditVerdict:
    """Walk the tenant's chain, with the gateway's keys and its checkpoint file."""
    from app.monitoring.verification import verify

    services = _services(request)
    path = services.auditing.checkpoints.path
    verdict = await asyncio.to_thread(
        verify,
        services.db,
        trusted=services.auditing.keys.trusted,
        checkpoints=path if path.exists() else None,
        tenant_id=call.tenant_id,
    )
    return AuditVerdict(
        valid=verdict.fault is None,
        records=verdict.records,
        checkpoints=verdict.checkpoints,
        fault=verdict.fault,
        faults=[
            AuditFault(tenant_id=f.tenant_id, seq=f.seq, kind=f.kind, message=f.told)
            for f in verdict.faults
        ],
    )


@router.get("/keys")
async def list_audit_keys(request: Request, call: Read) -> AuditKeyList:
    """List the public keys that have signed in this database, oldest first."""
    from app.monitoring.signing import pem_of

    keys = _services(request).auditing.keys
    rows = await asyncio.to_thread(keys.known)
    return AuditKeyList(
        data=[
            AuditKey(
                id=row["id"],
                public_key=pem_of(base64.b64decode(row["public_key"])),
                signs=row["id"] == keys.current.id,
                first_at=datetime.fromtimestamp(row["at"], UTC),
            )
            for row in rows
        ]
    )


@router.get("/checkpoints")
async def list_checkpoints(
    request: Request,
    call: Read,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    after: Annotated[
        int | None, Query(ge=1, le=2**31 - 1, description="A number; older follow.")
    ] = None,
) -> AuditCheckpointList:
    """List the tenant's signed checkpoints, newest first."""
    rows = await _services(request).auditing.checkpoints.page(
        call.tenant_id, limit=limit + 1, before=after
    )
    shown = [AuditCheckpoint(**row) for row in rows[:limit]]
    return AuditCheckpointList(
        data=shown,
        first_id=str(shown[0].number) if shown else None,
        last_id=str(shown[-1].number) if shown else None,
        has_more=len(rows) > limit,
    )


@router.post("/checkpoints", status_code=201)
async def take_checkpoint(request: Request, call: Admin) -> AuditCheckpoint:
    """Sign what the tenant's chain is now; the newest one again where nothing was added."""
    taken = await asyncio.to_thread(_services(request).auditing.checkpoints.take, [call.tenant_id])
    if not taken:
        raise NotFound("audit record", call.tenant_id, remedy="Make a call first.")
    return AuditCheckpoint(**taken[0])


@router.get(
    "/export",
    response_class=StreamingResponse,
    responses={
        200: {
            "content": {media: {} for media in MEDIA.values()},
            "description": "The records in order, and what is signed of them.",
        }
    },
)
async def export_audit(
    request: Request,
    call: Read,
    format: Annotated[Literal["jsonl", "parquet"], Query()] = "jsonl",
    since: Annotated[Time | None, Query(description="Calls that began from then.")] = None,
    until: Annotated[Time | None, Query(description="Calls that began before.")] = None,
) -> StreamingResponse:
    """Export the tenant's records so that they can be verified elsewhere."""
    if since is not None and until is not None and until <= since:
        raise BadRequest("`until` must be later than `since`.", param="until")
    if format == "parquet":
        from app.monitoring.export import parquet_modules

        parquet_modules()  # a missing package is told before the reply begins
    exports = _services(request).auditing.export
    export = await exports.begin(
        call.tenant_id,
        None if since is None else since.timestamp(),
        None if until is None else until.timestamp(),
    )
    call.lineage["export"] = {"format": format, "from": export.from_seq, "to": export.to_seq}
    name = f"audit-{export.from_seq}-{export.to_seq}.{format}"
    return StreamingResponse(
        exports.write(export, format),
        media_type=MEDIA[format],
        headers={"content-disposition": f'attachment; filename="{name}"'},
    )


@router.post("/retention", status_code=202)
async def run_retention(request: Request, call: Admin) -> JobObject:
    """Remove now what the tenant's retention does not keep; it is done daily without asking."""
    services = _services(request)
    job_id = await services.auditing.retention.begin(call.tenant_id, call.principal.subject)
    return show_job(await services.jobs.get(call.tenant_id, job_id))


@router.post("/erasures", status_code=202)
async def begin_erasure(request: Request, call: Admin, body: ErasureBody) -> ErasureObject:
    """Erase a person's data in the tenant; a job whose report tells what was removed where."""
    if (body.user is None) == (body.subject is None):
        raise BadRequest("Give `user` or `subject`, one of them.", param="user")
    erasures = _services(request).erasures
    found = await erasures.begin(call, body.user, body.subject)
    call.lineage["erasure"] = found.id
    return _erasure(found)


@router.get("/erasures/{erasure_id}")
async def get_erasure(request: Request, call: Admin, erasure_id: Id) -> ErasureObject:
    """Get an erasure and its report, as far as it is."""
    return _erasure(await _services(request).erasures.get(call.tenant_id, erasure_id))
