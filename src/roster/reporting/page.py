"""Rendering a page: one environment, one skeleton, one style for all of them. Every page needs nothing but itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import jinja2


def render(template: str, filters: Mapping[str, Callable[..., Any]] | None = None, **content: Any) -> str:
    """One template of this folder, filled in; all text is escaped, and a name without a value is an error.

    Args:
        template: its name without the ending: "mix", "moe", "lm", "heatmap" or "picture".
        filters: what the template calls to write values.
        content: what it shows.
    """
    environment = _environment().overlay()
    environment.filters = {**environment.filters, **(filters or {})}
    return environment.get_template(f"{template}.html.j2").render(**content)


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("roster.reporting", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
