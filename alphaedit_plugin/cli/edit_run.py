"""What ``alphaedit edit`` does: edit, then show what the model answers before and after."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from alphaedit_plugin.common.console import say
from alphaedit_plugin.common.delta import Delta
from alphaedit_plugin.common.errors import ConfigError, counted
from alphaedit_plugin.common.outputs import empty_folder
from alphaedit_plugin.config.schema import DataConfig, EditorConfig, Host
from alphaedit_plugin.data.base import EditData
from alphaedit_plugin.data.conflicts import standing
from alphaedit_plugin.data.request import Request, among
from alphaedit_plugin.data.selection import read_data
from alphaedit_plugin.editing.encoding import (
    EncodedRequest,
    encode,
    encode_fitting,
    warn_of_shared_tokens,
)
from alphaedit_plugin.editing.session import EditSession
from alphaedit_plugin.editor import NullSpaceEditor
from alphaedit_plugin.methods.alphaedit import AlphaEdit
from alphaedit_plugin.metrics.base import check_scored
from alphaedit_plugin.metrics.easyedit import (
    Metrics,
    accuracies,
    add_locality,
    edit_quality,
)
from alphaedit_plugin.models.boundary import continuations
from alphaedit_plugin.models.editable import EditableModel, dtype_name
from alphaedit_plugin.models.scoring import continue_greedily
from alphaedit_plugin.nullspace.leakage import origins, rounding_note
from alphaedit_plugin.patches.full import dtype_note, save_checkpoint
from alphaedit_plugin.patches.patch import bytes_of, require_place
from alphaedit_plugin.patches.sessions import save_session

SHOWN = 10  # rows of the table
NARROW = 60  # columns of a terminal that has no room for numbers beside texts


@dataclass(frozen=True)
class Snapshot:
    """What the model does with every request at one point of a run.

    Attributes:
        answers: its greedy answers to the prompts.
        metrics: as `quality.edit_quality` gives them.
    """

    answers: list[str]
    metrics: list[Metrics]


def run_edit(config: EditorConfig, console: Console) -> None:
    """Edit what ``config`` names, one batch after another, and report the final model.

    Raises:
        AlphaEditError: something named in ``config`` is missing or does not fit, or an edit
            failed; see `NullSpaceEditor`.
    """
    given = request_of(config)
    data = read_data(config) if given is None else EditData((given,))
    folder = None if config.save is None else empty_folder("save", config.save)
    patch = None if config.patch is None else Path(config.patch).expanduser()
    if patch is not None:
        require_place(patch)
    editor, check = _editor(config)
    lm, recipe = editor.lm, editor.recipe
    if given is None:
        data, encoded = encode_fitting(lm, recipe, data, config.data, check)
    else:
        encoded = encode(lm, recipe, [given])
    requests = data.requests
    warn_of_shared_tokens(encoded)
    with editor.session.unedited():  # a journal's edits are in the model already
        before = take(editor.lm, requests)
    failed = [
        request
        for step in editor.run(_still_to_edit(editor.session, encoded, console))
        if step.entry is not None
        for request in step.entry.failed
    ]
    after = take(editor.lm, requests)
    for old, new in zip(before.metrics, after.metrics, strict=True):
        add_locality(old, new)
    _note(editor.session, requests, after.metrics)
    console.print(request_table(requests, before, after, console.width >= NARROW))
    console.print(summary(after.metrics), highlight=False)
    for line in unlearnt_notes(editor.session, requests, after.metrics):
        say(console, line)
    for request in failed:
        say(
            console,
            f"not edited, as the search for its target failed: {request.filled} → "
            f"{request.target_new}",
        )
    console.print(layer_table(editor))
    if isinstance(editor.recipe.method, AlphaEdit):
        console.print(origins(editor.recipe.method.projectors), style="dim", highlight=False)
    note = _rounding(editor)
    if note is not None:
        console.print(note, style="dim", highlight=False)
    if patch is not None:
        save_session(editor.session, patch)
        say(console, patch_size(editor.lm, patch))
    if folder is not None:
        save_checkpoint(editor.lm, folder)
        say(console, f"saved to {folder}{dtype_note(editor.lm, config.model.path)}")


def patch_size(lm: EditableModel, patch: Path) -> str:
    """What a patch takes, beside what the whole model would."""
    size, whole = patch.stat().st_size, bytes_of(lm)
    return f"{patch}: {size / 2**20:.2f} MiB, {size / whole:.2%} of a full checkpoint"


def _still_to_edit(
    session: EditSession, encoded: Sequence[EncodedRequest], console: Console
) -> list[EncodedRequest]:
    """The requests that a journal does not hold yet, so that a killed run can be started again.

    One that a later edit contradicted is not held: its answer is asked for again.
    """
    held = session.standing
    lasting = standing([one.request for one in encoded])
    asked = [one for one in encoded if among(one.request, lasting)]
    left = [one for one in asked if one.request not in held]
    if len(left) < len(asked):
        say(console, f"in the journal already: {len(asked) - len(left)} of {len(asked)}")
    return left


def _note(session: EditSession, requests: Sequence[Request], metrics: Sequence[Metrics]) -> None:
    """Keep in the journal what this run measured."""
    found = {}
    for own, request in zip(session.ids, session.requests, strict=True):
        if request in requests:
            found[own] = accuracies(metrics[requests.index(request)])
    session.note(found)


def _editor(config: EditorConfig) -> tuple[NullSpaceEditor, Callable[[Request], None]]:
    """An editor with our update functions or EasyEdit's, and what refuses a request besides it."""
    if config.host is Host.native:
        editor = NullSpaceEditor.from_config(config)
        return editor, partial(check_scored, editor.lm)
    if config.journal is not None or config.patch is not None:
        raise ConfigError("host=easyedit keeps no journal and no patch: use host=native")
    from alphaedit_plugin.easyedit.host_engine import host_row, hosted_editor  # needs the host

    editor = hosted_editor(config)

    def check(request: Request) -> None:
        check_scored(editor.lm, request)
        host_row(request)

    return editor, check


