"""The benchmark as a table, a Markdown page and a JSON file."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.table import Table

from alphaedit_plugin.common.version import VERSION
from benchmarks.growth import Growth
from benchmarks.runs import TOLERANCE, Check, Row

PICTURE = "speed.png"
NAMES = {"rome": "ROME", "memit": "MEMIT", "alphaedit": "AlphaEdit"}
MEGABYTE = 2**20


@dataclass
class Results:
    """Everything that was measured.

    Attributes:
        settings: of the command.
        rows: seconds by method, side and batch.
        checks: whether the sides agree.
        once: seconds of what is done once per model, by name: (plain, ours).
        growth: with edits so far, in the model and in one wide block.
        skipped: why the host's own methods did not run; ``None`` where they did.
    """

    settings: dict[str, Any]
    rows: list[Row] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    once: dict[str, tuple[float, float]] = field(default_factory=dict)
    growth: list[Growth] = field(default_factory=list)
    skipped: str | None = None

    @property
    def agree(self) -> bool:
        """No check failed, and no closed form after many edits."""
        grown = all(g.apart <= TOLERANCE["deltas"] for g in self.growth)
        return grown and all(check.holds is not False for check in self.checks)

    def row(self, method: str, side: str, batch: int) -> Row | None:
        """The row of a method, side and batch."""
        wanted = (method, side, batch)
        return next((r for r in self.rows if (r.method, r.side, r.batch) == wanted), None)


EDIT_HEADINGS = (
    "method", "batch", "side", "targets", "keys", "solve", "write", "s / edit", "faster", "peak MB",
)  # fmt: skip
CHECK_HEADINGS = ("method", "sides", "batch", "targets apart", "deltas apart", "agree")
GROWTH_HEADINGS = (
    "shape", "d_in", "batch", "so far", "plain solve", "ours solve", "faster", "ours keys",
    "ours write", "plain peak MB", "ours peak MB", "plain keeps MB", "ours keeps MB", "apart",
)  # fmt: skip


def edit_rows(results: Results) -> list[list[str]]:
    """Seconds per edit; how many times faster ours is stands on the other side's line."""
    lines = []
    for row in sorted(results.rows, key=lambda r: (list(NAMES).index(r.method), r.batch)):
        ours = results.row(row.method, "ours", row.batch)
        ratio = ""
        if ours is not None and row is not ours:
            ratio = f"{row.seconds.total / ours.seconds.total:.1f}×"
        star = "" if row.measured == row.batch else "*"
        seconds = row.seconds
        phases = [f"{seconds.targets:.3f}{star}", f"{seconds.keys:.3f}{star}"]
        phases += [f"{seconds.solve:.4f}", f"{seconds.write:.4f}", f"{seconds.total:.3f}{star}"]
        name = NAMES[row.method]
        lines.append([name, str(row.batch), row.side, *phases, ratio, _megabytes(row.peak)])
    return lines


def check_rows(results: Results) -> list[list[str]]:
    """How far the sides are apart."""
    verdicts = {True: "yes", False: "NO", None: "half precision"}
    return [
        [
            NAMES[c.method], c.sides, str(c.batch),
            "–" if c.targets is None else f"{c.targets:.1e}",
            f"{c.deltas:.1e}", verdicts[c.holds],
        ]
        for c in results.checks
    ]  # fmt: skip


def growth_rows(results: Results) -> list[list[str]]:
    """Seconds of a batch, and bytes used and kept, over the number of edits so far."""
    return [
        [
            g.name, str(g.d_in), str(g.batch), str(g.history), f"{g.plain:.3f}",
            f"{g.ours.solve:.3f}", f"{g.plain / g.ours.solve:.1f}×", f"{g.ours.keys:.3f}",
            f"{g.ours.write:.3f}", *map(_megabytes, (*g.peaks, *g.held)), f"{g.apart:.1e}",
        ]
        for g in results.growth
    ]  # fmt: skip


