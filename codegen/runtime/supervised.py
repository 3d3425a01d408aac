"""Supervise a stage: replace a backend that died, and fail a request that killed two backends."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping

from .backends.base import BackendDied, BackendError, BackendGone, BackendHung, StageBackend
from .context import Context
from .dtypes import Value
from .errors import ConfigError

_log = logging.getLogger(__name__)
_MOST_DEATHS = 3  # in a row, without one run that succeeded between them
_PATIENCE = 2 * _MOST_DEATHS  # deaths in a row that are followed by a load at once: three requests that killed twice each
_MOST_KILLS = 2  # of one request in one stage
_PAUSE_S = 1.0  # between two loads from then on, so that a broken backend does not fill the machine with loads


def run_request(backend: StageBackend, feeds: Mapping[str, Value], context: Context) -> dict[str, Value]:
    """Return the outputs of one request's run, run once more if the backend died during the first run.

    A stage is a function of its inputs, so to run it again is right. A request that was inside a batch when the backend died
    has one death on its account already.

    Args:
        backend: The stage, `Supervised` where it can die.
        feeds: The stage's inputs.
        context: The request; its deaths are counted.

    Raises:
        BackendHung: If the run was ended because it took too long; such a run is not repeated.
        BackendError: If the run failed, or ended the backend twice.
    """
    while True:
        run = getattr(backend, "run_alone", backend.run) if context.deaths else backend.run
        try:
            return run(feeds)
        except BackendHung:
            raise
        except BackendGone:
            continue
        except BackendDied as death:
            context.deaths += 1
            if context.deaths >= _MOST_KILLS:
                raise BackendError(f"the request ended the stage's backend {context.deaths} times: {death}") from death


class Supervised:
    """A stage backend over one that may have to be replaced.

    A run that sees its backend die fails with `BackendDied` after the backend was loaded anew: `run_request` decides who may
    run again. After three deaths in a row, with no good run between, `hopeless` asks for a new process of everything. Until one
    comes the backend is loaded anew all the same, after six deaths once a second, and the first good run ends the state.

    Args:
        load: Opens the stage; called again after each death.
        turns: Shared by stages whose runs share what dies, as on a GPU; None where each run is alone in a process.
        clock: Seconds, for the pause between two tries.

    Raises:
        ConfigError: If the stage cannot be opened now.
    """

    def __init__(
        self, load: Callable[[], StageBackend], *, turns: Turns | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._load = load
        self._turns = turns
        self._clock = clock
        self._lock = threading.Lock()
        self._replacement = threading.Lock()
        self._held = _Held(load())
        self._deaths = 0
        self._next_try_s = 0.0
        self._closed = False
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
        """False while the backend is replaced, and while it is hopeless."""
        return not self._replacement.locked() and not self.hopeless

    @property
    def hopeless(self) -> bool:
        """Whether the backend died three times in a row without a good run, or could not be loaded again."""
        return self._deaths >= _MOST_DEATHS

    def run(self, feeds: Mapping[str, Value]) -> dict[str, Value]:
        """Return the outputs of one run; see `StageBackend.run`.

        Raises:
            BackendDied: If the backend died; another is loaded by then, or in a while.
            BackendError: If the run failed, or no backend is loaded.
        """
        if self._turns is None:
            return self._run(feeds)
        with self._turns.take(alone=False):
            return self._run(feeds)

    def run_alone(self, feeds: Mapping[str, Value]) -> dict[str, Value]:
        """Return the outputs of one run, as `run`, with no other run beside the run to kill the backend."""
        if self._turns is None:
            return self._run(feeds)
        with self._turns.take(alone=True):
            return self._run(feeds)

    def close(self) -> None:
        """Close the backend there is; no other is loaded any more."""
        with self._lock:
            self._closed = True
            held = self._held
        held.backend.close()

    def _run(self, feeds: Mapping[str, Value]) -> dict[str, Value]:
        if self._held.dead:
            self._try_again()
        held = self._enter()
        try:
            outputs = held.backend.run(feeds)
        except BackendDied as death:
            self._bury(held, death)
            raise
        else:
            self._deaths = 0
            return outputs
        finally:
            self._leave(held)

    def _enter(self) -> _Held:
        with self._lock:
            if self._closed:
                raise BackendError("the stage is closed")
            held = self._held
            held.users += 1
            return held

    def _leave(self, held: _Held) -> None:
        with self._lock:
            held.users -= 1
            last = held.retired and held.users == 0
        if last:  # a backend that was replaced is closed by the last thread that leaves it
            held.backend.close()

    def _bury(self, dead: _Held, death: BackendDied) -> None:
        """Take note of a death and load the stage anew, unless another thread that saw the same death has done so."""
        with self._replacement:
            if self._held is not dead or dead.dead or self._closed:
                return
            dead.dead = True
            self._deaths += 1
            # In words: whoever keeps the record must not keep the tensors in the frames of the error.
            _log.warning("a stage's backend died, %d times without a good run: %s", self._deaths, str(death))
            if self._deaths < _PATIENCE:
                self._replace(dead)
            else:
                self._next_try_s = self._clock() + _PAUSE_S

    def _try_again(self) -> None:
        """Load a backend that was not loaded at once, after a pause."""
        with self._replacement:
            dead = self._held
            if not dead.dead:
                return
            if self._clock() < self._next_try_s:
                raise BackendError(f"the stage's backend died {self._deaths} times in a row, and is given a pause")
            self._replace(dead)

    def _replace(self, dead: _Held) -> None:
        """Load the stage anew; with the lock of replacements held."""
        try:
            fresh = _Held(self._load())
        except ConfigError as error:
            self._deaths = max(self._deaths, _MOST_DEATHS)
            self._next_try_s = self._clock() + _PAUSE_S
            raise BackendError(f"the stage's backend died and cannot be loaded again: {error}") from error
        with self._lock:
            closed = self._closed
            if not closed:
                self._held = fresh
                dead.retired = True  # the threads inside close it, if there are any
            unused = dead.retired and dead.users == 0
        if closed:
            fresh.backend.close()
            return
        if unused:
            dead.backend.close()
        if self.substitution is not None:
            _log.warning("it now runs on the %s: %s", fresh.backend.device, self.substitution)
        self.replaced += 1
        self._past_fallbacks.update(getattr(dead.backend, "fallbacks", {}))


class Turns:
    """Let runs go side by side, except a lone run: the lone run waits for the runs under way, and new runs wait for both."""

    def __init__(self) -> None:
        self._change = threading.Condition()
        self._reserved = False
        self._inside = 0

    @contextlib.contextmanager
    def take(self, *, alone: bool) -> Iterator[None]:
        """Hold a turn."""
        with self._change:
            while self._reserved:
                self._change.wait()
            self._reserved = alone
            while alone and self._inside:
                self._change.wait()
            self._inside += 1
        try:
            yield
        finally:
            with self._change:
                self._inside -= 1
                if self._reserved:
                    self._reserved = not alone
                    self._change.notify_all()


class _Held:
    """A backend, and how many threads are in it."""

    def __init__(self, backend: StageBackend) -> None:
        self.backend = backend
        self.users = 0
        self.dead = False
        self.retired = False
