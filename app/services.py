"""The services that the doors may call, as one typed value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from app.alerting import Alerting
    from app.auditing import Auditing
    from app.gateway.budgets import Budgets
    from app.gateway.identity import Identity
    from app.gateway.inside import Inside
    from app.guardrails.in_force import InForce
    from app.guardrails.library import Library
    from app.guardrails.service import Guardrails
    from app.llm.batches import Batches
    from app.llm.chat import Chat
    from app.llm.completions import Completions
    from app.llm.fleet import Fleet
    from app.llm.responses import Responses
    from app.llm.rewriting import Rewriter
    from app.llm.rollouts import Rollouts
    from app.llm.router import Router
    from app.monitoring.audit import AuditLog
    from app.monitoring.drift import DriftMonitor
    from app.monitoring.erasure import Erasures
    from app.monitoring.metrics import Metrics
    from app.monitoring.usage import Usage
    from app.retrieval.builds import Builds
    from app.retrieval.collections import VectorStores
    from app.retrieval.connectors.connectors import Connectors
    from app.retrieval.files import FileService
    from app.retrieval.ingestion import Ingestion
    from app.retrieval.rankers import Rankers
    from app.retrieval.search import Searches
    from app.retrieval.store_files import StoreFiles
    from app.settings import Settings
    from app.store.db import Database
    from app.store.jobs import Jobs


@dataclass(slots=True)
class Services:
    """Built once by ``create_app``; a route takes it from ``request.app.state.services``."""

    settings: Settings
    db: Database
    identity: Identity
    guardrails: Guardrails
    policies: Library
    in_force: InForce
    audit: AuditLog
    auditing: Auditing
    alerting: Alerting
    erasures: Erasures
    usage: Usage
    budgets: Budgets
    drift: DriftMonitor
    metrics: Metrics
    jobs: Jobs
    files: FileService
    vector_stores: VectorStores
    store_files: StoreFiles
    rankers: Rankers
    searches: Searches
    ingestion: Ingestion
    builds: Builds
    connectors: Connectors
    router: Router
    fleet: Fleet
    rollouts: Rollouts
    rewriter: Rewriter
    chat: Chat
    completions: Completions
    batches: Batches
    inside: Inside
    responses: Responses
    llm_state: Callable[[], str]
