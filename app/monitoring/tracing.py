"""OpenTelemetry traces of calls, their parts, model calls and jobs; off unless set."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Self

from app import __version__
from app.errors import MissingExtra, OstiaryError

if TYPE_CHECKING:  # the SDK is loaded by Tracing alone
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, SpanKind, Tracer

    from app.gateway.call import Call

Value = str | int | float | bool | Sequence[str]
SEND_S = 1.0  # between two batches
EXPORT_S = 3.0  # that a collector may take to answer, and that the last spans have at the stop
LONGEST = 256  # characters of an attribute
OPERATIONS = {"chat/completions": "chat", "completions": "text_completion"}
_around: ContextVar[Context | None] = ContextVar("ostiary_around", default=None)


class OpenSpan:
    """A span that has begun; ending it hands it to the exporter's queue, never to the network."""

    def __init__(self, span: Span) -> None:
        self._span = span

    def note(self, attributes: Mapping[str, Value]) -> None:
        """Add attributes; ids, names and numbers only."""
        for name, value in attributes.items():
            self._span.set_attribute(name, value)

    def failed(self, error: BaseException) -> None:
        """It ended with an error, of which the type is told and no message."""
        from opentelemetry.trace import StatusCode

        kind = error.code if isinstance(error, OstiaryError) else type(error).__name__
        self._span.set_attribute("error.type", kind)
        self._span.set_status(StatusCode.ERROR)

    def end(self) -> None:
        """It is over."""
        self._span.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, stack: object) -> None:
        if error is not None:
            self.failed(error)
        self.end()


class Trace:
    """The spans of one call: its own, and those of its parts below."""

    def __init__(self, tracer: Tracer, span: Span) -> None:
        from opentelemetry.trace import set_span_in_context

        self._tracer, self._span = tracer, span
        self._below = set_span_in_context(span)
        self.trace_id = f"{span.get_span_context().trace_id:032x}"

    def begin(self, name: str, attributes: Mapping[str, Value]) -> OpenSpan | None:
        """A part of the call; None where its trace is not kept."""
        if not self._span.is_recording():
            return None
        return OpenSpan(self._tracer.start_span(name, self._below, attributes=attributes))

    def ask(self, path: str, model: str, deployment: str, vllm: bool) -> ModelSpan:
        """A call of a model server, by the semantic conventions for GenAI clients."""
        from opentelemetry.trace import SpanKind

        operation = OPERATIONS.get(path, path)
        attributes: dict[str, Value] = {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": "vllm" if vllm else "openai",
            "gen_ai.request.model": model,
            "ostiary.deployment": deployment,
        }
        return ModelSpan(
            self._tracer.start_span(
                f"{operation} {model}", self._below, SpanKind.CLIENT, attributes
            )
        )

    def end(self, call: Call, status: int | None) -> None:
        """The call is over; told are ids, versions, counts and money."""
        from opentelemetry.trace import StatusCode

        told: dict[str, Value | None] = {
            "ostiary.call.id": call.id,
            "ostiary.request.id": call.request_id,
            "ostiary.tenant.id": call.tenant_id,
            "ostiary.door": call.door,
            "ostiary.cost_usd": call.cost_usd,
            "ostiary.cache": call.cache,
            "ostiary.degraded": call.degraded,
            "ostiary.policy": call.versions.get("policy"),
            "ostiary.versions": [f"{k}={v}" for k, v in sorted(call.versions.items())],
            "ostiary.guardrail.findings": sum(call.findings.values()),
            "http.response.status_code": status,
            "error.type": call.error_code,
        }
        if call.usage.prompt_tokens or call.usage.completion_tokens:
            told["gen_ai.usage.input_tokens"] = call.usage.prompt_tokens
            told["gen_ai.usage.output_tokens"] = call.usage.completion_tokens
        if call.usage.embedding_tokens:
            told["ostiary.usage.embedding_tokens"] = call.usage.embedding_tokens
        for name, value in told.items():
            if value is not None:
                self._span.set_attribute(name, value)
        if (status or 0) >= 500:
            self._span.set_status(StatusCode.ERROR)
        self._span.end()


class ModelSpan(OpenSpan):
    """A call of a model server."""

    @property
    def headers(self) -> dict[str, str]:
        """What tells the model server to which trace its own spans belong (W3C)."""
        own = self._span.get_span_context()
        return {
            "traceparent": f"00-{own.trace_id:032x}-{own.span_id:016x}-{int(own.trace_flags):02x}"
        }

    def answered(self, reply: Mapping[str, Any]) -> None:
        """Note of a reply, or of a stream's chunk, what is no text."""
        usage = reply.get("usage")
        for place, name, kind in (
            (reply, "model", str),
            (reply, "id", str),
            (usage, "prompt_tokens", int),
            (usage, "completion_tokens", int),
        ):
            value = place.get(name) if isinstance(place, Mapping) else None
            if isinstance(value, kind):
                self._span.set_attribute(_ANSWERED[name], value)
        reasons = [c.get("finish_reason") for c in reply.get("choices") or ()]
        if named := [r for r in reasons if isinstance(r, str)]:
            self._span.set_attribute("gen_ai.response.finish_reasons", named)


