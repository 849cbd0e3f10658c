"""OpenTelemetry traces: one span for a request, one below it for each call to a model. Off by default.

Needs the extra `otel`. Where spans go is told by OpenTelemetry's own variables, such as OTEL_EXPORTER_OTLP_ENDPOINT.
Names follow its conventions for generative AI; no prompt, answer, secret or address is in a span. A client's
`traceparent` is the parent. Spans are made when the request has ended, from what the session knows, so that nothing is
added to its way.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from roster.errors import RosterError
from roster.gateway.keys import NANO
from roster.gateway.legs import Leg
from roster.gateway.wishes import Wish

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider


@dataclass(frozen=True)
class Ended:
    """A request at its end, as a trace tells it.

    Attributes:
        operation: chat, text_completion, embeddings or responses.
        model: the name that was asked for.
        id: in the ledger.
        key: whose request it is.
        wish: what the name was understood as.
        cost: of all calls, in the currency.
        begun: when, by `time.perf_counter`.
        parent: the client's `traceparent`.
        legs: the calls.
    """

    operation: str
    model: str
    id: str
    key: str
    wish: Wish
    cost: float
    begun: float
    parent: str | None
    legs: Sequence[Leg]


def exporter() -> TracerProvider:
    """A provider that sends spans by OTLP over HTTP, in batches.

    Raises:
        RosterError: the packages are missing.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise RosterError("traces: OpenTelemetry is missing: pip install 'roster-moe[otel]'") from None
    provider = TracerProvider(resource=Resource.create({"service.name": "roster-gateway"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


class Traces:
    """The traces of a gateway.

    Args:
        provider: makes spans and sends them; None: there are none.
    """

    def __init__(self, provider: TracerProvider | None) -> None:
        self._provider = provider
        self._tracer = None if provider is None else provider.get_tracer("roster.gateway")

    def ended(self, request: Ended, outcome: str) -> None:
        """A request has come to its end."""
        if self._tracer is None:
            return
        from opentelemetry import trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        # What the request timed is on a clock without a date.
        epoch = time.time_ns() - time.perf_counter_ns()
        carrier = {} if request.parent is None else {"traceparent": request.parent}
        context = TraceContextTextMapPropagator().extract(carrier)
        kind = "text" if request.operation == "text_completion" else request.operation
        span = self._tracer.start_span(
            f"{kind} {request.model}"[:128],
            context,
            trace.SpanKind.SERVER,
            _known(
                {
                    "gen_ai.operation.name": request.operation,
                    "gen_ai.request.model": request.model,
                    "roster.id": request.id,
                    "roster.key": request.key,
                    "roster.policy": request.wish.policy,
                    "roster.experiment": request.wish.experiment,
                    "roster.outcome": outcome,
                    "roster.cost": request.cost,
                }
            ),
            start_time=epoch + round(request.begun * 1e9),
        )
        if outcome != "answered":
            span.set_status(trace.StatusCode.ERROR, outcome)
        below = trace.set_span_in_context(span)
        for leg in request.legs:
            self._call(leg, below, epoch)
        span.end()

    def _call(self, leg: Leg, below: Any, epoch: int) -> None:
        from opentelemetry import trace

        assert self._tracer is not None
        span = self._tracer.start_span(
            f"call {leg.target.name}",
            below,
            trace.SpanKind.CLIENT,
            _known(
                {
                    "gen_ai.response.model": leg.target.name,
                    "gen_ai.usage.input_tokens": leg.usage.prompt,
                    "gen_ai.usage.output_tokens": leg.usage.completion,
                    "roster.way": leg.target.way,
                    "roster.reason": leg.decision.reason,
                    "roster.outcome": leg.outcome,
                    "roster.cost": leg.cost / NANO,
                }
            ),
            start_time=epoch + round(leg.begun * 1e9),
        )
        if leg.outcome not in ("answered", "escalated"):
            span.set_status(trace.StatusCode.ERROR, leg.outcome)
        span.end(epoch + round((leg.ended or leg.begun) * 1e9))

    def close(self) -> None:
        """Sends what is left."""
        if self._provider is not None:
            self._provider.shutdown()


def _known(attributes: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if value is not None}
