"""A stage that survives its backend: when the backend dies it is loaded anew, and the run is tried again."""

from __future__ import annotations

import logging
import threading
from collections import Counter
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
        self._replacement = threading.Lock()
        self._held = _Held(load())
        self._deaths = 0
        self.replaced = 0
        self._past_fallbacks: Counter[str] = Counter()
        self.device = self._held.backend.device
        self.slots: int = getattr(self._held.backend, "slots", 1)
        self.max_batch: int | None = getattr(self._held.backend, "max_batch", None)
        self.joins: bool = getattr(self._held.backend, "joins", False)

    @property
    def substitution(self) -> str | None:
        """Why the stage is not on its planned device."""
        return self._held.backend.substitution

    @property
    def fallbacks(self) -> dict[str, int]:
        """How many runs a later backend of the stage did, by the backend's name; see `FallbackBackend`."""
        return dict(self._past_fallbacks + Counter(getattr(self._held.backend, "fallbacks", {})))

    @property
    def healthy(self) -> bool:
        """False while the backend is replaced, and for good once it was given up."""
        return not self._replacement.locked() and self._deaths < _MOST_DEATHS

    def run(self, feeds: Mapping[str, Value]) -> dict[str, Value]:
        """Return the outputs of one run; see `StageBackend.run`."""
        while True:
            with self._lock:
                held = self._held
                held.users += 1
            try:
                outputs = held.backend.run(feeds)
            except BackendDied as death:
                self._replace(held, death)
            else:
                self._deaths = 0
                return outputs
            finally:
                with self._lock:
                    held.users -= 1
                    last = held.retired and held.users == 0
                if last:  # a backend that was replaced is closed by the last thread that leaves it
                    held.backend.close()

    def close(self) -> None:
        """Close the backend there is."""
        self._held.backend.close()

    def _replace(self, dead: _Held, death: BackendDied) -> None:
        """Load the stage anew, unless another thread that saw the same death has done so."""
        with self._replacement:
            if self._held is not dead:
                return
            if self._deaths >= _MOST_DEATHS:
                raise BackendError(f"given up after {self._deaths} deaths in a row: {death}") from death
            self._deaths += 1
            # In words: whoever keeps the record must not keep the tensors in the frames of the error.
            _log.warning("a stage's backend died and is loaded anew: %s", str(death))
            try:
                self._held = _Held(self._load())
            except ConfigError as error:
                self._deaths = _MOST_DEATHS
                raise BackendError(f"the backend died ({death}) and cannot be loaded again: {error}") from error
            if self.substitution is not None:
                _log.warning("it now runs on the %s: %s", self._held.backend.device, self.substitution)
            self.replaced += 1
            self._past_fallbacks.update(getattr(dead.backend, "fallbacks", {}))
            dead.retired = True  # the threads inside close it, this one among them


class _Held:
    """A backend, and how many threads are in it."""

    def __init__(self, backend: StageBackend) -> None:
        self.backend = backend
        self.users = 0
        self.retired = False