def sections(results: Results) -> list[tuple[str, Sequence[str], list[list[str]]]]:
    """Title, headings and rows of each table."""
    return [
        ("Seconds per edit", EDIT_HEADINGS, edit_rows(results)),
        ("Do the sides agree?", CHECK_HEADINGS, check_rows(results)),
        ("AlphaEdit over edits so far, seconds per batch", GROWTH_HEADINGS, growth_rows(results)),
        (
            "Once per model and layer, seconds",
            ("", "plain", "ours"),
            [[name, f"{a:.2f}", f"{b:.2f}"] for name, (a, b) in results.once.items()],
        ),
    ]


def tables(results: Results) -> list[Table]:
    """For a terminal."""
    made = []
    for title, headings, lines in sections(results):
        table = Table(
            title=title, title_justify="left", box=box.SIMPLE_HEAD, header_style="bold",
            padding=(0, 1, 0, 0),
        )  # fmt: skip
        for number, heading in enumerate(headings):
            table.add_column(heading, justify="right" if number else "left")
        for line in lines:
            table.add_row(*line)
        made.append(table)
    return made


def notes(results: Results) -> list[str]:
    """What the tables do not say."""
    lines = [
        "plain: the published algorithms, one request at a time (benchmarks/plain.py); ours: "
        "engine.apply_batch; host: EasyEdit's own. `faster`: how many times ours is.",
        "*: timed on fewer edits than the batch has. Plain's searches cost the same for every "
        "request; its keys, 128 sentences to a forward pass, would cost somewhat less in the whole "
        "batch: --plain-edits times more of them. Its closed forms ran on the whole batch; the "
        "host's are taken to cost what they did on the fewer edits, which is the least they can.",
        "Where no targets are compared, the published closed forms ran on the very problems that "
        "our engine solved.",
        f"Agree: targets within {TOLERANCE['targets']:g}, deltas within {TOLERANCE['deltas']:g}, "
        "relative. Weights are random: no search ends early, so every one takes all its steps.",
        "P is compared in float64; the published float32 is what is timed. Peaks on a CPU are of "
        "resident memory, and miss what fits into pages kept from earlier work.",
        "Edits so far are random keys of the right shape, in batches of 100. Kept between batches: "
        "plain's P, KpKpᵀ and copies of the weights; all that our session and projectors hold.",
    ]
    if results.skipped:
        lines.append(f"The host did not run: {results.skipped}")
    return lines


def markdown(results: Results) -> str:
    """The report page."""
    lines = ["# Speed and memory", "", f"`{results.settings['command']}`", ""]
    lines += [f"alphaedit-plugin {VERSION}, {machine(results)}", ""]
    for title, headings, body in sections(results):
        rule = ["---", *["--:"] * (len(headings) - 1)]
        lines += [f"## {title}", ""]
        lines += ["| " + " | ".join(line) + " |" for line in [list(headings), rule, *body]]
        lines.append("")
    lines += [f"![seconds and memory over batch size and edits so far]({PICTURE})", ""]
    return "\n".join(lines + [f"- {note}" for note in notes(results)]) + "\n"


def machine(results: Results) -> str:
    """What it ran on."""
    place = results.settings["device"]
    if place.startswith("cuda"):
        place = torch.cuda.get_device_name(place)
    return (
        f"torch {torch.__version__} on {place}, {torch.get_num_threads()} threads, "
        f"Python {platform.python_version()}"
    )


def as_json(results: Results) -> str:
    """Everything that was measured."""
    document = asdict(results) | {"version": VERSION, "machine": machine(results)}
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def write(results: Results, folder: Path) -> None:
    """Write the page and the numbers into ``folder``; the picture is drawn by `plots`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "speed.json").write_text(as_json(results), encoding="utf-8")
    (folder / "speed.md").write_text(markdown(results), encoding="utf-8")


def _megabytes(count: int | None) -> str:
    return "" if count is None else f"{count / MEGABYTE:.0f}"
