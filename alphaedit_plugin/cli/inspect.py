"""``alphaedit inspect``: a projector's spectrum, its cut, and what leaks through it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from alphaedit_plugin.cli.base import ANY_LAYER, COMMANDS, Command, split_words, working
from alphaedit_plugin.cli.fit import table_of
from alphaedit_plugin.common.console import plain_table, say
from alphaedit_plugin.common.errors import ConfigError, ProjectorError
from alphaedit_plugin.config.compose import load_config
from alphaedit_plugin.config.schema import ProjectorSettings

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from alphaedit_plugin.data.corpus import Corpus
    from alphaedit_plugin.models.editable import EditableModel
    from alphaedit_plugin.nullspace.leakage import Leakage
    from alphaedit_plugin.nullspace.projector import Projector


def run_inspect(words: Sequence[str], console: Console) -> None:
    """Show what is in a projector file; with a model, also what leaks on text it has not seen.

    Raises:
        AlphaEditError: the file or something named in the settings is missing or does not fit.
    """
    (name,), overrides = split_words("inspect", ("PROJECTOR",), words)
    config = load_config([ANY_LAYER, *overrides], ProjectorSettings)
    path, with_model = Path(name).expanduser(), bool(overrides)
    if not os.path.isfile(path):  # False also for a name that is too long
        raise ProjectorError(f"no projector file at {path}: make one with alphaedit fit")
    from alphaedit_plugin.nullspace.reference import SUFFIXES

    with working(config):
        if path.suffix in SUFFIXES:
            _inspect_reference(path, config, with_model, console)
        else:
            _inspect(path, config, with_model, console)


def _inspect(path: Path, config: ProjectorSettings, with_model: bool, console: Console) -> None:
    from alphaedit_plugin.config.build import load_model
    from alphaedit_plugin.nullspace.projector_file import load_projectors, read_projectors

    file = read_projectors(path)
    say(console, f"{path}: for {file.model}, from {file.corpus or 'an unnamed corpus'}")
    say(console, f"fingerprint {file.fingerprint}, made by alphaedit-plugin {file.version}")
    _show(file.projectors, "layer", console)
    if with_model:
        lm = load_model(replace(config.model, layers=[0]))  # the file's own are checked next
        trusted = load_projectors(lm, sorted(file.projectors), path, config.projector.trust)
        _show_leakage(lm, trusted, config, console)
    picture = path.with_suffix(".png")
    plot_spectra(file.projectors, picture)
    say(console, f"spectrum: {picture}")


def _inspect_reference(
    path: Path, config: ProjectorSettings, with_model: bool, console: Console
) -> None:
    """AlphaEdit's own format; which layers it is of, ``model.layers`` says."""
    from alphaedit_plugin.config.build import load_model
    from alphaedit_plugin.nullspace.reference import load_reference, read_reference

    say(console, f"{path}: AlphaEdit's own format, which names neither model, layers nor corpus")
    _show(read_reference(path), "projector", console)
    if with_model:
        lm = load_model(config.model)
        _show_leakage(lm, load_reference(lm, config.model.layers, path), config, console)


def _show(projectors: Mapping[int, Projector], noun: str, console: Console) -> None:
    console.print(table_of(projectors))
    for number, projector in projectors.items():
        problem = projector.diagnosis()
        if problem:
            say(console, f"{noun} {number}: {problem}")


def _show_leakage(
    lm: EditableModel,
    projectors: Mapping[int, Projector],
    config: ProjectorSettings,
    console: Console,
) -> None:
    corpus = held_out(lm, config)
    console.print(leakage_table(measure(lm, projectors, corpus, config.model.moments.tokens)))
    say(console, f"on {corpus.name}; edits write where P k is, so this is what they can harm")


def held_out(lm: EditableModel, config: ProjectorSettings) -> Corpus:
    """Text that the projector was not fitted on: the user's own or, for the pocket model, ours.

    Raises:
        ConfigError: none was given.
    """
    from alphaedit_plugin.config.corpora import corpus_for
    from alphaedit_plugin.data.corpus import corpus_of
    from alphaedit_plugin.data.pocket_world.assets import read_texts

    if config.corpus is not None:
        return corpus_for(lm, config.model)
    if config.model.path is None:
        texts = read_texts("held_out.txt")
        return corpus_of("text about people whom the projector has not seen", texts)
    raise ConfigError("no held-out text: give corpus=<a text file the projector was not made from>")


def measure(
    lm: EditableModel, projectors: Mapping[int, Projector], corpus: Corpus, tokens: int | None
) -> dict[int, Leakage]:
    """Leakage per layer on a corpus."""
    from alphaedit_plugin.nullspace.collect import collect_second_moments
    from alphaedit_plugin.nullspace.leakage import leakage_on

    moments = collect_second_moments(lm, corpus.texts(), sorted(projectors), tokens)
    return {
        layer: leakage_on(projectors[layer], moment, lm.weight(layer))
        for layer, moment in moments.items()
    }


def leakage_table(found: Mapping[int, Leakage]) -> Table:
    """Leakage on held-out text, per layer."""
    headings = ["layer", "tokens", "E‖Pk‖²/E‖k‖²", "E‖WPk‖²/E‖Wk‖²"]
    table = plain_table([], headings, title="of held-out text, in the null space")
    for layer, leakage in sorted(found.items()):
        table.add_row(
            str(layer), str(leakage.tokens), f"{leakage.keys:.2%}", f"{leakage.outputs:.2%}"
        )
    return table


def plot_spectra(projectors: Mapping[int, Projector], path: Path) -> None:
    """Draw eigenvalues and cumulative energy per layer, with each layer's cut as a mark."""
    from alphaedit_plugin.common.plotting import blank, colour, save, tidy

    figure = blank(10, 4)
    spectrum, energy = figure.subplots(1, 2)
    for number, (layer, projector) in enumerate(sorted(projectors.items())):
        values = projector.eigenvalues.clamp_min(0).double()
        if len(values) == 0:
            continue
        label = f"layer {layer}: {projector.null_dimension} of {projector.d_in} null"
        _curve(spectrum, values.clamp_min(1e-12).tolist(), projector.rank, colour(number), label)
        if len(values) == projector.d_in:
            shares = (values.cumsum(0) / values.sum()).tolist()
            _curve(energy, shares, projector.rank, colour(number), label)
    spectrum.set_yscale("log")
    spectrum.set_ylabel("eigenvalue of C")
    energy.set_ylabel("cumulative share of the energy")
    energy.set_ylim(0, 1.03)
    for axes in (spectrum, energy):
        axes.set_xlabel("eigenvector, from the largest (the mark is the cut)")
        tidy(axes)
    if spectrum.get_legend_handles_labels()[0]:
        spectrum.legend()
    save(figure, path)


def _curve(axes: Axes, values: Sequence[float], cut: int, shade: str, label: str) -> None:
    axes.plot(range(1, len(values) + 1), values, color=shade, label=label)
    if 0 < cut <= len(values):
        axes.axvline(cut, color=shade, linestyle=":", linewidth=1)
        axes.plot([cut], [values[cut - 1]], "o", color=shade)


COMMANDS.register(
    "inspect",
    Command(
        "show a projector's spectrum, its cut, and what leaks through it",
        "Reads a projector file. With a model (model=…) it also measures leakage on held-out "
        "text: corpus=… or, for the pocket model, people it was not fitted on.",
        (
            "alphaedit inspect projector.safetensors",
            "alphaedit inspect pocket.safetensors model=pocket",
        ),
        run_inspect,
        ProjectorSettings,
        usage="PROJECTOR [key=value …]",
    ),
)
