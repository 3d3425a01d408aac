"""The messages of the Open Inference Protocol's gRPC service, as a table, in a descriptor pool of their own.

The default pool would do for a server alone; but a program that also imports another client or server of the protocol
would then register the package `inference` twice, which protobuf refuses.

Source:
    Open Inference Protocol v2, gRPC API, and Triton's extensions to it: names and numbers of messages and fields.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE = "inference"
SERVICE = "GRPCInferenceService"
_FILE = "cutset_open_inference.proto"

_NAMED = "name=1 string, version=2 string"
_TENSOR = "name=1 string, datatype=2 string, shape=3 repeated int64"
_MESSAGES = {
    "ServerLiveRequest": "",
    "ServerLiveResponse": "live=1 bool",
    "ServerReadyRequest": "",
    "ServerReadyResponse": "ready=1 bool",
    "ModelReadyRequest": _NAMED,
    "ModelReadyResponse": "ready=1 bool",
    "ServerMetadataRequest": "",
    "ServerMetadataResponse": "name=1 string, version=2 string, extensions=3 repeated string",
    "ModelMetadataRequest": _NAMED,
    "ModelMetadataResponse.TensorMetadata": _TENSOR,
    "ModelMetadataResponse": "name=1 string, versions=2 repeated string, platform=3 string, "
    "inputs=4 repeated .ModelMetadataResponse.TensorMetadata, outputs=5 repeated .ModelMetadataResponse.TensorMetadata, "
    "properties=6 map string",
    "InferParameter": "bool_param=1 oneof bool, int64_param=2 oneof int64, string_param=3 oneof string, "
    "double_param=4 oneof double, uint64_param=5 oneof uint64",
    "InferTensorContents": "bool_contents=1 repeated bool, int_contents=2 repeated int32, int64_contents=3 repeated int64, "
    "uint_contents=4 repeated uint32, uint64_contents=5 repeated uint64, fp32_contents=6 repeated float, "
    "fp64_contents=7 repeated double, bytes_contents=8 repeated bytes",
    "ModelInferRequest.InferInputTensor": _TENSOR + ", parameters=4 map .InferParameter, contents=5 .InferTensorContents",
    "ModelInferRequest.InferRequestedOutputTensor": "name=1 string, parameters=2 map .InferParameter",
    "ModelInferRequest": "model_name=1 string, model_version=2 string, id=3 string, parameters=4 map .InferParameter, "
    "inputs=5 repeated .ModelInferRequest.InferInputTensor, "
    "outputs=6 repeated .ModelInferRequest.InferRequestedOutputTensor, raw_input_contents=7 repeated bytes",
    "ModelInferResponse.InferOutputTensor": _TENSOR + ", parameters=4 map .InferParameter, contents=5 .InferTensorContents",
    "ModelInferResponse": "model_name=1 string, model_version=2 string, id=3 string, parameters=4 map .InferParameter, "
    "outputs=5 repeated .ModelInferResponse.InferOutputTensor, raw_output_contents=6 repeated bytes",
    "ModelStreamInferResponse": "error_message=1 string, infer_response=2 .ModelInferResponse",
    "ModelConfigRequest": _NAMED,
    "ModelParameter": "string_value=1 string",
    "ModelInput": "name=1 string, data_type=2 .DataType, dims=4 repeated int64, optional=8 bool",
    "ModelOutput": "name=1 string, data_type=2 .DataType, dims=3 repeated int64",
    "ModelConfig": "name=1 string, platform=2 string, max_batch_size=4 int32, input=5 repeated .ModelInput, "
    "output=6 repeated .ModelOutput, parameters=14 map .ModelParameter, backend=17 string",
    "ModelConfigResponse": "config=1 .ModelConfig",
    "ModelStatisticsRequest": _NAMED,
    "StatisticDuration": "count=1 uint64, ns=2 uint64",
    "InferStatistics": "success=1 .StatisticDuration, fail=2 .StatisticDuration, queue=3 .StatisticDuration, "
    "compute_input=4 .StatisticDuration, compute_infer=5 .StatisticDuration, compute_output=6 .StatisticDuration",
    "ModelStatistics": _NAMED + ", inference_count=4 uint64, execution_count=5 uint64, inference_stats=6 .InferStatistics",
    "ModelStatisticsResponse": "model_stats=1 repeated .ModelStatistics",
    "RepositoryIndexRequest": "repository_name=1 string, ready=2 bool",
    "RepositoryIndexResponse.ModelIndex": "name=1 string, version=2 string, state=3 string, reason=4 string",
    "RepositoryIndexResponse": "models=1 repeated .RepositoryIndexResponse.ModelIndex",
}
_DATA_TYPES = (
    "INVALID", "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64",
    "STRING", "BF16",
)  # fmt: skip
METHODS = {
    **{
        name: (f"{name}Request", f"{name}Response")
        for name in (
            *("ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer", "ModelConfig"),
            *("ModelStatistics", "RepositoryIndex"),
        )
    },
    "ModelStreamInfer": ("ModelInferRequest", "ModelStreamInferResponse"),
}
"""Request and response of each method; `ModelStreamInfer` streams both."""
_FIELD = descriptor_pb2.FieldDescriptorProto


def _build() -> tuple[descriptor_pool.DescriptorPool, dict[str, Any]]:
    file = descriptor_pb2.FileDescriptorProto(name=_FILE, package=PACKAGE, syntax="proto3")
    enum = file.enum_type.add(name="DataType")
    for number, name in enumerate(_DATA_TYPES):
        enum.value.add(name=f"TYPE_{name}", number=number)
    made: dict[str, descriptor_pb2.DescriptorProto] = {}
    for path in sorted(_MESSAGES, key=lambda path: path.count(".")):
        outer, _, name = path.rpartition(".")
        made[path] = made[outer].nested_type.add(name=name) if outer else file.message_type.add(name=name)
        for text in filter(None, _MESSAGES[path].split(", ")):
            _add_field(made[path], path, text)
    service = file.service.add(name=SERVICE)
    for name, (request, response) in METHODS.items():
        streams = name == "ModelStreamInfer"
        service.method.add(
            name=name, input_type=f".{PACKAGE}.{request}", output_type=f".{PACKAGE}.{response}",
            client_streaming=streams, server_streaming=streams,
        )  # fmt: skip
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    classes = {path: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{path}")) for path in _MESSAGES}
    return pool, classes


def _add_field(message: descriptor_pb2.DescriptorProto, path: str, text: str) -> None:
    """Add one field of the table: ``name=number [repeated|map|oneof] type``."""
    place, *words = text.split()
    name, _, number = place.partition("=")
    kind = words[-1]
    field = message.field.add(name=name, number=int(number), label=_FIELD.LABEL_OPTIONAL)
    if words[0] in ("repeated", "map"):
        field.label = _FIELD.LABEL_REPEATED
    if words[0] == "oneof":
        if not message.oneof_decl:
            message.oneof_decl.add(name="parameter_choice")
        field.oneof_index = 0
    if words[0] == "map":
        entry = message.nested_type.add(name="".join(part.capitalize() for part in name.split("_")) + "Entry")
        entry.options.map_entry = True
        _add_field(entry, "", "key=1 string")
        _add_field(entry, "", f"value=2 {kind}")
        kind = f".{path}.{entry.name}"
    if kind == ".DataType":
        field.type, field.type_name = _FIELD.TYPE_ENUM, f".{PACKAGE}{kind}"
    elif kind.startswith("."):
        field.type, field.type_name = _FIELD.TYPE_MESSAGE, f".{PACKAGE}{kind}"
    else:
        field.type = _FIELD.Type.Value(f"TYPE_{kind.upper()}")


POOL, MESSAGES = _build()
"""The pool, and the class of each message by its path in the package."""
