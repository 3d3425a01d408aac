"""Classical models (domain ai.onnx.ml): one sample a row, always on the first of two dimensions."""

from __future__ import annotations

from dataclasses import replace

from cutset.rowwise.flow import Flow, MixingError, carrying
from cutset.rowwise.operation import Operation, require_constant_rest, rule

_ML = "ai.onnx.ml"


def _samples(operation: Operation) -> Flow:
    """Return the flow of the first input, which must carry rows on the first of two dimensions."""
    flow = operation.need(0)
    require_constant_rest(operation, 1)
    if flow.rows is not None and (flow.rank != 2 or flow.rows.axis != 0):
        raise MixingError("it takes samples on the first of two dimensions")
    return flow


@rule("TreeEnsemble", "TreeEnsembleRegressor", "LinearRegressor", "SVMRegressor", "Scaler", "Normalizer", domain=_ML)
@rule("ArrayFeatureExtractor", domain=_ML)
@rule("TfIdfVectorizer")
def per_sample(operation: Operation) -> Flow:
    """One row of numbers a sample."""
    flow = _samples(operation)
    return Flow() if flow.rows is None else carrying(flow.rows, (None, None))


@rule("TreeEnsembleClassifier", "LinearClassifier", "SVMClassifier", domain=_ML)
def classifier(operation: Operation) -> list[Flow]:
    """A label and a row of scores a sample."""
    flow = _samples(operation)
    if flow.rows is None:
        return [Flow()] * 2
    return [carrying(flow.rows, (None,)), carrying(flow.rows, (None, None))]


@rule("Imputer", "Binarizer", "LabelEncoder", "CategoryMapper", domain=_ML)
def per_element(operation: Operation) -> Flow:
    """Each element alone."""
    values = [operation.attribute(f"imputed_value_{kind}s") or () for kind in ("float", "int64")]
    if any(len(found) > 1 for found in values):  # one for each feature
        return _samples(operation)
    return operation.need(0)


@rule("OneHotEncoder", domain=_ML)
def one_hot_encoder(operation: Operation) -> Flow:
    """A new last dimension for the categories."""
    flow = operation.need(0)
    return Flow() if flow.rows is None or flow.shape is None else carrying(flow.rows, (*flow.shape, None))


@rule("FeatureVectorizer", domain=_ML)
def feature_vectorizer(operation: Operation) -> Flow:
    """The features of several inputs, side by side."""
    flows = operation.given
    if all(flow.constant for flow in flows):
        return Flow()
    first = flows[0]
    if first.rows is None or first.rows.axis != 0 or any(flow.rows != first.rows or flow.rank != 2 for flow in flows):
        raise MixingError("not all of its inputs carry the samples on the first of two dimensions")
    return carrying(replace(first.rows, axis=0), (None, None))
