"""Prometheus metrics of the gateway, with label sets that no tenant can grow."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from app.gateway.call import Call
from app.guardrails.demands import ANSWER_CHECKS
from app.guardrails.dry_run import DryRun
from app.guardrails.policy import KNOWN

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 120)


class Metrics:
    """Counters and histograms by route and status; children are cached on the hot path."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._calls = Counter(
            "ostiary_calls", "Governed calls.", ("route", "status"), registry=self.registry
        )
        self._latency = Histogram(
            "ostiary_call_seconds",
            "Latency of governed calls.",
            ("route",),
            buckets=BUCKETS,
            registry=self.registry,
        )
        tokens = Counter(
            "ostiary_tokens", "Tokens of governed calls.", ("kind",), registry=self.registry
        )
        self._prompt, self._completion, self._embedding = (
            tokens.labels(kind) for kind in ("prompt", "completion", "embedding")
        )
        self._cost = Counter(
            "ostiary_cost_usd", "Cost of governed calls in USD.", registry=self.registry
        )
        self._caches = Counter(
            "ostiary_cache",
            "Calls that were looked for in a cache.",
            ("result",),
            registry=self.registry,
        )
        self._findings = Counter(
            "ostiary_guardrail_findings",
            "Values that guardrails acted on.",
            ("direction", "entity", "action"),
            registry=self.registry,
        )
        self._tried = Counter(
            "ostiary_guardrail_dry_run_findings",
            "Values that a policy under trial would have acted on.",
            ("direction", "entity", "action"),
            registry=self.registry,
        )
        self._dry_runs = Counter(
            "ostiary_guardrail_dry_runs",
            "Calls on which a policy was tried: it would have refused them or let them pass.",
            ("outcome",),
            registry=self.registry,
        )
        self.inflight = Gauge(
            "ostiary_calls_in_flight", "Calls inside the corridor.", registry=self.registry
        )
        self._pools = Gauge(
            "ostiary_pool_waiting", "Calls in a thread pool.", ("pool",), registry=self.registry
        )
        self._queues = Gauge(
            "ostiary_model_queue",
            "Calls that wait for a model, since all its servers are busy.",
            ("model",),
            registry=self.registry,
        )
        self._waiting: Callable[[], dict[str, int]] | None = None
        self.connectors_not_fresh = Gauge(
            "ostiary_connectors_not_fresh",
            "Connectors whose last whole sync is older than their freshness, of all tenants.",
            registry=self.registry,
        )
        self._by_route: dict[tuple[str, int], tuple[Counter, Histogram]] = {}

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
        usage = call.usage
        if usage.prompt_tokens:
            self._prompt.inc(usage.prompt_tokens)
        if usage.completion_tokens:
            self._completion.inc(usage.completion_tokens)
        if usage.embedding_tokens:
            self._embedding.inc(usage.embedding_tokens)
        if call.cost_nano_usd:
            self._cost.inc(call.cost_nano_usd / 1e9)
        if call.cache:
            self._caches.labels(call.cache).inc()
        for (direction, entity, action), count in call.findings.items():
            self._findings.labels(direction, _label(entity), action).inc(count)

        if call.dry_run is not None:
            self._observe_dry_run(call.dry_run)

    def _observe_dry_run(self, tried: DryRun) -> None:
        outcome = "block" if tried.would_block else "unseen" if tried.unseen else "pass"
        self._dry_runs.labels(outcome).inc()
        for (direction, entity, action), count in tried.findings.items():
            self._tried.labels(direction, _label(entity), action).inc(count)

    def watch_pool(self, name: str, waiting: Callable[[], int]) -> None:
        """Export how many calls are queued or running in a thread pool."""
        self._pools.labels(name).set_function(lambda: float(waiting()))

    def watch_queues(self, waiting: Callable[[], dict[str, int]]) -> None:
        """Export how many calls wait for each model."""
        self._waiting = waiting

    def exposition(self) -> bytes:
        """The text that Prometheus scrapes."""
        if self._waiting is not None:
            self._queues.clear()
            for model, count in self._waiting().items():
                self._queues.labels(model).set(count)
        return generate_latest(self.registry)


def _label(entity: str) -> str:
    """An entity type as a label: those of tenants' own recognizers are one, as they are many."""
    return entity if entity in KNOWN | ANSWER_CHECKS else "custom"
