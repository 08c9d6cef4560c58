"""A model's answers, teacher-forced: predictions and log-probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from alphaedit_plugin.common.errors import RequestError, quoted
from alphaedit_plugin.models.batching import activation_bytes, in_token_budget
from alphaedit_plugin.models.boundary import continuations, tokenise
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.models.hooks import head_only_at, inference
from alphaedit_plugin.models.tokens import Batch, Sentence, collate


@dataclass(frozen=True)
class Answer:
    """How the model continues a prompt, compared with a given answer.

    Attributes:
        labels: token ids of the answer.
        predicted: the likeliest token at each of the answer's positions, given the answer's
            earlier tokens.
        log_prob: natural log-probability of the whole answer.
    """

    labels: tuple[int, ...]
    predicted: tuple[int, ...]
    log_prob: float

    @property
    def accuracy(self) -> float:
        """Share of the answer's tokens that are predicted (EasyEdit's ``rewrite_acc``)."""
        return matching(self.labels, self.predicted)

    @property
    def mean_log_prob(self) -> float:
        """Log-probability per token, to compare answers of different lengths."""
        return self.log_prob / len(self.labels)


def matching(one: Sequence[int], other: Sequence[int]) -> float:
    """Share of positions at which two token sequences of the same length agree."""
    return sum(a == b for a, b in zip(one, other, strict=True)) / len(one)


def score(lm: EditableModel, pairs: Sequence[tuple[str, str]], budget: int = 16384) -> list[Answer]:
    """Score an answer after each prompt.

    Args:
        lm: the model as it is now.
        pairs: (prompt, answer), joined as running text: see `boundary.continuations`.
        budget: padded tokens per forward pass.

    Returns:
        One `Answer` per pair, in order.

    Raises:
        RequestError: a prompt or answer has no token, or they exceed the model's context.
        OutOfMemory: see `in_token_budget`.
    """
    # One-token answers to the same prompt share a forward pass.
    asked: dict[Sentence, list[tuple[int, list[int]]]] = {}
    for number, (before, labels) in enumerate(tokenise_pairs(lm, pairs)):
        sentence = Sentence(tuple(before + labels[:-1]), len(before) - 1)
        asked.setdefault(sentence, []).append((number, labels))
    sentences, answers = list(asked), dict[int, Answer]()

    def work(indices: list[int]) -> None:
        batch = [sentences[i] for i in indices]
        questions = [
            (row, number, labels)
            for row, sentence in enumerate(batch)
            for number, labels in asked[sentence]
        ]
        scored = _score_batch(lm, batch, [(row, labels) for row, _, labels in questions])
        answers.update({n: answer for (_, n, _), answer in zip(questions, scored, strict=True)})

    with torch.no_grad(), inference(lm.model):
        in_token_budget(lm, [len(s.ids) for s in sentences], budget, work)
    return [answers[number] for number in range(len(pairs))]


def tokenise_pairs(
    lm: EditableModel, pairs: Sequence[tuple[str, str]]
) -> list[tuple[list[int], list[int]]]:
    """Tokens of each prompt and of its answer, which fit into the model's context.

    Raises:
        RequestError: see `score`.
    """
    asked = [(lm.asked(prompt), answer) for prompt, answer in pairs]
    tokens = continuations(lm.tokenizer, asked, lm.separator)
    for (prompt, _), (before, labels) in zip(pairs, tokens, strict=True):
        check_room(lm, prompt, before, len(labels) - 1)
    return tokens


def log_likelihoods(
    lm: EditableModel, texts: Sequence[str], budget: int = 2048
) -> list[tuple[float, int]]:
    """Log-likelihood of each text.

    Args:
        lm: the model as it is now.
        texts: split into windows if they are longer than the model's context.
        budget: padded tokens per forward pass; each has logits for the whole vocabulary.

    Returns:
        Per text the sum of its tokens' natural log-probabilities, and the number of these tokens:
        all but the first of each window.
    """
    limit = lm.context_length
    windows: list[tuple[int, list[int]]] = []
    for number, text in enumerate(texts):
        ids = tokenise(lm.tokenizer, text)
        size = limit or len(ids) or 1
        windows += [(number, ids[i : i + size]) for i in range(0, len(ids), size)]
    windows = [(number, ids) for number, ids in windows if len(ids) > 1]
    sums, counts = [0.0] * len(texts), [0] * len(texts)

    def work(indices: list[int]) -> None:
        batch = [windows[i] for i in indices]
        sentences = [Sentence(tuple(ids[:-1]), 0) for _, ids in batch]
        scored = _score_batch(lm, sentences, [(r, ids[1:]) for r, (_, ids) in enumerate(batch)])
        for (number, _), answer in zip(batch, scored, strict=True):
            sums[number] += answer.log_prob
            counts[number] += len(answer.labels)

    needed = activation_bytes(lm, logits=1)
    with torch.no_grad(), inference(lm.model):
        in_token_budget(lm, [len(ids) for _, ids in windows], budget, work, needed)
    return list(zip(sums, counts, strict=True))


def check_room(lm: EditableModel, prompt: str, ids: Sequence[int], room: int) -> None:
    """Refuse a prompt without tokens, or with too many for ``room`` more.

    Raises:
        RequestError: see above.
    """
    if not ids:
        raise RequestError(f"prompt {quoted(prompt)} has no token in this tokenizer")
    limit = lm.context_length
    if limit is not None and len(ids) + room > limit:
        raise RequestError(
            f"prompt {prompt[:60]!r}… and its answer take {len(ids) + room} tokens, but the "
            f"model's context is {limit}"
        )


def _logits_at(lm: EditableModel, batch: Batch, rows: Tensor, columns: Tensor) -> Tensor:
    """``(m, vocabulary)`` float32 at the given positions of the batch."""
    with head_only_at(lm.model, rows, columns):
        return lm.model(**batch.inputs(), use_cache=False).logits[0].float()


def _score_batch(
    lm: EditableModel, sentences: Sequence[Sentence], questions: Sequence[tuple[int, list[int]]]
) -> list[Answer]:
    """Answer each question: (row of the sentence, labels after its position)."""
    positions = [
        (row, sentences[row].position + k) for row, labels in questions for k in range(len(labels))
    ]
    batch = collate(lm, sentences)
    row_index, column_index = torch.tensor(positions, device=lm.device).T
    flat = torch.tensor([token for _, labels in questions for token in labels], device=lm.device)
    logits = _logits_at(lm, batch, row_index, column_index)
    log_probs = logits.log_softmax(1).gather(1, flat[:, None]).squeeze(1).double().cpu()
    predicted = logits.argmax(1).cpu().tolist()
    sizes = [len(labels) for _, labels in questions]
    return [
        Answer(tuple(labels), tuple(best), part.sum().item())
        for (_, labels), part, best in zip(
            questions, log_probs.split(sizes), _split(predicted, sizes), strict=True
        )
    ]


def _split(values: list[int], sizes: Sequence[int]) -> list[list[int]]:
    ends = torch.tensor(sizes).cumsum(0).tolist()
    return [values[end - size : end] for end, size in zip(ends, sizes, strict=True)]
