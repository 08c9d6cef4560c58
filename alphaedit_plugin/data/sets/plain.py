"""A user's own edits: JSON lines, a JSON array, or a CSV or TSV table.

Fields are named as `Request` names them. ``prompt``, ``subject`` and ``target_new`` are needed;
a field of texts may hold one text, a list, or in a table a JSON list. ``locality`` and
``portability`` map names to ``{"prompt": …, "ground_truth": …}``, as in EasyEdit's ``edit``, or
take two columns each, as in its files: ``locality_prompt``, ``locality_ground_truth`` and so on.
"""

from __future__ import annotations

from typing import Any

from alphaedit_plugin.common.errors import RequestError, unknown_name
from alphaedit_plugin.data.base import DATA
from alphaedit_plugin.data.fields import Fields
from alphaedit_plugin.data.request import NEIGHBOURHOOD, Probe, Request
from alphaedit_plugin.data.source import FileData, FileOptions

TEXTS = ("rephrase", "accept", "generation", "attribute", "references")
KNOWN = (
    *("prompt", "subject", "target_new", "ground_truth", "case_id", "relation", *TEXTS),
    *("locality", "locality_prompt", "locality_ground_truth"),
    *("portability", "portability_prompt", "portability_ground_truth"),
)


def read_plain(record: Fields, options: FileOptions) -> list[Request]:
    """The request of one record.

    Raises:
        RequestError: it lacks a part, cannot be edited as given, or has a field that is unknown.
    """
    for name in record.content:
        if name not in KNOWN:
            raise RequestError(unknown_name("field", name, KNOWN))
    texts: dict[str, Any] = {name: record.texts(name) for name in TEXTS}
    return [
        Request.parse(
            record.text("prompt"),
            record.text("subject"),
            record.text("target_new"),
            ground_truth=record.maybe("ground_truth"),
            locality=_probes(record, "locality", NEIGHBOURHOOD),
            portability=_probes(record, "portability", "portability"),
            case_id=record.label("case_id") or str(record.number),
            relation=record.label("relation"),
            **texts,
        )
    ]


def _probes(record: Fields, section: str, alone: str) -> dict[str, Probe]:
    """Named probes, and the one of the two columns, under the name ``alone``."""
    probes = record.pairs(alone, f"{section}_prompt", f"{section}_ground_truth")
    named = record.child(section, required=False)
    for name in named.content:
        probes |= named.child(name).pairs(name, "prompt", "ground_truth")
    return probes


DATA.register(
    "plain",
    FileData(
        "a .jsonl, .json, .csv or .tsv file of your own, as docs/data.md describes it",
        "",
        read_plain,
    ),
)
