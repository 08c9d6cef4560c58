"""KnowEdit's JSON: wiki_recent, wiki_counterfact, WikiBio and ZsRE.

Zhang et al. 2024, https://arxiv.org/abs/2401.01286.

Locality and portability hold lists of questions under the names of what they test
(``Relation_Specificity``, ``Reasoning``, …), which become the names of probes. WikiBio calls
subject, prompt and target ``concept``, ``text`` and ``labels``. An answer may be a text, a list,
or a list of lists: the first one is wanted, the others are as right.
"""

from __future__ import annotations

from alphaedit_plugin.data.base import DATA
from alphaedit_plugin.data.fields import Fields
from alphaedit_plugin.data.request import Probe, Request
from alphaedit_plugin.data.source import FileData, FileOptions


def read_knowedit(record: Fields, options: FileOptions) -> list[Request]:
    """The request of one record.

    Raises:
        RequestError: it lacks a part, or cannot be edited as given.
    """
    return [
        Request.parse(
            record.text("prompt", "text"),
            record.text("subject", "concept"),
            record.text("target_new", "labels"),
            ground_truth=next(iter(record.texts("ground_truth", note=False)), None),
            rephrase=record.texts("rephrase_prompt", "rephrase"),
            locality=_probes(record, "locality"),
            portability=_probes(record, "portability"),
            case_id=record.label("case_id") or str(record.number),
        )
    ]


def _probes(record: Fields, section: str) -> dict[str, Probe]:
    probes: dict[str, Probe] = {}
    lists = record.child(section, required=False)
    for name in lists.content:
        probes |= lists.probe(name, "prompt", "ground_truth")
    return probes


DATA.register(
    "knowedit",
    FileData(
        "a JSON file of KnowEdit's benchmark folder",
        "https://huggingface.co/datasets/zjunlp/KnowEdit",
        read_knowedit,
    ),
)
