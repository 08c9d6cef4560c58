"""What ``alphaedit apply``, ``undo`` and ``verify`` do, with a patch or a journal."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from alphaedit_plugin.common.console import printable, say
from alphaedit_plugin.common.errors import PatchError, counted
from alphaedit_plugin.common.files import empty_folder
from alphaedit_plugin.common.tensor_file import checksums
from alphaedit_plugin.config.build import DTYPES, load_model
from alphaedit_plugin.config.compose import load_config
from alphaedit_plugin.config.schema import EditorConfig
from alphaedit_plugin.config.statistics import load_moments, provide_projectors
from alphaedit_plugin.editing.entry import Entry
from alphaedit_plugin.editing.session import EditSession
from alphaedit_plugin.editing.undo import Undone, plan
from alphaedit_plugin.models.editable import EditableModel, dtype_name
from alphaedit_plugin.nullspace.leakage import origins
from alphaedit_plugin.nullspace.projector import Projector
from alphaedit_plugin.nullspace.second_moment import SecondMoment
from alphaedit_plugin.patches.full_checkpoint import dtype_note, save_checkpoint
from alphaedit_plugin.patches.journal import Journal, read_header
from alphaedit_plugin.patches.patch import Patch, read_patch
from alphaedit_plugin.patches.sessions import open_session, session_of
from alphaedit_plugin.patches.verify import (
    ROUNDING,
    SEEN,
    EditCheck,
    LayerCheck,
    check_edits,
    check_layers,
    projected,
)

logger = logging.getLogger(__name__)

FEW = 5  # edits that are named
SHOWN = 50  # edits of the table; those that do not hold come first


def config_for(path: str, overrides: Sequence[str]) -> EditorConfig:
    """The configuration, with the patch's own layers and dtype where none are given.

    Raises:
        PatchError: there is no patch or journal at ``path``, or it is damaged.
        ConfigError: see `load_config`.
    """
    header = read_header(Path(path).expanduser())
    layers = f"model.layers={sorted(header.layers)}".replace(" ", "")
    own = [layers, *([f"model.dtype={header.dtype}"] if header.dtype in DTYPES else [])]
    return load_config([*own, *overrides])


def run_apply(path: str, config: EditorConfig, console: Console) -> None:
    """Apply a patch to a fresh copy of its model, and save that.

    Raises:
        AlphaEditError: see `load_session`; or ``save`` cannot be written.
    """
    folder = None if config.save is None else empty_folder("save", config.save)
    lm = load_model(config.model)
    patch = _read(path, lm)
    session = _apply(path, lm, patch, config.force)
    count = counted(len(session.requests), "edit")
    say(console, f"{path}: {count} for {patch.header.model}")
    say(console, _exactness(session, patch))
    _save(session, folder, config, console)


def run_undo(path: str, what: int | str, config: EditorConfig | None, console: Console) -> None:
    """Take edits of a journal back, and, with a model, show and save what is left.

    Raises:
        AlphaEditError: there is no such journal, or it has no such edit; or see `EditSession`.
    """
    folder = Path(path).expanduser()
    journal = Journal.read(folder)
    if config is None:
        undone = plan(journal.entries, what)
        if undone.ids or undone.entries:
            journal.take_back(undone, {})
        for note in undone.notes:
            logger.warning("%s", note)
        _say_undone(undone, len([own for e in journal.entries for own in e.ids]), console)
        return
    target = None if config.save is None else empty_folder("save", config.save)
    lm = load_model(config.model)
    session = open_session(lm, list(journal.header.layers), folder)
    _say_undone(session.undo(what), len(session.ids), console)
    _save(session, target, config, console)


def run_verify(path: str, config: EditorConfig, console: Console) -> bool:
    """Check every edit and every layer of a patch.

    Returns:
        Whether all holds.

    Raises:
        AlphaEditError: see `run_apply`; or there is no projector to measure with, and the model
            does not hold the edits already.
    """
    lm = load_model(config.model)
    patch = _read(path, lm)
    weights = {layer: lm.weight(layer) for layer in patch.header.layers}
    present = patch.header.dtype == _dtype(lm) and checksums(weights) == dict(patch.after)
    projectors = _projectors(lm, patch, config, present)
    moments = _moments(lm, patch, config, present)
    if present:
        say(console, "the model holds these edits already, bit for bit")
    else:
        say(console, _exactness(_apply(path, lm, patch, config.force), patch))
    edits, layers = check_edits(lm, patch.entries), check_layers(patch, projectors, moments)
    console.print(edit_table(edits))
    console.print(layer_table(layers))
    if projectors:
        say(console, origins(projectors))
    for note in _notes(patch.entries, edits, layers):
        say(console, note)
    holds = all(check.holds for check in edits) and all(check.holds for check in layers)
    good = sum(check.holds for check in edits)
    unproven = [check for check in layers if _unproven(check, projectors)]
    if unproven:
        say(
            console,
            "not checked is what this model's own text sees of the edits: the projector's file "
            "does not say what it was fitted on; give corpus=…, and model=… as it was before",
        )
    measured = not unproven and not any(c.promised and c.leakage is None for c in layers)
    well = f"{'all' if holds else 'not all'} {'is well' if measured else 'that was asked is well'}"
    say(console, f"{good} of {len(edits)} edits hold; {well}")
    return holds


def _unproven(check: LayerCheck, projectors: Mapping[int, Projector]) -> bool:
    """Whether a layer was measured only with a ``U`` that may be another model's."""
    alone = check.leakage is not None and check.seen is None
    return alone and not projectors[check.layer].tokens


