"""Uncentred second moments ``C = E[k kᵀ]`` of keys over a corpus."""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from alphaedit_plugin.errors import ConfigError, NumericalError
from alphaedit_plugin.models import EditableModel, StopForward, hooked, inference
from alphaedit_plugin.prompts import Sentence, by_token_budget, collate, tokenise

logger = logging.getLogger(__name__)

JITTER = 1e-10  # share of the mean eigenvalue added when C has no Cholesky factor of its own


@dataclass(frozen=True)
class SecondMoment:
    """The sum of ``k kᵀ`` over keys, and how many there were.

    Attributes:
        total: ``(d_in, d_in)`` float64.
        count: number of keys.
    """

    total: Tensor
    count: int

    @property
    def mean(self) -> Tensor:
        """``C``, ``(d_in, d_in)`` float64."""
        return self.total / max(self.count, 1)

    @cached_property
    def factor(self) -> Tensor:
        """Lower Cholesky factor of ``C``, ``(d_in, d_in)`` float64; kept once computed.

        Raises:
            NumericalError: ``C`` is not finite.
        """
        mean = self.mean
        if not torch.isfinite(mean).all():
            raise NumericalError("the second moment has entries that are not finite")
        factor, failed = torch.linalg.cholesky_ex(mean)
        if not failed:
            return factor
        # Fewer tokens than d_in leave C singular; the host inverts rounding noise there.
        ridge = JITTER * mean.diagonal().mean()
        logger.warning(
            "second moment of %d keys in %d dimensions is singular: adding %.1e to its diagonal",
            self.count, len(mean), ridge.item(),
        )  # fmt: skip
        for _ in range(8):
            factor, failed = torch.linalg.cholesky_ex(mean + ridge * torch.eye(len(mean)).to(mean))
            if not failed:
                return factor
            ridge = 10 * ridge
        raise NumericalError("the second moment is not positive semi-definite: recompute it")

    def whiten(self, keys: Tensor) -> Tensor:
        """``C⁻¹ keys``, ``(d_in, n)`` float64."""
        return torch.cholesky_solve(keys.to(self.factor), self.factor)


@dataclass
class _Accumulator:
    """Sums ``k kᵀ`` in float32 products, added up in float64."""

    total: Tensor | None = None
    count: int = 0

    def add(self, keys: Tensor) -> None:
        """Add ``keys (n, d_in)``."""
        product = (keys.T @ keys).double()
        self.total = product if self.total is None else self.total.add_(product)
        self.count += len(keys)

    def result(self) -> SecondMoment:
        """The moment of everything added; there must have been something."""
        assert self.total is not None
        return SecondMoment(self.total, self.count)


def collect_second_moments(
    view: EditableModel,
    texts: Iterable[str | Sequence[int]],
    layers: Sequence[int],
    tokens: int | None = None,
    budget: int = 8192,
) -> dict[int, SecondMoment]:
    """Run a corpus through the model and sum up the keys of all ``layers`` in one pass.

    Args:
        view: the model.
        texts: strings, or sequences of token ids; texts longer than the model's context are cut.
        layers: whose keys to collect.
        tokens: exactly this many keys per layer, or all where there are fewer; ``None`` for all.
        budget: padded tokens per micro-batch.

    Returns:
        For each layer its second moment.

    Raises:
        ConfigError: the corpus holds no token.
    """
    sums = {layer: _Accumulator() for layer in layers}
    bar = tqdm(total=tokens, unit="token", desc="second moments", leave=False)
    with torch.no_grad(), inference(view), bar:
        for sentences in _chunks(_encode(view, texts, tokens), 512):
            for indices in by_token_budget([len(s.ids) for s in sentences], budget):
                _add_keys(view, sums, [sentences[i] for i in indices])
                bar.update(sums[layers[0]].count - bar.n)
    if any(found.count == 0 for found in sums.values()):
        raise ConfigError("the corpus holds no token: give one with text in it")
    return {layer: found.result() for layer, found in sums.items()}


