"""``alphaedit verify``: whether a patch still does what it promises."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pydantic.dataclasses import dataclass
from rich.console import Console
from rich.table import Table
from rich.text import Text

from alphaedit_plugin.cli.base import COMMANDS, Command, split_words, working
from alphaedit_plugin.cli.patching import (
    apply_patch,
    config_for,
    exactness,
    read_patch_or_journal,
)
from alphaedit_plugin.common.console import plain_table, printable, say
from alphaedit_plugin.common.errors import counted
from alphaedit_plugin.common.validation import STRICT
from alphaedit_plugin.config.schema import ProjectorSettings

if TYPE_CHECKING:
    from alphaedit_plugin.editing.entry import Entry
    from alphaedit_plugin.models.editable import EditableModel
    from alphaedit_plugin.nullspace.projector import Projector
    from alphaedit_plugin.nullspace.second_moment import SecondMoment
    from alphaedit_plugin.patches.patch import Patch
    from alphaedit_plugin.patches.verify import EditCheck, LayerCheck

SHOWN = 50  # edits of the table; those that do not hold come first


@dataclass(config=STRICT)
class VerifySettings(ProjectorSettings):
    """What ``alphaedit verify`` reads.

    Attributes:
        force: apply a patch although it was made for another model or other weights.
    """

    force: bool = False


def run_verify(words: Sequence[str], console: Console) -> int:
    """Check every edit and every layer of a patch.

    Returns:
        The exit status, 1 where something does not hold.

    Raises:
        AlphaEditError: the patch is refused; or there is no projector to measure with, and the
            model does not hold the edits already.
    """
    (path,), overrides = split_words("verify", ("PATCH",), words)
    config = config_for(path, overrides, VerifySettings)
    with working(config):
        return 0 if _verify(path, config, console) else 1


def _verify(path: str, config: VerifySettings, console: Console) -> bool:
    from alphaedit_plugin.common.tensor_file import checksums
    from alphaedit_plugin.config.build import load_model
    from alphaedit_plugin.models.editable import dtype_name
    from alphaedit_plugin.patches.verify import check_edits, check_layers

    lm = load_model(config.model)
    patch = read_patch_or_journal(path, lm)
    weights = {layer: lm.weight(layer) for layer in patch.header.layers}
    same_dtype = patch.header.dtype == dtype_name(lm.weight(0).dtype)
    present = same_dtype and checksums(weights) == dict(patch.after)
    projectors = _projectors(lm, patch, config, present)
    moments = _moments(lm, patch, config, present)
    if present:
        say(console, "the model holds these edits already, bit for bit")
    else:
        say(console, exactness(apply_patch(path, lm, patch, config.force), patch))
    edits, layers = check_edits(lm, patch.entries), check_layers(patch, projectors, moments)
    console.print(edit_table(edits))
    console.print(layer_table(layers))
    return _conclude(patch, projectors, edits, layers, console)


def _conclude(
    patch: Patch,
    projectors: Mapping[int, Projector],
    edits: Sequence[EditCheck],
    layers: Sequence[LayerCheck],
    console: Console,
) -> bool:
    """Say what the tables do not, and whether all holds."""
    from alphaedit_plugin.nullspace.leakage import origins

    if projectors:
        say(console, origins(projectors))
    for note in _notes(patch.entries, edits, layers):
        say(console, note)
    unproven = [check for check in layers if _unproven(check, projectors)]
    if unproven:
        say(
            console,
            "not checked is what this model's own text sees of the edits: the projector's file "
            "does not say what it was fitted on; give corpus=…, and model=… as it was before",
        )
    good = sum(check.holds for check in edits)
    holds = good == len(edits) and all(check.holds for check in layers)
    complete = not unproven and not any(c.promised and c.leakage is None for c in layers)
    passed = "all checks passed" if complete else "the checks that could be made passed"
    verdict = passed if holds else "some checks failed"
    say(console, f"{good} of {len(edits)} edits hold; {verdict}")
    return holds


def _unproven(check: LayerCheck, projectors: Mapping[int, Projector]) -> bool:
    """Whether a layer was measured only with a ``U`` that may be another model's."""
    alone = check.leakage is not None and check.seen is None
    return alone and not projectors[check.layer].tokens


