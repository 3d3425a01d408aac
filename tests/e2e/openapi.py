"""The HTTP side of the Open Inference Protocol v2 as an OpenAPI document, for the model of the server tests.

Source:
    Open Inference Protocol v2, HTTP/REST: paths, fields and error body; and Triton's extensions index, config and statistics.
"""

from __future__ import annotations

from typing import Any

DATATYPES = (
    "BOOL UINT8 UINT16 UINT32 UINT64 INT8 INT16 INT32 INT64 FP16 FP32 FP64 BYTES BF16".split()  # noqa: SIM905 - a list of words
)


def _object(required: str = "", **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": required.split(), "properties": properties}


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


TEXT, COUNT, ANY = {"type": "string"}, {"type": "integer"}, {"type": "object"}
SIGNATURE = _object("name datatype shape", name=TEXT, datatype={"enum": DATATYPES}, shape=_list(COUNT))
TENSOR = _object(
    "name shape datatype data",
    name=TEXT,
    shape=_list(COUNT),
    datatype={"enum": DATATYPES},
    parameters=ANY,
    data={"type": "array"},
)
INPUTS = {
    "x": {"shape": [1, 4], "datatype": "FP32", "data": {**_list({"type": "number"}), "minItems": 4, "maxItems": 4}},
    "i": {"shape": [], "datatype": "INT64", "data": {**_list({"type": "integer", "minimum": -1, "maximum": 0}), "minItems": 1, "maxItems": 1}},
    "s": {"shape": [1], "datatype": "BYTES", "data": {**_list(TEXT), "minItems": 1, "maxItems": 1}},
}  # fmt: skip
REQUEST = {
    **_object(
        "inputs",
        id=TEXT,
        inputs={
            "type": "array",
            "minItems": 3,
            "maxItems": 3,
            "prefixItems": [
                {
                    **_object("name shape datatype data", name={"const": name}, shape={"const": own["shape"]},
                              datatype={"const": own["datatype"]}, data=own["data"]),
                }
                for name, own in INPUTS.items()
            ],
            "items": False,
        },
        outputs=_list(_object("name", name={"enum": ["doubled", "half", "picked", "s"]}))
        | {"uniqueItems": True, "maxItems": 4},
    ),
}  # fmt: skip
RESPONSE = _object("model_name outputs", model_name=TEXT, model_version=TEXT, id=TEXT, parameters=ANY, outputs=_list(TENSOR))
ERROR = _object("error", error=TEXT)


def _answers(schema: dict[str, Any] | None, *errors: int) -> dict[str, Any]:
    success: dict[str, Any] = {"description": "as asked"}
    if schema is not None:
        success["content"] = {"application/json": {"schema": schema}}
    failures = {
        str(status): {"description": "refused", "content": {"application/json": {"schema": ERROR}}} for status in errors
    }
    return {"200": success, **failures}


def document(model: str) -> dict[str, Any]:
    """Return the document of a server of this model, whose name is as in a URL."""
    server = _object("name version extensions", name=TEXT, version=TEXT, extensions=_list(TEXT))
    metadata = _object(
        "name platform inputs outputs",
        name=TEXT,
        versions=_list(TEXT),
        platform=TEXT,
        inputs=_list(SIGNATURE),
        outputs=_list(SIGNATURE),
    )
    config = _object("name platform input output", name=TEXT, platform=TEXT, input=_list(ANY), output=_list(ANY))
    statistics = _object("model_stats", model_stats=_list(_object("name version inference_count", inference_count=COUNT)))
    index = _list(_object("name version state", name=TEXT, version=TEXT, state={"enum": ["READY", "UNAVAILABLE"]}))
    paths: dict[str, Any] = {
        "/v2": {"get": {"responses": _answers(server)}},
        "/v2/health/live": {"get": {"responses": _answers(None)}},
        "/v2/health/ready": {"get": {"responses": _answers(None, 503)}},
        "/v2/repository/index": {"post": {"responses": _answers(index)}},
        "/v2/models/stats": {"get": {"responses": _answers(statistics)}},
    }
    for prefix in (f"/v2/models/{model}", f"/v2/models/{model}/versions/1"):
        paths[prefix] = {"get": {"responses": _answers(metadata)}}
        paths[f"{prefix}/ready"] = {"get": {"responses": _answers(None, 503)}}
        paths[f"{prefix}/config"] = {"get": {"responses": _answers(config)}}
        paths[f"{prefix}/stats"] = {"get": {"responses": _answers(statistics)}}
        body = {"required": True, "content": {"application/json": {"schema": REQUEST}}}
        paths[f"{prefix}/infer"] = {
            "post": {"requestBody": body, "responses": _answers(RESPONSE, 400, 413, 429, 500, 503, 504)}
        }
    return {"openapi": "3.1.0", "info": {"title": "Open Inference Protocol", "version": "2"}, "paths": paths}
