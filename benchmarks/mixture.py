"""What routing costs: roster beside the plain base and PEFT, in one process, on the same inputs and adapters.

    python benchmarks/mixture.py                 # every row, several minutes
    python benchmarks/mixture.py --rows small    # only rows whose name contains "small"

Random-weight Llamas (the ratio does not depend on what the weights say), LoRA experts of rank 8 on q, k, v, o, gate,
up and down, batch 4 x 128 tokens, one thread. Every contender runs in turn, round after round; figures are medians
over the rounds, divided by the base's. Results go to benchmarks/results/mixture.json with versions and machine.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from peft import XLoraConfig, get_peft_model
from peft.tuners.lora import ArrowConfig, create_arrow_model
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM

import roster
from roster.adapters.attach import attach
from roster.adapters.mixing import Mixing
from roster.library import Library, LowRank, make_adapter, write_adapter
from roster.router import Router
from roster.score import Linear
from roster.select import TopK

RESULTS = Path(__file__).parent / "results" / "mixture.json"
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
BATCH, LENGTH, NEW_TOKENS = 4, 128, 32

SIZES = {
    "small": {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 4, "num_attention_heads": 4},
    "large": {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 8, "num_attention_heads": 16},
}


def base_model(size: str) -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(vocab_size=32000, max_position_embeddings=512, **SIZES[size])).eval()


def adapters(model: LlamaForCausalLM, count: int, rank: int = 8) -> Library:
    """Random adapters, the same for every contender."""
    generator = torch.Generator().manual_seed(1)
    linears = {n: m for n, m in model.named_modules() if n.rsplit(".", 1)[-1] in TARGETS}
    library = {}
    for index in range(count):
        modules = {
            name: LowRank(
                torch.randn(rank, m.in_features, generator=generator) * m.in_features**-0.5,
                torch.randn(m.out_features, rank, generator=generator) * 0.02,
                2.0,
            )
            for name, m in linears.items()
        }
        library[f"expert{index}"] = make_adapter(f"expert{index}", modules, base="bench/base")
    return Library(library)


def on_disk(library: Library, folder: Path) -> list[str]:
    return [str(write_adapter(folder, library[name])) for name in library.names]


def per_block() -> Mixing:
    """A linear top-2 gate for every token, decided once per block: what a trained router of one's own looks like."""
    return Mixing(lambda site: Router(Linear(site.width, site.num_experts), TopK(2)), at="block")


def peft_arrow(size: str, library: Library, folder: Path) -> Any:
    paths = on_disk(library, folder)
    return create_arrow_model(base_model(size), paths, ArrowConfig(top_k=2, router_temperature=1.0)).eval()


def peft_xlora(size: str, library: Library, folder: Path) -> Any:
    model = base_model(size)
    paths = {str(index): path for index, path in enumerate(on_disk(library, folder))}  # the names PEFT gives them
    config = XLoraConfig(task_type="CAUSAL_LM", hidden_size=model.config.hidden_size, xlora_depth=1, adapters=paths)
    model.config.use_cache = False
    return get_peft_model(model, config).eval()


def forward(model: Any, ids: torch.Tensor, mask: torch.Tensor) -> None:
    with torch.no_grad():
        model(input_ids=ids, attention_mask=mask)


def generate(model: Any, ids: torch.Tensor, mask: torch.Tensor) -> None:
    with torch.no_grad():
        model.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, do_sample=False,
            pad_token_id=0,
        )  # fmt: skip


def race(
    contenders: dict[str, Any], work: Callable, rounds: int, once: frozenset[str] = frozenset()
) -> dict[str, float]:
    """Median seconds of each contender. Those named in `once` are so slow that their first run must do."""
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(5, 32000, (BATCH, LENGTH), generator=generator)
    mask = torch.ones_like(ids)
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in track(range(-1, rounds), description=work.__name__, transient=True):
        for name, model in contenders.items():
            if name in once and turn >= 0:
                continue
            start = time.perf_counter()
            work(model, ids, mask)
            if turn >= 0 or name in once:  # else the first turn only warms up
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(each) for name, each in seconds.items()}


