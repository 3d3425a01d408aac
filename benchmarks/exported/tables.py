"""scikit-learn's, LightGBM's and XGBoost's models, fitted to random tables and made-up texts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import onnxmltools
import skl2onnx
import xgboost
from onnxmltools.convert.common import data_types as onnxmltools_types
from skl2onnx.common import data_types
from sklearn.ensemble import GradientBoostingRegressor, RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from benchmarks.exported.subject import Arrays, Draw, Subject, Write, generator

COLUMNS = 12
OPSET = 17
TREES = "40 trees, 12 columns"
WORDS = ("cut", "graph", "node", "cost", "stage", "plan", "proof", "engine", "kernel", "tensor", "batch", "server")


def _table(rows: int, index: int) -> np.ndarray:
    return generator(index).standard_normal((rows, COLUMNS)).astype(np.float32)


def _classes(table: np.ndarray) -> np.ndarray:
    return (table[:, 0] * table[:, 1] > 0).astype(np.int64) + (table[:, 2] > 0.5)


def _draw(index: int) -> Arrays:
    return {"table": _table((8, 1, 5, 64)[index], index)}


def _sklearn(make: Callable[[], Any], *, names: bool = False, regression: bool = False) -> Write:
    """Return the writer of a model of scikit-learn.

    Args:
        make: The model.
        names: Answer with a map from class to probability, as skl2onnx does unless told otherwise.
        regression: Whether the model answers with a number.
    """

    def write(_exporter: str, path: Path) -> Draw:
        table = _table(400, 9)
        fitted = make().fit(table, table[:, 0] * table[:, 1] if regression else _classes(table))
        options = None if names or regression else {"zipmap": False}
        kinds = [("table", data_types.FloatTensorType([None, COLUMNS]))]
        converted = skl2onnx.convert_sklearn(fitted, initial_types=kinds, options=options, target_opset=OPSET)
        path.write_bytes(converted.SerializeToString())
        return _draw

    return write


def _boosted(make: Callable[[], Any], convert: Callable[..., Any]) -> Write:
    """Return the writer of a model that onnxmltools converts."""

    def write(_exporter: str, path: Path) -> Draw:
        table = _table(400, 9)
        fitted = make().fit(table, _classes(table))
        kinds = [("table", onnxmltools_types.FloatTensorType([None, COLUMNS]))]
        path.write_bytes(convert(fitted, initial_types=kinds, target_opset=15).SerializeToString())
        return _draw

    return write


def _texts(rows: int, index: int) -> list[str]:
    rng = generator(index)
    return [" ".join(rng.choice(WORDS, rng.integers(3, 12))) for _ in range(rows)]


def _tfidf(_exporter: str, path: Path) -> Draw:
    texts = _texts(300, 9)
    fitted = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(texts, ["cut" in text for text in texts])
    kinds = [("text", data_types.StringTensorType([None, 1]))]
    options = {TfidfVectorizer: {"locale": "C"}}  # en_US, the usual one, is not on every machine
    converted = skl2onnx.convert_sklearn(fitted, initial_types=kinds, target_opset=OPSET, options=options)
    path.write_bytes(converted.SerializeToString())

    def draw(index: int) -> Arrays:
        return {"text": np.array(_texts((2, 1, 3, 9)[index], index))[:, None]}

    return draw


def _forest() -> RandomForestClassifier:
    return RandomForestClassifier(40, random_state=0)


SKL, OML = ("skl2onnx",), ("onnxmltools",)
SUBJECTS = (
    Subject(name="random-forest", size=TREES, exporters=SKL, write=_sklearn(_forest)),
    Subject(name="random-forest-zipmap", size=TREES, exporters=SKL, write=_sklearn(_forest, names=True)),
    Subject(
        name="gradient-boosting", size=TREES, exporters=SKL,
        write=_sklearn(lambda: GradientBoostingRegressor(n_estimators=40, random_state=0), regression=True),
    ),
    Subject(name="svc", size="12 columns", exporters=SKL, write=_sklearn(lambda: make_pipeline(StandardScaler(), SVC()))),
    Subject(name="tfidf", size="12 words", exporters=SKL, write=_tfidf),
    Subject(
        name="lightgbm", size=TREES, exporters=OML,
        write=_boosted(lambda: lightgbm.LGBMClassifier(n_estimators=40, verbose=-1), onnxmltools.convert_lightgbm),
    ),
    Subject(
        name="xgboost", size=TREES, exporters=OML,
        write=_boosted(lambda: xgboost.XGBClassifier(n_estimators=40, random_state=0), onnxmltools.convert_xgboost),
    ),
)  # fmt: skip
