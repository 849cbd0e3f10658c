"""Small trained language models, kept on disk: what conversion, compression and offloading start from.

Dense models are Llamas of three layers, mixtures are Mixtrals of four with 16 experts of 32 units, two a token; all of
width 64, on the arena's text (code, manual, skills; vocabulary 1,024), 300 steps of 8 x 96 tokens. A ground has its
own initial weights and order of text. They lie in the cache folder, under the digest of the text and of what made them.

Shape legend: B rows, S tokens of a row.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from evidence.protocol.check import Draw
from roster.arena.moe.data import DOMAINS, VOCAB, corpus
from roster.arena.moe.pretrain import rate_at
from roster.saving import writing
from roster.weights import Plan, run
from roster.weights.texts import Texts, as_texts

STEPS, ROWS, LENGTH, RATE = 300, 8, 96, 3e-3
WIDTH, EXPERTS, UNITS, TOP = 64, 16, 32, 2
BALANCE = 0.01


def _config(kind: str) -> Any:
    import transformers

    shape = {"vocab_size": VOCAB, "hidden_size": WIDTH, "num_attention_heads": 4, "num_key_value_heads": 4}
    common = {**shape, "max_position_embeddings": 128, "pad_token_id": None, "bos_token_id": None, "eos_token_id": None}
    if kind == "dense":
        return transformers.LlamaConfig(**common, num_hidden_layers=3, intermediate_size=128)
    experts = {"num_local_experts": EXPERTS, "num_experts_per_tok": TOP, "router_aux_loss_coef": BALANCE}
    return transformers.MixtralConfig(**common, **experts, num_hidden_layers=4, intermediate_size=UNITS)


def batch(step: int, seed: int, domains: Sequence[str] = DOMAINS, rows: int = ROWS) -> Tensor:
    """Rows of one training step, [B, S]; the domains take turns."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
    found = []
    for row in range(rows):
        ids = corpus().train[domains[(row + step) % len(domains)]]
        start = int(torch.randint(0, len(ids) - LENGTH, (), generator=generator))
        found.append(ids[start : start + LENGTH])
    return torch.stack(found)


def train(
    model: Any,
    seed: int,
    steps: int,
    domains: Sequence[str] = DOMAINS,
    rate: float = RATE,
    each: Callable[[int, Any], None] | None = None,
) -> Any:
    """AdamW on the next token (and a mixture's balance loss); in place.

    Args:
        model: of transformers.
        seed: of the order of the text.
        steps: how many.
        domains: which text.
        rate: the highest; see `rate_at`.
        each: told of every step.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.01, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_at(step, steps))
    more = {"output_router_logits": True} if hasattr(model.config, "num_experts_per_tok") else {}
    model.train()
    for step in range(steps):
        ids_BS = batch(step, seed, domains)
        optimizer.zero_grad(set_to_none=True)
        model(input_ids=ids_BS, labels=ids_BS, use_cache=False, **more).loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if each is not None:
            each(step, model)
    return model.eval()


def folder(draw: Draw, kind: str = "mixture", domain: str = "", steps: int = STEPS) -> Path:
    """Where a ground's model lies; it is trained when it is asked for the first time.

    Args:
        draw: its ground is the model's seed; short ones are models of a few steps.
        kind: "mixture" or "dense".
        domain: the model is the ground's dense one, trained on for as many steps on this domain alone.
        steps: of training.
    """
    steps = draw.steps(steps)
    at = _home() / f"{kind}{'-' * bool(domain)}{domain}-{draw.ground}-{steps}"
    if not at.exists():
        import transformers

        torch.manual_seed(draw.ground)
        if domain:
            model: Any = load(folder(draw, kind))
        else:
            model = transformers.AutoModelForCausalLM.from_config(_config(kind))
        train(model, draw.ground + 500 * bool(domain), steps, (domain,) if domain else DOMAINS)
        with writing(at) as new:
            model.save_pretrained(new)
    return at


@functools.cache
def _home() -> Path:
    made_by = repr((STEPS, ROWS, LENGTH, RATE)) + "".join(inspect.getsource(each) for each in (_config, batch, train))
    source = hashlib.sha256(made_by.encode()).hexdigest()[:8]
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "roster" / "evidence"
    return base / f"trained-{corpus().digest}-{source}"


def load(at: Path) -> Any:
    """A model from a folder, in float32."""
    import transformers

    transformers.logging.set_verbosity_error()
    return transformers.AutoModelForCausalLM.from_pretrained(at, dtype=torch.float32).eval()


def carried_out(plan: Plan) -> Any:
    """The model that a plan writes."""
    with tempfile.TemporaryDirectory() as scratch:
        run(plan, Path(scratch) / "made")
        model = load(Path(scratch) / "made")
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.data = tensor.data.clone()  # transformers maps files, which go
    return model


def texts(draw: Draw, domains: Sequence[str] = DOMAINS, rows: int = 48, salt: int = 0) -> Texts:
    """Rows to calibrate on, drawn by luck from the training text."""
    rows = 6 if draw.short else rows
    return as_texts(batch(0, 7_000 + draw.luck + salt, domains, rows).tolist())


@torch.no_grad()
def loss(model: Any, domains: Sequence[str] = DOMAINS, rows: int = 48, short: bool = False) -> float:
    """Held-out loss in nats per token, the mean of the domains."""
    return sum(float(nn.functional.cross_entropy(*_predicted(model, name, rows, short))) for name in domains) / len(
        domains
    )


def _predicted(model: Any, domain: str, rows: int, short: bool) -> tuple[Tensor, Tensor]:
    ids_BS = held_out(domain, 4 if short else rows)
    logits = model(input_ids=ids_BS, use_cache=False).logits
    return logits[:, :-1].flatten(0, 1), ids_BS[:, 1:].flatten()


def held_out(domain: str, rows: int) -> Tensor:
    """Evenly spaced rows of a domain's validation text, [B, S]."""
    ids = corpus().validation[domain]
    start_B = torch.linspace(0, len(ids) - LENGTH, rows).long()
    return ids[start_B[:, None] + torch.arange(LENGTH)]
