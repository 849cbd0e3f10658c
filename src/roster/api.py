"""The two functions that most users need: `load` a routed model, `trace` what it does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from roster.adapters.attach import attach
from roster.analyze.trace import Trace
from roster.errors import RosterError
from roster.folders import load_folder
from roster.library import Library
from roster.library.examples import read_examples, with_examples
from roster.library.written import written
from roster.offload.loading import load as offload
from roster.prompts import Prompt, Rendering
from roster.recipes import DEFAULT, check_needs, find
from roster.routed.base import finding, load_base, load_tokenizer
from roster.saving import MANIFEST


def load(
    base: str | Path | PreTrainedModel,
    *,
    experts: str | Path | Library | None = None,
    router: str | None = None,
    options: Mapping[str, Any] | None = None,
    examples: str | Path | Mapping[str, Sequence[Prompt]] | None = None,
    tokenizer: Any = None,
    template: bool | None = None,
    max_memory: str | int | Mapping[Any, Any] | None = None,
    **kwargs: Any,
) -> Any:
    """A model that routes among experts.

    Four ways to call it: `load(BASE, experts=FOLDER, router=NAME)` builds one from a base and a folder of PEFT
    adapters; `load(SAVED)` reads back what `save_pretrained` or `roster build` wrote; `load(BASE, experts=SAVED)`
    does so with the base from elsewhere; `load(MIXTURE, max_memory="8GiB")` opens a mixture of transformers that is
    larger than the memory, see `roster.offload.load`.

    Args:
        base: the base (a folder, a name on the Hugging Face hub, "pocket", or a loaded transformers model), or the
            folder of a saved mixture.
        experts: a folder of adapters, a `Library`, or the folder of a saved mixture for this base.
        router: a recipe's name, by default "auto"; see `roster methods`.
        options: the recipe's options.
        examples: example prompts by expert, or a JSONL file of them, in place of those on the cards.
        tokenizer: the base's tokenizer; found beside the base by default.
        template: whether prompts go through the tokenizer's chat template, where it has one (the default for a mixture
            that is built; a saved one does as it was built); False reads texts as they stand.
        max_memory: of a mixture of transformers whose experts are read from disk when they are needed; as a mapping, it
            is `from_pretrained`'s, beside its device_map.
        kwargs: for transformers' `from_pretrained` (dtype, device_map, quantization_config, ...); with `max_memory`,
            for `roster.offload.load`.

    Returns:
        A transformers model: everything that its class can do, and `save_pretrained`, `merge`, `task_ids`.

    Raises:
        RosterError: anything that does not fit, before any work starts.
    """
    if isinstance(max_memory, (str, int)):
        return _offloaded(base, max_memory, experts=experts, router=router, **kwargs)
    if max_memory is not None:
        kwargs["max_memory"] = max_memory
    if experts is None:
        if router is not None or not isinstance(base, (str, Path)) or not (Path(base) / MANIFEST).is_file():
            raise RosterError(
                f"{str(base)[:80]!r} is not a saved mixture: give experts= (a folder of adapters), and router= unless "
                "`auto` is to route (see `roster methods`), to build one"
            )
        return _rendering_as(load_folder(Path(base), **kwargs), template, tokenizer)
    if isinstance(experts, (str, Path)) and (Path(experts) / MANIFEST).is_file():
        if router is not None:
            raise RosterError(f"{str(experts)!r} is a saved mixture and has its router; leave router= out")
        return _rendering_as(load_folder(Path(experts), base=base, **kwargs), template, tokenizer)
    recipe = find(DEFAULT if router is None else router)
    if recipe.kind != "mixture":
        raise RosterError(f"recipe {recipe.slug!r} does not route among adapters (it is of kind {recipe.kind!r})")
    mixing = recipe(options)
    library = experts if isinstance(experts, Library) else Library.read(Path(experts))
    if examples is not None:
        library = with_examples(library, examples if isinstance(examples, Mapping) else read_examples(examples))
    check_needs(recipe, library)
    if isinstance(base, nn.Module):
        model, name = base, None
    else:
        model, name = load_base(base, **kwargs)
        tokenizer = load_tokenizer(base, **finding(kwargs)) if tokenizer is None else tokenizer
    rendering = None if tokenizer is None else Rendering(tokenizer, template is not False)
    if rendering is not None and "examples" in recipe.needs:
        library = written(model, library, rendering)
    routed = attach(model, library, mixing, recipe=recipe.slug, options=options, tokenizer=rendering)
    routed.roster.base_name = name
    return routed


def _offloaded(base: Any, max_memory: str | int, *, experts: Any, router: str | None, **kwargs: Any) -> Any:
    if experts is not None or router is not None or not isinstance(base, (str, Path)):
        raise RosterError("max_memory= opens a mixture of transformers from its folder: leave experts= and router= out")
    if (Path(base) / MANIFEST).is_file():
        raise RosterError(
            f"{str(base)!r} is roster's own folder: `roster moe export` makes a mixture that max_memory= opens"
        )
    return offload(base, max_memory, **kwargs)


def _rendering_as(model: Any, template: bool | None, tokenizer: Any) -> Any:
    if tokenizer is not None:
        model.roster.tokenizer = tokenizer
    if template is not None:
        model.roster.template = template
    return model


@contextmanager
def trace(model: Any) -> Iterator[Trace]:
    """Records every route that a routed model decides inside the with-block; calls outside cost nothing more."""
    if not hasattr(model, "roster"):
        raise RosterError("this model routes nothing: trace what `roster.load` returned")
    mixture = model.roster
    if mixture.recorder is not None:
        raise RosterError("this model is being traced already")
    mixture.recorder = Trace(mixture.experts, mixture.tokenizer)
    try:
        yield mixture.recorder
    finally:
        mixture.recorder = None
