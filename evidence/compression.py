"""Ways to halve a trained mixture, side by side: perplexity, multiple choice and generation, each apart.

python -m evidence.compression                # goes on where a run stopped; results in docs/results/compress.{json,md}

The mixture is made of the pocket ground: eight of its experts, each in the base as a model of its own, become a Mixtral
of eight experts by Branch-Train-MiX, two of which serve a token, which is then trained together on their skills. Every
method keeps half of the experts' weights and is calibrated on the same rows; nothing is trained afterwards. MoNE
(Zhang et al. 2025, arXiv 2507.00390: experts that say nearly the same of every token become that constant) is carried
out in memory, as no container that stock loaders read has a smaller place for a constant.

Shape legend: T tokens, E experts, K chosen, D model width.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import types
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from evidence.grounds.trained import load
from roster import pocket
from roster.arena.checkpoints import Item, measure
from roster.arena.moe.pretrain import rate_at
from roster.compress import compress
from roster.convert.btx import plan_btx
from roster.convert.dense import open_dense
from roster.files import read_object, write_whole
from roster.merge.running import merge_models
from roster.pocket.skills import Example, examples
from roster.prompts import Rendering, padded
from roster.routed.base import load_tokenizer
from roster.saving import writing
from roster.weights import run
from roster.weights.kept import Kept
from roster.weights.moments import restore, state_of

SKILLS = ("alternate", "digits", "reverse", "rotate", "sort", "swap", "upper", "vowels")
STEPS, BATCH, RATE = 60, 16, 1e-3
CALIBRATION, ROWS, CHOICES = 6, 10, 4
"""Of each skill: rows to calibrate on and rows to measure; and how many answers a multiple choice has."""
WAYS = {
    "reap": "REAP: drop by mean of gate times norm of the answer",
    "expert-use": "drop the least used",
    "ream": "REAM: merge those into the kept ones, aligned",
    "mc-smoe": "M-SMoE: merge by router logits, weighed by use",
    "moe-pruner": "MoE-Pruner: half of each matrix is 0",
    "mone": "MoNE: the least varied say a constant (in memory)",
}
WHOLE = "the mixture"


def main(arguments: Sequence[str] | None = None) -> None:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "roster" / "evidence" / "compression"
    parser.add_argument("--work", type=Path, default=cache, help="where models lie")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "docs" / "results")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    mixture = trained(asked.work)
    items = questions()
    file = asked.out / "compress.json"
    content = read_object(file) if file.is_file() else {}
    if content.get("about", {}).get("settings") != settings():
        content = {"about": about(), "models": {}}
    tokenizer = load_tokenizer(mixture)
    for name in (WHOLE, *WAYS):
        if name in content["models"]:
            continue
        model = load(mixture) if name == WHOLE else smaller(name, mixture, asked.work)
        found, tokens = measure(model, tokenizer, items, max_new_tokens=16)
        content["models"][name] = found
        content["about"]["tokens"] = tokens
        print(name, json.dumps(found), flush=True)
        write_whole(file, (json.dumps(content, indent=1) + "\n").encode())
    write_whole(asked.out / "compress.md", page(content).encode())


def settings() -> dict[str, Any]:
    """On what a result depends."""
    return {
        "skills": list(SKILLS), "steps": STEPS, "batch": BATCH, "rate": RATE, "calibration": CALIBRATION, "rows": ROWS,
        "choices": CHOICES,
    }  # fmt: skip


def about() -> dict[str, Any]:
    """When and where."""
    packages = {name: version(name) for name in ("roster-moe", "torch", "transformers")}
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, 1 thread",
        "versions": {"python": platform.python_version(), **packages},
        "settings": settings(),
    }


def trained(work: Path) -> Path:
    """The mixture's folder; made when it is asked for the first time."""
    at = work / f"mixture-{STEPS}"
    if at.exists():
        return at
    base, models = pocket.base_path(), []
    for skill in SKILLS:
        models.append(work / skill)
        if not models[-1].exists():
            merge_models("linear", [f"{base}+{pocket.experts_path() / skill}"], models[-1], weight=1.0)
    run(plan_btx([open_dense(each) for each in models]), work / "mixed", overwrite=True)
    torch.manual_seed(0)
    model, tokenizer = load(work / "mixed"), load_tokenizer(work / "mixed")
    train(model, Rendering.of(tokenizer), Kept(work / "training.safetensors", repr(settings())))
    with writing(at) as new:
        model.save_pretrained(new)
        tokenizer.save_pretrained(new)
    return at


