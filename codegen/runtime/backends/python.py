"""Run a stage that is Python code: a file of the package with a function `run` from inputs by name to outputs by name."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping

from ..config import StageConfig
from ..dtypes import Value
from .base import BackendError, BackendOptions


class PythonBackend:
    """The `run` function of one file. Several threads call it at once; it holds the interpreter lock while it computes."""

    device = "cpu"
    substitution = None

    @classmethod
    def load(cls, stage: StageConfig, options: BackendOptions) -> PythonBackend:
        """Return the stage; `options` has nothing for it.

        Raises:
            BackendError: If the file cannot be imported or has no function `run`.
        """
        del options
        spec = importlib.util.spec_from_file_location(f"cutset_stage_{stage.index}", stage.model)
        if spec is None or spec.loader is None:
            raise BackendError(f"{stage.model.name} is no Python file")
        module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
            function = module.run
        except Exception as error:
            raise BackendError(f"{type(error).__name__}: {error}") from error
        return cls(function, stage.outputs)

    def __init__(self, function: Callable[[Mapping[str, Value]], Mapping[str, Value]], outputs: tuple[str, ...]) -> None:
        self._function = function
        self._outputs = outputs

    def run(self, feeds: Mapping[str, Value]) -> dict[str, Value]:
        """Return the outputs of one run; see `StageBackend.run`."""
        try:
            found = self._function(feeds)
            return {name: found[name] for name in self._outputs}
        except Exception as error:
            raise BackendError(f"{type(error).__name__}: {error}") from error

    def close(self) -> None:
        """Nothing is held."""