def request_of(config: EditorConfig) -> Request | None:
    """The one request of ``config.request``; ``None`` where there is none, but ``config.data``.

    Raises:
        ConfigError: the request is given in part, or with data.
        RequestError: the request cannot be edited as given.
    """
    given = config.request
    parts = {"prompt": given.prompt, "subject": given.subject, "target_new": given.target_new}
    missing = [name for name, text in parts.items() if text is None]
    if missing and len(missing) < len(parts):
        raise ConfigError(
            f"request.{missing[0]} is not set: a request has request.prompt, request.subject "
            "and request.target_new"
        )
    if given.prompt is not None and given.target_new is not None:
        if config.data != DataConfig():
            raise ConfigError("request.… and data… are both set: give one of them")
        return Request.parse(given.prompt, given.subject, given.target_new)
    return None


def take(lm: EditableModel, requests: Sequence[Request]) -> Snapshot:
    """Ask the model as it is now."""
    prompts = [request.filled for request in requests]
    lengths = [_answer_length(lm, request) for request in requests]
    answers = continue_greedily(lm, prompts, lengths)
    return Snapshot(answers, edit_quality(lm, requests))


def _answer_length(lm: EditableModel, request: Request) -> int:
    """Tokens of the longer of the new and the old answer."""
    answers = [request.target_new, *([request.ground_truth] if request.ground_truth else [])]
    pairs = [(request.filled, answer) for answer in answers]
    return max(len(ids) for _, ids in continuations(lm.tokenizer, pairs, lm.separator))


