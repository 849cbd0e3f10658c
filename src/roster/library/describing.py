"""Writing an expert's card from data: examples that differ from one another, and a sentence by a language model.

Shape legend: N prompts, F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer

from roster.errors import RosterError
from roster.prompts import Prompt, Rendering, words

MOST = 2000
"""Prompts among which examples are looked for; of more, evenly many."""
_SHOWN, _TOKENS = 8, 60
_REQUEST = (
    "These are messages that users sent to one assistant:\n\n{}\n\nSay in one short sentence what this assistant is "
    "for. Write that sentence only, beginning with a verb."
)


def spread(prompts: Sequence[Prompt], count: int, features_NF: NDArray[np.floating[Any]] | None = None) -> list[Prompt]:
    """Some of many prompts, as different from one another as possible, in their order.

    The first is the one nearest to all, then each time the one that is farthest from those that were taken
    (Gonzalez, 1985, "Clustering to minimize the maximum intercluster distance").

    Args:
        prompts: what users asked.
        count: how many at most.
        features_NF: of each; without them, their words are compared.

    Raises:
        RosterError: no prompts, or a count below 1.
    """
    if not prompts or count < 1:
        raise RosterError(f"{len(prompts)} prompts and {count} examples: both must be at least 1")
    first_of: dict[str, int] = {}
    for at, each in enumerate(prompts):
        first_of.setdefault(words(each), at)
    different = list(first_of.values())
    different = different[:: -(-len(different) // MOST)]
    if len(different) <= count:
        return [prompts[at] for at in different]
    if features_NF is None:
        texts = [words(prompts[at]) for at in different]
        points_NF = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4)).fit_transform(texts).toarray()
    else:
        centred_NF = features_NF[different] - features_NF[different].mean(0)
        points_NF = centred_NF / np.maximum(np.linalg.norm(centred_NF, axis=1, keepdims=True), 1e-12)
    first = int(np.argmax(points_NF @ points_NF.mean(0)))
    taken, near_N = [first], points_NF @ points_NF[first]
    while len(taken) < count:
        near_N[taken] = np.inf
        taken.append(int(np.argmin(near_N)))
        near_N = np.maximum(near_N, points_NF @ points_NF[taken[-1]])
    return [prompts[different[at]] for at in sorted(taken)]


@torch.no_grad()
def sentence(model: Any, rendering: Rendering, prompts: Sequence[Prompt]) -> str:
    """What an expert is for, in the words of a language model that saw some of its prompts.

    Args:
        model: a causal language model, the base or another.
        rendering: how prompts become tokens of it.
        prompts: examples.

    Raises:
        RosterError: it says nothing.
    """
    shown = "\n".join(f"- {words(each)}" for each in prompts[:: max(1, len(prompts) // _SHOWN)][:_SHOWN])
    ids = torch.tensor([rendering.ids(_REQUEST.format(shown))], device=model.device)
    out = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=_TOKENS,
        pad_token_id=rendering.pad_token_id,
    )
    text = rendering.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True).strip()
    line = text.splitlines()[0].strip().strip('"').strip() if text else ""
    if not line:
        raise RosterError("the language model wrote no description: give one yourself (--description)")
    return line
