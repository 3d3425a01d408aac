"""What is written is what the protocol buffers library reads."""

from google.protobuf import text_format
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.grpc.model_config_pb2 import ModelConfig

from cutset.codegen.export.pbtxt import Symbol, to_pbtxt


def read(message):
    return text_format.Parse(to_pbtxt(message), ModelConfig())


@given(name=st.text(st.characters(exclude_categories=["Cs"])), dims=st.lists(st.integers(-1, 2**40)))
@settings(max_examples=60)
def test_any_string_and_any_sizes_come_back(name, dims):
    tensors = [{"name": name, "data_type": Symbol("TYPE_FP32"), "dims": dims}, {"name": "other"}]
    found = read({"name": name, "input": tensors, "dynamic_batching": {}})
    assert (found.name, [tensor.name for tensor in found.input]) == (name, [name, "other"])
    assert list(found.input[0].dims) == dims
    assert found.input[0].data_type == 11
    assert found.HasField("dynamic_batching")


def test_booleans_and_empty_lists():
    found = read({"input": [], "dynamic_batching": {"preserve_ordering": True, "preferred_batch_size": [4, 8]}})
    assert len(found.input) == 0
    assert found.dynamic_batching.preserve_ordering is True
    assert list(found.dynamic_batching.preferred_batch_size) == [4, 8]
