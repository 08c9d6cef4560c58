"""Second moments from a corpus: all layers in one pass, resumable, over several processes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, Protocol

import torch

from alphaedit_plugin.common.console import progress_bar
from alphaedit_plugin.common.distributed import Group
from alphaedit_plugin.common.errors import ConfigError, NumericalError
from alphaedit_plugin.models import offload as places
from alphaedit_plugin.models.batching import micro_batches
from alphaedit_plugin.models.boundary import tokenise
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.models.hooks import StopForward, hooked, inference, per_token
from alphaedit_plugin.models.tokens import Sentence, collate
from alphaedit_plugin.nullspace.checkpoint import Checkpoint, Position
from alphaedit_plugin.nullspace.second_moment import BLOCK, MomentSum, SecondMoment

Text = str | Sequence[int]
Halves = Mapping[int, tuple[SecondMoment, SecondMoment]]

WINDOW = 2048  # tokens that are read at once: more take memory, and change no key's statistics
CHUNK = 2  # micro-batches whose sentences are sorted by length together


class Watch(Protocol):
    """Looks at the two halves of what has been read, to say when it is enough."""

    def due(self, before: int, now: int) -> bool:
        """Whether to look, having gone from ``before`` to ``now`` tokens."""

    def enough(self, halves: Halves, tokens: int) -> bool:
        """Whether reading on would change nothing; the same in every process."""


@dataclass
class Collection:
    """What has been read so far, and its sums.

    Attributes:
        sums: per layer one sum or, to tell halves apart, two: of every other text, or window.
        position: how much of the corpus was read, by all processes together.
    """

    sums: dict[int, tuple[MomentSum, ...]]
    position: Position = field(default_factory=Position)

    @classmethod
    def empty(cls, lm: EditableModel, layers: Sequence[int], halves: int) -> Collection:
        """Nothing read yet.

        Raises:
            ConfigError: there is not enough memory.
        """
        try:
            return cls({layer: _empty(lm, layer, halves) for layer in layers})
        except (RuntimeError, MemoryError):
            size = memory_needed(lm, layers, halves == 2) / 2**30
            raise ConfigError(
                f"no memory for the second moments of {len(layers)} layers, {size:.1f} GiB on "
                f"{lm.device}: fit fewer layers at a time, or use model.device=cpu"
            ) from None

    def halves(self, group: Group) -> Halves:
        """Per layer the moments of even and of odd texts, of all processes."""
        return {
            layer: (_reduced(even, group, keep=True), _reduced(odd, group, keep=True))
            for layer, (even, odd) in self.sums.items()
        }

    def moments(self, group: Group) -> dict[int, SecondMoment]:
        """Per layer the moment of everything, of all processes; the sums are used up."""
        reduced = {}
        for layer, parts in self.sums.items():
            for part in parts[1:]:
                parts[0].total += part.total
                parts[0].count += part.count
            reduced[layer] = _reduced(parts[0], group)
        if any(moment.count == 0 for moment in reduced.values()):
            raise ConfigError("the corpus holds no token: give one with text in it")
        return reduced


def collect_second_moments(
    lm: EditableModel,
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

    Per layer this holds one ``d_in²`` float64 matrix (two for ``watch``), see `memory_needed`.

    Args:
        lm: the model.
        texts: strings, or sequences of token ids; long ones are read in windows, see `WINDOW`.
        layers: whose keys to collect.
        tokens: exactly this many keys per layer, or all where there are fewer; ``None`` for all.
        budget: padded tokens per micro-batch.
        checkpoint: where to keep what has been read; what is there already is taken up again.
        watch: stops early, once the halves agree.
        group: the processes that share the corpus; each gets the result for all of it.

    Returns:
        For each layer its second moment.

    Raises:
        ConfigError: the corpus holds no token, or one that is not in the vocabulary; there is not
            enough memory.
        NumericalError: keys are not finite.
    """
    if tokens is not None and tokens < 1:
        raise ConfigError(f"model.moments.tokens is {tokens}: give at least 1, or null for all")
    group = group or Group()
    found = Collection.empty(lm, layers, 1 if watch is None else 2)
    size = CHUNK * budget
    if checkpoint is not None:
        found.position = checkpoint.restore(found.sums, group)
        size = min(size, checkpoint.every)
    reader = _Reader(lm, tokens, size, found.position)
    done, hide = found.position.tokens, not group.leads
    shown = progress_bar("second moments", tokens, "tokens", done=done, hide=hide)
    with torch.no_grad(), inference(lm.model), shown as bar:
        for number, chunk in reader.chunks(texts):
            before = found.position.tokens
            if number % group.world == group.rank:
                _add_chunk(lm, found, chunk, budget)
            found.position = reader.position
            bar.update(found.position.tokens - before)
            if watch is not None and _enough(watch, found, before, group):
                break
            if checkpoint is not None:
                checkpoint.keep(found.sums, found.position, group, size)
    return found.moments(group)


