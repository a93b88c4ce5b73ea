"""Prometheus metrics of the gateway, with label sets that no caller can grow."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.process_collector import ProcessCollector

from app.gateway.call import Call
from app.guardrails.demands import ANSWER_CHECKS
from app.guardrails.dry_run import DryRun
from app.guardrails.policy import KNOWN
from app.monitoring.live import Live
from app.monitoring.stages import Retrieved, Screened, Stage

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 120)
SHORT = (0.0001, 0.00025, 0.0005, *BUCKETS[:-3])  # of parts of a call
LONG = (0.1, 0.5, 1, 5, 15, 60, 300, 1800, 7200)  # of steps of jobs
GROUPS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)  # records that one commit holds


class Metrics:
    """Counters and histograms of what happened; children are cached on the hot path.

    Attributes:
        serves: whether a name is one of a model of this gateway; other names share a label.
        live: what is read when Prometheus asks.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.serves: Callable[[str], bool] = lambda model: False
        self._calls = self._counter("calls", "Governed calls.", "route", "status")
        self._latency = self._seconds("call_seconds", "Latency of governed calls.", "route")
        self._first = self._seconds(
            "first_token_seconds", "Until the first byte of a streamed answer.", "model"
        )
        self._tokens = self._counter("tokens", "Tokens of governed calls.", "kind", "model")
        self._cost = self._counter("cost_usd", "Cost of governed calls in USD.", "model")
        self._caches = self._counter("cache", "Calls that were looked for in a cache.", "result")
        found = ("direction", "entity", "action")
        self._findings = self._counter(
            "guardrail_findings", "Values that guardrails acted on.", *found
        )
        self._tried = self._counter(
            "guardrail_dry_run_findings",
            "Values that a policy under trial would have acted on.",
            *found,
        )
        self._dry_runs = self._counter(
            "guardrail_dry_runs",
            "Calls on which a policy was tried: it would have refused them or let them pass.",
            "outcome",
        )
        self._degraded = self._counter(
            "degraded_calls", "Calls that a fallback answered.", "reason"
        )
        self._failovers = self._counter(
            "model_failovers", "Servers that failed a call which another was asked for.", "model"
        )
        screening = self._seconds(
            "guardrail_seconds", "Screening of a call, waiting included.", "part", buckets=SHORT
        )
        retrieving = self._seconds(
            "retrieval_seconds", "Stages of a call's searches.", "stage", buckets=SHORT
        )
        queue = self._seconds(
            "model_wait_seconds", "Waiting of a call for a model server.", buckets=SHORT
        )
        self._stages: dict[Stage, Histogram] = {"queue": queue}
        for part in get_args(Screened):
            self._stages[part] = screening.labels(part.removeprefix("screen_"))
        for name in get_args(Retrieved):
            self._stages[name] = retrieving.labels(name)
        self._groups = Histogram(
            "ostiary_audit_group_records",
            "Audit records that one commit made durable.",
            buckets=GROUPS,
            registry=self.registry,
        )
        self._commits = self._seconds(
            "audit_commit_seconds", "Group commits of the audit log.", buckets=SHORT
        )
        self._lost_commits = self._counter(
            "audit_commit_failures", "Group commits of the audit log that failed."
        )
        self._job_steps = self._seconds(
            "job_step_seconds", "Steps of jobs.", "kind", "outcome", buckets=LONG
        )
        self._jobs = self._gauge("jobs", "Jobs that wait or run.", "kind", "status")
        self.inflight = self._gauge("calls_in_flight", "Calls inside the corridor.")
        self._pools = self._gauge("pool_waiting", "Calls in a thread pool.", "pool")
        self.connectors_not_fresh = self._gauge(
            "connectors_not_fresh",
            "Connectors whose last whole sync is older than their freshness, of all tenants.",
        )
        self.budget_alerts = self._counter(
            "budget_alerts", "Levels, in percent, that budgets have reached.", "level"
        )
        self.budgets_spent = self._gauge(
            "budgets_spent", "Budgets of which nothing is left in their period, of all tenants."
        )
        self.ingest_files = self._gauge(
            "ingest_waiting_files", "Attached files that are not searchable yet, of all tenants."
        )
        self.ingest_lag = self._gauge(
            "ingest_lag_seconds", "How long the oldest of these files has waited."
        )
        self._drift = self._gauge("drift_features", "Features of all tenants.", "state")
        self.live = Live()
        self.registry.register(self.live)
        ProcessCollector(registry=self.registry)
        self._by_route: dict[tuple[str, int], tuple[Counter, Histogram]] = {}

    def _counter(self, name: str, help_: str, *labels: str) -> Counter:
        return Counter(f"ostiary_{name}", help_, labels, registry=self.registry)

    def _gauge(self, name: str, help_: str, *labels: str) -> Gauge:
        return Gauge(f"ostiary_{name}", help_, labels, registry=self.registry)

    def _seconds(
        self, name: str, help_: str, *labels: str, buckets: tuple[float, ...] = BUCKETS
    ) -> Histogram:
        return Histogram(f"ostiary_{name}", help_, labels, buckets=buckets, registry=self.registry)

    def observe(self, call: Call, status: int, latency_s: float) -> None:
        """Count one settled call."""
        key = (call.route, status)
        children = self._by_route.get(key)
        if children is None:
            children = (
                self._calls.labels(call.route, str(status)),
                self._latency.labels(call.route),
            )
            self._by_route[key] = children
        children[0].inc()
        children[1].observe(latency_s)
        for name, seconds in list(call.seconds.items()):  # a thread may add to it still
            self._stages[name].observe(seconds)
        model = self._model(call.model)
        usage = call.usage
        for kind, count in (
            ("prompt", usage.prompt_tokens),
            ("completion", usage.completion_tokens),
            ("embedding", usage.embedding_tokens),
        ):
            if count:
                self._tokens.labels(kind, model).inc(count)
        if call.cost_nano_usd:
            self._cost.labels(model).inc(call.cost_nano_usd / 1e9)
        if call.first_s is not None and call.model is not None:
            self._first.labels(model).observe(call.first_s)
        if call.cache:
            self._caches.labels(call.cache).inc()
        if call.degraded:
            self._degraded.labels(call.degraded.partition("=")[0]).inc()
        if failed := call.lineage.get("failed_deployments"):
            self._failovers.labels(model).inc(len(failed))
        for (direction, entity, action), count in call.findings.items():
            self._findings.labels(direction, _label(entity), action).inc(count)

        if call.dry_run is not None:
            self._observe_dry_run(call.dry_run)

    def _model(self, name: str | None) -> str:
        """A model's name as a label: a caller may ask for any."""
        return "none" if name is None else name if self.serves(name) else "other"

    def _observe_dry_run(self, tried: DryRun) -> None:
        outcome = "block" if tried.would_block else "unseen" if tried.unseen else "pass"
        self._dry_runs.labels(outcome).inc()
        for (direction, entity, action), count in tried.findings.items():
            self._tried.labels(direction, _label(entity), action).inc(count)

    def audit_group(self, records: int, seconds: float, failed: bool) -> None:
        """Count a group commit of the audit log; from its thread."""
        self._groups.observe(records)
        self._commits.observe(seconds)
        if failed:
            self._lost_commits.inc()

    @contextmanager
    def job_step(self, kind: str) -> Iterator[None]:
        """Count a step of a job, until the block ends."""
        began, outcome = time.perf_counter(), "failed"
        try:
            yield
            outcome = "done"
        finally:
            self._job_steps.labels(kind, outcome).observe(time.perf_counter() - began)

    def set_jobs(self, counts: dict[tuple[str, str], int]) -> None:
        """Export how many jobs wait and run, by kind and status."""
        for labels, count in counts.items():
            self._jobs.labels(*labels).set(count)

    def set_drift(self, counts: dict[str, int]) -> None:
        """Export how many features are in which state."""
        for state, count in counts.items():
            self._drift.labels(state).set(count)

    def watch_pool(self, name: str, waiting: Callable[[], int]) -> None:
        """Export how many calls are queued or running in a thread pool."""
        self._pools.labels(name).set_function(lambda: float(waiting()))

    def exposition(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self.registry)


def _label(entity: str) -> str:
    """An entity type as a label: those of tenants' own recognizers are one, as they are many."""
    return entity if entity in KNOWN | ANSWER_CHECKS else "custom"
