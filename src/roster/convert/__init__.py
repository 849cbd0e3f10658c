"""convert: dense checkpoints made into mixtures of experts that plain transformers and vLLM load.

Every conversion is a plan for `roster.weights`: checked on headers, streamed piece by piece, resumed after a kill.
What a conversion promises to keep is proved afterwards in plain transformers (`prove`), not believed. Covers Llama and
Mistral bases, written as Mixtral, Qwen2-MoE or GraniteMoeShared; other bases are refused by name.
"""

from roster.convert.btx import plan_btx
from roster.convert.cmoe import plan_cmoe
from roster.convert.factorllm import plan_factorllm
from roster.convert.gate_modes import plan_gated, read_gate_config
from roster.convert.proof import Proof, prove
from roster.convert.upcycling import plan_upcycling

__all__ = [
    "Proof",
    "plan_btx",
    "plan_cmoe",
    "plan_factorllm",
    "plan_gated",
    "plan_upcycling",
    "prove",
    "read_gate_config",
]