def _encode(
    view: EditableModel, texts: Iterable[str | Sequence[int]], tokens: int | None
) -> Iterator[Sentence]:
    """Tokenised texts, cut to the model's context, until ``tokens`` are reached."""
    limit = getattr(view.model.config, "max_position_embeddings", None) or 2048
    left = float("inf") if tokens is None else tokens
    for text in texts:
        ids = tokenise(view.tokenizer, text) if isinstance(text, str) else list(text)
        kept = ids[: int(min(limit, left))]
        left -= len(kept)
        if kept:
            yield Sentence(tuple(kept), 0)
        if left <= 0:
            return


def _chunks(sentences: Iterator[Sentence], size: int) -> Iterator[list[Sentence]]:
    chunk: list[Sentence] = []
    for sentence in sentences:
        chunk.append(sentence)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _add_keys(
    view: EditableModel, sums: Mapping[int, _Accumulator], sentences: Sequence[Sentence]
) -> None:
    batch = collate(view, sentences)
    last = max(sums)

    def add(layer: int, _: Any, args: tuple[Any, ...]) -> None:
        keys = args[0]
        sums[layer].add(keys[batch.attention_mask.bool().to(keys.device)].float())
        if layer == last:
            raise StopForward

    hooks = [
        partial(view.down_proj(layer).register_forward_pre_hook, partial(add, layer))
        for layer in sums
    ]
    with hooked(*hooks), suppress(StopForward):
        view.model(**batch.inputs(), use_cache=False)


@dataclass(frozen=True)
class HostMoments:
    """EasyEdit's file of one layer's second moment.

    Its name is ``{stats_dir}/{last part of model name}/{dataset}_stats/{module}_{precision}_mom2
    _{samples}.npz``.

    Attributes:
        stats_dir: the host's ``hparams.stats_dir``.
        model_name: the model's path or hub name.
        dataset: the host's ``mom2_dataset``.
        precision: the host's ``mom2_dtype``.
        samples: the host's ``mom2_n_samples``.
    """

    stats_dir: Path
    model_name: str
    dataset: str = "wikipedia"
    precision: str = "float32"
    samples: int = 100_000

    def path(self, module: str) -> Path:
        """The file for ``module``, e.g. ``transformer.h.13.mlp.c_proj``."""
        folder = self.stats_dir / self.model_name.rsplit("/")[-1] / f"{self.dataset}_stats"
        return folder / f"{module}_{self.precision}_mom2_{self.samples}.npz"


def read_host_moment(path: Path) -> SecondMoment:
    """Read a second moment that EasyEdit saved.

    Raises:
        ConfigError: the file is missing, damaged, or of another kind.
    """
    try:
        with np.load(path, allow_pickle=False) as data:
            total, count = data["mom2.mom2"], int(data["mom2.count"])
    except FileNotFoundError:
        raise ConfigError(
            f"no second moment at {path}: run EasyEdit once, or give a corpus"
        ) from None
    except (
        OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile,
        AttributeError, TypeError,  # a single array, or a count that is no number
    ) as error:  # fmt: skip
        raise ConfigError(f"{path} is not a second moment of EasyEdit's: {error}") from None
    if total.ndim != 2 or total.shape[0] != total.shape[1]:
        raise ConfigError(f"{path}: mom2.mom2 has shape {total.shape}, not a square")
    return SecondMoment(torch.from_numpy(total).double(), count)


def write_host_moment(moment: SecondMoment, path: Path, samples: int) -> None:
    """Write a second moment where and as EasyEdit's own reader expects it, in float32.

    Args:
        moment: what to write.
        path: see `HostMoments.path`.
        samples: the host's ``mom2_n_samples``; it refuses a file that says otherwise.
    """
    content: dict[str, Any] = {
        "mom2.mom2": moment.total.float().cpu().numpy(),
        "mom2.count": moment.count,
        "mom2.constructor": "easyeditor.util.runningstats.SecondMoment()",
        "constructor": "easyeditor.util.runningstats.CombinedStat()",
        "sample_size": samples,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".part")
    with unfinished.open("wb") as stream:
        np.savez(stream, **content)
    unfinished.replace(path)
