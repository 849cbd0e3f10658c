"""The contenders of the arena `mix`: baselines, bounds and recipes, each as a way to make a model from the same base
and the same experts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from roster import pocket
from roster.adapters.attach import attach
from roster.adapters.merging import merge_experts
from roster.adapters.mixing import Mixing, Site
from roster.library import Library, read_adapter
from roster.pocket.routers import attach_router
from roster.pocket.skills import HELD_IN, Example, examples
from roster.recipes import find
from roster.routed.becoming import detach
from roster.router import Router
from roster.score import Random
from roster.select import TopK

if TYPE_CHECKING:
    from roster.arena.mix import Arena


@dataclass(frozen=True)
class Contender:
    """One way to use the folder.

    Attributes:
        name: the recipe's slug, or a baseline's name.
        label: what tables say.
        kind: "baseline", "reference" (needs more than the folder), "bound" or "recipe".
        trains: what had to be trained, in words.
        note: what a reader should know.
        make: the model, from the arena's base; detached again afterwards.
        task: the task that an example names, for models that route by task.
        traced: whether the report shows its token heat maps.
        by_part: whether `task` is asked anew for each part of a two-part prompt, whose answers are then joined.
    """

    name: str
    label: str
    kind: Literal["baseline", "reference", "bound", "recipe"]
    trains: str
    note: str
    make: Callable[[Arena], Any]
    task: Callable[[Example], str | None] | None = None
    traced: bool = False
    by_part: bool = False

    def extra_parameters(self, model: Any, base: Any) -> int:
        """Numbers beyond the base's."""
        if not hasattr(model, "roster"):
            return 0
        return sum(tensor.numel() for name, tensor in model.state_dict().items() if "roster." in name)


def _alone(names: Sequence[str]) -> Callable[[Arena], Any]:
    def make(arena: Arena) -> Any:
        library = Library({name: arena.library[name] for name in names})
        return attach(arena.base, library, find("uniform")(), recipe="uniform")

    return make


def _best_single(arena: Arena) -> Any:
    """The expert that is best over all held-in skills, chosen on the validation split."""
    asked = [each for skill in HELD_IN for each in examples(skill, "validation", 4, arena.seed)]
    model = attach(arena.base, arena.library, find("named")(), recipe="named")
    try:
        scores = {
            name: sum(arena.answer(model, asked, f"choosing the best: {name}", [name] * len(asked)))
            for name in arena.library.names
        }
    finally:
        detach(model)
    return _alone([max(scores, key=scores.__getitem__)])(arena)


def _merged(arena: Arena) -> Any:
    """The mean update, cut to the rank of one expert and folded into a copy of the base."""
    model = attach(arena.base, arena.library, find("uniform")(), recipe="uniform")
    try:
        return merge_experts(model, rank=8).plain_model()
    finally:
        detach(model)


def _multitask(arena: Arena) -> Any:
    adapter = read_adapter(pocket.multitask_path())
    return attach(arena.base, Library({"multitask": adapter}), find("uniform")(), recipe="uniform")


def _random(arena: Arena) -> Any:
    def router(site: Site) -> Router:
        return Router(Random(site.num_experts, seed=site.index), TopK(1))

    return attach(arena.base, arena.library, Mixing(router, at="linear"), recipe="random")


def _first_part(example: Example) -> str | None:
    """The oracle knows the skill; of two it can name only one per sequence, and of an unseen one the nearest."""
    return example.parts[0] if example.parts else None


def _recipe(
    slug: str,
    label: str,
    trains: str,
    note: str,
    *,
    kind: Any = "recipe",
    options: dict[str, Any] | None = None,
    name: str | None = None,
    **more: Any,
) -> Contender:
    def make(arena: Arena) -> Any:
        return attach_router(slug, arena.base, arena.library, arena.tokenizer, options)

    return Contender(name or slug, label, kind, trains, note, make, **more)


CONTENDERS: tuple[Contender, ...] = (
    Contender("base", "Base alone", "baseline", "nothing", "no expert", lambda arena: arena.base),
    Contender("best-single", "Best single expert", "baseline", "nothing", "chosen on validation", _best_single),
    Contender("random", "Random routing", "baseline", "nothing", "one expert per token and layer", _random),
    Contender("uniform", "Uniform mixing", "baseline", "nothing", "every update at 1/E", _alone(HELD_IN)),
    Contender("merged", "Merged to rank 8", "baseline", "nothing", "mean update, in the base's weights", _merged),
    Contender("multitask", "Multi-task LoRA", "reference", "a LoRA on all data", "as large as all experts", _multitask),
    _recipe(
        "oracle", "Oracle by task", "nothing", "is told the skill; of two, the first", kind="bound", task=_first_part
    ),
    _recipe(
        "oracle",
        "Oracle by part",
        "nothing",
        "the same, and each of two parts is answered by its own expert: two answers, joined",
        name="oracle-by-part",
        kind="bound",
        task=_first_part,
        by_part=True,
    ),
    _recipe("auto", "auto", "nothing", "one expert a prompt, or the base; knows the cards' examples", traced=True),
    _recipe("arrow-mbc", "Arrow", "nothing", "top 3 per token and layer", traced=True),
    _recipe("lora-tle", "Token-level adaptation", "nothing", "compares the text to the cards' examples"),
    _recipe(
        "lora-tle",
        "Token-level, hidden states",
        "nothing",
        "the same by the base's hidden states; two passes",
        name="lora-tle-hidden",
        options={"embed": "hidden"},
        traced=True,
    ),
    _recipe("phatgoose", "PHATGOOSE", "a gate per expert, apart", "top 2 per token and layer"),
    _recipe("x-lora", "X-LoRA", "a head on all data", "two passes"),
    _recipe("mov-molora", "MoLORA routers", "routers on all data", "experts as they are"),
    _recipe("milora-prompt-routed", "MiLoRA", "routers on all data", "once per prompt, top 2"),
    _recipe("smear", "SMEAR", "routers on all data", "once per prompt, all mixed"),
    _recipe("polytropon", "Polytropon", "a table on all data", "is told the skill, as the oracle", task=_first_part),
)


def single_experts(arena: Arena, groups: Mapping[str, Sequence[str]], count: int) -> dict[str, Any]:
    """The expert-by-skill matrix: every expert alone on every skill, and the base in the first row."""
    skills = [skill for each in groups.values() for skill in each]
    asked = [each for skill in skills for each in examples(skill, "test", count, arena.seed)]
    model = attach(arena.base, arena.library, find("named")(), recipe="named")
    try:
        rows: dict[str, list[float]] = {}
        for name in (None, *arena.library.names):
            label = "base" if name is None else name
            right = arena.answer(model, asked, f"expert alone: {label}", [name] * len(asked))
            rows[label] = [sum(right[at : at + count]) / count for at in range(0, len(right), count)]
    finally:
        detach(model)
    return {"rows": list(rows), "columns": skills, "values": list(rows.values())}
