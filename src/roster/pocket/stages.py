"""The stages of ``make``: train, round, save; each leaves a finished folder and its lines in the record."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model
from rich.progress import Progress, TaskID
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from roster.library import Library, refresh_cards
from roster.library.gates import GATES
from roster.pocket import BASE_NAME, ROUTERS, base, experts, routers
from roster.pocket.measure import accuracy, relay_accuracy
from roster.pocket.record import Record
from roster.pocket.skills import COMPOSED, HELD_IN, SKILLS
from roster.pocket.tokenizer import build_tokenizer
from roster.pocket.training import Pair, train

TEST_COUNT = 207
"""Test examples per skill for the headline accuracies: all levels and wordings alike."""
MATRIX_COUNT = 48
"""Validation examples per cell of the matrix of experts and skills."""
STORED = torch.float16
"""The type of shipped weights: half the size, and finer than bfloat16 at the magnitudes that occur."""


def round_weights(folder: Path) -> None:
    """Store all floating-point weights of ``folder`` in half precision; to be loaded as float32, as measured."""
    for path in folder.glob("*.safetensors"):
        weights = {name: tensor.to(STORED) for name, tensor in load_file(path).items()}
        for name, tensor in weights.items():
            if not torch.isfinite(tensor).all():
                raise FloatingPointError(f"{path.name}: {name} does not fit into {STORED}")
        save_file(weights, path, metadata={"format": "pt"})
        path.chmod(0o644)


def publish(folder: Path, target: Path) -> None:
    """Give a finished folder its final name, in the place of an older one."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        shutil.rmtree(target)
    folder.rename(target)


