"""``alphaedit suggest``: layers and a cut for a model, proposed from the model itself."""

from __future__ import annotations

import logging
from functools import partial

from rich.console import Console

from alphaedit_plugin.common.console import say
from alphaedit_plugin.common.files import replacing, writable_folder
from alphaedit_plugin.config.build import load_model
from alphaedit_plugin.config.corpora import corpus_name
from alphaedit_plugin.config.schema import SuggestionConfig
from alphaedit_plugin.config.statistics import load_moments
from alphaedit_plugin.data.selection import read_data, select_fitting
from alphaedit_plugin.experiments.causal_tracing import check_fact, known_facts, trace
from alphaedit_plugin.experiments.suggest_cut import choose_cut, choose_layers, spectra_of
from alphaedit_plugin.experiments.suggest_report import (
    cut_table,
    overrides_of,
    plot_proposal,
    settings_yaml,
    trace_table,
)

logger = logging.getLogger(__name__)

CORRUPTED = 0.1  # least share of the answer's probability that noise must take away


def run_suggest(config: SuggestionConfig, console: Console) -> None:
    """Trace facts that the model knows, look at its spectra, and propose settings.

    Raises:
        AlphaEditError: something named in ``config`` is missing or does not fit, or the model
            knows none of the facts.
    """
    chosen = config.suggest
    folder = writable_folder("suggest.out", chosen.out)
    data = read_data(config)
    corpus_name(config.model)  # refuses before a large model is loaded
    lm = load_model(config.model)
    data = select_fitting(data, config.data, partial(check_fact, lm))
    facts = known_facts(lm, data.requests, chosen.facts)
    traced = trace(lm, facts, samples=chosen.samples, noise=chosen.noise, seed=config.seed)
    if traced.corrupted > (1 - CORRUPTED) * traced.clean:
        logger.warning(
            "noise takes P(answer) from %.1f%% to %.1f%% only, too little to tell what restores "
            "it: raise suggest.noise, above %g",
            100 * traced.clean, 100 * traced.corrupted, chosen.noise,
        )  # fmt: skip
    layers = choose_layers(traced)
    both = sorted({*layers.single, *layers.spread})
    spectra = spectra_of(load_moments(lm, config.model, both))
    cut = choose_cut(spectra)
    console.print(trace_table(traced, layers))
    console.print(cut_table(spectra, cut))
    with replacing(folder / "model.yaml") as unfinished:
        unfinished.write_text(settings_yaml(config.model, traced, layers, cut), encoding="utf-8")
    plot_proposal(traced, layers, spectra, cut, folder / "suggest.png")
    for span, overrides in overrides_of(layers, cut).items():
        say(console, f"bases that are {span}: {overrides}")
    say(console, f"as a model configuration, with a plot: {folder}")
