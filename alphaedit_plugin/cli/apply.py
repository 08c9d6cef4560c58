"""``alphaedit apply``: put a patch's edits into a model."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic.dataclasses import dataclass
from rich.console import Console

from alphaedit_plugin.cli.base import COMMANDS, Command, split_words, working
from alphaedit_plugin.cli.patching import (
    apply_patch,
    config_for,
    exactness,
    read_patch_or_journal,
)
from alphaedit_plugin.common.console import say
from alphaedit_plugin.common.errors import counted
from alphaedit_plugin.common.files import empty_folder
from alphaedit_plugin.common.validation import STRICT, Text
from alphaedit_plugin.config.schema import MethodSettings


@dataclass(config=STRICT)
class ApplySettings(MethodSettings):
    """What ``alphaedit apply`` reads.

    Attributes:
        force: apply a patch although it was made for another model or other weights.
        save: a new folder for the edited model.
    """

    force: bool = False
    save: Text | None = None


def run_apply(words: Sequence[str], console: Console) -> None:
    """Apply a patch to a fresh copy of its model, and save that.

    Raises:
        AlphaEditError: see `load_session`; or ``save`` cannot be written.
    """
    (path,), overrides = split_words("apply", ("PATCH",), words)
    config = config_for(path, overrides, ApplySettings)
    folder = None if config.save is None else empty_folder("save", config.save)
    from alphaedit_plugin.config.build import load_model
    from alphaedit_plugin.patches.full_checkpoint import dtype_note, save_checkpoint

    with working(config):
        lm = load_model(config.model)
        patch = read_patch_or_journal(path, lm)
        session = apply_patch(path, lm, patch, config.force)
        count = counted(len(session.requests), "edit")
        say(console, f"{path}: {count} for {patch.header.model}")
        say(console, exactness(session, patch))
        if folder is None:
            say(console, "nothing was saved: save=<a new folder> writes the model")
        else:
            save_checkpoint(lm, folder)
            say(console, f"saved to {folder}{dtype_note(lm, config.model.path)}")


COMMANDS.register(
    "apply",
    Command(
        "put the edits of a patch into a fresh copy of its model",
        "The weights become those of the editing run, bit for bit in the same dtype; save=… writes "
        "the model. A patch made for another model is refused, unless force=true.",
        (
            "alphaedit apply edits.safetensors save=edited/",
            "alphaedit apply edits.safetensors model=gpt2-xl save=edited/",
        ),
        run_apply,
        ApplySettings,
        usage="PATCH [key=value …]",
    ),
)