class Workshop:
    """Runs stages by name.

    Args:
        out: the models folder.
        record: where figures are noted.
        progress: where bars are drawn.
        force: whether finished results are made again.
    """

    def __init__(self, out: Path, record: Record, progress: Progress, force: bool) -> None:
        self.out, self.record, self.progress, self.force = out, record, progress, force

    def run(self, stage: str) -> None:
        """Run one stage: ``base``, a held-in skill, ``multitask``, ``gates``, a recipe or ``record``."""
        if stage == "record":
            self.measure_experts()
            self.measure_multitask()
        elif stage == "base":
            self._once(stage, self.out / "base", self._make_base)
        elif stage == "multitask":
            self._once(stage, self.out / "multitask", self._make_multitask)
        elif stage == "gates":
            self._make_gates()
        elif stage in ROUTERS:
            self._once(stage, self.out / "routers" / stage, self._make_router)
        else:
            self._once(stage, self.out / "experts" / stage, self._make_expert)

    def _once(self, name: str, target: Path, make: Callable[[str, Path], None]) -> None:
        if target.exists() and not self.force:
            self.progress.console.print(f"{name}: is there already")
            return
        scratch = self.out / ".unfinished" / name
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        make(name, scratch)
        publish(scratch, target)
        with suppress(OSError):  # not empty while another run works beside this one
            scratch.parent.rmdir()

    def _train(self, name: str, model: Any, tokenizer: Any, pairs: list[Pair], **how: Any) -> None:
        steps = -(-len(pairs) // how["batch"])
        bar = self.progress.add_task(name, total=steps)
        figures = train(model, tokenizer, pairs, tick=partial(self._tick, bar), **how)
        figures["trained_parameters"] = sum(each.numel() for each in model.parameters() if each.requires_grad)
        self.record.note("training", name, figures)

    def _tick(self, bar: TaskID, loss: float | None) -> None:
        self.progress.advance(bar)
        task = self.progress.tasks[bar]
        if loss is not None and not self.progress.console.is_terminal and task.completed % 100 == 0:
            # A log file shows no bars: a line now and then instead.
            self.progress.console.print(f"{task.description} {task.completed:.0f}/{task.total:.0f} loss {loss:.3f}")

    def _make_base(self, name: str, folder: Path) -> None:
        tokenizer = build_tokenizer()
        model = base.build_base(tokenizer)
        how = {"learning_rate": base.LEARNING_RATE, "seed": base.SEED, "batch": base.BATCH}
        self._train(name, model, tokenizer, base.base_pairs(), **how)
        model.config.use_cache = model.generation_config.use_cache = True  # training had turned it off
        tokenizer.save_pretrained(folder)
        model.save_pretrained(folder)
        round_weights(folder)

    def load_base(self) -> tuple[Any, Any]:
        """The base of this output folder, in float32, and its tokenizer."""
        model = AutoModelForCausalLM.from_pretrained(self.out / "base", dtype=torch.float32).eval()
        return model, AutoTokenizer.from_pretrained(self.out / "base")

    def _make_expert(self, name: str, folder: Path) -> None:
        shape = experts.SHAPES[name]
        self._make_adapter(name, folder, shape, experts.expert_pairs(name))
        (folder / "card.json").write_text(json.dumps(experts.card(name), indent=2) + "\n")

    def _make_multitask(self, name: str, folder: Path) -> None:
        model, _ = self.load_base()
        shape = experts.multitask_shape(model)
        self._make_adapter(name, folder, shape, experts.multitask_pairs(shape.steps * shape.batch))

    def _make_adapter(self, name: str, folder: Path, shape: experts.Shape, pairs: list[Pair]) -> None:
        model, tokenizer = self.load_base()
        torch.manual_seed(base.SEED)
        adapted = get_peft_model(model, experts.lora_config(shape))
        # PEFT puts in the folder that the base came from; an adapter that travels must not know it.
        config = adapted.peft_config["default"]
        config.base_model_name_or_path = BASE_NAME
        config.target_modules = sorted(config.target_modules)  # a set's order changes from run to run
        how = {"learning_rate": shape.learning_rate, "seed": base.SEED, "batch": shape.batch}
        self._train(name, adapted, tokenizer, pairs, **how)
        adapted.save_pretrained(folder, save_embedding_layers=False)  # "auto" would ask the network about the base
        (folder / "README.md").unlink(missing_ok=True)
        round_weights(folder)

    def _make_gates(self) -> None:
        """PHATGOOSE's gates, beside each expert; those that are there stay unless forced."""
        if self.force:
            for path in (self.out / "experts").glob(f"*/{GATES}"):
                path.unlink()
        model, tokenizer = self.load_base()
        refresh_cards(self.out / "experts", model)
        library = Library.read(self.out / "experts")
        bar = self.progress.add_task("gates", total=1)
        scratch = self.out / ".unfinished" / "gates"
        for name, figures in routers.train_all_gates(model, tokenizer, library, scratch).items():
            self.record.note("gates", name, figures)
        shutil.rmtree(scratch, ignore_errors=True)
        self.progress.advance(bar)

    def _make_router(self, name: str, folder: Path) -> None:
        model, tokenizer = self.load_base()
        library = Library.read(self.out / "experts")
        bar = self.progress.add_task(name, total=1)
        scratch = self.out / ".unfinished" / f"{name}.training"
        self.record.note("routers", name, routers.train_router(name, model, tokenizer, library, folder, scratch))
        shutil.rmtree(scratch, ignore_errors=True)
        self.progress.advance(bar)

    def measure_experts(self) -> None:
        """Measure the stored base and experts: own skills on test, the whole matrix on validation."""
        model, tokenizer = self.load_base()
        names = [name for name in HELD_IN if (self.out / "experts" / name).exists()]
        bar = self.progress.add_task("record", total=len(names) + 2)

        def note(section: str, name: str, value: Any) -> None:
            self.record.note(section, name, value)
            self.progress.advance(bar)

        self.record.note("test", "examples_per_skill", TEST_COUNT)
        self.record.note("validation", "examples_per_skill", MATRIX_COUNT)
        self.record.note("test", "base", accuracy(model, tokenizer, HELD_IN, "test", TEST_COUNT))
        note("validation", "base", accuracy(model, tokenizer, SKILLS, "validation", MATRIX_COUNT))
        own: dict[str, float] = {}
        adapted = load_adapters(model, {name: self.out / "experts" / name for name in names})
        for name in names:
            adapted.set_adapter(name)
            adapted.merge_adapter([name])  # the same sums with fewer products
            own |= accuracy(adapted, tokenizer, [name], "test", TEST_COUNT)
            note("validation", name, accuracy(adapted, tokenizer, SKILLS, "validation", MATRIX_COUNT))
            adapted.unmerge_adapter()
        self.record.note("test", "experts_on_their_own", own)
        pairs = [name for name in COMPOSED if set(SKILLS[name].parts) <= set(names)]
        note("test", "experts_in_relay", relay_accuracy(adapted, tokenizer, pairs, "test", TEST_COUNT // 2))

    def measure_multitask(self) -> None:
        """Measure the stored multi-task adapter, if there is one, in the same way."""
        if not (self.out / "multitask").exists():
            return
        model, tokenizer = self.load_base()
        model = PeftModel.from_pretrained(model, self.out / "multitask").merge_and_unload()
        self.record.note("test", "multitask", accuracy(model, tokenizer, HELD_IN, "test", TEST_COUNT))
        cells = accuracy(model, tokenizer, SKILLS, "validation", MATRIX_COUNT)
        self.record.note("validation", "multitask", cells)


def load_adapters(model: PreTrainedModel, folders: Mapping[str, Path]) -> PeftModel:
    """One PEFT model that holds the adapter of each folder under its name."""
    (first, folder), *others = folders.items()
    adapted = PeftModel.from_pretrained(model, folder, adapter_name=first)
    for name, other in others:
        adapted.load_adapter(other, adapter_name=name)
    return adapted.eval()
