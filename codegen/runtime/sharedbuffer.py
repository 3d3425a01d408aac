"""One block of memory that two processes see: tensors cross between them without passing through a pipe.

The memory belongs to an open file that has no name, so nothing is left behind however a process ends.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from .dtypes import ELEMENT_TYPES, Value
from .wire import Buffer, decode_raw, encode_raw

_ALIGNMENT = 64  # the vector kernels' cache line
Layout = list[list[Any]]
"""Of each tensor in a buffer: name, element type, shape, first byte, bytes. Fit for JSON."""


class SharedBuffer:
    """A growing block of shared memory.

    Args:
        handle: An open file to use, of another process's buffer; None makes a new one.
    """

    def __init__(self, handle: int | None = None) -> None:
        self.handle = _anonymous_file() if handle is None else handle
        self._map: mmap.mmap | None = None

    def write(self, tensors: Sequence[tuple[str, str, Value]]) -> Layout:
        """Put tensors into the buffer, over what was there, and return where they lie.

        Args:
            tensors: Name, element type and array of each.
        """
        layout: Layout = []
        parts: list[tuple[int, Buffer]] = []
        end = 0
        for name, dtype, array in tensors:
            raw = encode_raw(array, ELEMENT_TYPES[dtype])
            start = -(-end // _ALIGNMENT) * _ALIGNMENT
            end = start + len(raw)
            layout.append([name, dtype, list(array.shape), start, len(raw)])
            parts.append((start, raw))
        block = self._mapped(end)
        for start, raw in parts:
            block[start : start + len(raw)] = raw
        return layout

    def read(self, layout: Layout, *, copy: bool) -> dict[str, Value]:
        """Return the tensors that another process wrote.

        Args:
            layout: What its `write` returned.
            copy: False gives arrays that are only good until the next write.
        """
        view = memoryview(self._mapped(max((start + size for *_, start, size in layout), default=0)))
        found = {}
        for name, dtype, shape, start, size in layout:
            tensor = decode_raw(view[start : start + size], ELEMENT_TYPES[dtype], tuple(shape))
            found[name] = np.array(tensor) if copy else tensor
        return found

    def close(self) -> None:
        """Give the memory up."""
        self._map = None  # unmapped with the last array over it
        os.close(self.handle)

    def _mapped(self, size: int) -> mmap.mmap:
        """Return the buffer, at least `size` bytes long."""
        if self._map is None or len(self._map) < size:
            length = max(1, os.fstat(self.handle).st_size)
            if length < size:
                length = 2 * size
                os.ftruncate(self.handle, length)
            elif length == 1:
                os.ftruncate(self.handle, length)
            self._map = mmap.mmap(self.handle, length)
        return self._map


def _anonymous_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("cutset-tensors")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
