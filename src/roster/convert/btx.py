"""Branch-Train-MiX: models trained apart from one seed become the experts of one mixture.

Equation: FFN(x) = sum over the top k of softmax(W x) restricted to the chosen, times FFN_i(x); every tensor outside the
blocks is the mean over the models; W is new.
Source: Sukhbaatar et al. 2024, arXiv 2403.07816. No code of the authors was found; that the seed itself joins as one
more expert is left to the caller, who gives it as one of the models or does not. The mixture must be trained after
this (all of it, with a balance loss of 0.01): only then do its routers know whom to ask.
"""

from __future__ import annotations

from collections.abc import Sequence

from roster.convert.container import Expert, Mixtral, Sizes, side_files
from roster.convert.dense import PARTS, Dense
from roster.convert.kernels import DrawnRouter
from roster.convert.upcycling import ROUTER_STD
from roster.errors import RosterError
from roster.header import Spec
from roster.merge.linear import Linear
from roster.merge.side_files import check_vocabularies
from roster.weights import MAX_SHARD, Copy, Operand, Output, Plan, make_plan, same_specs


def plan_btx(
    models: Sequence[Dense], top_k: int = 2, std: float = ROUTER_STD, seed: int = 0, max_shard: int = MAX_SHARD
) -> Plan:
    """The plan of the mixture; config and tokenizer are the first model's.

    Args:
        models: one an expert, all of one shape.
        top_k: experts a token gets.
        std: of the new routers' rows.
        seed: of their draw.
        max_shard: bytes of one output file.

    Raises:
        RosterError: fewer than two models; other tensors, shapes or vocabularies than the first one's.
    """
    if len(models) < 2:
        raise RosterError("btx makes a mixture of at least two models")
    check_alike(models)
    outputs = []
    for name in models[0].others():
        operands = tuple(Operand(each.source, name) for each in models)
        spec = same_specs(name, operands)
        mean = Linear(tuple([1.0] * len(models))) if spec.dtype.is_floating_point else Copy()
        outputs.append(Output(name, Spec(operands[0].spec.dtype, spec.shape), operands, mean))
    files = side_files(models[0], Mixtral(), Sizes(len(models), top_k, models[0].width))
    outputs += branches(models, std, seed)
    return make_plan(outputs, [each.source for each in models], files, max_shard, f"btx of {len(models)} models")


def branches(models: Sequence[Dense], std: float, seed: int) -> list[Output]:
    """The blocks of models as experts of a Mixtral, one each, and new routers.

    Args:
        models: all of one shape.
        std: of the new routers' rows.
        seed: of their draw.
    """
    first, into = models[0], Mixtral()
    outputs: list[Output] = []
    for layer in range(len(first.blocks)):
        experts = [Expert({part: each.operand(layer, part) for part in PARTS}, {}) for each in models]
        outputs += into.outputs(layer, experts, None)
        spec = first.operand(layer, "gate").spec
        router = DrawnRouter(std, 1, seed + layer)
        outputs.append(Output(into.router(layer), Spec(spec.dtype, (len(models), spec.shape[1])), (), router))
    return outputs


def check_alike(models: Sequence[Dense]) -> None:
    """Raises RosterError: other tensors, shapes or vocabularies than the first model's."""
    first = models[0]
    for other in models[1:]:
        if apart := sorted(first.source.specs.keys() ^ other.source.specs.keys()):
            raise RosterError(f"{first.source.name!r} and {other.source.name!r} are not alike: one lacks {apart[0]!r}")
        for name in first.source.specs:
            same_specs(name, (Operand(first.source, name), Operand(other.source, name)))
    check_vocabularies({each.source.name: each.source.folder for each in models})
