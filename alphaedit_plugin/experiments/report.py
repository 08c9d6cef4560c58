"""``alphaedit report``: cells put together into one page, tables to publish, and pictures."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure
from rich.console import Console

from alphaedit_plugin.common.console import say
from alphaedit_plugin.common.errors import ConfigError, counted
from alphaedit_plugin.common.files import replacing, writable_folder
from alphaedit_plugin.common.plotting import save
from alphaedit_plugin.common.version import VERSION
from alphaedit_plugin.experiments import pictures, tables
from alphaedit_plugin.experiments.bootstrap import gains
from alphaedit_plugin.experiments.results import METRICS, Cell, read_cell
from alphaedit_plugin.experiments.studies import Study, studies_of
from alphaedit_plugin.experiments.tables import Table
from alphaedit_plugin.experiments.text_tables import text_tables

MARKDOWN, HTML, LATEX = "report.md", "report.html", "report.tex"
TEMPLATE = "page.html.j2"

Draw = Callable[[Study, tables.Gains], Figure | None]
# What is drawn of each study, and the caption.
PICTURES: tuple[tuple[str, Draw, str], ...] = (
    (
        "curves",
        lambda study, _: pictures.curves(study),
        "Metrics over the number of sequential edits: plain dashed, null space solid; bands are "
        "one standard deviation over seeds; dotted is the unedited model. The axis need not begin "
        "at 0.",
    ),
    (
        "gains",
        lambda study, gains: pictures.gain_bars(study, gains) if gains else None,
        "Gain of each projected base over its plain self, with 95 % bootstrap intervals.",
    ),
    (
        "survival",
        lambda study, _: pictures.survival(study),
        "Forgetting: whether each edit (from bottom to top, in order) still held after later "
        "ones: the new answer likelier than the old. In the titles, the share that holds in the "
        "end.",
    ),
    (
        "shift",
        lambda study, _: pictures.shifts(study),
        "Hidden states of untouched prompts (last block, last token) before and after all edits, "
        "on their first two principal components (each panel's own); all panels to the same "
        "scale. In the titles, the mean shift in all dimensions, in units of the states' mean "
        "distance from their center.",
    ),
    (
        "norms",
        lambda study, _: pictures.norms(study),
        "Norm of the accumulated delta relative to the weight's, the largest of all layers.",
    ),
    (
        "abilities",
        lambda study, _: pictures.abilities(study),
        "General abilities over the number of edits, by lm-evaluation-harness.",
    ),
)


@dataclass(frozen=True)
class Picture:
    """A picture of a section."""

    name: str  # of its file, without the ending
    figure: Figure
    caption: str

    @property
    def share(self) -> int:
        """Per cent of a page's width, so that letters are of the same size in all pictures."""
        return round(100 * self.figure.get_figwidth() / pictures.WIDTH)


@dataclass(frozen=True)
class Section:
    """What a report says about one study; the first of its tables is the main one.

    Attributes:
        texts: tables of texts, for a page but not for a paper.
    """

    study: Study
    tables: tuple[Table, ...]
    pictures: tuple[Picture, ...]
    texts: tuple[Table, ...] = ()

    @property
    def title(self) -> str:
        """The study's heading."""
        setting = self.study.setting
        named = dict.fromkeys((setting.model, setting.data))  # the pocket model's are the same
        other = ["other requests"] if self.study.other else []
        return ", ".join([*named, counted(setting.edits, "edit"), *other])

    @property
    def settings(self) -> list[str]:
        """What each row was run with."""
        return [
            f"{row.name}: "
            + ", ".join(f"{key} {value}" for key, value in row.first.settings.items())
            for row in self.study.rows
        ]

    @property
    def commands(self) -> list[str]:
        """What was typed."""
        return list(dict.fromkeys(cell.command for cell in self.study.cells))