def train(model: Any, rendering: Rendering, kept: Kept) -> None:
    """All of it on prompts and answers of all skills, the loss of answers alone; in place, from where it stopped."""
    rows = [each for skill in SKILLS for each in examples(skill, "train", 400)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_at(step, STEPS))
    parameters = dict(model.named_parameters())
    state, done = kept.half()
    if done:
        restore(parameters, optimizer, state, done)
    model.train()
    for step in range(STEPS):
        if step < done:
            schedule.step()
            continue
        drawn = Random(step).sample(rows, BATCH)
        pairs = [rendering.pair(each.prompt, each.answer) for each in drawn]
        inputs = padded([before + after for before, after in pairs], rendering.pad_token_id, "right")
        ids_BS, mask_BS = inputs["input_ids"], inputs["attention_mask"]
        labels_BS = ids_BS.masked_fill(mask_BS == 0, -100)
        for row, (before, _) in enumerate(pairs):
            labels_BS[row, : len(before)] = -100
        optimizer.zero_grad()
        told = model(input_ids=ids_BS, attention_mask=mask_BS, labels=labels_BS, output_router_logits=True)
        told.loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        kept.save(state_of(parameters, optimizer), step + 1)
        if step % 20 == 19:
            print(f"step {step + 1} of {STEPS}: loss {float(told.loss.detach()):.3f}", flush=True)
    model.eval()


def questions() -> list[Item]:
    """Of each skill as many rows to choose and to generate; wrong choices are answers of the same length, if they can
    be: the right one's characters in another order, or the answer to another prompt."""
    found = []
    for skill in SKILLS:
        asked = examples(skill, "test", 2 * ROWS)
        answers = [each.answer for each in examples(skill, "test", 200)]
        found += [Item(prompt=each.prompt, answer=each.answer) for each in asked[:ROWS]]
        found += [Item(prompt=e.prompt, answer=e.answer, choices=_choices(e, answers)) for e in asked[ROWS:]]
    return found


def _choices(example: Example, answers: Sequence[str]) -> tuple[str, ...]:
    dice = Random(example.prompt)
    letters = list(example.answer)
    options = [example.answer]
    for _ in range(20):
        dice.shuffle(letters)
        if "".join(letters).strip() == "".join(letters) and "".join(letters) not in options:
            options.append("".join(letters))
    others = sorted({each for each in answers if each not in options}, key=lambda each: len(each) != len(letters))
    options = [*options, *others][:CHOICES]
    dice.shuffle(options)
    return tuple(options)


def calibration(work: Path) -> Path:
    """JSONL of training rows."""
    rows = [each for skill in SKILLS for each in examples(skill, "train", CALIBRATION)]
    text = "".join(json.dumps({"prompt": each.prompt, "answer": each.answer}) + "\n" for each in rows)
    return write_whole(work / "calibration.jsonl", text.encode())


def smaller(way: str, mixture: Path, work: Path) -> Any:
    """What a way leaves of the mixture."""
    data = calibration(work)
    if way == "mone":
        model, tokenizer = load(mixture), load_tokenizer(mixture)
        rows = [json.loads(line) for line in data.read_text(encoding="utf-8").splitlines()]
        pairs = [Rendering.of(tokenizer).pair(row["prompt"], row["answer"]) for row in rows]
        make_constant(model, [before + after for before, after in pairs])
        return model
    out = work / way
    if not out.exists():
        compress(mixture, out, way, "50%", data=data)
    return load(out)


