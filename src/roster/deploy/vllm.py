"""What vLLM has to be told: a start script with every adapter; its own options go behind the script's name.

vLLM lists adapters as models, computes requests for different adapters in one batch, and splits a base over devices and
machines by itself (`--tensor-parallel-size`, `--pipeline-parallel-size`, a Ray cluster). Written for vLLM 0.32; older
ones ignore PEFT's `rank_pattern` and `alpha_pattern`.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from roster.errors import RosterError
from roster.library import Adapter
from roster.library.adapter import Vector
from roster.library.soft_prompt import check_has_weights

PORT = 8200
SCRIPT = "start-vllm.sh"
_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""That `--max-lora-rank` takes."""
_AT_ONCE = 32
"""Adapters on the device, at most; the others wait in memory."""


def start_script(base: str, adapters: Mapping[str, Adapter], folder: str, base_name: str) -> str:
    """The text of a shell script that starts vLLM with all adapters.

    Args:
        base: folder or public name of the base.
        adapters: by name.
        folder: where their folders lie, relative to the script.
        base_name: what requests call the base.

    Raises:
        RosterError: an adapter that vLLM does not take.
    """
    options = [
        ("--served-model-name", [base_name]),
        ("--host", ["127.0.0.1"]),
        ("--port", [str(PORT)]),
        ("--enable-lora", []),
        ("--max-lora-rank", [str(_rank(adapters))]),
        ("--max-loras", [str(min(len(adapters), _AT_ONCE))]),
        ("--max-cpu-loras", [str(len(adapters))]),
    ]
    lines = [f'exec "${{PYTHON:-python}}" -m vllm.entrypoints.openai.api_server --model "${{BASE:-{_quoted(base)}}}"']
    lines += [" ".join([f"  {name}", *map(shlex.quote, values)]) for name, values in options]
    lines += ["  --lora-modules", *(f'    "{name}=$here/{folder}/{name}"' for name in adapters), '  "$@"']
    return "\n".join(
        [
            "#!/bin/sh",
            "# Starts vLLM with all adapters; what stands behind the script's name goes to vLLM and comes last:",
            f"#   ./{SCRIPT} --port 8201                    another replica (deploy with --replica for each)",
            f"#   ./{SCRIPT} --tensor-parallel-size 4       one base over four devices",
            f"#   ./{SCRIPT} --pipeline-parallel-size 2 --distributed-executor-backend ray    over machines",
            "# BASE and PYTHON in the environment name another place of the base, and vLLM's own Python.",
            "set -eu",
            'here=$(cd "$(dirname "$0")" && pwd)',
            _continued(lines),
            "",
        ]
    )


def _rank(adapters: Mapping[str, Adapter]) -> int:
    for name, each in adapters.items():
        check_has_weights(each, "serving LoRAs by vLLM")
        if any(isinstance(update, Vector) for update in each.modules.values()):
            raise RosterError(f"vLLM serves LoRAs; {name!r} is an (IA)3 adapter")
    ranks = {name: max(update.A_RD.shape[0] for update in each.modules.values()) for name, each in adapters.items()}
    largest = max(ranks, key=lambda name: ranks[name])
    found = next((rank for rank in _RANKS if rank >= ranks[largest]), None)
    if found is None:
        raise RosterError(f"vLLM takes ranks up to {_RANKS[-1]}; {largest!r} has {ranks[largest]}")
    return found


def _quoted(text: str) -> str:
    """As it may stand between double quotes."""
    return "".join(f"\\{each}" if each in '\\"$`' else each for each in text)


def _continued(lines: Sequence[str]) -> str:
    return " \\\n".join(lines)
