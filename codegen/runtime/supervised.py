"""A stage that survives its backend: when the backend dies it is loaded anew, and the run is tried once more."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Mapping

from .backends.base import BackendDied, BackendError, StageBackend
from .dtypes import Value
from .errors import ConfigError

_log = logging.getLogger(__name__)
_MOST_DEATHS = 3  # in a row, without one run that succeeded between them


class Supervised:
    """A stage backend over one that may have to be replaced.

    A stage is a function of its inputs, so running it again after its backend died is right. A backend that dies again
    and again is given up: its runs fail at once, and `healthy` says so.

    Args:
        load: Opens the stage; called again after each death.

    Raises:
        ConfigError: If the stage cannot be opened now.
    """

    def __init__(self, load: Callable[[], StageBackend]) -> None:
        self._load = load
        self._lock = threading.Lock()
        self._backend = load()
        self._deaths = 0
        self._replacing = False
        self.replaced = 0
        self.device = self._backend.device
        self.slots: int = getattr(self._backend, "slots", 1)
        self.max_batch: int | None = getattr(self._backend, "max_batch", None)

    @property
    def substitution(self) -> str | None:
        """Why the stage is not on its planned device."""
        return self._backend.substitution

    @property
    def healthy(self) -> bool:
        """False while the backend is replaced, and for good once it was given up."""
        return not self._replacing and self._deaths < _MOST_DEATHS

    def run(self, feeds: Mapping[str, Value]) -> dict[str, Value]:
        """Return the outputs of one run; see `StageBackend.run`."""
        backend = self._backend
        try:
            outputs = backend.run(feeds)
        except BackendDied as death:
            self._replace(backend, death)
            outputs = self._backend.run(feeds)
        self._deaths = 0
        return outputs

    def close(self) -> None:
        """Close the backend there is."""
        self._backend.close()

    def _replace(self, dead: StageBackend, death: BackendDied) -> None:
        """Load the stage anew, unless another thread that saw the same death has done so."""
        with self._lock:
            if self._backend is not dead:
                return
            if self._deaths >= _MOST_DEATHS:
                raise BackendError(f"given up after {self._deaths} deaths in a row: {death}") from death
            self._deaths += 1
            self._replacing = True
            _log.warning("a stage's backend died and is loaded anew: %s", death)
            try:
                with contextlib.suppress(BackendError):
                    dead.close()
                self._backend = self._load()
                self.replaced += 1
            except ConfigError as error:
                self._deaths = _MOST_DEATHS
                raise BackendError(f"the backend died ({death}) and cannot be loaded again: {error}") from error
            finally:
                self._replacing = False
