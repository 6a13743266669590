"""Memory for large results."""

import ctypes
import mmap
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

LARGE = 2**22
"""Bytes from which on large pages are asked for, as NumPy does."""


def empty_like(x: Tensor) -> Tensor:
    """Like ``torch.empty_like`` on the CPU, in large pages where the system has them.

    What is larger than 32 MiB the allocator gets anew from the system each time, and to be given its thousands of small
    pages, one by one as they are first written, takes longer than a pass over them.
    """
    y = torch.empty_like(x)
    if y.nbytes >= LARGE:
        _advise()(y.data_ptr(), y.nbytes)
    return y


@cache
def _advise() -> Callable[[int, int], None]:
    """What asks for large pages."""
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return lambda address, size: None
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    page = mmap.PAGESIZE

    def advise(address: int, size: int) -> None:
        start, stop = -(-address // page) * page, (address + size) // page * page
        # A system without large pages refuses, and nothing is lost.
        madvise(start, stop - start, mmap.MADV_HUGEPAGE)

    return advise
