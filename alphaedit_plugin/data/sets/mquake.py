"""MQuAKE: several edits per record, and questions whose answer follows from all of them.

Zhong et al. 2023, https://arxiv.org/abs/2305.14795.

Each entry of ``requested_rewrite`` is a request. The multi-hop ``questions`` are a portability
probe of the record's last request, after which all of them are edited; ``new_answer_alias`` and
the aliases of ``new_single_hops`` are other right answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alphaedit_plugin.common.errors import RequestError
from alphaedit_plugin.data.base import DATA
from alphaedit_plugin.data.fields import Fields
from alphaedit_plugin.data.request import Probe, Request, split_slot
from alphaedit_plugin.data.source import FileData, FileOptions

MULTI_HOP = "multi_hop"


def read_mquake(record: Fields, options: FileOptions) -> list[Request]:
    """The requests of one record.

    Raises:
        RequestError: it lacks a part, or one of its edits cannot be made as given.
    """
    rewrites = record.children("requested_rewrite")
    if not rewrites:
        raise RequestError("no 'requested_rewrite' in it")
    aliases = {
        hop.maybe("cloze"): hop.texts("answer_alias") for hop in record.children("new_single_hops")
    }
    last = len(rewrites) - 1
    hops: list[dict[str, Any]] = [{}] * last + [{"portability": _multi_hop(record)}]
    case = record.label("case_id") or str(record.number)
    return [_request(one, case, aliases, **more) for one, more in zip(rewrites, hops, strict=True)]


def _request(
    rewrite: Fields, case: str, aliases: Mapping[str | None, tuple[str, ...]], **more: Any
) -> Request:
    prompt, subject = rewrite.text("prompt"), rewrite.text("subject")
    return Request.parse(
        prompt,
        subject,
        rewrite.child("target_new").text("str"),
        ground_truth=rewrite.child("target_true", required=False).maybe("str"),
        rephrase=rewrite.texts("question"),
        template=True,
        accept=aliases.get(subject.join(split_slot(prompt)), ()),
        case_id=case,
        relation=rewrite.maybe("relation_id"),
        **more,
    )


def _multi_hop(record: Fields) -> dict[str, Probe]:
    questions = record.texts("questions")
    if not questions:
        raise RequestError("no 'questions' in it")
    answer, aliases = record.text("new_answer"), record.texts("new_answer_alias")
    return {MULTI_HOP: Probe.of([(question, answer, aliases) for question in questions])}


DATA.register(
    "mquake",
    FileData(
        "MQuAKE-CF-3k-v2.json, MQuAKE-CF.json or MQuAKE-T.json",
        "https://github.com/princeton-nlp/MQuAKE/tree/main/datasets",
        read_mquake,
    ),
)
