"""One self-contained page out of a template. page.html is what all pages are, drawing.html the
frame of their plots; whatever a value says is text on a page, never markup."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

from qedge.toolkit.files import new_file


def render(template: str, **values: Any) -> str:
    """template: its path in the toolkit, as those that it extends and imports."""
    import jinja2

    folder = resources.files("qedge.toolkit")
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: (folder / name).read_text("utf-8")),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(template).render(values)


def write(page: str, path: Path) -> None:
    """WriteError. A file's name may hold bytes that are no text."""
    with new_file(path) as file:
        file.write(page.encode("utf-8", "replace"))