def edit_table(edits: Sequence[EditCheck]) -> Table:
    """What was asked, and whether the model answers it; edits that do not hold come first."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("edit", "prompt", "wanted"):
        table.add_column(heading, overflow="fold")
    table.add_column("tokens right", justify="right")
    table.add_column("holds")
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
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("layer", "‖Δ‖", "‖ΔU‖/‖Δ‖", "seen by text"):
        table.add_column(heading, justify="right")
    table.add_column("holds")
    for check in layers:
        unknown = "not measured" if check.promised else "plain"
        leakage = unknown if check.leakage is None else f"{check.leakage:.1e}"
        seen = "–" if check.seen is None else f"{check.seen:.3f}"
        row = (str(check.layer), f"{check.norm:.3g}", leakage, seen)
        table.add_row(*row, Text("–") if check.leakage is None else _mark(check.holds))
    return table


def _mark(holds: bool) -> Text:
    return Text("yes", "green") if holds else Text("no", "red")


def _read(path: str, lm: EditableModel) -> Patch:
    """A patch from its file, or what stands in a journal."""
    place = Path(path).expanduser()
    if not place.is_dir():
        return read_patch(place, lm)
    journal = Journal.read(place)
    journal.header.check_layers(lm)
    return journal.patch


def _apply(path: str, lm: EditableModel, patch: Patch, force: bool) -> EditSession:
    try:
        return session_of(patch, lm, force=force)
    except PatchError as error:
        raise PatchError(
            f"{path} is refused: {error}; force=true applies it all the same"
        ) from None


def _exactness(session: EditSession, patch: Patch) -> str:
    """Whether the weights are those of the run that made the patch."""
    if session.checksums() == dict(patch.after):
        return "the weights are those of the editing run, bit for bit"
    if not patch.after:
        return "the edits that stay are applied"
    ours = _dtype(session.lm)
    if ours != patch.header.dtype:
        return f"the weights are those of the editing run ({patch.header.dtype}) in {ours}"
    if checksums({n: session.pristine(n) for n in session.layers}) != dict(patch.header.before):
        return "forced: the weights are not those of the editing run"
    return "the weights are those of the editing run but for the rounding of another machine"


def _projectors(
    lm: EditableModel, patch: Patch, config: EditorConfig, present: bool
) -> dict[int, Projector]:
    """What the invariant is measured with, made while the model is as it was before the edits.

    Empty where nothing promises it, or the model holds the edits and no file is given: keys of
    an edited model are others, and so would be the projector that is fitted to them.
    """
    if not projected(patch.entries) or (present and config.projector.path is None):
        return {}
    return provide_projectors(lm, config, sorted(patch.header.layers))


def _moments(
    lm: EditableModel, patch: Patch, config: EditorConfig, present: bool
) -> dict[int, SecondMoment]:
    """Second moments of text where some is at hand: what the model's own keys see of the edits."""
    moments = config.model.moments
    at_hand = moments.corpus or moments.stats_dir or config.model.path is None
    if present or not at_hand or not projected(patch.entries):
        return {}
    return load_moments(lm, config.model, sorted(patch.header.layers))


def _notes(
    entries: Sequence[Entry], edits: Sequence[EditCheck], layers: Sequence[LayerCheck]
) -> list[str]:
    """What the table does not say."""
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


def _say_undone(undone: Undone, left: int, console: Console) -> None:
    """What was taken back, by what it asked for, and how much stays."""
    count = len(undone.ids)
    taken = ["the end of the run"] if undone.ended else []
    if count or not taken:
        taken.append(counted(count, "edit"))
    stay = "1 edit stays" if left == 1 else f"{left} edits stay"
    say(console, f"took back {' and '.join(taken)}; {stay}")
    for own, request in list(zip(undone.ids, undone.requests, strict=True))[:FEW]:
        asked = f"{request.filled} → {request.target_new.strip()}"
        say(console, f"  {own}  {printable(asked)}")
    if count > FEW:
        say(console, f"  … and {count - FEW} more")


def _save(
    session: EditSession, folder: Path | None, config: EditorConfig, console: Console
) -> None:
    if folder is None:
        say(console, "nothing was saved: save=<a new folder> writes the model")
        return
    save_checkpoint(session.lm, folder)
    say(console, f"saved to {folder}{dtype_note(session.lm, config.model.path)}")


def _dtype(lm: EditableModel) -> str:
    return dtype_name(lm.weight(0).dtype)