def saved_bytes(model: Any, trainable: Callable[[str], bool]) -> int:
    """Bytes that one training forward keeps for the backward pass, parameters not counted."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trainable(name))
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()

    ids = torch.randint(5, 32000, (BATCH, LENGTH), generator=torch.Generator().manual_seed(2))
    model.train()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids)
    del out
    model.eval()
    return sum(kept.values())


def arrow_row(
    size: str,
    experts: int,
    rounds: int,
    with_generate: bool = True,
    once: frozenset[str] = frozenset(),
    peft: bool = True,
) -> dict:
    base = base_model(size)
    library = adapters(base, experts)
    with tempfile.TemporaryDirectory() as scratch:
        contenders = {
            "base": base,
            **({"PEFT Arrow": peft_arrow(size, library, Path(scratch))} if peft else {}),
            "roster Arrow": roster.load(base_model(size), experts=library, router="arrow-mbc", options={"top_k": 2}),
            "roster, a gate per block": attach(base_model(size), library, per_block()),
        }
        row = {"forward": race(contenders, forward, rounds, once)}
        if with_generate:
            row["generate"] = race(contenders, generate, rounds)
    return row


def xlora_row(size: str, experts: int, rounds: int) -> dict:
    base = base_model(size)
    library = adapters(base, experts)
    with tempfile.TemporaryDirectory() as scratch:
        contenders = {
            "base": base,
            "PEFT X-LoRA": peft_xlora(size, library, Path(scratch)),
            "roster X-LoRA": roster.load(base_model(size), experts=library, router="x-lora"),
        }
        row = {"forward": race(contenders, forward, rounds)}
        row["generate"] = race(contenders, generate, max(3, rounds // 3), frozenset({"PEFT X-LoRA"}))
    return row


def memory_row(size: str, experts: int) -> dict:
    base = base_model(size)
    library = adapters(base, experts)
    with tempfile.TemporaryDirectory() as scratch:
        peft = saved_bytes(peft_arrow(size, library, Path(scratch)), lambda name: "lora_" in name)
    ours = roster.load(base_model(size), experts=library, router="arrow-mbc", options={"top_k": 2})
    return {
        "kept for backward, bytes": {
            "base": saved_bytes(base, lambda name: "embed" in name),
            "PEFT Arrow": peft,
            "roster Arrow": saved_bytes(ours, lambda name: ".experts." in name),
        }
    }


class Letters:
    """The least of a tokenizer that recipes need which read example prompts."""

    def __call__(self, text: str) -> dict[str, list[int]]:
        return {"input_ids": [ord(letter) % 200 for letter in text]}

    def decode(self, ids: Any) -> str:
        return ""


def with_products(model: Any, directions: int) -> Any:
    """A model whose adapted layers also multiply what they read by as many vectors as a router would."""

    def product(weight: torch.Tensor) -> Callable[..., None]:
        def after(layer: Any, given: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            F.linear(given[0].reshape(-1, weight.shape[1]), weight)

        return after

    for name, module in model.named_modules():
        if name.rsplit(".", 1)[-1] in TARGETS:
            module.register_forward_hook(product(torch.randn(directions, module.in_features)))
    return model


def ranks_row(size: str, experts: int, rounds: int) -> dict:
    """Routers of ranks beside one LoRA of as many active ranks, and beside it with the products of such a router."""
    base, rank = base_model(size), 8
    library, one = adapters(base, experts, rank), adapters(base, 1, rank)
    for adapter in library.values():
        adapter.card.examples[:] = [adapter.name, adapter.name[::-1]]

    def routed(slug: str) -> Any:
        return roster.load(
            base_model(size), experts=library, router=slug, options={"k": rank}, tokenizer=Letters()
        ).eval()

    contenders = {
        "base": base,
        "one LoRA of rank 8": roster.load(base_model(size), experts=one, router="uniform"),
        "one LoRA and a router's products": with_products(
            roster.load(base_model(size), experts=one, router="uniform"), experts * rank
        ),
        "roster SMoRA": routed("smora"),
        "roster Intuition-MoR1E": routed("intuition-mor1e"),
    }
    return {"forward": race(contenders, forward, rounds)}


ROWS: dict[str, Callable[[], dict]] = {
    "small: 8 experts, top-2, hidden 256": lambda: arrow_row("small", 8, 15),
    "large: 8 experts, top-2, hidden 1024": lambda: arrow_row("large", 8, 9),
    "large: X-LoRA, two passes": lambda: xlora_row("large", 8, 7),
    "large: 256 experts, top-2, without PEFT": lambda: arrow_row("large", 256, 7, False, peft=False),
    "large: 256 experts, top-2, with PEFT": lambda: arrow_row("large", 256, 7, False, frozenset({"PEFT Arrow"})),
    "small: 8 of 64 ranks": lambda: ranks_row("small", 8, 15),
    "large: 8 of 64 ranks": lambda: ranks_row("large", 8, 7),
    "memory, small: 8 experts": lambda: memory_row("small", 8),
    "memory, small: 32 experts": lambda: memory_row("small", 32),
}


def show(results: dict[str, dict]) -> None:
    table = Table(title="relative to the base = 1.00 (median of rounds)")
    for column in ("row", "what", "contender", "relative"):
        table.add_column(column, justify="right" if column == "relative" else "left")
    for row, works in results.items():
        for work, figures in works.items():
            base = figures["base"]
            unit = f"{base * 1e3:.0f} ms" if base < 1000 else f"{base / 2**20:.0f} MiB"
            for name, figure in figures.items():
                table.add_row(row, work, f"{name} ({unit})" if name == "base" else name, f"{figure / base:.2f}")
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="", help="only rows whose name contains this")
    parser.add_argument("--no-write", action="store_true", help="do not update the results file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    stored = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"rows": {}}
    results = {}
    for name, row in ROWS.items():
        if arguments.rows in name:
            results[name] = row()
            gc.collect()
            show({name: results[name]})
    stored["rows"].update(results)
    stored["about"] = {
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {platform.system()}, 1 thread",
        "versions": {package: version(package) for package in ("torch", "transformers", "peft")},
    }
    if not arguments.no_write:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(stored, indent=1) + "\n")
    show(stored["rows"])


if __name__ == "__main__":
    main()
