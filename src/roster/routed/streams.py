"""Which tokens a layer reads: a model with an encoder has two streams of them, and each has its own mask and routes.

A layer is known by its name alone, because the counts of the two streams may happen to be equal: then rows of one would
pass for tokens of the other. Layers that read something else than the model's tokens in their order are found by trying
them out: see `roster.routed.trial`.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Literal

from torch import Tensor, nn

from roster.context import Context, ContextSlot
from roster.errors import RosterError
from roster.routed.plan import Plan
from roster.routed.running import running

Side = Literal["only", "encoder", "decoder"]

# Models with an encoder whose layers' names say what they read; tried in the tests.
_TWO_STREAMS = frozenset({"t5", "mt5", "umt5", "bart", "mbart", "marian", "pegasus", "blenderbot", "m2m_100", "plbart"})
# Keys and values of these attentions are made of the encoder's tokens, in the decoder.
_CROSS = re.compile(r"\.(EncDecAttention\.[kv]|encoder_attn\.[kv]_proj)$")


def side_of(model: Any, name: str) -> Side:
    """Which stream a layer of this name reads."""
    if not getattr(model.config, "is_encoder_decoder", False):
        return "only"
    if _CROSS.search(name) or "decoder" not in name.split("."):
        return "encoder"
    return "decoder"


def check_streams(model: Any, plan: Plan, recipe: str, at: str) -> None:
    """RosterError for a model of which it cannot be told which tokens its layers read.

    Args:
        model: the base.
        plan: of the method.
        recipe: its name, for messages.
        at: where it decides.
    """
    if not getattr(model.config, "is_encoder_decoder", False):
        return
    family = getattr(model.config, "model_type", "")
    if family not in _TWO_STREAMS:
        known = ", ".join(sorted(_TWO_STREAMS))
        raise RosterError(
            f"roster does not know which layers of a {family!r} model read its encoder's tokens and which its "
            f"decoder's; of models with both it routes {known}"
        )
    if plan.remembers or plan.reads_prompt or plan.two_passes or at == "block":
        raise RosterError(
            f"recipe {recipe!r} decides by a prompt, a first pass or whole blocks, which a model with an encoder has "
            "two kinds of: take one that decides in every layer (arrow-mbc, phatgoose) or by the task (named, uniform)"
        )


def context_here(slot: ContextSlot, side: Side) -> Context:
    """What is known of the tokens that a layer on this side reads, in the call that runs now."""
    context = running(slot)
    if side != "decoder":
        return context
    if context.decoder is None:
        raise RosterError("a layer of the decoder ran while the encoder was called alone")
    return context.decoder


def check_rows(x: Tensor, context: Context, name: str) -> None:
    """RosterError unless what a layer was called with are the call's tokens, row by row."""
    B, S = context.batch, context.length
    shape = tuple(x.shape[:-1])
    if shape in ((B, S), (B * S,)) or (len(shape) > 2 and shape[:2] == (B, S)):
        return
    raise RosterError(
        f"the layer {name!r} was called with rows of tokens of the shape {list(shape)}, but the model with {B} x {S}: "
        "leave layers that see only some tokens (poolers, output layers), or see them in another order, out of the "
        "adapters' target_modules"
    )


@contextmanager
def around_calls(
    module: nn.Module,
    enter: Callable[[tuple[Any, ...], dict[str, Any]], AbstractContextManager[None]],
    slot: ContextSlot,
) -> Iterator[None]:
    """Calls of a module outside its model's forward are made within `enter(args, kwargs)`, in this with-block.

    Args:
        module: the one that may be called alone.
        enter: what its calls need around them.
        slot: where the running call is found: when one is running, nothing is entered.
    """
    thread = threading.get_ident()
    stack = ExitStack()

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if slot.current is None and threading.get_ident() == thread:
            stack.enter_context(enter(args, kwargs))

    def after(*_: Any) -> None:
        if threading.get_ident() == thread:
            stack.close()

    hooks = [module.register_forward_pre_hook(before, with_kwargs=True)]
    hooks.append(module.register_forward_hook(after, always_call=True))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        stack.close()
