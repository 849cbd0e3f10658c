"""The Triton kernel, in Triton's interpreter on a processor: what it computes, not how fast, nor that it compiles.

In a process of its own: the interpreter must be asked for before anything imports Triton.
"""

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton")

SCRIPT = """
import torch
from roster.dispatch import reference, triton_kernel
torch.manual_seed(0)
D, F, nobody = 40, 72, 5
for counts in ([70, 0, 3], [0, 0, 0], [1, 64, 65]):
    counts_E, total = torch.tensor(counts), sum(counts)
    rows = torch.randn(total + nobody, D)
    rows[total:] = float("nan")
    rows.requires_grad_()
    weight = torch.randn(len(counts), D, F, requires_grad=True)
    got = triton_kernel.matmul(rows, weight, counts_E)[:total]
    expected = reference.matmul(rows, weight, counts_E)[:total]
    torch.testing.assert_close(got, expected)
    grad = torch.randn(total, F)
    ours = torch.autograd.grad(got, (rows, weight), grad)
    theirs = torch.autograd.grad(expected, (rows, weight), grad)
    torch.testing.assert_close(ours[0][:total], theirs[0][:total])
    torch.testing.assert_close(ours[1], theirs[1])
print("agrees")
"""


def test_values_and_gradients():
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True
    )
    assert done.stdout.strip().endswith("agrees"), done.stderr