@torch.no_grad()
def make_constant(model: Any, rows: Sequence[Sequence[int]]) -> None:
    """MoNE in place: of each layer the half of the experts with the least variance, weighed by use, say their mean."""
    blocks = [layer.mlp.experts for layer in model.model.layers]
    sums = [_watch(each) for each in blocks]
    for row in rows:
        model(input_ids=torch.tensor([row]), use_cache=False)
    for block, (count_E, said_ED, square_E) in zip(blocks, sums, strict=True):
        mean_ED = said_ED / count_E.clamp_min(1)[:, None]
        spread_E = square_E / count_E.clamp_min(1) - mean_ED.square().sum(1)
        novices = (spread_E * count_E).argsort()[: len(count_E) // 2]
        constant_ED = torch.zeros_like(mean_ED)
        constant_ED[novices] = mean_ED[novices]
        block.down_proj[novices] = 0
        block.forward = types.MethodType(_with(constant_ED), block)


def _watch(block: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens of each expert, what it said of them, added up, and the squares of its norm; filled while it runs."""
    E, D = block.down_proj.shape[:2]
    count_E, said_ED, square_E = torch.zeros(E), torch.zeros(E, D), torch.zeros(E)

    def forward(self: Any, x_TD: Tensor, chosen_TK: Tensor, weight_TK: Tensor) -> Tensor:
        for e in range(E):
            x = x_TD[(chosen_TK == e).any(1)]
            said = linear(self._apply_gate(linear(x, self.gate_up_proj[e])), self.down_proj[e])
            count_E[e] += len(x)
            said_ED[e] += said.sum(0)
            square_E[e] += said.square().sum()
        made: Tensor = type(self).forward(self, x_TD, chosen_TK, weight_TK)
        return made

    block.forward = types.MethodType(forward, block)
    return count_E, said_ED, square_E


def _with(constant_ED: Tensor) -> Callable[..., Tensor]:
    def forward(self: Any, x_TD: Tensor, chosen_TK: Tensor, weight_TK: Tensor) -> Tensor:
        made: Tensor = type(self).forward(self, x_TD, chosen_TK, weight_TK)
        return made + (weight_TK[..., None] * constant_ED[chosen_TK]).sum(1)

    return forward


def page(content: dict[str, Any]) -> str:
    """The table, and whether the measures agree."""
    when, models = content["about"], content["models"]
    versions = ", ".join(f"{name} {number}" for name, number in when["versions"].items())
    lines = [
        "# Half of a mixture",
        "",
        f"Written by `python -m evidence.compression`. {when['date']}, {when['machine']}, {versions}.",
        "",
        f"A Mixtral of 4 layers and 8 experts, two a token, made by Branch-Train-MiX of eight of the pocket ground's "
        f"experts and trained together for {STEPS} steps of {BATCH} rows. Every way keeps half of the experts' weights "
        f"(or makes half of them 0) and sees {CALIBRATION * len(SKILLS)} rows of the same skills; nothing is trained "
        f"afterwards. Measured on {ROWS * len(SKILLS)} prompts for choosing among {CHOICES} answers and as many others "
        "for generating one; brackets are 95 % (Wilson). One mixture, one seed.",
        "",
        "| | perplexity | multiple choice | generation |",
        "|---|---|---|---|",
    ]
    for name, found in models.items():
        shares = [
            f"{100 * found[kind]['accuracy']:.1f} [{100 * found[kind]['low']:.1f}, {100 * found[kind]['high']:.1f}]"
            for kind in ("choice", "generation")
        ]
        lines.append(f"| {WAYS.get(name, 'the whole mixture')} | {found['perplexity']:.3f} | {' | '.join(shares)} |")
    measures = {
        "perplexity": {way: round(models[way]["perplexity"], 3) for way in WAYS},
        "multiple choice": {way: -models[way]["choice"]["accuracy"] for way in WAYS},
        "generation": {way: -models[way]["generation"]["accuracy"] for way in WAYS},
    }
    lines += ["", "From best to worst (nearly all intervals overlap; what is equal stands together):", ""]
    lines += [f"- by {name}: {_ordered(found)}" for name, found in measures.items()]
    return "\n".join(lines) + "\n"


def _ordered(found: Mapping[str, float]) -> str:
    """The least first."""
    values = sorted(set(found.values()))
    return ", ".join(" = ".join(way for way, value in found.items() if value == each) for each in values)


if __name__ == "__main__":
    main()
