"""``alphaedit export``: a patch in the forms that other programs read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic.dataclasses import dataclass
from rich.console import Console
from rich.table import Table

from alphaedit_plugin.cli.base import COMMANDS, Command, split_words, working
from alphaedit_plugin.common.console import plain_table, say
from alphaedit_plugin.common.errors import ConfigError
from alphaedit_plugin.common.files import empty_folder
from alphaedit_plugin.common.validation import STRICT, Positive, Text
from alphaedit_plugin.config.compose import load_config
from alphaedit_plugin.config.schema import MethodSettings

if TYPE_CHECKING:
    from alphaedit_plugin.common.delta import LowRank

FLAG = "--format"
SERVED = (8, 16, 32, 64, 128, 256, 320, 512)  # what vLLM's max_lora_rank may be


class Format(str, Enum):
    """A LoRA adapter, or a whole checkpoint."""

    peft = "peft"
    full = "full"


@dataclass(config=STRICT)
class ExportSettings(MethodSettings):
    """What ``alphaedit export`` reads.

    Attributes:
        format: see `Format`.
        out: a new folder.
        rank: of an adapter, at most; ``None`` for all that the edits have.
    """

    format: Format = Format.peft
    out: Text = "exported"
    rank: Positive | None = None


def run_export(words: Sequence[str], console: Console) -> None:
    """Apply a patch to a fresh model and write it in the form that is asked for.

    Raises:
        AlphaEditError: the folder is taken, the patch is refused (see `load_session`), or
            nothing can be written.
    """
    (path,), overrides = split_words("export", ("PATCH",), without_flags(words))
    config = load_config(overrides, ExportSettings)
    if config.format is Format.full and config.rank is not None:
        raise ConfigError("rank is for --format peft: a whole checkpoint has no rank")
    folder = empty_folder("out", config.out)
    from alphaedit_plugin.config.build import load_model
    from alphaedit_plugin.patches.full_checkpoint import dtype_note, save_checkpoint
    from alphaedit_plugin.patches.lora_adapter import save_adapter, session_layers
    from alphaedit_plugin.patches.sessions import load_session

    with working(config):
        session = load_session(load_model(config.model), Path(path).expanduser())
        if config.format is Format.full:
            save_checkpoint(session.lm, folder)
            note = dtype_note(session.lm, config.model.path)
            say(console, f"the edited model is in {folder}{note}")
            return
        layers = session_layers(session, config.rank)
        save_adapter(session.lm, layers, folder)
        console.print(rank_table(layers))
        say(console, server_note(max(delta.rank for delta in layers.values())))
        say(console, f"the adapter is in {folder}")


def without_flags(words: Sequence[str]) -> list[str]:
    """The words with ``--format full`` as ``format=full``, and ``--rank=8`` as ``rank=8``.

    Raises:
        ConfigError: ``--format`` is followed by nothing.
    """
    given = list(words)
    while FLAG in given:
        place = given.index(FLAG)
        if place + 1 == len(given):
            raise ConfigError(f"{FLAG} needs one: {FLAG} peft or {FLAG} full")
        given[place : place + 2] = [f"format={given[place + 1]}"]
    return [word.removeprefix("--") if "=" in word else word for word in given]


def server_note(highest: int) -> str:
    """What a server has to be told of an adapter's highest rank."""
    allowed = next((rank for rank in SERVED if rank >= highest), None)
    if allowed is None:
        return (
            f"highest rank {highest}: vLLM serves up to {SERVED[-1]}; export with rank={SERVED[-1]}"
        )
    return f"highest rank {highest}: vllm serve … --enable-lora --max-lora-rank {allowed}"


def rank_table(layers: Mapping[int, LowRank]) -> Table:
    """Per layer its rank, that of the whole delta, and what truncation loses."""
    table = plain_table([], ["layer", "rank", "of", "lost ‖Δ′ − Δ‖/‖Δ‖"])
    for layer, delta in layers.items():
        table.add_row(str(layer), str(delta.rank), str(delta.full_rank), f"{delta.error:.2g}")
    return table


COMMANDS.register(
    "export",
    Command(
        "write a patch as a LoRA adapter, or as a whole edited model",
        "--format peft, the default, writes what the edits add as an adapter that peft and vLLM "
        "load beside the unedited model; rank=16 keeps only 16 dimensions of each layer and "
        "says what that loses. --format full writes an edited checkpoint for from_pretrained.",
        (
            "alphaedit export edits.safetensors model=gpt2-xl out=adapter",
            "alphaedit export edits.safetensors model=pocket --format full out=edited",
        ),
        run_export,
        ExportSettings,
        usage="PATCH [--format peft|full] out=FOLDER [rank=N] [key=value …]",
    ),
)
