"""Memory for large results."""

import mmap
import sys

import pytest
import torch

from norms import pages

over = pytest.mark.parametrize


@over("memory", [torch.contiguous_format, torch.channels_last], ids=str)
@over("count", [1, 2**14, 2**20])
@over("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_memory_is_like_that_of_the_tensor_and_can_be_written(dtype, count, memory):
    x = torch.zeros(count, 2, 1, 2, dtype=dtype).contiguous(memory_format=memory)
    y = pages.empty_like(x)
    assert (y.shape, y.stride(), y.dtype, y.device) == (x.shape, x.stride(), x.dtype, x.device)
    assert torch.equal(y.fill_(3), torch.full_like(x, 3))


def test_large_pages_are_asked_for_within_the_memory_alone(monkeypatch):
    asked = []
    monkeypatch.setattr(pages, "_advise", lambda: lambda address, size: asked.append((address, size)))
    pages.empty_like(torch.empty(pages.LARGE // 4 - 1))
    assert asked == []
    y = pages.empty_like(torch.empty(pages.LARGE // 4))
    assert asked == [(y.data_ptr(), y.nbytes)]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux")
def test_only_whole_pages_within_the_memory_are_named(monkeypatch):
    named = []

    class Library:
        def __init__(self, _):
            self.madvise = Call()

    class Call:
        def __call__(self, *arguments):
            named.append(arguments)

    monkeypatch.setattr(pages.ctypes, "CDLL", Library)
    pages._advise.cache_clear()
    try:
        advise, page = pages._advise(), mmap.PAGESIZE
        advise(10 * page + 64, 5 * page)
        advise(10 * page, 5 * page)
    finally:
        pages._advise.cache_clear()
    assert named == [(11 * page, 4 * page, mmap.MADV_HUGEPAGE), (10 * page, 5 * page, mmap.MADV_HUGEPAGE)]


def test_a_system_without_large_pages_gives_memory_all_the_same(monkeypatch):
    monkeypatch.delattr(mmap, "MADV_HUGEPAGE", raising=False)
    pages._advise.cache_clear()
    try:
        y = pages.empty_like(torch.zeros(pages.LARGE))
    finally:
        pages._advise.cache_clear()
    assert torch.equal(y.fill_(1), torch.ones(pages.LARGE))
