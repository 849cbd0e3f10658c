"""Memory that is kept for the next large tensor."""

import gc
import os
import platform
import subprocess
import sys

import pytest
import torch

from roster.dispatch import memory

NUMBERS = memory.SMALLEST // 4


@pytest.fixture(autouse=True)
def nothing_kept():
    gc.collect()  # what earlier tests left behind comes back now, not later
    memory.release()
    yield
    memory.release()


def test_memory_serves_again_once_nothing_refers_to_it():
    first = memory.empty(torch.zeros(1), 2, NUMBERS)
    address = first.data_ptr()
    del first
    assert memory.empty(torch.zeros(1), NUMBERS, 2).data_ptr() == address


@pytest.mark.parametrize("hold", [lambda t: t[1:], lambda t: t.detach(), lambda t: t.numpy(), lambda t: t.view(-1)])
def test_memory_in_use_is_never_given_twice(hold):
    held = hold(memory.empty(torch.zeros(1), 2, NUMBERS))
    held[:] = 1.0
    other = memory.empty(torch.zeros(1), 2, NUMBERS).fill_(2.0)
    assert bool((torch.as_tensor(held) == 1.0).all())
    assert bool((other == 2.0).all())


def test_a_gradient_that_is_kept_survives_the_next_steps():
    weight = torch.nn.Parameter(torch.zeros(NUMBERS))

    class Copy(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.sum()

        @staticmethod
        def backward(ctx, grad):
            return memory.empty(weight, NUMBERS).fill_(float(grad))

    (Copy.apply(weight) * 3).backward()
    kept = weight.grad
    weight.grad = None
    (Copy.apply(weight) * 5).backward()
    assert kept.unique().tolist() == [3.0]
    assert weight.grad.unique().tolist() == [5.0]


def test_a_region_far_too_large_is_left_alone():
    large = memory.empty(torch.zeros(1), 8 * NUMBERS)
    address = large.data_ptr()
    del large
    small = memory.empty(torch.zeros(1), NUMBERS)
    assert not address <= small.data_ptr() < address + 32 * NUMBERS


def test_a_region_serves_a_few_rows_more():
    first = memory.empty(torch.zeros(1), 1000, 1001)
    address = first.data_ptr()
    del first
    assert memory.empty(torch.zeros(1), 1001, 1001).data_ptr() == address


def test_autograd_may_add_to_it_in_place():
    tensor = memory.empty(torch.zeros(1), 2, NUMBERS)
    assert not tensor._is_view()


def test_no_more_is_kept_than_allowed(monkeypatch):
    monkeypatch.setattr(memory, "KEEP", 5 * memory.SMALLEST)
    several = [memory.empty(torch.zeros(1), 2 * NUMBERS) for _ in range(4)]
    assert not memory._free
    del several
    assert sum(map(len, memory._free.values())) == 4 * memory.SMALLEST


def test_what_was_given_back_longest_ago_makes_room(monkeypatch):
    monkeypatch.setattr(memory, "KEEP", 8 * memory.SMALLEST)
    for count in (3, 1, 5, 9):  # the last is larger than all that may be kept, and drives nothing out
        memory.empty(torch.zeros(1), count * NUMBERS)
    assert [len(region) // memory.SMALLEST for region in memory._free.values()] == [1, 5]


def test_types_and_shapes_are_those_asked_for():
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        like = torch.zeros(1, dtype=dtype)
        tensor = memory.empty(like, 3, NUMBERS)
        assert (tensor.shape, tensor.dtype, tensor.is_contiguous()) == ((3, NUMBERS), dtype, True)
    assert memory.empty(torch.zeros(1), 0).shape == (0,)
    assert memory.empty(torch.zeros(1, device="meta"), NUMBERS).device.type == "meta"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="speaks of the GNU allocator")
def test_the_allocator_keeps_what_is_freed_as_well():
    """Pages that are still there when tensors of 192 MB have been freed: all of them, and else none."""
    script = """
import sys, torch
from roster.dispatch import memory
def pages():
    return int(open("/proc/self/statm").read().split()[1])
if sys.argv[1] == "settled":
    memory.empty(torch.zeros(1), memory.SMALLEST)
before = pages()
tensors = [torch.ones(6 * 2**20) for _ in range(8)]
full = pages() - before
del tensors
print((pages() - before) / full)
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}

    def kept(how):
        command = [sys.executable, "-c", script, how]
        return float(subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout)

    assert kept("left alone") < 0.2
    assert kept("settled") > 0.8
