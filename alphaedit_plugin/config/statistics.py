"""Second moments and projectors of a model: from files, from the cache, or made from a corpus."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from alphaedit_plugin.common.cache import Cache, hash_of
from alphaedit_plugin.common.distributed import Group
from alphaedit_plugin.common.errors import ProjectorError, counted
from alphaedit_plugin.common.files import is_file, require_writable
from alphaedit_plugin.common.tensor_file import read_tensors, write_tensors
from alphaedit_plugin.config.corpora import corpus_for, corpus_name
from alphaedit_plugin.config.model import ModelConfig
from alphaedit_plugin.config.schema import ProjectorSettings, SourceConfig
from alphaedit_plugin.data.corpus import Corpus, Text
from alphaedit_plugin.models.editable import EditableModel, check_size
from alphaedit_plugin.models.fingerprint import tokenizer_digest, upstream_digests
from alphaedit_plugin.nullspace.checkpoint import Checkpoint
from alphaedit_plugin.nullspace.collect import WINDOW, Watch, collect_second_moments
from alphaedit_plugin.nullspace.cut import Cut
from alphaedit_plugin.nullspace.easyedit_stats import (
    HostMoments,
    read_host_moment,
    write_host_moment,
)
from alphaedit_plugin.nullspace.projector import Projector, fit_projectors, warn_of_degenerate
from alphaedit_plugin.nullspace.projector_file import (
    load_projectors,
    read_projectors,
    refuse_other_cut,
    save_projectors,
)
from alphaedit_plugin.nullspace.reference import SUFFIXES as REFERENCE
from alphaedit_plugin.nullspace.reference import load_reference
from alphaedit_plugin.nullspace.second_moment import SecondMoment

logger = logging.getLogger(__name__)

Key = dict[str, object]
Load = Callable[[EditableModel, ModelConfig, Sequence[int]], dict[int, SecondMoment]]


def load_moments(
    lm: EditableModel,
    config: ModelConfig,
    layers: Sequence[int] | None = None,
    watch: Watch | None = None,
    group: Group | None = None,
) -> dict[int, SecondMoment]:
    """Second moments of the configured layers, read or collected.

    In EasyEdit's folder, ``moments.stats_dir``, what is there is used, and what is missing is
    collected and written so that EasyEdit finds it, too: under the names of the data set and of the
    number of samples that it is of, see `_kept_as`. Everything collected is cached.

    Args:
        lm: the model.
        config: names the sources.
        layers: other layers than the configured ones.
        watch: see `collect_second_moments`; what it cut short is not cached.
        group: the processes that collect together.

    Raises:
        ConfigError: there is no source of them, or a file is for keys of another size.
    """
    wanted = list(config.layers if layers is None else layers)
    if config.moments.stats_dir is None:
        return _collected(lm, config, wanted, watch, group or Group())
    files = host_files(lm, config, Path(config.moments.stats_dir).expanduser(), wanted)
    missing = [layer for layer, path in files.items() if not is_file(path)]
    found = {}
    for layer in (one for one in files if one not in missing):
        found[layer] = read_host_moment(files[layer])
        check_size(lm, layer, len(found[layer].total), files[layer])
    if missing:
        logger.warning(
            "stats_dir has no second moment of %s: looked for %s; collecting on %s",
            counted(len(missing), "layer"), files[missing[0]], corpus_name(config),
        )  # fmt: skip
        for layer in missing:
            require_writable(files[layer])
        collected = _collected(lm, config, missing, watch, group or Group())
        if (group or Group()).leads:
            _keep_for_host(lm, config, collected)
        found |= collected
    return {layer: found[layer] for layer in wanted}


def _keep_for_host(
    lm: EditableModel, config: ModelConfig, collected: Mapping[int, SecondMoment]
) -> None:
    """Write moments into EasyEdit's folder, under the names of what they really are."""
    folder = Path(config.moments.stats_dir or "").expanduser()
    for layer, moment in collected.items():
        moments = replace(config.moments, **_kept_as(lm, config, moment))
        files = host_files(lm, replace(config, moments=moments), folder, [layer])
        write_host_moment(moment, files[layer], moments.stats_samples)
        logger.info("kept for EasyEdit: %s", files[layer])


