"""Settings of the C allocator that a server of large tensors needs."""

from __future__ import annotations

import ctypes

# <malloc.h>
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_MMAP_THRESHOLD_MAX = 32 * 2**20  # glibc refuses more on 64 bits


def keep_freed_memory(keep_bytes: int = 256 * 2**20) -> bool:
    """Return True if the allocator now keeps freed memory for the next request, False where it is not glibc's.

    By default glibc gives the heap's end back after each large request and takes some 270 page faults to get it
    again, which halved the rate of 600 KB requests.

    Args:
        keep_bytes: Most free bytes to keep.
    """
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version") or not hasattr(library, "mallopt"):
        return False
    settings = (
        (_M_MMAP_THRESHOLD, _MMAP_THRESHOLD_MAX),
        (_M_TRIM_THRESHOLD, keep_bytes),
        (_M_TOP_PAD, _MMAP_THRESHOLD_MAX // 2),
    )
    taken = [library.mallopt(name, value) for name, value in settings]
    return taken == [1, 1, 1]
