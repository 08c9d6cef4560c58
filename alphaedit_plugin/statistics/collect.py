"""Second moments from a corpus: all layers in one pass, resumable, over several processes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, Protocol

import torch
from tqdm.auto import tqdm

from alphaedit_plugin.distributed import Group
from alphaedit_plugin.errors import ConfigError
from alphaedit_plugin.models import EditableModel, StopForward, hooked, inference
from alphaedit_plugin.prompts import Sentence, by_token_budget, collate, tokenise
from alphaedit_plugin.statistics.checkpoint import Checkpoint, Position
from alphaedit_plugin.statistics.moment import MomentSum, Scratch, SecondMoment

Text = str | Sequence[int]
Halves = Mapping[int, tuple[SecondMoment, SecondMoment]]

CHUNK = 2  # micro-batches whose sentences are sorted by length together


class Watch(Protocol):
    """Looks at the two halves of what has been read, to say when it is enough."""

    def due(self, before: int, now: int) -> bool:
        """Whether to look, between so many tokens ``before`` and ``now``."""

    def enough(self, halves: Halves, tokens: int) -> bool:
        """Whether reading on would change nothing; the same in every process."""


@dataclass
class Collection:
    """What has been read so far, and its sums.

    Attributes:
        sums: per layer one sum or, to tell halves apart, two: of even and odd texts.
        position: how much of the corpus was read, by all processes together.
    """

    sums: dict[int, tuple[MomentSum, ...]]
    position: Position = field(default_factory=Position)

    @classmethod
    def empty(cls, layers: Sequence[int], halves: int) -> Collection:
        """Nothing read yet."""
        return cls({layer: tuple(MomentSum() for _ in range(halves)) for layer in layers})

    def halves(self, group: Group) -> Halves:
        """Per layer the moments of even and of odd texts, of all processes."""
        return {
            layer: (_reduced(even, group), _reduced(odd, group))
            for layer, (even, odd) in self.sums.items()
        }

    def moments(self, group: Group) -> dict[int, SecondMoment]:
        """Per layer the moment of everything, of all processes."""
        reduced = {
            layer: [_reduced(part, group, in_place=True) for part in parts]
            for layer, parts in self.sums.items()
        }
        if any(sum(part.count for part in parts) == 0 for parts in reduced.values()):
            raise ConfigError("the corpus holds no token: give one with text in it")
        return {layer: _joined(parts) for layer, parts in reduced.items()}


def collect_second_moments(
    view: EditableModel,
    texts: Iterable[Text],
    layers: Sequence[int],
    tokens: int | None = None,
    budget: int = 8192,
    *,
    checkpoint: Checkpoint | None = None,
    watch: Watch | None = None,
    group: Group | None = None,
) -> dict[int, SecondMoment]:
    """Run a corpus through the model and sum up the keys of all ``layers`` in one pass.

    Per layer this holds one ``d_in²`` float64 matrix (two for ``watch``), and for all layers
    together one in float32 to add from.

    Args:
        view: the model.
        texts: strings, or sequences of token ids; texts longer than the model's context are cut.
        layers: whose keys to collect.
        tokens: exactly this many keys per layer, or all where there are fewer; ``None`` for all.
        budget: padded tokens per micro-batch.
        checkpoint: where to keep what has been read; what is there already is taken up again.
        watch: stops early, once the halves agree.
        group: the processes that share the corpus; each gets the result for all of it.

    Returns:
        For each layer its second moment.

    Raises:
        ConfigError: the corpus holds no token, or one that is not in the vocabulary.
    """
    group = group or Group()
    found = Collection.empty(layers, 1 if watch is None else 2)
    if checkpoint is not None:
        found.position = checkpoint.restore(found.sums, group)
    reader = _Reader(view, tokens, CHUNK * budget, found.position)
    bar = tqdm(
        total=tokens, initial=found.position.tokens, unit="token", unit_scale=True,
        desc="second moments", leave=False, disable=not group.leads,
    )  # fmt: skip
    scratch = Scratch()
    with torch.no_grad(), inference(view), bar:
        for number, chunk in reader.chunks(texts):
            before = found.position.tokens
            if number % group.world == group.rank:
                _add_chunk(view, found, scratch, chunk, budget)
            found.position = reader.position
            bar.update(found.position.tokens - before)
            if watch is not None and _enough(watch, found, before, group):
                break
            if checkpoint is not None:
                checkpoint.keep(found.sums, found.position, group)
    return found.moments(group)


def memory_needed(view: EditableModel, layers: Sequence[int], halves: bool = False) -> int:
    """Bytes that `collect_second_moments` holds for its sums."""
    sizes = [view.weight(layer).shape[1] ** 2 for layer in layers]
    return 8 * sum(sizes) * (2 if halves else 1) + 4 * max(sizes)


def _enough(watch: Watch, found: Collection, before: int, group: Group) -> bool:
    now = found.position.tokens
    return watch.due(before, now) and watch.enough(found.halves(group), now)


@dataclass
class _Reader:
    """Tokenises texts and gathers them into chunks, always the same ones wherever it starts."""

    view: EditableModel
    tokens: int | None
    size: int
    position: Position

    def chunks(self, texts: Iterable[Text]) -> Iterator[tuple[int, list[tuple[int, Sentence]]]]:
        """Each chunk's number, and its sentences with the numbers of their texts."""
        start = self.position
        number, done, read = start.chunks, start.texts, start.tokens
        chunk: list[tuple[int, Sentence]] = []
        held = 0
        for text in islice(texts, start.texts, None):
            left = None if self.tokens is None else self.tokens - read - held
            if left is not None and left <= 0:
                break
            sentence = self._sentence(text, left)
            if sentence.ids:
                chunk.append((done, sentence))
            done, held = done + 1, held + len(sentence.ids)
            if held >= self.size:
                number, read = number + 1, read + held
                self.position = Position(number, done, read)
                yield number - 1, chunk
                chunk, held = [], 0
        if chunk:
            self.position = Position(number + 1, done, read + held)
            yield number, chunk

    def _sentence(self, text: Text, left: int | None) -> Sentence:
        limit = getattr(self.view.model.config, "max_position_embeddings", None) or 2048
        ids = tokenise(self.view.tokenizer, text) if isinstance(text, str) else list(text)
        return Sentence(tuple(ids[: limit if left is None else min(limit, left)]), 0)


