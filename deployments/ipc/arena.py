"""Shared memory for rows: one arena per front, which allocates from it, and which the core maps.

An arena is an anonymous file (`memfd_create`): no name that another process could unlink, and no memory before a page
of it is written. A front hands the descriptor over with its first message. An array lives in the arena as long as
somebody in the front holds it or a view of it, so that nothing is freed by hand and nothing can leak.

The pages count as shared memory of the front's container: its limit must allow for the arena's size beside the rest.
"""

from __future__ import annotations

import bisect
import ctypes
import math
import mmap
import os
import threading
import weakref
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

#: Every array begins at a multiple of this: a cache line, and what vector instructions want.
ALIGN = 64


class ArenaFull(Exception):
    """No piece of this size is free now."""


class Arena:
    """A front's shared memory. Any thread may allocate; arrays may die on any thread.

    Args:
        size_bytes: of the whole; pages of it that were never written take no memory.

    Attributes:
        descriptor: of the file, to be handed over; it is the arena's and ends with `close`.

    Raises:
        OSError: the system gives no such file.

    >>> arena = Arena(1 << 20)
    >>> rows = arena.empty((2, 3))
    >>> rows.shape, arena.offset_of(rows), arena.used_bytes
    ((2, 3), 0, 64)
    >>> del rows
    >>> arena.used_bytes
    0
    >>> arena.close()
    """

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = -(-size_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        self.descriptor = os.memfd_create("headtail-rows", os.MFD_CLOEXEC)
        try:
            os.ftruncate(self.descriptor, self.size_bytes)
            self._memory = mmap.mmap(self.descriptor, self.size_bytes)
        except BaseException:
            os.close(self.descriptor)
            raise
        self._address = address_of(self._memory)
        self._lock = threading.Lock()
        self._free: list[tuple[int, int]] = [(0, self.size_bytes)]  # (offset, bytes), by offset, never adjacent
        self._taken: dict[int, tuple[weakref.ref[npt.NDArray[Any]], int, int]] = {}  # by the reference's own id
        self._dead: deque[weakref.ref[npt.NDArray[Any]]] = deque()  # a collection may run in the middle of `empty`

    @property
    def used_bytes(self) -> int:
        """Bytes of arrays that live."""
        with self._lock:
            self._bury()
            return sum(size for _, _, size in self._taken.values())

    def empty(self, shape: Sequence[int], dtype: npt.DTypeLike = np.float32) -> npt.NDArray[Any]:
        """An array in the arena; its content is arbitrary.

        Raises:
            ArenaFull: there is no room for it now.
        """
        kind = np.dtype(dtype)
        size = max(-(-math.prod(shape) * kind.itemsize // ALIGN), 1) * ALIGN
        with self._lock:
            self._bury()
            offset = self._take(size)
            # Straight from the file's memory: a view's base is then this array and nothing below it.
            array: npt.NDArray[Any] = np.ndarray(tuple(shape), kind, buffer=self._memory, offset=offset)
            reference = weakref.ref(array, self._dead.append)
            self._taken[id(reference)] = reference, offset, size
        return array

    def offset_of(self, array: npt.NDArray[Any]) -> int | None:
        """Where an array lies in the arena; None: elsewhere, or not in one piece."""
        offset = int(array.__array_interface__["data"][0]) - self._address
        inside = offset >= 0 and offset + array.nbytes <= self.size_bytes
        return offset if inside and array.flags.c_contiguous else None

    def close(self) -> None:
        """Give the memory back, once the last array has died. Calling it again is harmless."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def _take(self, size: int) -> int:
        """The first piece that is large enough, so that pages behind it stay unwritten."""
        for index, (offset, there) in enumerate(self._free):
            if there >= size:
                if there == size:
                    del self._free[index]
                else:
                    self._free[index] = offset + size, there - size
                return offset
        raise ArenaFull(f"{size} bytes do not fit into the {self.size_bytes} of the front's shared memory now")

    def _bury(self) -> None:
        """Take back what dead arrays held."""
        while self._dead:
            _, offset, size = self._taken.pop(id(self._dead.popleft()))
            index = bisect.bisect(self._free, (offset, 0))
            if index < len(self._free) and self._free[index][0] == offset + size:
                size += self._free.pop(index)[1]
            if index and sum(self._free[index - 1]) == offset:
                index -= 1
                before = self._free.pop(index)
                offset, size = before[0], before[1] + size
            self._free.insert(index, (offset, size))


class MappedArena:
    """A front's arena as the core sees it: read and written there, allocated from nowhere.

    Args:
        descriptor: as it came; closed here, since a mapping needs none.

    Attributes:
        size_bytes: of the whole.
        memory: the mapping. It ends with the last array in it, so a front's death takes nothing from a running step.

    Raises:
        OSError, ValueError: it is no memory that can be mapped.
    """

    def __init__(self, descriptor: int) -> None:
        try:
            self.size_bytes = os.fstat(descriptor).st_size
            self.memory = mmap.mmap(descriptor, self.size_bytes)
        finally:
            os.close(descriptor)

    def array(self, offset: int, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """The array that lies there.

        Raises:
            ValueError: it would not lie inside.
            TypeError: no such shape or type.
        """
        kind = np.dtype(dtype)
        # By hand: numpy takes negative offsets and sizes, and with them what lies before the mapping.
        if min(offset, *shape) < 0 or offset + math.prod(shape) * kind.itemsize > self.size_bytes:
            raise ValueError(f"{kind} of shape {shape} at {offset} lies outside of the arena's {self.size_bytes} bytes")
        array: npt.NDArray[Any] = np.ndarray(shape, kind, buffer=self.memory, offset=offset)
        return array


def address_of(memory: mmap.mmap) -> int:
    """Where a writable mapping begins in this process."""
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))