def edit_table(edits: Sequence[EditCheck]) -> Table:
    """What was asked, and whether the model answers it; edits that do not hold come first."""
    table = plain_table(["edit", "prompt", "wanted"], ["tokens right", "holds"])
    for check in sorted(edits, key=lambda check: check.holds)[:SHOWN]:
        table.add_row(
            Text(check.name),
            Text(printable(check.request.filled)),
            Text(printable(check.request.target_new.strip())),
            f"{check.accuracy:.0%}",
            _mark(check.holds),
        )
    if len(edits) > SHOWN:
        table.add_row(f"… and {len(edits) - SHOWN} more", style="dim")
    return table


def layer_table(layers: Sequence[LayerCheck]) -> Table:
    """Per layer the size of what was added, and what old keys see of it."""
    table = plain_table([], ["layer", "‖Δ‖", "‖ΔU‖/‖Δ‖", "seen by text", "holds"])
    for check in layers:
        unknown = "not measured" if check.promised else "plain"
        leakage = unknown if check.leakage is None else f"{check.leakage:.1e}"
        seen = "–" if check.seen is None else f"{check.seen:.3f}"
        row = (str(check.layer), f"{check.norm:.3g}", leakage, seen)
        table.add_row(*row, Text("–") if check.leakage is None else _mark(check.holds))
    return table


def _mark(holds: bool) -> Text:
    return Text("yes", "green") if holds else Text("no", "red")


def _projectors(
    lm: EditableModel, patch: Patch, config: VerifySettings, present: bool
) -> dict[int, Projector]:
    """What the invariant is measured with, made while the model is as it was before the edits.

    Empty where nothing promises it, or the model holds the edits and no file is given: keys of
    an edited model are others, and so would be the projector that is fitted to them.
    """
    from alphaedit_plugin.config.statistics import provide_projectors
    from alphaedit_plugin.patches.verify import projected

    if not projected(patch.entries) or (present and config.projector.path is None):
        return {}
    return provide_projectors(lm, config, sorted(patch.header.layers))


def _moments(
    lm: EditableModel, patch: Patch, config: VerifySettings, present: bool
) -> dict[int, SecondMoment]:
    """Second moments of text where some is at hand: what the model's own keys see of the edits."""
    from alphaedit_plugin.config.statistics import load_moments
    from alphaedit_plugin.patches.verify import projected

    moments = config.model.moments
    at_hand = moments.corpus or moments.stats_dir or config.model.path is None
    if present or not at_hand or not projected(patch.entries):
        return {}
    return load_moments(lm, config.model, sorted(patch.header.layers))


def _notes(
    entries: Sequence[Entry], edits: Sequence[EditCheck], layers: Sequence[LayerCheck]
) -> list[str]:
    """What the table does not say."""
    from alphaedit_plugin.patches.verify import ROUNDING, SEEN, projected

    replaced = sum(len(entry.ids) for entry in entries) - len(edits)
    plain = len([entry for entry in entries if entry.writes]) - len(projected(entries))
    notes = []
    if replaced:
        notes.append(f"not asked for: {counted(replaced, 'edit')} that a later one replaced")
    if plain:
        notes.append(
            f"{plain} of {len(entries)} batches were edited plainly, without the null space: "
            "nothing was promised about what old keys see of them"
        )
    if any(check.promised and check.leakage is None for check in layers):
        notes.append(
            "not checked is what old keys see of the edits: a projector cannot be fitted to a "
            "model that is edited already; give projector.path=…, or model=… as it was before"
        )
    if any(check.leakage is not None for check in layers):
        notes.append(f"‖ΔU‖/‖Δ‖ is to be at most {ROUNDING:g}, before rounding to the dtype")
    if any(check.seen is not None for check in layers):
        notes.append(
            f"seen by text is to be at most {SEEN:g}: 1 is what the keys of text see of a delta of "
            "random directions, as through a projector that is not this model's"
        )
    return notes


COMMANDS.register(
    "verify",
    Command(
        "check that a patch's edits hold and what they were to preserve is preserved",
        "Applies the patch to model=… (or takes it as it is, if it holds the edits already), asks "
        "for each edit, and measures what old keys see of the deltas, with projector.path=… or the "
        "projector of model=…; of a model that holds the edits already, only with the former. The "
        "exit status is 0 if all holds, 1 if something does not.",
        (
            "alphaedit verify edits.safetensors",
            "alphaedit verify edits.safetensors model=gpt2-xl projector.path=p.safetensors",
        ),
        run_verify,
        VerifySettings,
        usage="PATCH [key=value …]",
    ),
)
