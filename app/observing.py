"""Opens what is seen of the gateway from outside: traces, and metrics that a query gives."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, AsyncExitStack, contextmanager

from app.monitoring.drift_looks import DriftLooks
from app.monitoring.drift_verdicts import Rules
from app.monitoring.metrics import Metrics
from app.monitoring.tracing import Tracing
from app.periodic import forever
from app.retrieval.store_files import StoreFiles
from app.settings import Settings
from app.store.jobs import Job, Jobs

COUNT_S = 10.0  # jobs and files that wait
LOOK_AT_DRIFT_S = 300.0


def open_tracing(settings: Settings, stack: AsyncExitStack) -> Tracing | None:
    """Where traces go, if the settings name a place."""
    if settings.otlp_endpoint is None:
        return None
    tracing = Tracing(settings.otlp_endpoint, settings.trace_ratio, settings.instance)
    stack.push_async_callback(asyncio.to_thread, tracing.close)
    return tracing


def job_watch(
    metrics: Metrics, tracing: Tracing | None
) -> Callable[[Job, str], AbstractContextManager[None]]:
    """Counts each step of a job, and traces it where traces are kept."""

    @contextmanager
    def watch(job: Job, step: str) -> Iterator[None]:
        with metrics.job_step(job.kind):
            if tracing is None:
                yield
            else:
                with tracing.step(job.kind, step, job.id, job.tenant_id):
                    yield

    return watch


def keep_counts(
    stack: AsyncExitStack, metrics: Metrics, jobs: Jobs, attached: StoreFiles, looks: DriftLooks
) -> None:
    """Keep the metrics that a query gives; no scrape waits for a database."""

    async def count() -> None:
        metrics.set_jobs(await jobs.open_counts())
        waiting, lag = await attached.backlog()
        metrics.ingest_files.set(waiting)
        metrics.ingest_lag.set(lag)

    async def look_at_drift() -> None:
        metrics.set_drift(await looks.of_all(LOOK_AT_DRIFT_S / 2))

    for work, every_s in ((count, COUNT_S), (look_at_drift, LOOK_AT_DRIFT_S)):
        stack.callback(asyncio.create_task(forever(work, every_s, at_once=True)).cancel)


def drift_rules(settings: Settings) -> Rules:
    """What the settings call drift."""
    return Rules(
        alpha=settings.drift_alpha,
        correction=settings.drift_correction,
        ks=settings.drift_ks,
        psi=settings.drift_psi,
        shares=settings.drift_shares,
        mmd=settings.drift_mmd,
        min_count=settings.drift_min_count,
        reference_count=settings.drift_reference_count,
        keep_days=settings.drift_keep_days,
    )
