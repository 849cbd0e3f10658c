"""Adding an adapter to a model that `auto` routes, and taking one away, without building it anew.

The base reads the new adapter's examples and nobody else's. Center and whitening stay as they were, so that every
prompt keeps its cosines to all other adapters; what changes is whether the new one comes first, and the calibration.

Shape legend: N examples, F features, C classes, M = C + 1 with nobody's, X examples and general
prompts, E experts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from roster.adapters.attach import attach
from roster.adapters.writing import current_adapters
from roster.auto.choosing import FOLDS, validated, with_nobody
from roster.auto.classes import class_means
from roster.auto.duels import champion
from roster.auto.fitting import limits
from roster.auto.groups import alike, renumbered
from roster.auto.judge import Judge, Knowledge
from roster.auto.settings import Settings
from roster.auto.wordings import folds
from roster.errors import RosterError, nearest
from roster.library import Adapter, Library
from roster.library.written import written
from roster.prompts import Prompt, Rendering
from roster.recipes import find
from roster.recipes.needs import check_examples
from roster.routed.becoming import detach


def add(model: Any, adapter: Adapter) -> Any:
    """The model with one adapter more.

    Args:
        model: routed by `auto`; it is taken apart, so go on with what comes back.
        adapter: with example prompts on its card, or a description to write some by.

    Raises:
        RosterError: another recipe, a name that is taken, no examples, or an adapter that does not fit the base.
    """
    known, rendering = _knowledge(model), model.roster.rendering
    old = Library(current_adapters(model))
    if adapter.name in old:
        raise RosterError(
            f"there is an expert {adapter.name!r} already: remove it first, or rename the new one's folder"
        )
    library = Library({**old, adapter.name: adapter})
    check_examples(library, "auto", written=True)
    mixture = model.roster
    plain = detach(model)
    library.check(plain)
    library = written(plain, library, rendering)
    prompts = library[adapter.name].card.examples
    device = known.means_FM.device
    features_NF = mixture.head.read(plain, rendering, prompts).to(device)
    count = len(prompts)
    new = torch.full((count,), len(old), device=device)
    grown = replace(
        known,
        class_E=_class_of(known, library, rendering),
        example_NF=torch.cat([known.example_NF, features_NF]),
        expert_N=torch.cat([known.expert_N, new]),
        index_N=torch.cat([known.index_N, torch.arange(count, device=device)]),
    )
    return _again(plain, library, mixture, _settled(plain, library, rendering, grown, mixture.options))


def remove(model: Any, name: str) -> Any:
    """The model without one of its adapters.

    Args:
        model: routed by `auto`; it is taken apart, so go on with what comes back.
        name: of the adapter.

    Raises:
        RosterError: another recipe, no such adapter, or the last one.
    """
    known, rendering, mixture = _knowledge(model), model.roster.rendering, model.roster
    if name not in mixture.experts:
        raise RosterError(f"there is no expert {name!r}: {nearest(name, mixture.experts)}")
    if len(mixture.experts) == 1:
        raise RosterError(f"{name!r} is the only expert: a mixture needs one at least")
    library = Library({each: adapter for each, adapter in current_adapters(model).items() if each != name})
    gone = mixture.experts.index(name)
    stays_N = known.expert_N != gone
    class_E = torch.cat([known.class_E[:gone], known.class_E[gone + 1 :]])
    expert_N = known.expert_N[stays_N]
    shrunk = replace(
        known,
        class_E=torch.tensor(renumbered(class_E.tolist()), device=class_E.device),
        example_NF=known.example_NF[stays_N],
        expert_N=expert_N - (expert_N > gone).long(),
        index_N=known.index_N[stays_N],
    )
    plain = detach(model)
    # A class is read by its first member's examples; where that one goes, its heirs' have to be read.
    heirs = sorted(set(range(int(shrunk.class_E.max()) + 1)) - set(shrunk.class_N.tolist()))
    for number in heirs:
        shrunk = _with_examples_of(plain, library, rendering, shrunk, number, mixture.head)
    return _again(plain, library, mixture, _settled(plain, library, rendering, shrunk, mixture.options))


def _knowledge(model: Any) -> Knowledge:
    judge = model.roster.head
    if not isinstance(judge, Judge):
        raise RosterError(
            f"recipe {model.roster.recipe!r} is fitted to its experts: build it anew; only `auto` takes them one by one"
        )
    return judge.knowledge


def _class_of(known: Knowledge, library: Library, rendering: Rendering) -> Tensor:
    """The classes with that of the last expert, which may be one that is there: its examples tell."""
    texts = [[rendering.text(prompt) for prompt in library[name].card.examples] for name in library.names]
    same = alike(texts)
    twins = [expert for expert in range(len(same) - 1) if same[expert] == same[-1]]
    number = known.class_E[twins[0]] if twins else known.class_E.max() + 1
    return torch.cat([known.class_E, number.reshape(1)])


def _with_examples_of(
    plain: Any, library: Library, rendering: Rendering, known: Knowledge, number: int, judge: Judge
) -> Knowledge:
    heir = known.class_E.tolist().index(number)
    prompts = library[library.names[heir]].card.examples
    features_NF = judge.read(plain, rendering, prompts)
    return replace(
        known,
        example_NF=torch.cat([known.example_NF, features_NF.to(known.example_NF)]),
        expert_N=torch.cat([known.expert_N, known.expert_N.new_full((len(prompts),), heir)]),
        index_N=torch.cat([known.index_N, torch.arange(len(prompts)).to(known.index_N)]),
    )


def _settled(
    plain: Any, library: Library, rendering: Rendering, known: Knowledge, options: Mapping[str, Any]
) -> Knowledge:
    """Means, champions and calibration anew; center and whitening as they were."""
    class_N, count = known.class_N, int(known.class_E.max()) + 1
    all_XF, class_X, with_all = with_nobody(known.example_NF, class_N, known.general_GF)
    z_MF = class_means(all_XF.float(), class_X, with_all) - known.center_F
    if known.whitens is not None:
        z_MF = z_MF @ known.whitens
    prompts: list[Prompt] = [
        library[library.names[expert]].card.examples[index]
        for expert, index in zip(known.expert_N.tolist(), known.index_N.tolist(), strict=True)
    ]
    settings = Settings(**{key: value for key, value in options.items() if key != "chat"})
    fold_N = folds(class_N.tolist(), prompts, FOLDS)
    whiten = known.whitens is not None
    calibration, _ = validated(known.example_NF, class_N, fold_N, known.general_GF, whiten, settings.mix)
    class_E = known.class_E.tolist()
    members = [[expert for expert, each in enumerate(class_E) if each == number] for number in range(count)]
    expert_C = torch.tensor([champion(plain, library, rendering, each) for each in members])
    return replace(
        known,
        means_FM=F.normalize(z_MF, dim=1).T.contiguous(),
        expert_C=expert_C.to(class_N.device),
        limits_4=limits(calibration, settings).to(known.limits_4),
    )


def _again(plain: Any, library: Library, mixture: Any, knowledge: Knowledge) -> Any:
    """The base with the library attached, and a judge that knows what it should."""
    routed = attach(
        plain,
        library,
        find(mixture.recipe)(mixture.options),
        recipe=mixture.recipe,
        options=mixture.options,
        tokenizer=mixture.rendering,
        prepare=False,
    )
    judge: Judge = mixture.head  # it knows more than it has learned: an encoder
    judge.num_experts = len(library.names)
    judge.learn(knowledge)
    routed.roster.head = judge
    routed.roster.base_name = mixture.base_name
    return routed
