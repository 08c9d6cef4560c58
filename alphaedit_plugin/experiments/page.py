"""The report as one HTML file that needs nothing else: pictures are in it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined

from alphaedit_plugin.common.version import VERSION

if TYPE_CHECKING:
    from alphaedit_plugin.experiments.report import Section

TEMPLATE = "page.html.j2"


def render(sections: Sequence[Section], folder: Path) -> str:
    """The page.

    Args:
        sections: what it says.
        folder: where the pictures of the sections have been saved.
    """
    environment = Environment(
        loader=PackageLoader(__package__, ""), autoescape=True,
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip

    def image(name: str) -> str:
        data = base64.b64encode((folder / f"{name}.png").read_bytes()).decode()
        return f"data:image/png;base64,{data}"

    return environment.get_template(TEMPLATE).render(
        sections=sections, image=image, version=VERSION
    )
