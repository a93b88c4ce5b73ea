"""The models that this gateway serves."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request

from app.api.common import ERRORS
from app.errors import NotFound
from app.gateway.call import Call
from app.gateway.corridor import GovernedRoute, Scope
from app.llm.openai_types import Model, ModelList

router = APIRouter(prefix="/v1/models", route_class=GovernedRoute, tags=["llm"], responses=ERRORS)
Read = Annotated[Call, Depends(Scope("models:read"))]
SINCE = 1_732_406_400  # a fixed day: the models have no birthday of their own here


def _names(services: Any) -> list[str]:
    return [*services.router.names, *services.vector_stores.models, *services.rankers.names]


@router.get("")
async def list_models(request: Request, call: Read) -> ModelList:
    """List the models."""
    names = _names(request.app.state.services)
    return ModelList(data=[Model(id=n, created=SINCE) for n in names])


@router.get("/{model:path}")
async def get_model(request: Request, call: Read, model: str) -> Model:
    """Get one model."""
    if model not in _names(request.app.state.services):
        raise NotFound("model", model, remedy="GET /v1/models lists them.", code="model_not_found")
    return Model(id=model, created=SINCE)
