"""EasyEdit's JSON layout of CounterFact: flat records with one rephrasing and one neighbour."""

from __future__ import annotations

from alphaedit_plugin.data.base import DATA
from alphaedit_plugin.data.fields import Fields
from alphaedit_plugin.data.request import NEIGHBOURHOOD, Request
from alphaedit_plugin.data.source import FileData, FileOptions


def read_easyedit(record: Fields, options: FileOptions) -> list[Request]:
    """The request of one record.

    Raises:
        RequestError: it lacks a part, or cannot be edited as given.
    """
    return [
        Request.parse(
            record.text("prompt"),
            record.text("subject"),
            record.text("target_new"),
            ground_truth=record.maybe("ground_truth"),
            rephrase=record.texts("rephrase_prompt"),
            locality=record.pairs(NEIGHBOURHOOD, "locality_prompt", "locality_ground_truth"),
            portability=record.pairs(
                "portability", "portability_prompt", "portability_ground_truth"
            ),
            case_id=record.label("case_id"),
        )
    ]


DATA.register(
    "easyedit",
    FileData(
        "counterfact-edit.json",
        "https://drive.google.com/file/d/1WRo2SqqgNtZF11Vq0sF5nL_-bHi18Wi4/view",
        read_easyedit,
    ),
)
