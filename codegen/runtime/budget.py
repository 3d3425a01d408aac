"""One bound in common for the memory of all requests and answers that the server holds at once, over HTTP and gRPC.

Limits per request multiply: 1,024 requests of 256 MiB each are 256 GiB. Each request has a lease on the budget, says before
it takes memory how much the request holds in all, and gives everything back when the request ends, however it ends.
"""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path
from types import TracebackType

_SHARE = 4  # of the memory, the part that bodies may fill: tensors inside the pipeline, weights and onnxruntime need the rest
_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


class BudgetExceeded(Exception):  # noqa: N818 - the limit's name
    """The requests under way hold all the memory that the server gives them; 503, ask again."""


class MemoryBudget:
    """Bytes that all requests may hold together. Thread-safe.

    A request that holds memory alone is never refused, so that every request fits sometime; the limits of one request bound it.

    Args:
        limit_bytes: Most bytes that two requests or more may hold together.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._held_bytes = 0
        self._lock = threading.Lock()

    @property
    def held_bytes(self) -> int:
        """Bytes that are leased now."""
        return self._held_bytes

    def lease(self) -> Lease:
        """Return a lease of no bytes, for one request."""
        return Lease(self)

    def _change(self, before: int, after: int) -> None:
        with self._lock:
            total = self._held_bytes - before + after
            if after > before and total > self.limit_bytes and total > after:
                raise BudgetExceeded(
                    f"the requests under way hold {self._held_bytes} bytes of the {self.limit_bytes} that the server's "
                    "--max-held-mb gives them"
                )
            self._held_bytes = total


class Lease:
    """What one request holds of the budget; leave the ``with`` block, or call `release`, to give everything back.

    One thread at a time may use a lease.
    """

    def __init__(self, budget: MemoryBudget) -> None:
        self._budget = budget
        self._size_bytes = 0

    @property
    def size_bytes(self) -> int:
        """Bytes that the request holds."""
        return self._size_bytes

    def resize(self, size_bytes: int) -> None:
        """Note that the request holds `size_bytes` in all from now on; call before the memory is taken.

        Raises:
            BudgetExceeded: If the request would hold more than before and the budget has no room; the lease is as before.
        """
        self._budget._change(self._size_bytes, size_bytes)  # noqa: SLF001 - two halves of one object
        self._size_bytes = size_bytes

    def grow(self, added_bytes: int) -> None:
        """Note that the request holds `added_bytes` more; as `resize`."""
        self.resize(self._size_bytes + added_bytes)

    def release(self) -> None:
        """Give everything back; nothing happens the second time."""
        self.resize(0)

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.release()


def default_limit(largest_request_bytes: int) -> int:
    """Return a quarter of the memory that this process may use, at least the size of the largest request.

    Args:
        largest_request_bytes: Most bytes of one request.
    """
    return max(largest_request_bytes, _memory_bytes() // _SHARE)


def _memory_bytes() -> int:
    """Return the memory of the machine, or of the container where a container has less; 0 where neither can be read."""
    sizes: list[int] = []
    with contextlib.suppress(ValueError, OSError, AttributeError):  # not every system has the names
        sizes.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for path in _CGROUP_LIMITS:
        with contextlib.suppress(ValueError, OSError):  # no control group, or one without a limit, which says "max"
            sizes.append(int(Path(path).read_text("ascii")))
    return min(sizes, default=0)