def memory_needed(lm: EditableModel, layers: Sequence[int], halves: bool = False) -> int:
    """Bytes that `collect_second_moments` holds for its sums."""
    sizes = [lm.key_size(layer) ** 2 for layer in layers]
    widest = max(sizes) ** 0.5
    products = (4 + 8) * min(BLOCK, widest) * widest  # one in float32, and again on being added
    return 8 * sum(sizes) * (2 if halves else 1) + int(products)


def _enough(watch: Watch, found: Collection, before: int, group: Group) -> bool:
    now = found.position.tokens
    if not watch.due(before, now):
        return False
    return bool(group.gather(watch.enough(found.halves(group), now))[0])  # one decides for all


def _empty(lm: EditableModel, layer: int, halves: int) -> tuple[MomentSum, ...]:
    device = places.execution_device(lm.model, lm.weight_name(layer))
    return tuple(MomentSum.empty(lm.key_size(layer), device) for _ in range(halves))


@dataclass
class _Reader:
    """Tokenises texts and gathers them into chunks, always the same ones wherever it starts.

    Attributes:
        lm: the model.
        tokens: at which to stop; ``None`` for never.
        size: largest number of tokens in a chunk, unless one window alone has more.
        position: after the last chunk.
    """

    lm: EditableModel
    tokens: int | None
    size: int
    position: Position

    def chunks(self, texts: Iterable[Text]) -> Iterator[tuple[int, list[tuple[int, Sentence]]]]:
        """Each chunk's number, and its sentences with a number that is even for one half."""
        begin, held = self.position, 0
        chunk: list[tuple[int, Sentence]] = []
        for number, text in enumerate(islice(texts, begin.texts, None), begin.texts):
            windows = self._windows(number, text)
            skipped = begin.windows if number == begin.texts else 0
            for done, ids in enumerate(windows[skipped:], skipped):
                left = None if self.tokens is None else self.tokens - self.position.tokens - held
                if left is not None and left <= 0:
                    break
                cut = ids if left is None else ids[:left]
                if chunk and held + len(cut) > self.size:
                    yield self._step(number, done, held), chunk
                    chunk, held = [], 0
                chunk.append((number + done, Sentence(cut, 0)))  # one long text has halves, too
                held += len(cut)
            else:
                continue
            break
        if chunk:
            yield self._step(number + 1, 0, held), chunk

    def _step(self, texts: int, windows: int, held: int) -> int:
        """Go on after a chunk of ``held`` tokens; its number."""
        number = self.position.chunks
        self.position = Position(number + 1, texts, self.position.tokens + held, windows)
        return number

    def _windows(self, number: int, text: Text) -> list[tuple[int, ...]]:
        """A text in pieces that the model can read, and memory holds: every token is in one."""
        found = tokenise(self.lm.tokenizer, text) if isinstance(text, str) else text
        known = self.lm.model.get_input_embeddings().num_embeddings
        for token in (min(found, default=0), max(found, default=0)):
            if not 0 <= token < known:
                raise ConfigError(
                    f"text {number + 1} of the corpus holds token {token}, but this model's are "
                    f"0 to {known - 1}: use its own tokenizer"
                )
        size = min(self.lm.context_length or WINDOW, WINDOW)
        return [tuple(found[start : start + size]) for start in range(0, len(found), size)]


def _add_chunk(
    lm: EditableModel,
    found: Collection,
    chunk: Sequence[tuple[int, Sentence]],
    budget: int,
) -> None:
    halves = len(next(iter(found.sums.values())))
    for half in range(halves):
        sentences = [sentence for number, sentence in chunk if number % halves == half]
        sums = {layer: parts[half] for layer, parts in found.sums.items()}
        for indices in micro_batches(lm, [len(s.ids) for s in sentences], budget):
            _add_keys(lm, sums, [sentences[i] for i in indices])
        for layer, part in sums.items():
            if not part.is_finite:
                raise NumericalError(
                    f"the keys of layer {layer} are not finite: the model's weights are damaged, "
                    "or too large for their dtype (model.dtype=float32)"
                )


def _add_keys(
    lm: EditableModel,
    sums: Mapping[int, MomentSum],
    sentences: Sequence[Sentence],
) -> None:
    batch = collate(lm, sentences)
    last = max(sums)

    def add(layer: int, _: Any, args: tuple[Any, ...]) -> None:
        keys = per_token(args[0], batch.input_ids)
        real = keys[batch.attention_mask.bool().to(keys.device)]
        sums[layer].add(real.to(sums[layer].total.device, torch.float32))
        if layer == last:
            raise StopForward

    hooks = [
        partial(lm.down_proj(layer).register_forward_pre_hook, partial(add, layer))
        for layer in sums
    ]
    with hooked(*hooks), suppress(StopForward):
        lm.model(**batch.inputs(), use_cache=False)


def _reduced(part: MomentSum, group: Group, keep: bool = False) -> SecondMoment:
    """The sum over all processes, made in the place of ``part`` unless that is to be kept."""
    total = part.total.clone() if keep and group.world > 1 else part.total
    return SecondMoment(group.add_up(total), sum(group.gather(part.count)))
