"""What ``alphaedit fit`` does: second moments of a corpus, and from them a projector file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from alphaedit_plugin.common.console import say
from alphaedit_plugin.common.distributed import Group, group_from_environment
from alphaedit_plugin.common.errors import ConfigError, counted
from alphaedit_plugin.config.build import dtype_of, load_model
from alphaedit_plugin.config.corpora import corpus_name
from alphaedit_plugin.config.schema import EditorConfig
from alphaedit_plugin.config.statistics import check_cut, load_moments
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.nullspace.collect import memory_needed
from alphaedit_plugin.nullspace.convergence import Convergence
from alphaedit_plugin.nullspace.projector import Projector, fit_projectors
from alphaedit_plugin.nullspace.projector_file import require_place, save_projectors


def run_fit(config: EditorConfig, console: Console) -> None:
    """Fit the projectors of the configured layers and write them to ``fit.out``.

    Raises:
        AlphaEditError: something named in ``config`` is missing or does not fit.
    """
    dtype_of("fit.dtype", config.fit.dtype)
    config.projector.cut.check()
    out = Path(config.fit.out).expanduser()
    require_place(out)
    with group_from_environment() as group:
        _fit(config, out, group, console)


def _fit(config: EditorConfig, out: Path, group: Group, console: Console) -> None:
    corpus, watch = corpus_name(config.model), _watch(config)
    lm = load_model(config.model)
    check_cut(lm, config.projector.cut, config.model.layers)
    if group.leads:
        say(console, _memory(lm, config.model.layers, watch is not None))
    moments = load_moments(lm, config.model, watch=watch, group=group)
    if not group.leads:
        return
    projectors = fit_projectors(moments, config.projector.cut)
    save_projectors(lm, projectors, out, corpus, dtype_of("fit.dtype", config.fit.dtype))
    console.print(table_of(projectors))
    if watch is not None:
        say(console, _verdict(watch))
    say(console, f"{out}: {out.stat().st_size / 2**20:.1f} MiB, from {corpus}")


def _memory(lm: EditableModel, layers: Sequence[int], halves: bool) -> str:
    """What the second moments will take, said before they do."""
    size, d_in = memory_needed(lm, layers, halves), lm.key_size(layers[0])
    shown = f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"
    return (
        f"{counted(len(layers), 'layer')} with keys of {d_in} dimensions: second "
        f"moments take {shown} on {lm.device}"
    )


def _watch(config: EditorConfig) -> Convergence | None:
    if config.fit.converge is None:
        return None
    if config.model.moments.stats_dir is not None:
        raise ConfigError(
            "fit.converge stops reading a corpus, but model.moments.stats_dir names second "
            "moments that are complete: leave one of them away"
        )
    return Convergence(config.fit.converge, config.projector.cut)


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
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("layer", "tokens", "cut", "d_in", "used", "null space"):
        table.add_column(heading, justify="left" if heading == "cut" else "right")
    for layer, projector in sorted(projectors.items()):
        share = projector.null_dimension / projector.d_in
        table.add_row(
            str(layer), str(projector.tokens) if projector.tokens else "?", str(projector.cut),
            str(projector.d_in), str(projector.rank), f"{projector.null_dimension} ({share:.0%})",
        )  # fmt: skip
    return table
