"""``alphaedit edit``: edit a model, and show what it answers before and after."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import field
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic.dataclasses import dataclass
from rich.console import Console

from alphaedit_plugin.cli.base import COMMANDS, Command, working
from alphaedit_plugin.common.console import say
from alphaedit_plugin.common.errors import ConfigError
from alphaedit_plugin.common.files import empty_folder
from alphaedit_plugin.common.validation import STRICT, Text
from alphaedit_plugin.config.compose import load_config
from alphaedit_plugin.config.schema import EditorConfig
from alphaedit_plugin.data.base import EditData
from alphaedit_plugin.data.conflicts import standing
from alphaedit_plugin.data.request import Request, among
from alphaedit_plugin.data.selection import read_data
from alphaedit_plugin.data.settings import DataConfig

if TYPE_CHECKING:
    from alphaedit_plugin.editing.encoding import EncodedRequest
    from alphaedit_plugin.editing.session import EditSession
    from alphaedit_plugin.editor import NullSpaceEditor


NARROW = 60  # columns of a terminal that has no room for numbers beside texts


class Host(str, Enum):
    """Whose update functions run: ours, or EasyEdit's."""

    native = "native"
    easyedit = "easyedit"


@dataclass(config=STRICT)
class RequestConfig:
    """One request given on the command line, instead of ``data``."""

    prompt: str | None = None
    subject: str | None = None
    target_new: str | None = None


@dataclass(config=STRICT)
class EditSettings(EditorConfig):
    """What ``alphaedit edit`` reads.

    Attributes:
        request: the one request; without, those of ``data``.
        save: a new folder for the edited model.
        patch: a file for the edits alone.
    """

    request: RequestConfig = field(default_factory=RequestConfig)
    host: Host = Host.native
    save: Text | None = None
    patch: Text | None = None


def run_edit(overrides: Sequence[str], console: Console) -> None:
    """Edit what the overrides name, one batch after another, and report the final model.

    Raises:
        AlphaEditError: something named there is missing or does not fit, or an edit failed; see
            `NullSpaceEditor`.
    """
    config = load_config(overrides, EditSettings)
    if config.host is Host.easyedit and (config.journal or config.patch):
        raise ConfigError("host=easyedit keeps no journal and no patch: use host=native")
    request = request_of(config)
    data = read_data(config) if request is None else EditData((request,))
    folder = None if config.save is None else empty_folder("save", config.save)
    patch = None if config.patch is None else Path(config.patch).expanduser()
    from alphaedit_plugin.patches.full_checkpoint import dtype_note, save_checkpoint
    from alphaedit_plugin.patches.patch import require_place, size_note
    from alphaedit_plugin.patches.sessions import save_session

    if patch is not None:
        require_place(patch)
    with working(config):
        editor = _edit(config, data, request, console)
        if patch is not None:
            save_session(editor.session, patch)
            say(console, size_note(editor.lm, patch))
        if folder is not None:
            save_checkpoint(editor.lm, folder)
            say(console, f"saved to {folder}{dtype_note(editor.lm, config.model.path)}")


def _edit(
    config: EditSettings, data: EditData, request: Request | None, console: Console
) -> NullSpaceEditor:
    """Edit, and show what the model answers before and after."""
    from alphaedit_plugin.editing.encoding import encode, encode_fitting, warn_of_shared_tokens
    from alphaedit_plugin.experiments.edit_report import (
        layer_table,
        projector_notes,
        request_table,
        summary,
        take,
        unlearnt_notes,
    )
    from alphaedit_plugin.metrics.easyedit import add_locality

    editor, check = _editor(config)
    lm, recipe = editor.lm, editor.recipe
    with editor.session.unedited():  # a journal's edits are in the model already
        if request is None:
            data, encoded = encode_fitting(lm, recipe, data, config.data, check)
        else:
            encoded = encode(lm, recipe, [request])
        before = take(lm, data.requests)
    warn_of_shared_tokens(encoded)
    failed = [
        request
        for step in editor.run(_still_to_edit(editor.session, encoded, console))
        if step.entry is not None
        for request in step.entry.failed
    ]
    after = take(lm, data.requests)
    for old, new in zip(before.metrics, after.metrics, strict=True):
        add_locality(old, new)
    editor.note(editor.session.journal, data.requests, after.metrics)
    console.print(request_table(data.requests, before, after, console.width >= NARROW))
    console.print(summary(after.metrics), highlight=False)
    for line in unlearnt_notes(editor.session, data.requests, after.metrics):
        say(console, line)
    for one in failed:
        why = "not edited, as the search for its target failed"
        say(console, f"{why}: {one.filled} → {one.target_new}")
    console.print(layer_table(editor.session, recipe))
    for note in projector_notes(editor.session, recipe):
        console.print(note, style="dim", highlight=False)
    return editor


def _editor(config: EditSettings) -> tuple[NullSpaceEditor, Callable[[Request], None]]:
    """An editor with our update functions or EasyEdit's, and what refuses a request besides it."""
    from alphaedit_plugin.editor import NullSpaceEditor
    from alphaedit_plugin.metrics.base import check_scored

    if config.host is Host.native:
        editor = NullSpaceEditor.from_config(config)
        return editor, partial(check_scored, editor.lm)
    from alphaedit_plugin.easyedit.host_engine import host_row, hosted_editor  # needs the host

    editor = hosted_editor(config)

    def check(request: Request) -> None:
        check_scored(editor.lm, request)
        host_row(request)

    return editor, check


def request_of(config: EditSettings) -> Request | None:
    """The one request of ``config.request``; ``None`` where there is none, but ``config.data``.

    Raises:
        ConfigError: the request is given in part, or with data.
        RequestError: the request cannot be edited as given.
    """
    parts = vars(config.request)
    missing = [name for name, text in parts.items() if text is None]
    if len(missing) == len(parts):
        return None
    if missing:
        raise ConfigError(
            f"request.{missing[0]} is not set: a request has request.prompt, request.subject "
            "and request.target_new"
        )
    if config.data != DataConfig():
        raise ConfigError("request.… and data… are both set: give one of them")
    return Request.parse(**parts)


def _still_to_edit(
    session: EditSession, encoded: Sequence[EncodedRequest], console: Console
) -> list[EncodedRequest]:
    """The requests that a journal does not hold yet, so that a killed run can be started again.

    One that a later edit contradicted is not held: its answer is asked for again.
    """
    held = session.standing
    lasting = standing([one.request for one in encoded])
    asked = [one for one in encoded if among(one.request, lasting)]
    new = [one for one in asked if one.request not in held]
    if len(new) < len(asked):
        say(console, f"in the journal already: {len(asked) - len(new)} of {len(asked)}")
    return new


COMMANDS.register(
    "edit",
    Command(
        "edit a model and show what it answers before and after",
        "Edits the request given by request.prompt, request.subject and request.target_new, "
        "or, without, the requests of data=…, in batches of batch_size.",
        (
            "alphaedit edit data.limit=20",
            "alphaedit edit base=rect model=gpt2-xl null_space=true model.layers=[13,14] "
            "request.prompt='The mother tongue of {} is' "
            "request.subject='Danielle Darrieux' request.target_new=English "
            "save=edited/",
        ),
        run_edit,
        EditSettings,
        memory="lower batch_size or model.target.budget, or set model.dtype=bfloat16",
    ),
)
