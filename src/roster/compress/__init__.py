"""compress: mixtures made smaller, on disk, one layer in memory at a time, into what plain transformers and vLLM load.

    compress("Qwen/Qwen1.5-MoE-A2.7B", "smaller", "reap", "50%", data="mine.jsonl")

which is

    mixture = open_mixture("Qwen/Qwen1.5-MoE-A2.7B")
    method = make_method("reap", mixture, "50%")                 # refused here what cannot be
    texts = read_texts("mine.jsonl", mixture.source.folder)
    decisions = decide(method, mixture, texts)                   # layer by layer
    run(plan_compress(method, decisions, "50%", texts), "smaller")

A method sees sums over calibration tokens (`Seen`) and says what becomes of a layer; the engine of `roster.weights`
writes it, and the same kernels change a block in memory. `forget` (uoe-unlearning) and `distil` (moe-kd-ka-sar) train,
with models in memory as a whole. Covers Mixtral, Qwen2-MoE, Qwen3-MoE and OLMoE, experts fused
or one by one; other families are refused by name.
"""

from roster.compress.methods import METHODS, compress, decide, find_method, make_method, plan_compress
from roster.compress.mixture import Mixture, open_mixture
from roster.compress.trained import distil, forget
from roster.weights.texts import Texts, as_texts, read_texts

__all__ = [
    "METHODS",
    "Mixture",
    "Texts",
    "as_texts",
    "compress",
    "decide",
    "distil",
    "find_method",
    "forget",
    "make_method",
    "open_mixture",
    "plan_compress",
    "read_texts",
]
