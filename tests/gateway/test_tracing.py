"""OpenTelemetry spans, as its own SDK collects them."""

import pytest

from gateway.test_failures import SECRETS, leaking
from roster.gateway.tracing import Traces

sdk = pytest.importorskip("opentelemetry.sdk.trace", reason="needs the extra otel")
ASK = [{"role": "user", "content": "a prompt that nobody should find"}]
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
def traced(start):
    """(client, gateway, the spans so far as a function)."""
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    client, gateway = start()
    provider, kept = sdk.TracerProvider(), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    gateway.traces = Traces(provider)
    return client, gateway, kept.get_finished_spans


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_and_its_calls_are_one_trace(traced, upstream, stream):
    client, _, spans = traced
    upstream.does["secret-large"] = "answers"
    upstream.does["secret-small"] = leaking(500)
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
    answer = client.chat.completions.create(model="auto", messages=ASK, stream=stream, extra_headers=headers)
    if stream:
        list(answer)
    *calls, request = spans()
    assert f"{request.context.trace_id:032x}" == TRACE
    assert f"{request.parent.span_id:016x}" == PARENT
    assert [call.parent.span_id for call in calls] == [request.context.span_id] * 2
    assert [(call.name, call.attributes["roster.outcome"]) for call in calls] == [
        ("call small", "status"),
        ("call large", "answered"),
    ]
    assert [call.status.is_ok for call in (*calls, request)] == [False, True, True]
    assert calls[1].attributes["gen_ai.usage.output_tokens"] == 3
    assert request.attributes["roster.policy"] == "auto"
    assert request.start_time <= calls[0].start_time <= calls[0].end_time <= calls[1].end_time <= request.end_time
    told = "".join(span.to_json() for span in (*calls, request))
    assert not any(secret in told for secret in (*SECRETS, "nobody should find", client.api_key))


def test_a_failed_request_is_an_error(traced, upstream):
    client, _, spans = traced
    upstream.does["secret-small"] = leaking(500)
    with pytest.raises(Exception, match="No model answered"):
        client.chat.completions.create(model="small", messages=ASK)
    *_, request = spans()
    assert (request.status.is_ok, request.attributes["roster.outcome"]) == (False, "upstream_failed")
    assert request.attributes["roster.cost"] == 0.0


def test_off_by_default(start):
    _, gateway = start()
    assert gateway.traces._tracer is None
