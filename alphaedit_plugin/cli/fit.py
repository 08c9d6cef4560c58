"""``alphaedit fit``: second moments of a corpus, and from them a projector file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic.dataclasses import dataclass
from rich.console import Console
from rich.table import Table

from alphaedit_plugin.cli.base import COMMANDS, Command, working
from alphaedit_plugin.common.console import plain_table, say
from alphaedit_plugin.common.errors import ConfigError, counted
from alphaedit_plugin.common.validation import STRICT, PositiveFloat, Text
from alphaedit_plugin.config.compose import load_config
from alphaedit_plugin.config.model import Dtype
from alphaedit_plugin.config.schema import CutConfig, MethodSettings

if TYPE_CHECKING:
    from alphaedit_plugin.common.distributed import Group
    from alphaedit_plugin.models.editable import EditableModel
    from alphaedit_plugin.nullspace.convergence import Convergence
    from alphaedit_plugin.nullspace.projector import Projector


@dataclass(config=STRICT)
class FitConfig:
    """Making a projector file.

    Attributes:
        out: the file.
        dtype: its basis: float32, or float16 at half the size.
        converge: stop once the halves of what was read disagree less than this about the
            subspace (root mean square sine of the angles between them, weighted by eigenvalue);
            ``None`` reads everything.
    """

    out: Text = "projector.safetensors"
    dtype: Dtype = "float32"
    converge: PositiveFloat | None = None


@dataclass(config=STRICT)
class FitSettings(MethodSettings):
    """What ``alphaedit fit`` reads.

    Attributes:
        corpus: a text for the second moments; it sets ``model.moments.corpus``.
    """

    projector: CutConfig = field(default_factory=CutConfig)
    corpus: Text | None = None
    fit: FitConfig = field(default_factory=FitConfig)


def run_fit(overrides: Sequence[str], console: Console) -> None:
    """Fit the projectors of the configured layers and write them to ``fit.out``.

    Raises:
        AlphaEditError: something named there is missing or does not fit.
    """
    config = load_config(overrides, FitSettings)
    if config.fit.converge is not None and config.model.moments.stats_dir is not None:
        raise ConfigError(
            "fit.converge stops reading a corpus, but model.moments.stats_dir names second "
            "moments that are complete: remove one of them"
        )
    from alphaedit_plugin.common.distributed import group_from_environment
    from alphaedit_plugin.nullspace.projector_file import require_place

    out = Path(config.fit.out).expanduser()
    require_place(out)
    with working(config), group_from_environment() as group:
        _fit(config, out, group, console)


def _fit(config: FitSettings, out: Path, group: Group, console: Console) -> None:
    import torch

    from alphaedit_plugin.config.build import load_model
    from alphaedit_plugin.config.corpora import corpus_name
    from alphaedit_plugin.config.statistics import check_cut, load_moments
    from alphaedit_plugin.nullspace.convergence import Convergence
    from alphaedit_plugin.nullspace.projector import fit_projectors
    from alphaedit_plugin.nullspace.projector_file import save_projectors

    cut, converge = config.projector.cut, config.fit.converge
    corpus, watch = corpus_name(config.model), None
    if converge is not None:
        watch = Convergence(converge, cut)
    lm = load_model(config.model)
    check_cut(lm, cut, config.model.layers)
    if group.leads:
        say(console, _memory(lm, config.model.layers, watch is not None))
    moments = load_moments(lm, config.model, watch=watch, group=group)
    if not group.leads:
        return
    projectors = fit_projectors(moments, cut)
    save_projectors(lm, projectors, out, corpus, getattr(torch, config.fit.dtype))
    console.print(table_of(projectors))
    if watch is not None:
        say(console, _verdict(watch))
    say(console, f"{out}: {out.stat().st_size / 2**20:.1f} MiB, from {corpus}")


def _memory(lm: EditableModel, layers: Sequence[int], halves: bool) -> str:
    """What the second moments will take, said before they do."""
    from alphaedit_plugin.nullspace.collect import memory_needed

    size, d_in = memory_needed(lm, layers, halves), lm.key_size(layers[0])
    shown = f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"
    return (
        f"{counted(len(layers), 'layer')} with keys of {d_in} dimensions: second "
        f"moments take {shown} on {lm.device}"
    )


def _verdict(watch: Convergence) -> str:
    if not watch.seen:
        return f"fit.converge: the corpus ended before the first look at {watch.first} tokens"
    tokens, disagreement = watch.seen[-1]
    if watch.reached:
        return (
            f"converged after {tokens} tokens: its halves disagree by {disagreement:.3f}, "
            f"asked for was {watch.tolerance:g}"
        )
    return (
        f"not converged: after {tokens} tokens the halves disagree by {disagreement:.3f}, asked "
        f"for was {watch.tolerance:g}; give a longer corpus, or raise model.moments.tokens"
    )


def table_of(projectors: Mapping[int, Projector]) -> Table:
    """Per layer how the space was divided."""
    table = plain_table([], ["layer", "tokens", "cut", "d_in", "used", "null space"])
    for layer, projector in sorted(projectors.items()):
        share = projector.null_dimension / projector.d_in
        table.add_row(
            str(layer), str(projector.tokens) if projector.tokens else "?", str(projector.cut),
            str(projector.d_in), str(projector.rank), f"{projector.null_dimension} ({share:.0%})",
        )  # fmt: skip
    return table


COMMANDS.register(
    "fit",
    Command(
        "make a projector file from any text",
        "Collects the second moments of all model.layers in one pass over corpus=… (a text, "
        "JSONL or NPY file, a folder; without, the model's own corpus), goes on where a killed "
        "run was, and writes fit.out. fit.converge=0.1 stops once more text changes nothing. "
        "torchrun --nproc-per-node 2 -m alphaedit_plugin fit … shares the corpus.",
        (
            "alphaedit fit fit.out=pocket.safetensors",
            "alphaedit fit model=gpt2-xl corpus=texts.jsonl projector=auto",
        ),
        run_fit,
        FitSettings,
        memory="set model.dtype=bfloat16, fit fewer model.layers at a time, or use a device with "
        "more memory; what was read is kept, and the same command goes on from there",
    ),
)
