"""``alphaedit report``: runs put together into one page, tables to publish, and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure
from rich.console import Console

from alphaedit_plugin.common.console import say
from alphaedit_plugin.common.errors import ConfigError, counted
from alphaedit_plugin.common.files import writable_folder, writing
from alphaedit_plugin.common.plotting import save
from alphaedit_plugin.experiments import pictures, tables
from alphaedit_plugin.experiments.bootstrap import gains
from alphaedit_plugin.experiments.page import render
from alphaedit_plugin.experiments.paper import paper_table
from alphaedit_plugin.experiments.results import METRICS, Run, read_run
from alphaedit_plugin.experiments.studies import Study, studies_of

HTML, MARKDOWN, LATEX = "report.html", "report.md", "report.tex"


@dataclass(frozen=True)
class Picture:
    """A picture of a section.

    Attributes:
        name: of its file, without the ending.
        figure: what is drawn.
        caption: what it shows, and how to read it.
    """

    name: str
    figure: Figure
    caption: str

    @property
    def share(self) -> int:
        """How much of a page's width it takes, in per cent, so that its letters are as large."""
        return round(100 * self.figure.get_figwidth() / pictures.WIDTH)


@dataclass(frozen=True)
class Section:
    """What a report says about one study."""

    study: Study
    tables: tuple[tables.Table, ...]
    pictures: tuple[Picture, ...]

    @property
    def title(self) -> str:
        """The study's heading."""
        setting = self.study.setting
        named = dict.fromkeys((setting.model, setting.data))  # which of the pocket model are one
        return ", ".join([*named, counted(setting.edits, "edit")])


def run_report(paths: Sequence[Path], out: str, console: Console) -> None:
    """Read runs, and write ``report.html``, ``.md``, ``.tex`` and a PNG file per picture.

    Args:
        paths: folders of runs, or of folders of runs.
        out: the folder to write to.
        console: where it is told what was written.

    Raises:
        ConfigError: no run, a damaged one, or a folder that cannot be written to.
    """
    folder = writable_folder("out", out)
    sections = [section_of(number, study) for number, study in enumerate(studies_of(read(paths)))]
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for section in sections:
        for picture in section.pictures:
            save(picture.figure, folder / f"{picture.name}.png")
    for name, text in (
        (MARKDOWN, _markdown(sections)),
        (LATEX, _latex(sections)),
        (HTML, render(sections, folder)),
    ):
        with writing(folder / name):
            (folder / name).write_text(text, encoding="utf-8")
    say(console, f"report: {folder / HTML}, {MARKDOWN}, {LATEX}")


def read(paths: Sequence[Path]) -> list[Run]:
    """All runs in the given folders and below.

    Raises:
        ConfigError: a folder without a run, or a damaged one.
    """
    found: list[Path] = []
    for path in paths:
        deeper = sorted(path.rglob(METRICS)) if path.is_dir() else []
        found += deeper or [path]
    if not found:
        raise ConfigError("no run: give the folders that alphaedit compare has written")
    return [read_run(path) for path in dict.fromkeys(path.absolute() for path in found)]


def section_of(number: int, study: Study) -> Section:
    """Tables and pictures of the ``number``-th study."""
    entries = study.entries
    known = {
        entries.index(projected): found
        for plain, projected in study.pairs
        if (found := gains(plain, projected))
    }
    paper = paper_table(study)
    shown = [tables.main_table(study, known)]
    shown += [tables.gain_table(study, known)] if known else []
    shown += [paper] if paper is not None else []
    abilities = tables.abilities_table(study)
    shown += [tables.full_table(study)] + ([abilities] if abilities is not None else [])
    drawn = [
        ("curves", pictures.curves(study), CURVES),
        ("gains", pictures.gain_bars(study, known) if known else None, GAINS),
        ("survival", pictures.survival(study, "success"), SURVIVED),
        ("shift", pictures.shifts(study), SHIFTED),
        ("norms", pictures.norms(study), NORMS),
        ("abilities", pictures.abilities(study), ABILITIES),
    ]
    kept = [
        Picture(f"{name}-{number}", figure, caption)
        for name, figure, caption in drawn
        if figure is not None
    ]
    return Section(study, tuple(shown), tuple(kept))


CURVES = (
    "Metrics over the number of sequential edits: plain dashed, null space solid; bands are one "
    "standard deviation over seeds; dotted is the unedited model. The axis need not begin at 0."
)
GAINS = "Gain of each projected base over its plain self, with 95 % bootstrap intervals."
SURVIVED = (
    "Forgetting: whether each edit (from bottom to top, in order) still held after later ones: the "
    "new answer likelier than the old. In the titles, the share that holds in the end."
)
SHIFTED = (
    "Hidden states of untouched prompts (last block, last token) before and after all edits, on "
    "their first two principal components (each panel's own); all panels to the same scale. In "
    "the titles, the mean shift in all dimensions, in units of the states' mean distance from "
    "their centre."
)
ABILITIES = "General abilities over the number of edits, by lm-evaluation-harness."
NORMS = "Norm of the accumulated delta relative to the weight's, the largest of all layers."


def _markdown(sections: Sequence[Section]) -> str:
    lines = ["# Plain and null-space editing", ""]
    for section in sections:
        lines += [f"## {section.title}", ""]
        for table in section.tables:
            lines += [tables.markdown(table), ""]
        for picture in section.pictures:
            lines += [f"![{picture.caption}]({picture.name}.png)", "", f"*{picture.caption}*", ""]
        lines += ["Made with:", "", *(f"    {run.command}" for run in section.study.runs), ""]
    return "\n".join(lines)


def _latex(sections: Sequence[Section]) -> str:
    found = [tables.latex(table) for section in sections for table in section.tables]
    return "% needs \\usepackage{booktabs,graphicx}\n" + "\n\n".join(found) + "\n"
