"""Progress bars: for people who watch a terminal or a notebook, and nobody else."""

from __future__ import annotations

import os
import sys
from typing import Any

from tqdm.auto import tqdm

SWITCH = "TQDM_DISABLE"  # tqdm's own, which it reads only where the code leaves ``disable`` away


def progress(*args: Any, hide: bool = False, **settings: Any) -> Any:
    """A bar of tqdm's, hidden where `unwatched`.

    Args:
        args: tqdm's: what to iterate over.
        hide: here, whoever watches.
        settings: tqdm's, but for ``disable``.
    """
    notebook = any(kind.__module__ == "tqdm.notebook" for kind in tqdm.__mro__)
    shown = notebook or sys.stderr.isatty()
    return tqdm(*args, disable=hide or unwatched(shown), **settings)


def unwatched(shown: bool) -> bool:
    """Whether a bar would only be in the way: in a pipe or a log, or where the user wants none.

    Args:
        shown: whether what is written goes to a terminal or a notebook.
    """
    return not shown or bool(os.environ.get(SWITCH))
