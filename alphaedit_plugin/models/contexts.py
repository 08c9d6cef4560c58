"""Context templates from the model's own generations (ROME, Meng et al. 2022, §3.1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.models.generation import draw, seeded

STARTS = ("The", "Therefore", "Because", "I", "You")


def generate_contexts(
    lm: EditableModel, lengths: Sequence[tuple[int, int]], seed: int
) -> list[str]:
    """Sample short texts and make each a template ``"<text>. {}"``.

    Args:
        lm: the model to sample from, top-5 as EasyEdit does.
        lengths: pairs of (tokens per text, number of texts); numbers are spread over five
            starting words.
        seed: of the sampling; the global random state is left as it was.

    Returns:
        The templates, without the bare ``"{}"``.

    Raises:
        NumericalError: the model's predictions are not numbers.
    """
    templates = []
    with seeded(lm, seed):
        for length, count in lengths:
            for number, start in enumerate(STARTS):
                share = len(range(number, count, len(STARTS)))  # how many texts begin like this
                if share == 0:
                    break
                ids = lm.tokenizer(start, return_tensors="pt")["input_ids"].to(lm.device)
                texts = draw(lm, ids, torch.ones_like(ids), max(1, length - ids.shape[1]), share)
                templates += [
                    as_template(lm.tokenizer.decode(text, skip_special_tokens=True))
                    for text in texts
                ]
    return templates


def as_template(text: str) -> str:
    """``text`` as a context template: braces and line breaks would break the slot."""
    return " ".join(text.replace("{", " ").replace("}", " ").split()) + ". {}"
