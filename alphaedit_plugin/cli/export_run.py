"""What ``alphaedit export`` does: a patch, as an adapter or as a whole edited model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

from alphaedit_plugin.common.console import say
from alphaedit_plugin.common.delta import Delta, LowRank, factorise
from alphaedit_plugin.common.errors import ConfigError
from alphaedit_plugin.common.files import empty_folder
from alphaedit_plugin.config.build import load_model
from alphaedit_plugin.config.schema import EditorConfig, ExportFormat
from alphaedit_plugin.editing.session import EditSession
from alphaedit_plugin.patches.full_checkpoint import dtype_note, save_checkpoint
from alphaedit_plugin.patches.lora_adapter import save_adapter
from alphaedit_plugin.patches.sessions import load_session

SERVED = (8, 16, 32, 64, 128, 256, 320, 512)  # what vLLM's max_lora_rank may be


def run_export(patch: Path, config: EditorConfig, console: Console) -> None:
    """Apply a patch to a fresh model and write what ``config.export`` asks for.

    Raises:
        AlphaEditError: the folder is taken, the patch is refused (see `load_session`), or
            nothing can be written.
    """
    settings = config.export
    if settings.format is ExportFormat.full and settings.rank is not None:
        raise ConfigError("export.rank is for --format peft: a whole checkpoint has no rank")
    folder = empty_folder("export.out", settings.out)
    session = load_session(load_model(config.model), patch)
    if settings.format is ExportFormat.full:
        save_checkpoint(session.lm, folder)
        note = dtype_note(session.lm, config.model.path)
        say(console, f"the edited model is in {folder}{note}")
        return
    layers = session_layers(session, settings.rank)
    save_adapter(session.lm, layers, folder)
    console.print(rank_table(layers))
    say(console, server_note(max(delta.rank for delta in layers.values())))
    say(console, f"the adapter is in {folder}")


def session_layers(session: EditSession, rank: int | None = None) -> dict[int, LowRank]:
    """What a session has added to each layer, in at most ``rank`` dimensions."""
    deltas: dict[int, list[Delta]] = {}
    for entry in session.journal:
        for write in entry.writes:
            deltas.setdefault(write.layer, []).append(write.delta)
    return {layer: factorise(Delta.joined(deltas[layer]), rank) for layer in sorted(deltas)}


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
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("layer", "rank", "of", "lost ‖Δ′ − Δ‖/‖Δ‖"):
        table.add_column(name, justify="right")
    for layer, delta in layers.items():
        table.add_row(str(layer), str(delta.rank), str(delta.full_rank), f"{delta.error:.2g}")
    return table
