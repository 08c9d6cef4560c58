"""``alphaedit report``: one page that needs nothing else, and tables that agree with the runs."""

from __future__ import annotations

import base64
import itertools
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from alphaedit_plugin.cli.main import main
from alphaedit_plugin.experiments.bootstrap import Gain
from alphaedit_plugin.experiments.pictures import survival_matrix
from alphaedit_plugin.experiments.report import run_report
from alphaedit_plugin.experiments.studies import studies_of
from alphaedit_plugin.experiments.tables import main_table, terminal
from alphaedit_plugin.experiments.text_tables import text_tables
from tests.experiments.made import cell, seeds, write

PICTURES = ("curves", "gains", "survival", "shift", "norms", "abilities")


class Page(HTMLParser):
    """What is in a page, and whether its elements close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.images: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            assert dict(attrs)["alt"]
            self.images.append(dict(attrs)["src"] or "")
        elif tag not in ("meta",):
            self.open.append(tag)
        self.links += [v or "" for k, v in attrs if k in ("href", "src") and tag != "img"]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("runs")
    write(place / "sweep", seeds(3))
    write(place / "alone", [cell("rome", True, 0.9, data="counterfact-edit-2k.json")])
    out = place / "out"
    run_report([place / "sweep", place / "alone"], str(out), Console(quiet=True))
    return out


def test_the_page_holds_everything(folder: Path) -> None:
    page = Page((folder / "report.html").read_text(encoding="utf-8"))
    assert page.open == []
    assert page.links == []  # nothing from elsewhere
    assert len(page.images) == len(PICTURES) + len(PICTURES) - 1  # ROME alone has no gain
    for image in page.images:
        kind, data = image.split(",")
        assert kind == "data:image/png;base64"
        assert base64.b64decode(data).startswith(b"\x89PNG")


def test_tables_agree_with_the_runs(folder: Path) -> None:
    (study,) = studies_of(seeds(3))
    texts = [(folder / name).read_text(encoding="utf-8") for name in ("report.md", "report.tex")]
    plain, projected = study.pairs[0]
    for row in (plain, projected):
        spread = row.spread("score")
        assert spread is not None
        for text, sign in zip(texts, ("±", r"$\pm$"), strict=True):
            plainly = text.replace("\u00a0", " ").replace("~", " ")
            assert f"{spread.mean:.3f} {sign} {spread.deviation:.3f}" in plainly
    (line,) = [r for r in texts[0].splitlines() if r.startswith("| MEMIT | null space | **+")]
    assert line.count("**") % 2 == 0
    assert re.search(r"\+0\.\d{3} \[\+0\.\d{3},.\+0\.\d{3}\]", line)
    assert "tiny & co" in texts[0]
    assert r"tiny \& co" in texts[1]
    assert texts[1].count(r"\begin{tabular}") == texts[1].count(r"\end{tabular}") == 7


def test_general_abilities_have_their_table(folder: Path) -> None:
    page = (folder / "report.md").read_text(encoding="utf-8").replace("\u00a0", " ")
    row = next(line for line in page.splitlines() if line.startswith("| sst2.acc"))
    assert row.startswith("| sst2.acc | 0.500 | 0.470 ± 0.000 | **0.920 ± 0.000** |")


def test_every_row_is_as_wide_as_its_table(folder: Path) -> None:
    """What the data lacks (here: rephrasings) has no column anywhere."""
    lines = (folder / "report.md").read_text().replace("\\|", "").splitlines()
    assert not any("generalisation" in line for line in lines if line.startswith("|"))
    for above, line in itertools.pairwise(lines):
        if line.startswith("|") and above.startswith("|"):
            assert line.count("|") == above.count("|")


def test_less_perplexity_is_better(folder: Path) -> None:
    row = next(
        r for r in (folder / "report.md").read_text().splitlines() if r.startswith("| perplexity")
    )
    fields = [field.strip() for field in row.strip("|").split("|")]
    assert fields[3].startswith("**")  # MEMIT's null space
    assert not fields[2].startswith("**")


def test_the_terminal_shows_the_same_table(capsys: pytest.CaptureFixture[str]) -> None:
    (study,) = studies_of(seeds(1))
    table = main_table(study, {1: {"score": Gain(0.1234, 0.1, 0.15)}})
    Console(width=80).print(terminal(table, "After 30 edits"))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    memit = next(line for line in lines if "null space" in line).split()
    score = study.rows[1].first.final.score
    assert memit[-3:] == [f"{score:.3f}", "+0.123", "1.0e-07"]


def test_survival_is_edits_by_time() -> None:
    evaluations = [point.evaluation for point in cell("memit", True, 0.5).points]
    matrix = survival_matrix(evaluations)
    assert matrix.shape == (30, 3)
    for point, evaluation in enumerate(evaluations):
        row = evaluation.readings["efficacy.success"].totals
        assert tuple(matrix[: len(row), point]) == row
        assert np.isnan(matrix[len(row) :, point]).all()


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "run", seeds(1))
    out = tmp_path / "report"
    assert main(["report", str(tmp_path / "run"), f"out={out}"]) == 0
    assert f"report: {out / 'report.md'}, report.html" in capsys.readouterr().out
    assert (out / "curves-0.png").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "report takes folders of runs"),
        (["nowhere"], "no .*nowhere"),
        (["runs", "outt=x"], "report knows no 'outt'"),
        (["runs", "out=setup.cfg"], "is a file; give a folder"),
    ],
)
def test_what_cannot_be_reported_is_refused(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", *words]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_headings_count_and_name_once(tmp_path: Path) -> None:
    made = cell("memit", False, 0.5, edits=1)
    made = replace(made, setting=replace(made.setting, model="pocket", data="pocket"))
    write(tmp_path / "run", [made])
    run_report([tmp_path / "run"], str(tmp_path / "out"), Console(quiet=True))
    for name, heading in (
        ("report.md", "## pocket, 1 edit\n"),
        ("report.html", ">pocket, 1 edit<"),
    ):
        text = (tmp_path / "out" / name).read_text(encoding="utf-8")
        assert heading in text
        assert "1 sequential edit in batches" in text
        assert "Seconds do not compare methods" in text


def test_texts_before_and_after_are_shown_failures_first(folder: Path) -> None:
    (study,) = studies_of(seeds(3))
    (table,) = text_tables(study)
    assert table.head == ("prompt", "answer", "unedited", *(row.name for row in study.rows))
    assert len(table.rows) == 20
    right = [[field.best for field in row[3:]] for row in table.rows]
    assert [sum(row) for row in right] == sorted(sum(row) for row in right)
    by_prompt = {row[0].text: row for row in table.rows}
    for number, row in enumerate(study.rows):
        for text in row.cells[0].texts:
            if text.prompt in by_prompt:
                field = by_prompt[text.prompt][3 + number]
                assert (field.text, field.best) == (text.after, text.after == "Rome.")
    edits = zip(*(row.cells[0].texts for row in study.rows), strict=True)
    fails = [sum(text.after != "Rome." for text in texts) for texts in edits]
    assert sum(len(row) - sum(row) for row in right) == sum(sorted(fails)[-20:])
    page, text, tex = (
        (folder / name).read_text(encoding="utf-8")
        for name in ("report.html", "report.md", "report.tex")
    )
    assert "The capital of &lt;b&gt;" in page  # a text is no element
    assert "Paris, | I * think" in page
    assert "Paris, \\| I \\* think" in text
    assert "\\<b\\>" in text
    assert "Paris" not in tex


def test_without_texts_there_is_no_such_table() -> None:
    (study,) = studies_of([replace(one, texts=()) for one in seeds(1)])
    assert text_tables(study) == ()