def run_report(paths: Sequence[Path], out: str, console: Console, show: bool = False) -> None:
    """Read cells, and write ``report.html``, ``.md``, ``.tex`` and a PNG file per picture.

    Args:
        paths: folders of cells, or of folders of cells.
        out: the folder to write to.
        console: where it says what was written, and the main tables where ``show``.
        show: see ``console``.

    Raises:
        ConfigError: no cell, a damaged one, or a folder that cannot be written to.
    """
    folder = report_folder("out", out)
    sections = [section_of(number, study) for number, study in enumerate(studies_of(read(paths)))]
    for section in sections if show else ():  # first, as writing can still fail
        edits = counted(section.study.setting.edits, "sequential edit")
        other = ", other requests" if section.study.other else ""
        console.print(tables.terminal(section.tables[0], f"After {edits}{other}"))
    for section in sections:
        for picture in section.pictures:
            save(picture.figure, folder / f"{picture.name}.png")
    for name, text in (
        (MARKDOWN, _markdown(sections)),
        (LATEX, _latex(sections)),
        (HTML, _html(sections, folder)),
    ):
        with replacing(folder / name) as unfinished:
            unfinished.write_text(text, encoding="utf-8")
    say(console, f"report: {folder / MARKDOWN}, {HTML}, {LATEX}")


def report_folder(name: str, out: str) -> Path:
    """The folder of a report, tried now, so that a long run does not end in an error.

    Args:
        name: of the setting, for the message.
        out: its value.

    Raises:
        ConfigError: it cannot be written to, or a folder is where a file of the report goes.
    """
    folder = writable_folder(name, out)
    for file in (MARKDOWN, HTML, LATEX):
        if (folder / file).is_dir():
            raise ConfigError(f"{name}={out} cannot be written: {file} in it is a folder")
    return folder


def read(paths: Sequence[Path]) -> list[Cell]:
    """All cells in the given folders and below.

    Raises:
        ConfigError: a folder without a cell, or a damaged one.
    """
    files: list[Path] = []
    for path in paths:
        deeper = sorted(path.rglob(METRICS)) if path.is_dir() else []
        files += deeper or [path]
    if not files:
        raise ConfigError("no cell: give the folders that alphaedit compare has written")
    return [read_cell(path) for path in dict.fromkeys(path.absolute() for path in files)]


def section_of(number: int, study: Study) -> Section:
    """Tables and pictures of the ``number``-th study."""
    known = {
        study.rows.index(projected): columns
        for plain, projected in study.pairs
        if (columns := gains(plain, projected))
    }
    shown = [
        tables.main_table(study, known),
        tables.gain_table(study, known),
        tables.full_table(study),
        tables.abilities_table(study),
    ]
    drawn = [(name, draw(study, known), caption) for name, draw, caption in PICTURES]
    return Section(
        study,
        tuple(table for table in shown if table.rows),
        tuple(
            Picture(f"{name}-{number}", figure, caption)
            for name, figure, caption in drawn
            if figure is not None
        ),
        text_tables(study),
    )


def _markdown(sections: Sequence[Section]) -> str:
    lines = ["# Plain and null-space editing", ""]
    for section in sections:
        lines += [f"## {section.title}", ""]
        for table in section.tables:
            lines += [tables.markdown(table), ""]
        for picture in section.pictures:
            lines += [f"![{picture.caption}]({picture.name}.png)", "", f"*{picture.caption}*", ""]
        for table in section.texts:
            lines += [tables.markdown(table), ""]
        lines += ["Settings:", "", *(f"- {line}" for line in section.settings), ""]
        lines += [f"Made with (alphaedit-plugin {VERSION}):", ""]
        lines += [*(f"    {command}" for command in section.commands), ""]
    return "\n".join(lines)


def _latex(sections: Sequence[Section]) -> str:
    written = [tables.latex(table) for section in sections for table in section.tables]
    return "% needs \\usepackage{booktabs,graphicx}\n" + "\n\n".join(written) + "\n"


def _html(sections: Sequence[Section], folder: Path) -> str:
    """One page that needs nothing else: the pictures, saved in ``folder``, are in it."""
    environment = Environment(
        loader=PackageLoader(__package__, ""), autoescape=True,
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip

    def image(name: str) -> str:
        data = base64.b64encode((folder / f"{name}.png").read_bytes()).decode()
        return f"data:image/png;base64,{data}"

    return environment.get_template(TEMPLATE).render(
        sections=sections, image=image, version=VERSION
    )
