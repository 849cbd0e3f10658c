"""A second model over the same tensors that routes differently: to compare routes, to contrast them, to force them.

Nothing of the first model is touched, so both can run at the same time; training one trains both.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import chain
from typing import Any

from torch import nn

from roster.errors import RosterError
from roster.router import Router


def rerouted(model: Any, change: Callable[[Router], nn.Module]) -> Any:
    """A model that shares every parameter and buffer with `model`, with other selections in its routers.

    Args:
        model: a routed model, or any module with routers in it.
        change: `router -> select`, asked once per router, in the order of the model; the new part gets the mode
            (training or evaluation) of the old one.

    Raises:
        RosterError: there is no router in the model, or a selection cannot read the bias that balances it.
    """
    routers = [module for module in model.modules() if isinstance(module, Router)]
    if not routers:
        raise RosterError(f"{type(model).__name__} has no router: nothing to route differently")
    memo: dict[int, Any] = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())}
    for router in routers:
        select = change(router)
        biased = any(hasattr(part, "bias_E") for part in router.balance)
        if biased and not getattr(select, "reads_bias", False):
            raise RosterError(f"router {router.site!r}: {type(select).__name__} reads no bias, which balances it")
        memo[id(router.select)] = select.train(router.select.training)
    twin = copy.deepcopy(model, memo)
    if hasattr(twin, "roster"):
        twin.roster.recorder = None  # who watches the first model does not watch the second
    return twin