def _kept_as(lm: EditableModel, config: ModelConfig, moment: SecondMoment) -> dict[str, Any]:
    """Data set and number of samples that a collected moment is of, in EasyEdit's file names.

    Those of the settings where it is just that; of another corpus its name and a hash of it, and
    the number of tokens.
    """
    moments, corpus = config.moments, corpus_for(lm, config)
    streamed = moments.corpus is None and config.path is not None and moments.hub is not None
    if (
        streamed
        and str(moments.hub).rpartition("/")[2] == moments.stats_dataset
        and (moments.texts, moments.tokens) == (moments.stats_samples, None)
    ):
        return {}
    name = re.sub(r"[^A-Za-z0-9]+", "-", Path(corpus.name).stem).strip("-")[:40]
    return {
        "stats_dataset": f"{name}-{hash_of({'corpus': corpus.identity})[:8]}",
        "stats_samples": moment.count,
    }


def host_files(
    lm: EditableModel, config: ModelConfig, stats_dir: Path, layers: Sequence[int] | None = None
) -> dict[int, Path]:
    """Where EasyEdit looks for the second moment of each layer, by default the configured ones."""
    moments = config.moments
    files = HostMoments(
        stats_dir,
        lm.model.config._name_or_path,
        moments.stats_dataset,
        moments.stats_precision,
        moments.stats_samples,
    )
    wanted = config.layers if layers is None else layers
    return {layer: files.path(lm.layout.down_proj.format(layer)) for layer in wanted}


def provide_projectors(
    lm: EditableModel,
    config: ProjectorSettings,
    layers: Sequence[int] | None = None,
    load: Load = load_moments,
) -> dict[int, Projector]:
    """The projectors of the configured layers: the given file's, cached ones, or fitted.

    Args:
        lm: the model.
        config: names the sources.
        layers: other layers than the configured ones.
        load: gives the second moments that they are fitted to, where it comes to that.

    Raises:
        ProjectorError: the given file does not fit, or was cut otherwise than was asked for.
        ConfigError: there is no source of second moments, or the cut's value is out of range.
    """
    wanted = list(config.model.layers if layers is None else layers)
    given, cut = config.projector.path, config.projector.cut
    if given is not None:
        found = _given_projectors(lm, config.projector, wanted, Path(given).expanduser())
        warn_of_degenerate(found)
        return {layer: replace(one, source=given) for layer, one in found.items()}
    check_cut(lm, cut, wanted)
    moments, sources = config.model.moments, _sources(lm, config.model, wanted)
    cache = Cache.usable() if moments.cache and moments.stats_dir is None else None
    if cache is None:
        found = fit_projectors(load(lm, config.model, wanted), cut)
    else:
        found = _cached_projectors(lm, config.model, wanted, cut, cache, load)
    return {layer: replace(one, source=sources[layer]) for layer, one in found.items()}


def _sources(lm: EditableModel, config: ModelConfig, layers: Sequence[int]) -> dict[int, str]:
    """Per layer what its second moment is from: EasyEdit's folder where it has one, or the text."""
    folder = config.moments.stats_dir
    files = {} if folder is None else host_files(lm, config, Path(folder).expanduser(), layers)
    return {
        layer: folder if folder and is_file(files[layer]) else corpus_name(config)
        for layer in layers
    }


def _given_projectors(
    lm: EditableModel, config: SourceConfig, layers: Sequence[int], path: Path
) -> dict[int, Projector]:
    if path.suffix not in REFERENCE:
        found = load_projectors(lm, layers, path, config.trust)
        refuse_other_cut(found, config.cut if config.chosen else None, path)
        return found
    if config.chosen:
        raise ProjectorError(
            f"{path} was cut when it was made, and does not say where: remove the cut {config.cut}"
        )
    return load_reference(lm, layers, path)


def check_cut(lm: EditableModel, cut: Cut, layers: Sequence[int]) -> None:
    """Refuse a cut that cannot be, before hours are spent on the second moments for it.

    Raises:
        ConfigError: a value outside the rule's range.
    """
    cut.check(min(lm.key_size(layer) for layer in layers))


