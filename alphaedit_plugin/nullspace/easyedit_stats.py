"""EasyEdit's files of second moments, read and written bit for bit as its own code does."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alphaedit_plugin.common.errors import ConfigError
from alphaedit_plugin.common.files import replacing
from alphaedit_plugin.nullspace.second_moment import SecondMoment


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
        model = self.model_name.rstrip("/").rsplit("/")[-1]
        folder = self.stats_dir / model / f"{self.dataset}_stats"
        return folder / f"{module}_{self.precision}_mom2_{self.samples}.npz"


def read_host_moment(path: Path) -> SecondMoment:
    """Read a second moment that EasyEdit saved.

    Raises:
        ConfigError: the file is missing, damaged, or of another kind.
    """
    try:
        with np.load(path, allow_pickle=False) as data:
            total, count = torch.from_numpy(data["mom2.mom2"]), int(data["mom2.count"])
    except FileNotFoundError:
        raise ConfigError(
            f"no second moment at {path}: run EasyEdit once, or give a corpus"
        ) from None
    except (
        OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile,
        AttributeError, TypeError, OverflowError,  # a single array, or a count that is not a number
    ) as error:  # fmt: skip
        raise ConfigError(f"{path} is not a second moment of EasyEdit's: {error}") from None
    problem = _problem(total, count)
    if problem:
        raise ConfigError(f"{path} is not a second moment: {problem}")
    return SecondMoment(total.double(), count)


def _problem(total: torch.Tensor, count: int) -> str | None:
    """Why these are not the sum of ``k kᵀ`` and the number of keys; ``None`` if they may be."""
    if total.ndim != 2 or total.shape[0] != total.shape[1] or not len(total):
        return f"mom2.mom2 has shape {tuple(total.shape)}, not a square"
    if not total.is_floating_point():
        return f"mom2.mom2 holds {total.dtype}, not real numbers"
    if count <= 0:
        return f"mom2.count is {count}"
    if not torch.isfinite(total).all():
        return "mom2.mom2 has entries that are not finite"
    if not torch.allclose(total, total.T, rtol=1e-3, atol=1e-3 * total.abs().max().item()):
        return "mom2.mom2 is not symmetric"
    return None


def write_host_moment(moment: SecondMoment, path: Path, samples: int) -> None:
    """Write a second moment where and as EasyEdit's own reader expects it, in float32.

    Args:
        moment: what to write.
        path: see `HostMoments.path`.
        samples: the host's ``mom2_n_samples``; it refuses a file that says otherwise.

    Raises:
        ConfigError: the file cannot be written.
    """
    content: dict[str, Any] = {
        "mom2.mom2": moment.total.float().cpu().numpy(),
        "mom2.count": moment.count,
        "mom2.constructor": "easyeditor.util.runningstats.SecondMoment()",
        "constructor": "easyeditor.util.runningstats.CombinedStat()",
        "sample_size": samples,
    }
    with replacing(path) as unfinished, unfinished.open("wb") as stream:
        np.savez(stream, **content)
