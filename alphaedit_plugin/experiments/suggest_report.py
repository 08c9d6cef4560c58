"""A proposal for people: tables, a plot, and the settings to paste."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from rich.table import Table
from torch import Tensor

from alphaedit_plugin.common.plotting import blank, colour, marker, save, tidy
from alphaedit_plugin.config.model import ModelConfig
from alphaedit_plugin.experiments.causal_tracing import Trace
from alphaedit_plugin.experiments.suggest_cut import USUAL, CutOutcome, Layers
from alphaedit_plugin.nullspace.cut import Cut


def trace_table(trace: Trace, layers: Layers) -> Table:
    """Per block the indirect effect of its state, and of the MLPs around it."""
    table = Table(
        title=f"{trace.facts} facts: P(answer) {trace.clean:.1%}, with the subject corrupted "
        f"{trace.corrupted:.1%}; restored at the subject's last token by",
        title_justify="left", box=None, header_style="bold", pad_edge=False,
    )  # fmt: skip
    for heading in ("layer", "its state", _mlps(trace), "proposed"):
        table.add_column(heading, justify="right")
    for layer, (state, mlp) in enumerate(zip(trace.state, trace.mlp, strict=True)):
        marks = [name for name, chosen in vars(layers).items() if layer in chosen]
        row = (f"{trace.effect(state):.0%}", f"{trace.effect(mlp):.0%}", ", ".join(marks))
        table.add_row(str(layer), *row)
    return table


def _mlps(trace: Trace) -> str:
    return "its MLP" if trace.window == 1 else f"{trace.window} MLPs around it"


def cut_table(spectra: Mapping[int, Tensor], chosen: Cut) -> Table:
    """Per layer the null space that the usual cuts leave, and the energy that they protect."""
    table = Table(
        title="cuts: share of dimensions in the null space, and of energy that P protects",
        title_justify="left", box=None, header_style="bold", pad_edge=False,
    )  # fmt: skip
    table.add_column("layer", justify="right")
    for cut in USUAL:
        table.add_column(f"{cut} (proposed)" if cut == chosen else str(cut), justify="right")
    for layer, eigenvalues in spectra.items():
        outcomes = [CutOutcome.of(cut, eigenvalues) for cut in USUAL]
        table.add_row(str(layer), *(f"{o.null:.0%}, {o.energy:.1%}" for o in outcomes))
    return table


def settings_yaml(config: ModelConfig, trace: Trace, layers: Layers, cut: Cut) -> str:
    """A model configuration with the proposal; the rest is as in model=custom."""
    return f"""\
# Proposed by alphaedit suggest, from {trace.facts} facts; steps, learning rate and λ are not.
path: {_yaml(config.path)}
gguf_file: {_yaml(config.gguf_file)}
package: {_yaml(config.package)}
layers: ${{model.presets.${{base.span}}.layers}}
cut:
  rule: {cut.rule.value}
  value: {cut.value:g}
contexts:
  bare_apart: ${{model.presets.${{base.span}}.bare_apart}}
presets:
  single:
    layers: {list(layers.single)}
    bare_apart: false
  spread:
    layers: {list(layers.spread)}
    bare_apart: true
"""


def _yaml(text: str | None) -> str:
    return "null" if text is None else repr(text)


def overrides_of(layers: Layers, cut: Cut) -> dict[str, str]:
    """The same as overrides, per span of the base method."""
    return {
        span: f"model.layers={str(list(chosen)).replace(' ', '')} "
        f"projector={cut.rule.value} projector.cut.value={cut.value:g}"
        for span, chosen in vars(layers).items()
    }


def plot_proposal(
    trace: Trace, layers: Layers, spectra: Mapping[int, Tensor], cut: Cut, path: Path
) -> None:
    """Draw the indirect effects, and the spectra of the proposed layers with their cut."""
    figure = blank(10, 4)
    effects, spectrum = figure.subplots(1, 2)
    _draw_trace(effects, trace, layers)
    for number, (layer, values) in enumerate(spectra.items()):
        shade, heights = colour(number), values.clamp_min(1e-12).tolist()
        spectrum.plot(range(1, len(heights) + 1), heights, color=shade, label=f"layer {layer}")
        spectrum.axvline(cut.rank(values), color=shade, linestyle=":", linewidth=1)
    spectrum.set_yscale("log")
    spectrum.set_xlabel(f"eigenvector, from the largest (dotted: {cut})")
    spectrum.set_ylabel("eigenvalue of C")
    spectrum.legend()
    for axes in (effects, spectrum):
        tidy(axes)
    save(figure, path)


def _draw_trace(axes: Axes, trace: Trace, layers: Layers) -> None:
    axes.axvspan(layers.spread[0] - 0.4, layers.spread[-1] + 0.4, color="#DDDDDD", label="spread")
    axes.axvline(layers.single[0], color="#888888", linewidth=1, label="single")
    curves = {"the block's state": trace.state, _mlps(trace): trace.mlp}
    for number, (what, values) in enumerate(curves.items()):
        axes.plot(
            range(len(values)), values, color=colour(number), marker=marker(number),
            label=f"{what} restored",
        )  # fmt: skip
    axes.axhline(trace.clean, color="black", linestyle="--", linewidth=1, label="clean")
    axes.axhline(trace.corrupted, color="black", linestyle=":", linewidth=1, label="corrupted")
    axes.set_xlabel("layer")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel("P(answer)")
    axes.set_ylim(0, 1.03)
    axes.legend(fontsize=8)
