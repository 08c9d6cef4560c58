"""Plain lines on a terminal."""

from __future__ import annotations

from rich.console import Console


def printable(text: str) -> str:
    """Text from anywhere, fit to be shown: nothing in it steers the terminal."""
    return "".join(
        letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text
    )


def say(console: Console, text: str) -> None:
    """Print ``text`` as it is: no markup, no colours, no line breaks of rich's own."""
    console.print(text, markup=False, highlight=False, emoji=False, soft_wrap=True)
