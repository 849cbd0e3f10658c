"""auto: the router of the house. One adapter per prompt, by what the base makes of the prompt, or none.

Equation: f = mean over the last turn's tokens of the base's hidden states behind a block; z = W'(f - c);
    e = argmax_e cos(z, z_e), z_e of the mean of expert e's example prompts; nobody where the cosine is below a
    threshold; e serves at unit scale, at every token and layer. With an encoder f is its vector of the turn's text.
Shapes: one feature vector per row, [B, D].
Trains: nothing. c, W, block, pooling and threshold come from the example prompts, by cross-validation, in one pass of
    the base over them.
Siblings: LoRA-TLE mixes anew at every token, from a running mean; MiLoRA learns its router. `named` is what `auto` does
    once it has decided.
Source: roster. Nearest class means after whitening are linear discriminant analysis (Fisher, 1936) with the covariance
    of Ledoit and Wolf (2004).
Why one adapter for all tokens: the keys and values of a prompt are read by everything after it. Mixing per token leaves
    those that other adapters have made in the cache, and loses even where its choice is right (docs/auto.md).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from roster.adapters.mixing import Mixing, Site, Surroundings
from roster.auto.judge import ON_DUTY, Judge
from roster.auto.settings import Classifier, Layer, Settings
from roster.errors import RosterError
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import Decided
from roster.select import Given


def auto(
    layer: Layer = "auto",
    classifier: Classifier = "auto",
    abstain: bool = True,
    mix: float | None = None,
    chat: Literal["rebuild", "keep"] = "rebuild",
    encoder: str | Callable[..., Any] | None = None,
) -> Mixing:
    """The router of the house.

    Args:
        layer: behind which block the prompt is read: "auto" tries the whole depth, "early" the first third, a number
            is that block, counted from 1.
        classifier: "whitened" or "plain" means, or what cross-validation favours.
        abstain: leave prompts that are like no adapter's to the base.
        mix: let the second best adapter serve along, by weight, from this probability on (at most 0.5); None never.
        chat: what becomes of a kept KV cache when a turn goes to another adapter than the one before: "rebuild" makes
            it anew, "keep" leaves it.
        encoder: what reads prompts instead of the base: "minilm", "tfidf", "api:MODEL@URL", the name or folder of a
            sentence-transformers model (`roster.lm.encode`), or, in Python, a function from texts to vectors.
    """
    settings = Settings(layer, classifier, abstain, mix, encoder)
    if chat not in ("rebuild", "keep"):
        raise RosterError(f"auto: chat must be 'rebuild' or 'keep', not {chat!r}")

    def prepare(part: Any, site: Site, surroundings: Surroundings) -> None:
        if not isinstance(part, Judge):
            return
        if surroundings.rendering is None:
            raise RosterError("auto reads the experts' example prompts and needs the base's tokenizer: pass tokenizer=")
        from roster.auto.fitting import learn  # recipes are listed without PEFT and transformers

        library, rendering, read = surroundings.library, surroundings.rendering, None
        if encoder is not None:
            from roster.auto.sentences import prepared

            read = prepared(part, encoder, library, rendering)
        knowledge, part.tried = learn(surroundings.model, library, rendering, settings, read)
        part.learn(knowledge)

    def head(whole: Site) -> Judge:
        if encoder is None:
            return Judge(whole.num_experts)
        from roster.auto.sentences import SentenceJudge

        return SentenceJudge(whole.num_experts)

    return Mixing(
        lambda site: Router(Decided(site.num_experts), Given(ON_DUTY)),
        at="model",
        head=head,
        head_reads="prompt",
        prepare=prepare,
        one_per_prompt=mix is None,
        keeps_cache=chat == "keep",
    )


RECIPE = Recipe(
    slug="auto",
    title="auto, the router of the house",
    source="roster",
    compose=auto,
    trains="nothing",
    batch_invariant=True,
    claim=None,
    evidence="docs/results/auto.md",
    needs=("examples",),
)