def _add_chunk(
    view: EditableModel,
    found: Collection,
    scratch: Scratch,
    chunk: Sequence[tuple[int, Sentence]],
    budget: int,
) -> None:
    halves = len(next(iter(found.sums.values())))
    for half in range(halves):
        sentences = [sentence for number, sentence in chunk if number % halves == half]
        sums = {layer: parts[half] for layer, parts in found.sums.items()}
        for indices in by_token_budget([len(s.ids) for s in sentences], budget):
            _add_keys(view, sums, scratch, [sentences[i] for i in indices])


def _add_keys(
    view: EditableModel,
    sums: Mapping[int, MomentSum],
    scratch: Scratch,
    sentences: Sequence[Sentence],
) -> None:
    batch = collate(view, sentences)
    last = max(sums)

    def add(layer: int, _: Any, args: tuple[Any, ...]) -> None:
        keys = args[0]
        sums[layer].add(keys[batch.attention_mask.bool().to(keys.device)].float(), scratch)
        if layer == last:
            raise StopForward

    hooks = [
        partial(view.down_proj(layer).register_forward_pre_hook, partial(add, layer))
        for layer in sums
    ]
    with hooked(*hooks), suppress(StopForward):
        view.model(**batch.inputs(), use_cache=False)


def _reduced(part: MomentSum, group: Group, in_place: bool = False) -> SecondMoment:
    """The sum over all processes; a process that has read nothing takes part with zeros."""
    sizes = group.gather(None if part.total is None else (len(part.total), part.total.device))
    known = [size for size in sizes if size is not None]
    if not known:
        return SecondMoment(torch.zeros(0, 0, dtype=torch.float64), 0)
    if part.total is None:
        d_in, device = known[0]
        total = torch.zeros(d_in, d_in, dtype=torch.float64, device=device)
    else:
        total = part.total if in_place or group.world == 1 else part.total.clone()
    return SecondMoment(group.add_up(total), sum(group.gather(part.count)))


def _joined(parts: Sequence[SecondMoment]) -> SecondMoment:
    held = [part for part in parts if part.count]
    return held[0] if len(held) == 1 else held[0] + held[1]
