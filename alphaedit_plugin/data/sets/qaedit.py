"""QAEdit: questions of NQ, TriviaQA and SimpleQA with their right answers.

Yang et al. 2025, https://arxiv.org/abs/2502.11177. Its ``locality`` is a list of unrelated
questions (``loc``, ``loc_ans``), which are asked as the file has them.
"""

from __future__ import annotations

from alphaedit_plugin.data.base import DATA
from alphaedit_plugin.data.fields import Fields
from alphaedit_plugin.data.request import NEIGHBOURHOOD, Probe, Request, Row
from alphaedit_plugin.data.source import FileData, FileOptions


def read_qaedit(record: Fields, options: FileOptions) -> list[Request]:
    """The request of one record.

    Raises:
        RequestError: it lacks a part, or cannot be edited as given.
    """
    return [
        Request.parse(
            record.text("prompt"),
            record.text("subject"),
            record.text("target"),
            rephrase=record.texts("rephrase"),
            locality=_neighbourhood(record),
            case_id=record.label("id") or str(record.number),
        )
    ]


def _neighbourhood(record: Fields) -> dict[str, Probe]:
    rows: list[Row] = []
    for entry in record.children("locality"):
        question, answer = entry.maybe("loc"), entry.maybe("loc_ans")
        if question is None or answer is None:
            entry.note(f"{entry.path}{'loc' if question is None else 'loc_ans'} is blank")
        else:
            rows.append((question, answer, ()))
    return {NEIGHBOURHOOD: Probe.of(rows)} if rows else {}


DATA.register(
    "qaedit",
    FileData(
        "QAEdit_inter_1k.json",
        "https://github.com/WanliYoung/Revisit-Editing-Evaluation/tree/main/data",
        read_qaedit,
    ),
)