def _cached_projectors(
    lm: EditableModel,
    config: ModelConfig,
    layers: Sequence[int],
    cut: Cut,
    cache: Cache,
    load: Load,
) -> dict[int, Projector]:
    corpus = corpus_for(lm, config)
    by = {"cut": [cut.rule.value, cut.value], "with": "null_eigenvalue"}
    keys = {layer: key | by for layer, key in _keys(lm, config, layers, corpus).items()}
    paths = {layer: cache.path("projectors", key) for layer, key in keys.items()}
    found = {
        layer: cache.stored(path, partial(_read_projector, layer)) for layer, path in paths.items()
    }
    missing = [layer for layer, projector in found.items() if projector is None]
    if missing:
        fitted = fit_projectors(load(lm, config, missing), cut)
        for layer, projector in fitted.items():
            cache.keep(partial(save_projectors, lm, {layer: projector}, paths[layer], corpus.name))
        found |= fitted
    held = {layer: projector for layer, projector in found.items() if projector is not None}
    warn_of_degenerate({layer: held[layer] for layer in layers if layer not in missing})
    return {layer: held[layer] for layer in layers}


def _collected(
    lm: EditableModel,
    config: ModelConfig,
    layers: Sequence[int],
    watch: Watch | None,
    group: Group,
) -> dict[int, SecondMoment]:
    """From the cache, or else from the corpus, going on where a killed run left it."""
    corpus, settings = corpus_for(lm, config, hide=not group.leads), config.moments

    def texts() -> Iterator[Text]:
        return islice(corpus.texts(), settings.texts)

    cache = Cache.usable() if settings.cache else None
    everywhere = all(group.gather(cache is not None))  # all processes must take the same way
    if cache is None or not everywhere:
        return collect_second_moments(
            lm, texts(), layers, settings.tokens, watch=watch, group=group
        )
    keys = _keys(lm, config, layers, corpus)
    paths = {layer: cache.path("moments", key) for layer, key in keys.items()}
    run = {"layers": list(layers), "halves": watch is not None, **keys[max(layers)]}
    with cache.alone("runs", run) if group.leads else nullcontext():
        group.gather(None)  # the others wait here for the one that has the lock
        found = {} if watch is not None else _held(cache, paths)
        known = set.intersection(*group.gather(set(found)))
        missing = [layer for layer in layers if layer not in known]
        if missing:
            folder = cache.folder / "runs" / hash_of(run | {"missing": missing})
            checkpoint = Checkpoint(folder, settings.checkpoint)
            found |= collect_second_moments(
                lm, texts(), missing, settings.tokens,
                checkpoint=checkpoint, watch=watch, group=group,
            )  # fmt: skip
            if group.leads and watch is None:
                for layer in missing:
                    cache.keep(partial(_write, found[layer], paths[layer], keys[layer]))
            group.gather(None)  # nobody removes what another may still need
            checkpoint.clear()
    return {layer: found[layer] for layer in layers}


def _read_projector(layer: int, path: Path) -> Projector:
    return read_projectors(path, [layer]).projectors[layer]


def _held(cache: Cache, paths: Mapping[int, Path]) -> dict[int, SecondMoment]:
    found = {layer: cache.stored(path, _read) for layer, path in paths.items()}
    return {layer: moment for layer, moment in found.items() if moment is not None}


def _read(path: Path) -> SecondMoment:
    tensors, content = read_tensors(path)
    return SecondMoment(tensors["total"], int(content["count"]))


def _write(moment: SecondMoment, path: Path, key: Key) -> None:
    write_tensors(path, {"total": moment.total}, {"count": moment.count, "key": key})


def _keys(
    lm: EditableModel, config: ModelConfig, layers: Sequence[int], corpus: Corpus
) -> dict[int, Key]:
    """Per layer everything that its second moment depends on."""
    tokenizer = tokenizer_digest(lm.tokenizer)
    return {
        layer: {
            "weights": weights,
            "layer": layer,
            "tokenizer": tokenizer,
            "corpus": corpus.identity,
            "texts": config.moments.texts,
            "tokens": config.moments.tokens,
            "window": WINDOW,
        }
        for layer, weights in upstream_digests(lm, layers).items()
    }
