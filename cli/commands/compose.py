"""`cutset compose`: several models and the glue between them, from PIPELINE.yaml to one ONNX model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cutset.cascade.document import Document, schema
from cutset.cascade.stages import spec_of
from cutset.cli.cascade import check_composed, compose_file, write_composed
from cutset.cli.options import shared
from cutset.cli.output import Output
from cutset.errors import UsageError


@click.command(name="compose")
@click.argument("pipeline", type=click.Path(path_type=Path), required=False)
@click.option("-o", "--output", "path", type=click.Path(path_type=Path), help="Model to write; PIPELINE.onnx by default.")
@click.option("--check", is_flag=True, help="Compose, open the model in onnxruntime, and write nothing.")
@click.option("--schema", "show_schema", is_flag=True, help="Write the JSON schema of PIPELINE.yaml, for editors.")
@shared
def command(pipeline: Path | None, path: Path | None, check: bool, show_schema: bool, output: Output) -> None:
    """Compose the models and the glue that PIPELINE.yaml describes into one ONNX model.

    The model is one that every command takes; `partition` and the others take PIPELINE.yaml itself too. Python functions go
    into an archive beside the model, which `--custom-ops` names.
    """
    if show_schema:
        output.json(schema())
        return
    if pipeline is None:
        raise UsageError("nothing to compose", hint="cutset compose PIPELINE.yaml")
    if check and path is not None:
        raise UsageError("--check writes nothing, so -o has no meaning", hint="leave one of them out")
    with output.progress() as progress:
        progress(f"composing {pipeline}")
        document, composed = compose_file(pipeline)
        if check:
            check_composed(composed, pipeline)
            written = None
        else:
            written = write_composed(composed, path or pipeline.with_suffix(".onnx"))
    inputs, outputs = ([_tensor(value) for value in side] for side in (composed.model.graph.input, composed.model.graph.output))
    found = {
        "stages": list(document.stages),
        "nodes": len(composed.model.graph.node),
        "opsets": {entry.domain: entry.version for entry in composed.model.opset_import},
        "inputs": inputs,
        "outputs": outputs,
        "model": None if written is None else str(written.model),
        "custom_ops": [] if written is None else list(written.custom_ops),
    }
    if output.as_json:
        output.json(found)
    else:
        _print(document, found, output)


def _print(document: Document, found: dict[str, Any], output: Output) -> None:
    output.table(
        f"{document.path.name}: {found['nodes']} nodes",
        ("stage", "kind", "what", "reads"),
        [(stage.name, stage.kind, stage.what, ", ".join(stage.inputs.values())) for stage in document.stages.values()],
    )
    for kind in ("inputs", "outputs"):
        for tensor in found[kind]:
            output.line(f"  {kind[:-1]} {tensor['name']}: {tensor['dtype']} {tensor['shape']}")
    if found["model"] is None:
        output.line("it composes, and onnxruntime takes it")
        return
    archives = "".join(f" --custom-ops {path}" for path in found["custom_ops"])
    output.line(
        f"wrote {found['model']}; next: cutset partition {document.path}    or: cutset partition {found['model']}{archives}"
    )


def _tensor(value: Any) -> dict[str, Any]:
    spec = spec_of(value)
    return {"name": spec.name, "dtype": spec.dtype, "shape": None if spec.shape is None else list(spec.shape)}
