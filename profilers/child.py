"""Run a measuring function in a child process, so that whatever it does ends as a value and never as this process's end.

Accelerator libraries crash, hang and exhaust memory, and they do so on models that users bring. Such an end is a
`Failure`, which the caller keeps as the reason why there is no number. Nothing here knows what is measured.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pickle
import resource
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, cast

from cutset.errors import CutsetError

A = TypeVar("A")
T = TypeVar("T")

FailureKind = Literal["raised", "memory", "timeout", "crashed", "killed", "exited"]

_BOOTSTRAP = (
    "import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer); from cutset.profilers.child import serve; serve()"
)
_EXIT_GRACE_S = 5.0
_PR_SET_PDEATHSIG = 1
_OUT_OF_MEMORY = ("bad_alloc", "bad allocation", "cannot allocate memory", "failed to allocate memory", "out of memory")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a child may use.

    Args:
        time_s: Wall seconds for one call, its imports included.
        memory_bytes: Private memory of the whole child (RLIMIT_DATA), None for no limit. The address space is not limited
            because CUDA reserves far more of it than a machine has, and because mapped weights are not the child's own.
    """

    time_s: float = 120.0
    memory_bytes: int | None = None


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a child gave no value.

    Args:
        kind: ``raised`` an exception, ``memory`` limit reached, ``timeout``, ``crashed`` by a signal, ``killed`` by
            another process (the system short of memory, as a rule), or ``exited`` by itself.
        detail: What was observed, for people.
    """

    kind: FailureKind
    detail: str


def run_in_child(
    function: Callable[[A], T], argument: A, *, limits: Limits = DEFAULT_LIMITS, environment: Mapping[str, str] | None = None
) -> T | Failure:
    """Return what `function(argument)` returns in a fresh process, or why it returned nothing.

    Args:
        function: A module-level function; it and its argument and result must pickle.
        argument: Its only argument.
        limits: Time and memory.
        environment: Variables set for the child, besides those of this process.
    """
    return map_in_child(function, [argument], limits=limits, environment=environment)[0]


def map_in_child(
    function: Callable[[A], T],
    arguments: Iterable[A],
    *,
    limits: Limits = DEFAULT_LIMITS,
    environment: Mapping[str, str] | None = None,
) -> list[T | Failure]:
    """Return for each argument what `run_in_child` would.

    One process serves them in turn, which saves its imports; one that ends is replaced for the rest.

    Args:
        function: A module-level function.
        arguments: Arguments of the calls, in order.
        limits: Time of each call, memory of each process.
        environment: Variables set for the child, besides those of this process.
    """
    with Worker(limits=limits, environment=environment) as worker:
        return [worker.ask(function, argument) for argument in arguments]


class Worker:
    """A child process that stays between calls, which saves its imports; one that ends is replaced for the next call.

    A context manager; nothing is started before the first call.

    Args:
        limits: Time of each call, memory of each process.
        environment: Variables set for the child, besides those of this process.
    """

    def __init__(self, *, limits: Limits = DEFAULT_LIMITS, environment: Mapping[str, str] | None = None) -> None:
        self._limits = limits
        self._environment = environment or {}
        self._folder = tempfile.TemporaryDirectory(prefix="cutset-child-", ignore_cleanup_errors=True)
        self._child: _Child | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def ask(self, function: Callable[[A], T], argument: A, *, time_s: float | None = None) -> T | Failure:
        """Return what `function(argument)` returns in the child, or why it returned nothing; see `run_in_child`.

        Args:
            function: A module-level function.
            argument: Its only argument.
            time_s: Wall seconds for this call, None for those of the limits.
        """
        if self._child is None or self._child.ended:
            self._child = _Child(Path(self._folder.name), self._limits, self._environment)
        found = self._child.ask(function, argument, self._limits.time_s if time_s is None else time_s)
        if self._child.ended:
            self._child.close()
        return cast("T | Failure", found)

    def close(self) -> None:
        """End the child."""
        try:
            if self._child is not None:
                self._child.close()
        finally:
            self._folder.cleanup()


class _Child:
    """A process that answers calls one by one; calls and answers travel as files, a byte on a pipe says one is there."""

    def __init__(self, folder: Path, limits: Limits, environment: Mapping[str, str]) -> None:
        self._limits = limits
        self._call, self._answer = folder / "call.pickle", folder / "answer.pickle"
        self._stderr = folder / "stderr.txt"
        scratch = folder / "scratch"
        scratch.mkdir(exist_ok=True)
        self._answered, theirs = os.pipe()
        arguments = [str(theirs), str(limits.memory_bytes or 0), str(os.getpid()), str(self._call), str(self._answer)]
        try:
            with self._stderr.open("wb") as stderr:
                self._process = subprocess.Popen(  # noqa: S603
                    [sys.executable, "-P", "-c", _BOOTSTRAP, *arguments],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=stderr,
                    pass_fds=(theirs,),
                    start_new_session=True,  # so that its own children can be ended with it
                    env={**os.environ, **environment, "TMPDIR": str(scratch)},
                )
        except BaseException:
            os.close(self._answered)
            raise
        finally:
            os.close(theirs)
        self.ended = False
        self._tell(pickle.dumps(sys.path))

    def _tell(self, message: bytes) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it is dead; the wait for its answer says of what
            self._process.stdin.write(message)
            self._process.stdin.flush()

    def ask(self, function: Callable[[Any], Any], argument: Any, time_s: float) -> Any:
        self._call.write_bytes(pickle.dumps((function, argument)))
        self._tell(b".")
        poll = select.poll()
        poll.register(self._answered, select.POLLIN)
        if not poll.poll(time_s * 1000):
            self._end()
            return Failure(kind="timeout", detail=f"did not finish within {time_s:g} s")
        if os.read(self._answered, 1):
            return pickle.loads(self._answer.read_bytes())  # noqa: S301 (written by our own child in a private folder)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_EXIT_GRACE_S)
        self._end()
        return self._why()

    def _why(self) -> Failure:
        """Return the reason that the exit status of the ended process tells."""
        status = self._process.returncode
        lines = self._stderr.read_text("utf-8", errors="replace").strip().splitlines()
        said = f": {lines[-1].strip()[:300]}" if lines else ""
        if status >= 0:
            return Failure(kind="exited", detail=f"ended with status {status}{said}")
        name = signal.Signals(-status).name
        if any(text in said.lower() for text in _OUT_OF_MEMORY):
            return Failure(kind="memory", detail=f"crashed with {name}{said}")
        if -status in {signal.SIGKILL, signal.SIGTERM}:
            return Failure(kind="killed", detail=f"was killed with {name}, by the system for want of memory or by someone")
        return Failure(kind="crashed", detail=f"crashed with {name}{said}")

    def _end(self) -> None:
        """Kill the process and everything it started."""
        self.ended = True
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def close(self) -> None:
        if self._answered < 0:
            return
        self._end()
        with contextlib.suppress(BrokenPipeError):
            self._process.__exit__(None, None, None)
        os.close(self._answered)
        self._answered = -1


def serve() -> None:
    """Answer calls until there are no more: the child's side, started by `_Child`."""
    pipe, memory, parent = (int(text) for text in sys.argv[1:4])
    call, answer = Path(sys.argv[4]), Path(sys.argv[5])
    os.set_inheritable(pipe, False)
    _die_with(parent)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # some calls are made to see whether they crash
    if memory:
        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    while sys.stdin.buffer.read(1):
        answer.write_bytes(_answer(call.read_bytes()))
        os.write(pipe, b".")


def _answer(call: bytes) -> bytes:
    """Return the pickled result of a pickled call, or the pickled failure."""
    try:
        function, argument = pickle.loads(call)  # noqa: S301 (written by our own parent in a private folder)
        return pickle.dumps(function(argument))
    except MemoryError:
        return pickle.dumps(Failure(kind="memory", detail="ran out of the memory it was allowed"))
    except Exception as error:
        text = _describe(error)
        memory = any(phrase in text.lower() for phrase in _OUT_OF_MEMORY)
        return pickle.dumps(Failure(kind="memory" if memory else "raised", detail=text))


def _describe(error: Exception) -> str:
    if isinstance(error, CutsetError):
        return f"{error.what}: {error.cause}" if error.cause else error.what
    return " ".join(f"{type(error).__name__}: {error}".split())[:500]


def _die_with(parent: int) -> None:
    """Have Linux kill this process when its parent dies, however it dies; elsewhere it ends when its input closes."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
