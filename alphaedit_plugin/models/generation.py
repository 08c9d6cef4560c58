"""Texts sampled from a model with top-5, as ROME and EasyEdit do; context templates from them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import GenerationConfig

from alphaedit_plugin.common import rng
from alphaedit_plugin.common.errors import NumericalError
from alphaedit_plugin.models.batching import in_token_budget
from alphaedit_plugin.models.boundary import stem, tokenise
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.models.hooks import inference
from alphaedit_plugin.models.tokens import pad_id

TOP_K = 5
FIRST_WORDS = ("The", "Therefore", "Because", "I", "You")  # of context templates


def generate_contexts(
    lm: EditableModel, lengths: Sequence[tuple[int, int]], seed: int
) -> list[str]:
    """Sample context templates ``"<text>. {}"`` (ROME, Meng et al. 2022, §3.1).

    Args:
        lm: the model to sample from.
        lengths: pairs of (tokens per text, number of texts); the texts are spread over
            `FIRST_WORDS`.
        seed: of the sampling; the global random state is not changed.

    Returns:
        The templates, without the bare ``"{}"``.

    Raises:
        NumericalError: the model predicts nan.
    """
    templates = []
    with _sampling(lm, seed):
        for length, count in lengths:
            for number, word in enumerate(FIRST_WORDS[:count]):
                copies = len(range(number, count, len(FIRST_WORDS)))
                ids = lm.tokenizer(word, return_tensors="pt")["input_ids"].to(lm.device)
                new_tokens = max(1, length - ids.shape[1])
                texts = _sample(lm, ids, torch.ones_like(ids), new_tokens, copies)
                templates += [
                    as_template(lm.tokenizer.decode(text, skip_special_tokens=True))
                    for text in texts
                ]
    return templates


def as_template(text: str) -> str:
    """``text`` as a context template: braces and line breaks would break the slot."""
    return " ".join(text.replace("{", " ").replace("}", " ").split()) + ". {}"


def draw_texts(
    lm: EditableModel,
    prompts: Sequence[str],
    length: int = 100,
    seed: int = 0,
    budget: int = 16384,
) -> list[str]:
    """One sampled text per prompt, which it begins with.

    Args:
        lm: the model as it is now.
        prompts: what to continue; trailing blanks are dropped.
        length: tokens of each text including its prompt, at most the model's context (ROME: 100).
        seed: of the sampling; a text also depends on the prompts in the same batch.
        budget: padded tokens per batch.

    Raises:
        NumericalError: the model predicts nan.
        OutOfMemory: see `in_token_budget`.
    """
    length = min(length, lm.context_length or length)
    rows = [tokenise(lm.tokenizer, stem(prompt))[: length - 1] for prompt in prompts]
    texts = [""] * len(rows)

    def work(indices: list[int]) -> None:
        longest = max(len(rows[i]) for i in indices)
        padding = [longest - len(rows[i]) for i in indices]
        filler = pad_id(lm)
        ids = torch.tensor([[filler] * p + rows[i] for p, i in zip(padding, indices, strict=True)])
        mask = torch.tensor([[0] * p + [1] * (longest - p) for p in padding])
        drawn = _sample(lm, ids.to(lm.device), mask.to(lm.device), length - longest)
        for row, p, index in zip(drawn.tolist(), padding, indices, strict=True):
            texts[index] = lm.tokenizer.decode(row[p:], skip_special_tokens=True)

    with _sampling(lm, seed):
        in_token_budget(lm, [length] * len(rows), budget, work)
    return texts


@contextmanager
def _sampling(lm: EditableModel, seed: int) -> Iterator[None]:
    with rng.seeded(seed), torch.no_grad(), inference(lm.model):
        yield


def _sample(
    lm: EditableModel, ids: Tensor, mask: Tensor, new_tokens: int, copies: int = 1
) -> Tensor:
    """Continue each row of ``ids (n, length)``, padded on the left, ``copies`` times.

    Returns:
        ``(n · copies, length + new_tokens)``, beginning with ``ids``; shorter if all texts end.
    """
    config = GenerationConfig(
        do_sample=True,
        top_k=TOP_K,
        max_new_tokens=new_tokens,
        num_return_sequences=copies,
        pad_token_id=pad_id(lm),
        eos_token_id=lm.tokenizer.eos_token_id,
    )
    drawn: Tensor = lm.model.generate(
        ids, attention_mask=mask, generation_config=config, logits_processor=[refuse_nan]
    )
    return drawn


def refuse_nan(_: Tensor, scores: Tensor) -> Tensor:
    """``scores``, if none is nan: a logits processor, as torch fails to sample from nan."""
    if scores.isnan().any():
        raise NumericalError(
            "the model predicts nan: its weights are damaged, or overflow (try "
            "model.dtype=bfloat16 or float32)"
        )
    return scores
