"""The templates of the report's pages, filled in."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

TEMPLATES = Path(__file__).with_name("templates")


def rendered(template: str, view: Mapping[str, Any]) -> str:
    """A template of this package with what it shows, and its style; every id of a drawing is new."""
    numbers = count(1)
    style = (TEMPLATES / "style.css").read_text(encoding="utf-8")
    page: str = _templates().get_template(template).render(style=style, new_id=lambda: f"chart-{next(numbers)}", **view)
    return page


@cache
def _templates() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True)
