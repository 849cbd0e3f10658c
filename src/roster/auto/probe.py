"""A probe: `auto`'s decision without the base, for whoever sends prompts to a server that has it (docs/deploy.md).

It knows the same classes and champions as the judge of a mixture, and abstains by the same rule; what differs is what a
prompt is read by (`roster.auto.readers`), so center, whitening, means and limits are fitted anew on the examples. In a
chat it looks at what the user said last, alone. It names one adapter: where the judge lets two share, the better one.

    roster.json           names, reader, template
    router.safetensors    center, whitening, means, champions, limits
    blocks/               the first blocks of the base and its tokenizer, or
    encoder.safetensors   what an encoder has learned

Shape legend: N examples, F features, M classes with nobody's last.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from roster.auto.calibration import lead
from roster.auto.choosing import FOLDS, Tried, best, fitted, validated
from roster.auto.features import POOLINGS, Place
from roster.auto.fitting import limits
from roster.auto.generic import GENERIC
from roster.auto.judge import Judge, Knowledge
from roster.auto.readers import Encoded, FirstBlocks, Reader
from roster.auto.settings import Settings
from roster.auto.wordings import folds
from roster.errors import RosterError
from roster.lm.encode import KINDS
from roster.lm.part import pack, unpack
from roster.prompts import Prompt
from roster.saving import MANIFEST, Manifest, read_manifest, writing
from roster.tensors import StoredTensors, write_tensors

BLOCKS, ROUTER, ENCODER = "blocks", "router", "encoder"
_NOT_KEPT = frozenset({"example_NF", "expert_N", "index_N", "general_GF"})
"""Of what a judge knows, what only growing and explaining need."""


class ProbeManifest(Manifest):
    """`roster.json` of a probe.

    Attributes:
        kind: of the folder.
        experts: the names, in the order of the numbers.
        reads: "blocks", or the encoder as `roster.lm.part.pack` tells it.
        template: whether prompts go through the tokenizer's chat template.
        validation: shares that cross-validation found: examples that reach their adapter, general prompts left.
    """

    what: ClassVar[str] = "a probe's folder"

    kind: Literal["probe"] = "probe"
    experts: list[str]
    reads: Literal["blocks"] | dict[str, Any]
    template: bool = True
    validation: dict[str, float]


@dataclass(frozen=True)
class Choice:
    """Who should answer a prompt.

    Attributes:
        expert: None for the base.
        why: in a clause.
    """

    expert: str | None
    why: str


@dataclass(frozen=True)
class Probe:
    """Decides which adapter answers a text, or that none does.

    Attributes:
        experts: their names.
        reader: what reads a text.
        judge: what decides.
        validation: see `ProbeManifest`.
    """

    experts: tuple[str, ...]
    reader: Reader
    judge: Judge
    validation: dict[str, float]

    def decide(self, text: str) -> Choice:
        """Who answers what a user says."""
        return self.decide_all([text])[0]

    @torch.inference_mode()
    def decide_all(self, texts: Sequence[str]) -> list[Choice]:
        """The same for several texts, read in one pass: for sixteen short ones a quarter of the time."""
        scores_BM = self.judge.scores(self.reader.read(texts))
        ahead_B, decision_B2K = lead(scores_BM).tolist(), self.judge.decide(scores_BM)
        return [self._choice(*pair) for pair in zip(ahead_B, decision_B2K, strict=True)]

    def _choice(self, ahead: float, decision_2K: Tensor) -> Choice:
        expert_K, weight_K = decision_2K
        at = int(weight_K.argmax())
        if weight_K[at] == 0:
            return Choice(None, f"nobody's: {ahead:+.2f} from general prompts")
        return Choice(self.experts[int(expert_K[at])], f"nearer than general prompts by {ahead:.2f}")

    def save(self, folder: Path) -> None:
        """Writes the folder, whole or not at all."""
        with writing(folder, (MANIFEST, f"{ROUTER}.safetensors", BLOCKS, f"{ENCODER}.safetensors")) as new:
            kept = {name: each for name, each in self.judge.state_dict().items() if name not in _NOT_KEPT}
            write_tensors(kept, new, ROUTER)
            reads: Any = BLOCKS
            template = True
            if isinstance(self.reader, FirstBlocks):
                self.reader.write(new / BLOCKS)
                template = self.reader.rendering.template
            elif isinstance(self.reader, Encoded):
                reads, arrays = pack(self.reader.encoder)
                if arrays:
                    write_tensors({name: torch.from_numpy(each) for name, each in arrays.items()}, new, ENCODER)
            manifest = ProbeManifest(
                experts=list(self.experts), reads=reads, template=template, validation=self.validation
            )
            (new / MANIFEST).write_text(manifest.model_dump_json(indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Probe:
        """What `save` wrote.

        Raises:
            RosterError: nothing, something else, or damaged.
        """
        manifest = read_manifest(folder, ProbeManifest)
        judge = Judge(len(manifest.experts))
        stored = StoredTensors(folder, ROUTER)
        names = {each.name for each in fields(Knowledge)} - _NOT_KEPT
        if stored.keys() != names:
            raise RosterError(f"{str(stored.where)!r} holds {sorted(stored)}, not {sorted(names)}")
        judge.learn(replace(judge.knowledge, **{name: stored[name] for name in names}))
        check(judge, len(manifest.experts), str(stored.where))
        reader: Reader
        if isinstance(manifest.reads, str):
            place = (judge.blocks[0], judge.pooling)
            reader = FirstBlocks.load(folder / BLOCKS, manifest.template, place)
        else:
            arrays = StoredTensors(folder, ENCODER) if (folder / f"{ENCODER}.safetensors").exists() else {}
            reader = Encoded(unpack(manifest.reads, {name: arrays[name].numpy() for name in arrays}, KINDS))
        return cls(tuple(manifest.experts), reader, judge, manifest.validation)


def check(judge: Judge, count: int, where: str) -> None:
    """Raises: RosterError: what a judge should know does not fit together."""
    known = judge.knowledge
    F, whiten_FF, (block, pooling) = len(known.center_F), known.whiten_FF, known.place_2.tolist()
    fits = (
        known.means_FM.dim() == 2
        and known.means_FM.shape[0] == F
        and known.means_FM.shape[1] == len(known.expert_C) + 1
        and whiten_FF.shape in ((F, F), (1, 1))
        and known.limits_4.shape == (4,)
        and block >= 1
        and 0 <= pooling < len(POOLINGS)
        and bool(((known.expert_C >= 0) & (known.expert_C < count)).all())
        and all(bool(each.isfinite().all()) for each in (known.center_F, whiten_FF, known.means_FM, known.limits_4))
    )
    if not fits:
        raise RosterError(f"{str(where)!r} is damaged: its tensors do not fit together")


@dataclass(frozen=True)
class Taught:
    """What a probe is fitted on.

    Attributes:
        experts: names, in the order of the judge's numbers.
        knowledge: of the mixture's judge: whose example each is, classes, champions.
        prompts: the examples [N], in the judge's order.
        settings: of the mixture's recipe.
    """

    experts: tuple[str, ...]
    knowledge: Knowledge
    prompts: Sequence[Prompt]
    settings: Settings

    @property
    def texts(self) -> list[str]:
        """What the user says last in each example."""
        return [last_said(prompt) for prompt in self.prompts]


def last_said(prompt: Prompt) -> str:
    """What the user says last."""
    return prompt if isinstance(prompt, str) else next(m["content"] for m in reversed(prompt) if m["role"] == "user")


def fit(
    taught: Taught,
    readers: Sequence[tuple[Reader, Place]],
    tick: Callable[[int], None] = lambda count: None,
) -> Probe:
    """The best of several readers, an earlier block where two are as good.

    Args:
        taught: the examples and whose they are.
        readers: candidates, each with the place that it reads (of an encoder: any).
        tick: called with the number of texts that have just been read.
    """
    known = taught.knowledge
    class_N = known.class_N.cpu()
    fold_N = folds(class_N.tolist(), taught.prompts, FOLDS)
    tried: list[Tried] = []
    read: dict[Place, tuple[Reader, Tensor, Tensor]] = {}
    for reader, place in readers:
        features_NF, general_GF = reader.read(taught.texts, tick).float(), reader.read(GENERIC, tick).float()
        read[place] = reader, features_NF, general_GF
        for whiten in taught.settings.kinds():
            found, _ = validated(features_NF, class_N, fold_N, general_GF, whiten)
            tried.append(Tried(place, whiten, found))
    chosen = best(tried)
    reader, features_NF, general_GF = read[chosen.place]
    classes = fitted(features_NF, class_N, general_GF, chosen.whiten)
    judge = Judge(len(taught.experts))
    judge.learn(
        replace(
            judge.knowledge,
            place_2=torch.tensor([chosen.place[0], list(POOLINGS).index(chosen.place[1])]),
            center_F=classes.center_F,
            whiten_FF=torch.ones(1, 1) if classes.whiten_FF is None else classes.whiten_FF,
            means_FM=classes.means_CF.T.contiguous(),
            expert_C=known.expert_C.cpu(),
            class_E=known.class_E.cpu(),
            limits_4=limits(chosen.calibration, taught.settings),
        )
    )
    calibration = chosen.calibration
    shares = {"reached": round(calibration.reached, 4), "general_left": round(calibration.general_abstention, 4)}
    return Probe(taught.experts, reader, judge, shares)
