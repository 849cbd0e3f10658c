"""roster: routed experts. Many experts on one job; a router decides who is on duty, and with what weight.

    import roster

    model = roster.load("pocket", experts="adapters/", router="arrow-mbc")
    with roster.trace(model) as routes:
        model.generate(**inputs)
    routes.print()
    model.save_pretrained("my-mixture")
    model = roster.load("my-mixture")

The algebra is in `route.py`, `context.py`, `router.py` and `moe.py`; the methods are in `recipes/`.
"""

from roster.api import load, trace
from roster.context import Context
from roster.errors import RosterError
from roster.moe import MoE
from roster.route import Route, SoftRoute
from roster.router import Router

__version__ = "0.1.0"
__all__ = ["Context", "MoE", "RosterError", "Route", "Router", "SoftRoute", "__version__", "load", "trace"]