_ANSWERED = {
    "model": "gen_ai.response.model",
    "id": "gen_ai.response.id",
    "prompt_tokens": "gen_ai.usage.input_tokens",
    "completion_tokens": "gen_ai.usage.output_tokens",
}


class Tracing:
    """Makes spans and sends them, in batches and beside the calls, to one collector.

    Spans wait in a bounded queue; where the collector is slow or gone they are dropped. Nothing
    is made the process's default, so no library sends anything through it.

    Args:
        endpoint: of the collector, OTLP over HTTP, as ``http://collector:4318``.
        ratio: of the traces that are kept, 0..1, by their id: a caller's sampled trace too.

    Raises:
        MissingExtra: the SDK is not installed.
    """

    def __init__(self, endpoint: str, ratio: float, instance: str) -> None:
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import SpanLimits, TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased, TraceIdRatioBased
        except ImportError as error:
            raise MissingExtra(
                "OpenTelemetry, which OSTIARY_OTLP_ENDPOINT needs,", "telemetry"
            ) from error
        by_id = TraceIdRatioBased(ratio)
        resource = {
            "service.name": "ostiary",
            "service.version": __version__,
            "service.instance.id": instance,
        }
        self._provider = TracerProvider(
            sampler=ParentBased(
                by_id, remote_parent_sampled=by_id, remote_parent_not_sampled=ALWAYS_OFF
            ),
            resource=Resource.create(resource),
            shutdown_on_exit=False,
            span_limits=SpanLimits(max_span_attribute_length=LONGEST),
        )
        self._exporter = OTLPSpanExporter(traces_address(endpoint), timeout=EXPORT_S)
        self._provider.add_span_processor(
            BatchSpanProcessor(self._exporter, schedule_delay_millis=1e3 * SEND_S)
        )
        self._tracer = self._provider.get_tracer("ostiary", __version__)
        # that a collector is away is told, by the exporter; each batch's stack is not
        logging.getLogger("opentelemetry.sdk").setLevel(logging.CRITICAL)

    def begin(self, call: Call, traceparent: bytes | None = None) -> Trace:
        """The span of a call, below its caller's where that told one, or its job's."""
        from opentelemetry.trace import SpanKind

        method, _, route = call.route.partition(" ")
        kind, told = SpanKind.SERVER, {"http.request.method": method, "http.route": route}
        if call.door != "rest":
            kind, told = SpanKind.INTERNAL, {"ostiary.route": call.route}
        parent = _around.get() if traceparent is None else _caller(traceparent)
        return Trace(self._tracer, self._start(call.route, parent, kind, told))

    @contextmanager
    def step(self, kind: str, name: str, job_id: str, tenant_id: str) -> Iterator[None]:
        """A step of a job; the calls that it makes lie below."""
        from opentelemetry.trace import SpanKind, set_span_in_context

        told = {
            "ostiary.job.id": job_id,
            "ostiary.job.kind": kind,
            "ostiary.job.step": name,
            "ostiary.tenant.id": tenant_id,
        }
        span = self._start(f"job {kind}", None, SpanKind.INTERNAL, told)
        before = _around.set(set_span_in_context(span))
        opened = OpenSpan(span)
        try:
            yield
        except BaseException as error:
            opened.failed(error)
            raise
        finally:
            _around.reset(before)
            opened.end()

    def _start(
        self, name: str, parent: Context | None, kind: SpanKind, told: dict[str, str]
    ) -> Span:
        from opentelemetry.context import Context

        # not that of the process: a library may have made one of its own the current span
        return self._tracer.start_span(name, parent or Context(), kind, told)

    def close(self) -> None:
        """Send what waits, for a few seconds at most; blocking."""
        late = threading.Timer(EXPORT_S, self._exporter.shutdown)  # ends its tries
        late.start()
        self._provider.shutdown()
        late.cancel()


def traces_address(endpoint: str) -> str:
    """Where a collector takes traces: the endpoint itself where it has a path."""
    from yarl import URL

    url = URL(endpoint)
    return str(url if url.path.strip("/") else url.with_path("/v1/traces"))


def _caller(traceparent: bytes) -> Context | None:
    """The caller's span by its W3C header; None where it is none."""
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier = {"traceparent": traceparent.decode("latin-1")}
    return TraceContextTextMapPropagator().extract(carrier, Context())
