"""WikiBigEdit: facts that changed in Wikidata, as its authors publish it or in EasyEdit's layout.

Thede et al. 2025, https://arxiv.org/abs/2503.05683. ``update`` is the question and ``ans`` its
new answer; ``rephrase`` asks it in other words, ``personas`` as some person would, ``mhop``
something that follows from it, and ``loc`` is a question that is like it, about another subject.
"""

from __future__ import annotations

from alphaedit_plugin.data.base import DATA
from alphaedit_plugin.data.fields import Fields
from alphaedit_plugin.data.request import NEIGHBOURHOOD, Probe, Request
from alphaedit_plugin.data.sets.mquake import MULTI_HOP
from alphaedit_plugin.data.source import FileData, FileOptions

PERSONAS = "personas"


def read_wikibigedit(record: Fields, options: FileOptions) -> list[Request]:
    """The request of one record.

    Raises:
        RequestError: it lacks a part, or cannot be edited as given.
    """
    target = record.text("ans", "target_new")
    personas = record.texts(PERSONAS, note=False)
    hops = _question(record, MULTI_HOP, "mhop", "mhop_ans")
    if personas:
        hops[PERSONAS] = Probe(personas, (target,) * len(personas))
    return [
        Request.parse(
            record.text("update", "prompt"),
            record.text("subject"),
            target,
            rephrase=record.texts("rephrase", "rephrase_prompt"),
            locality=_question(record, NEIGHBOURHOOD, "loc", "loc_ans")
            or _question(record, NEIGHBOURHOOD, "locality_prompt", "locality_ground_truth"),
            portability=hops,
            case_id=str(record.number),
        )
    ]


def _question(record: Fields, name: str, prompt: str, answer: str) -> dict[str, Probe]:
    """The probe ``name``; none where the question or its answer is missing, as they often are."""
    question, wanted = record.maybe(prompt), record.maybe(answer)
    return {name: Probe((question,), (wanted,))} if question and wanted else {}


DATA.register(
    "wikibigedit",
    FileData(
        "a JSON file of WikiBigEdit",
        "https://huggingface.co/datasets/lukasthede/WikiBigEdit",
        read_wikibigedit,
    ),
)
