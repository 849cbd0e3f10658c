"""Parts that look up once what every call asks for, and anew when their tensors were filled from a file.

Reading a number off a device on every prompt would mean waiting for it, so that such parts keep it as Python's own. A
part whose tensors were copied into place must be told; `roster.adapters.reading` does, and `load_state_dict` by itself.
"""

from __future__ import annotations

from roster.router import InFloat32


class Settling(InFloat32):
    """The base of such parts."""

    def __init__(self) -> None:
        super().__init__()
        self.register_load_state_dict_post_hook(_settle)  # type: ignore[no-untyped-call]  # of torch

    def settle(self) -> None:
        """Looks up in its tensors what it keeps beside them."""
        raise NotImplementedError


def _settle(part: Settling, _: object) -> None:
    """Hook of `load_state_dict`."""
    part.settle()
