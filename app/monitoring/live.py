"""Metrics that are read from the gateway's own state at the moment Prometheus asks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from app.llm.deployment import Deployment

SERVER = ("model", "deployment")  # an operator names both


class Live(Collector):
    """Model servers, the calls that wait for them, and budgets.

    Attributes:
        queues: calls that wait, by model.
        servers: every model server.
        budgets: how many are used up to where.
    """

    def __init__(self) -> None:
        self.queues: Callable[[], Mapping[str, int]] = dict
        self.servers: Callable[[], Iterable[Deployment]] = list
        self.budgets: Callable[[], Mapping[str, int]] = dict

    def collect(self) -> Iterable[Metric]:
        """The families of this moment."""
        queue = GaugeMetricFamily(
            "ostiary_model_queue",
            "Calls that wait for a model, since all its servers are busy.",
            labels=("model",),
        )
        for model, count in self.queues().items():
            queue.add_metric((model,), count)
        budgets = GaugeMetricFamily(
            "ostiary_budgets", "Daily budgets by how much is spent of them.", labels=("state",)
        )
        for state, count in self.budgets().items():
            budgets.add_metric((state,), count)
        return [queue, budgets, *self._of_servers()]

    def _of_servers(self) -> list[Metric]:
        up = GaugeMetricFamily(
            "ostiary_model_server_up", "Whether a server is sent calls.", labels=SERVER
        )
        calls = GaugeMetricFamily(
            "ostiary_model_server_calls", "Calls that a server is answering.", labels=SERVER
        )
        waiting = GaugeMetricFamily(
            "ostiary_model_server_waiting", "Requests in a server's own queue.", labels=SERVER
        )
        memory = GaugeMetricFamily(
            "ostiary_model_server_cache_ratio",
            "How much of its memory for keys and values a server uses.",
            labels=SERVER,
        )
        busy = CounterMetricFamily(
            "ostiary_model_server_busy_seconds", "Time with calls to answer.", labels=SERVER
        )
        failed = CounterMetricFamily(
            "ostiary_model_server_failures", "Calls that a server failed.", labels=SERVER
        )
        opened = CounterMetricFamily(
            "ostiary_model_server_breaks", "Times that a server was taken for down.", labels=SERVER
        )
        for server in self.servers():
            labels = (server.model, server.id)
            up.add_metric(labels, float(server.up))
            calls.add_metric(labels, server.outstanding)
            waiting.add_metric(labels, server.waiting)
            if server.cache_usage is not None:
                memory.add_metric(labels, server.cache_usage)
            busy.add_metric(labels, server.busy_s)
            failed.add_metric(labels, server.failed)
            opened.add_metric(labels, server.opened)
        return [up, calls, waiting, memory, busy, failed, opened]
