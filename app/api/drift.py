"""Drift of what a tenant's calls carry, and the references that it is told by."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.responses import HTMLResponse, Response
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from app.api.common import ERRORS
from app.errors import BadRequest, NotFound
from app.gateway.call import Call
from app.gateway.corridor import GovernedRoute, Scope

if TYPE_CHECKING:
    from app.monitoring.drift import DriftMonitor
    from app.monitoring.drift_references import Reference
    from app.monitoring.drift_verdicts import Drift

router = APIRouter(
    prefix="/v1/drift", route_class=GovernedRoute, tags=["monitoring"], responses=ERRORS
)
Read = Annotated[Call, Depends(Scope("monitoring:read"))]
Write = Annotated[Call, Depends(Scope("monitoring:write"))]
Version = Annotated[int, Path(ge=1, le=2**31 - 1)]
Hours = Annotated[
    int, Query(ge=1, le=168, description="How many of the newest hours are compared together.")
]
Feature = Annotated[
    str, Path(max_length=300, description="`route|model|feature`, as GET /v1/drift lists it.")
]
Correction = Literal["holm", "bonferroni", "benjamini-hochberg", "none"]
Time = Annotated[AwareDatetime, Field(ge=datetime(1970, 1, 2, tzinfo=UTC))]
PAGE: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/html": {}}, "description": "The page, as HTML."}
}
LIST_REMEDY = "GET /v1/drift lists those of the last day."


class DriftRow(BaseModel):
    feature: str
    window: Annotated[AwareDatetime, Field(description="Where what is compared begins.")]
    until: AwareDatetime
    count: int
    reference: Annotated[
        int | None, Field(description="Version of the reference; 0: the oldest hours; null: none.")
    ]
    reference_count: int
    test: Literal["ks", "chi-square", "mmd"]
    value: Annotated[float | None, Field(description="The distance. Null: too few values.")]
    threshold: float
    psi: float | None
    psi_threshold: float | None
    p: float | None
    p_corrected: Annotated[
        float | None, Field(description="For the number of features in the report.")
    ]
    correction: Annotated[Correction, Field(description="How; `OSTIARY_DRIFT_CORRECTION`.")]
    alpha: float
    drifted: bool
    quantiles: Annotated[
        list[float], Field(description="Of 0, 5, 25, 50, 75, 95 and 100 %; empty if no numbers.")
    ]
    reference_quantiles: list[float]


class DriftHistogram(BaseModel):
    """Shares of the window and of the reference in the same bins."""

    bins: Annotated[
        list[float] | list[str],
        Field(description="Edges of numbers, one more than shares; labels of a category."),
    ]
    window: list[float]
    reference: list[float]


class DriftDetail(DriftRow):
    histogram: DriftHistogram | None


class DriftReport(BaseModel):
    object: Literal["list"] = "list"
    data: list[DriftRow]


class ReferenceBody(BaseModel):
    model_config = ConfigDict(extra="forbid")
    since: Annotated[Time, Field(description="The whole hours between the two are frozen.")]
    until: Time
    note: Annotated[str, Field(max_length=200, pattern=r"^[^\x00]*$")] = ""


class ReferenceObject(BaseModel):
    object: Literal["drift.reference"] = "drift.reference"
    version: int
    since: AwareDatetime
    until: AwareDatetime
    note: str
    features: Annotated[int, Field(description="How many it holds.")]
    made_by: str
    created_at: AwareDatetime


class ReferenceList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ReferenceObject]


class ReferenceDeleted(BaseModel):
    object: Literal["drift.reference"] = "drift.reference"
    version: int
    deleted: Literal[True] = True


def _monitor(request: Request) -> DriftMonitor:
    monitor: DriftMonitor = request.app.state.services.drift
    return monitor


def _fields(drift: Drift) -> dict[str, object]:
    times = {
        name: datetime.fromtimestamp(getattr(drift, name), UTC) for name in ("window", "until")
    }
    return {**asdict(drift), **times}


def _reference(found: Reference) -> ReferenceObject:
    times = {
        name: datetime.fromtimestamp(getattr(found, name), UTC)
        for name in ("since", "until", "created_at")
    }
    return ReferenceObject(**{**asdict(found), **times})


@router.get("")
async def list_drift(request: Request, call: Read, hours: Hours = 1) -> DriftReport:
    """Compare each feature's newest hours with its reference."""
    report = await _monitor(request).report(call.tenant_id, hours=hours)
    return DriftReport(data=[DriftRow.model_validate(_fields(d)) for d in report])


@router.post("/references", status_code=201)
async def freeze_reference(request: Request, call: Write, body: ReferenceBody) -> ReferenceObject:
    """Freeze what was observed between two times as the newest reference."""
    if body.until <= body.since:
        raise BadRequest("`until` must be later than `since`.", param="until")
    monitor = _monitor(request)
    await monitor.flush()
    found = await monitor.references.freeze(
        call.tenant_id,
        body.since.timestamp(),
        body.until.timestamp(),
        body.note,
        call.principal.subject,
    )
    call.lineage["drift_reference"] = {
        "frozen": found.version,
        "since": found.since,
        "until": found.until,
    }
    return _reference(found)


@router.get("/references")
async def list_references(request: Request, call: Read) -> ReferenceList:
    """List the frozen references, newest first; a feature is compared with the newest it is in."""
    found = await _monitor(request).references.all(call.tenant_id)
    return ReferenceList(data=[_reference(r) for r in found])


@router.get("/references/{version}")
async def get_reference(request: Request, call: Read, version: Version) -> ReferenceObject:
    """Read a frozen reference."""
    return _reference(await _monitor(request).references.get(call.tenant_id, version))


@router.delete("/references/{version}")
async def delete_reference(request: Request, call: Write, version: Version) -> ReferenceDeleted:
    """Delete a reference; features go back to the newest that still holds them."""
    await _monitor(request).references.drop(call.tenant_id, version)
    call.lineage["drift_reference"] = {"deleted": version}
    return ReferenceDeleted(version=version)


async def _page(request: Request, call: Call, feature: str | None, hours: int) -> HTMLResponse:
    from app.monitoring.evidently_report import drawn, report

    pairs = await _monitor(request).pairs(call.tenant_id, hours)
    wanted = [p for p in pairs if feature in (None, p.feature)]
    columns = await asyncio.to_thread(drawn, wanted)
    if not columns:
        raise NotFound(
            "drift feature with a reference",
            feature or "*",
            remedy="A report needs values and a reference, of numbers or labels. " + LIST_REMEDY,
        )
    return HTMLResponse(await report(columns))


@router.get("/report", response_class=Response, responses=PAGE)
async def draw_report(request: Request, call: Read, hours: Hours = 1) -> HTMLResponse:
    """Draw Evidently's report of all features that have a reference."""
    return await _page(request, call, None, hours)


@router.get("/{feature:path}/report", response_class=Response, responses=PAGE)
async def draw_feature_report(
    request: Request, call: Read, feature: Feature, hours: Hours = 1
) -> HTMLResponse:
    """Draw Evidently's report of one feature."""
    return await _page(request, call, feature, hours)


@router.get("/{feature:path}")
async def get_drift(
    request: Request, call: Read, feature: Feature, hours: Hours = 1
) -> DriftDetail:
    """Compare one feature's newest hours with its reference, bin by bin."""
    report = await _monitor(request).report(call.tenant_id, feature, hours)
    if not report:
        raise NotFound("drift feature", feature, remedy=LIST_REMEDY)
    return DriftDetail.model_validate(_fields(report[0]))
