"""A request is a span and each of its stages one in it, where somebody asked for a trace."""

import subprocess
import sys

import pytest

from cutset.codegen.runtime.tracing import Tracer


def test_a_request_and_its_stages_are_spans_under_the_callers_trace(chain):
    """With the SDK in a process of its own: its provider can be set once a process."""
    pytest.importorskip("opentelemetry.sdk", reason="OpenTelemetry is not installed")
    code = (
        "import sys, numpy as np\n"
        "from opentelemetry import trace\n"
        "from opentelemetry.sdk.trace import TracerProvider\n"
        "from opentelemetry.sdk.trace.export import SimpleSpanProcessor\n"
        "from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter\n"
        "exporter, provider = InMemorySpanExporter(), TracerProvider()\n"
        "provider.add_span_processor(SimpleSpanProcessor(exporter))\n"
        "trace.set_tracer_provider(provider)\n"
        "from cutset.codegen.runtime import Pipeline\n"
        "from cutset.codegen.runtime.tracing import Tracer\n"
        "parent = b'00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'\n"
        "with Pipeline.load(sys.argv[1]) as pipeline:\n"
        "    inputs = {tensor.name: np.ones([2], np.float32) for tensor in pipeline.plan.inputs}\n"
        "    pipeline.run(inputs)\n"
        "    assert not exporter.get_finished_spans(), 'nobody asked for a trace'\n"
        "    with Tracer().request({b'traceparent': parent}, 'm'): pipeline.run(inputs)\n"
        "*stages, whole = exporter.get_finished_spans()\n"
        "assert all(span.parent.span_id == whole.context.span_id for span in stages)\n"
        "assert all(whole.start_time - 10**6 <= s.start_time <= s.end_time <= whole.end_time + 10**6 for s in stages)\n"
        "assert len({span.context.trace_id for span in (*stages, whole)}) == 1\n"
        "print(format(whole.context.trace_id, '032x'), format(whole.parent.span_id, '016x'), whole.attributes['model'],\n"
        "      *(span.attributes['stage'] for span in stages))\n"
    )
    package = str(chain(3).folder)
    done = subprocess.run([sys.executable, "-c", code, package], check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", "m", "0", "1", "2"]


def test_without_opentelemetry_nothing_is_traced(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with Tracer().request({}, "m") as span:
        assert span is None