def request_table(
    requests: Sequence[Request], before: Snapshot, after: Snapshot, numbers: bool = True
) -> Table:
    """The first requests: what was answered and what is, against what was wanted, and how well."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("prompt", overflow="fold")
    table.add_column("before → after", overflow="fold")
    table.add_column("wanted", overflow="fold")
    for name in ("rewrite", "rephrase", "locality") if numbers else ():
        table.add_column(name, justify="right", no_wrap=True)
    for index, request in enumerate(requests[:SHOWN]):
        new, metrics = after.answers[index], after.metrics[index]
        right = metrics["rewrite_acc"] == [1.0]
        table.add_row(
            Text(request.filled),
            Text.assemble(before.answers[index], " → ", (new, "green" if right else "red")),
            Text(request.target_new.strip()),
            *(_percent(values) for values in accuracies(metrics).values() if numbers),
        )
    if len(requests) > SHOWN:
        table.add_row(f"… and {len(requests) - SHOWN} more", style="dim")
    return table


def summary(metrics: Sequence[Metrics]) -> str:
    """One line with the means over all requests that have the metric."""
    found = [accuracies(one) for one in metrics]
    parts = []
    for name in ("rewrite", "rephrase", "locality"):
        means = [_mean(one[name]) for one in found if one[name]]
        if means:
            parts.append(f"{name} {_mean(means):.1%}")
    return f"after {counted(len(metrics), 'edit')}: {', '.join(parts)}"


def unlearnt_notes(
    session: EditSession, requests: Sequence[Request], metrics: Sequence[Metrics]
) -> list[str]:
    """Why answers are not given: for how many the search failed, for how many the write."""
    searches = {
        (own.prompt, own.subject, own.target_new): search
        for entry in session.journal
        for own, search in zip(entry.requests, entry.searches, strict=False)
    }
    asked = [(request.prompt, request.subject, request.target_new) for request in requests]
    why = [
        searches[key].unlearnt(one["rewrite_acc"][0])
        for key, one in zip(asked, metrics, strict=True)
        if key in searches
    ]
    reasons = {
        "search": "the target search found no value that gives it: raise model.target.steps or "
        "model.target.lr, or edit earlier layers",
        "write": "a value was found, but the closed form could not write it: lower "
        "model.moment_weight (plain) or projector.l2 (null space), or edit more layers",
    }
    return [
        f"{why.count(kind)} of {counted(len(why), 'answer')} not given, as {reason}"
        for kind, reason in reasons.items()
        if kind in why
    ]


def layer_table(editor: NullSpaceEditor) -> Table:
    """Per layer the norm of what was added and, where projected, the share old keys see."""
    method = editor.recipe.method
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("layer")
    table.add_column("‖Δ‖", justify="right")
    table.add_column("‖Δ‖/‖W‖", justify="right")
    if isinstance(method, AlphaEdit):
        table.add_column("null space", justify="right")
        table.add_column("‖ΔU‖/‖Δ‖", justify="right")
    for layer in editor.recipe.layers:
        delta = editor.session.change(layer)
        share = delta.norm / editor.session.pristine(layer).double().norm().item()
        row = [str(layer), f"{delta.norm:.3g}", f"{share:.3g}"]
        if isinstance(method, AlphaEdit):
            projector = method.projectors[layer]
            row += [
                f"{projector.null_dimension} of {projector.d_in}",
                f"{projector.leakage(delta):.1e}",
            ]
        table.add_row(*row)
    return table


def _rounding(editor: NullSpaceEditor) -> str | None:
    """Where weights round more than the projector leaves: what it does leave."""
    method, session = editor.recipe.method, editor.session
    if not isinstance(method, AlphaEdit):
        return None
    layers = editor.recipe.layers
    deltas = {n: (session.change(n), Delta(session.accumulated(n))) for n in layers}
    shares = [
        (method.projectors[n].leakage(written), method.projectors[n].leakage(summed))
        for n, (written, summed) in deltas.items()
    ]
    return rounding_note(shares, dtype_name(editor.lm.weight(layers[0]).dtype))


def _percent(values: Sequence[float]) -> str:
    return f"{_mean(values):.0%}" if values else "–"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
