"""weights: checkpoints changed at the speed of the disk, without ever being in memory as a whole.

A *source* is a checkpoint known by its headers (`open_checkpoint`; views and adapters on a base are sources too). A
*rule* makes a list of `Output`: per tensor of the new checkpoint its name, type and shape, the operands that it needs,
and a `Kernel` that computes it. `make_plan` checks the list on headers alone; `run` carries it out piece by piece
(scratch of a few MiB plus what a kernel declares), resumes after a kill, and swaps the finished folder in; `apply` runs
the same kernel on tensors in memory.

Writing a rule
    1. A kernel. The simplest sees one piece of each operand, flat and float32, and returns one piece::

        @dataclass
        class Average(Kernel):
            def write(self, x, start):
                return sum(x) / len(x)

       A kernel that needs figures of the whole tensor first (a norm, a threshold) says so with `wants_look`, gathers
       them in `look`, and lets them go in `end`; one that needs whole rows returns their length from `unit`. Where
       pieces are cut must not change a bit: sum with `Gram` or over `blocks`, draw random numbers by block. Its
       dataclass fields are its settings (they go into the fingerprint that a resume compares); what it gathers is a
       field with `repr=False, init=False`.
    2. Outputs: one kernel object each, operands of the output's own shape. Where the shape changes (slices, stacks,
       permutations) a view is the operand: a source whose tensors are made of another's (`views.py`).
    3. `run(make_plan(outputs, sources, files={"config.json": ...}), out)`.

Refused before any weight is read: shards missing or truncated, names twice, shapes that do not fit, a full disk.
Threads: one. Never a pickle.
"""

from roster.header import Spec
from roster.weights.plan import MAX_SHARD, Plan, make_plan, parse_size, same_specs
from roster.weights.rule import BLOCK, Copy, Gram, Kernel, Operand, Output, blocks
from roster.weights.run import apply, run
from roster.weights.source import Checkpoint, Source, open_checkpoint
from roster.weights.views import Columns, Part, Rows, Stack, Views

__all__ = [
    "BLOCK",
    "MAX_SHARD",
    "Checkpoint",
    "Columns",
    "Copy",
    "Gram",
    "Kernel",
    "Operand",
    "Output",
    "Part",
    "Plan",
    "Rows",
    "Source",
    "Spec",
    "Stack",
    "Views",
    "apply",
    "blocks",
    "make_plan",
    "open_checkpoint",
    "parse_size",
    "run",
    "same_specs",
]
