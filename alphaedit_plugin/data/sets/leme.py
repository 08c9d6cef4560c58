"""LEME: long-form evaluation, essays about the edited subject and an entity coupled with it.

Rosati et al. 2024, https://arxiv.org/abs/2402.09394.

Records are CounterFact's or zsRE's with ``coupled_prompts_and_properties``. Its two essay prompts
(of the subject, and of the first coupled entity, put together as LEME's ``create_edit.py`` does)
take the place of CounterFact's generation prompts; the listed facts that the edit leaves true are
the reference texts.
"""

from __future__ import annotations

from dataclasses import replace

from alphaedit_plugin.common.errors import RequestError
from alphaedit_plugin.data.base import DATA
from alphaedit_plugin.data.fields import Fields
from alphaedit_plugin.data.request import Request
from alphaedit_plugin.data.sets.counterfact import read_counterfact
from alphaedit_plugin.data.sets.zsre import CONVENTIONS, chosen_target, read_zsre
from alphaedit_plugin.data.settings import DataConfig
from alphaedit_plugin.data.source import FileData, Reading


def read_leme(record: Fields, data: DataConfig) -> list[Request]:
    """The request of one record.

    Raises:
        RequestError: it lacks a part, or cannot be edited as given.
        ConfigError: it is one of zsRE, and no target convention is chosen.
    """
    if "requested_rewrite" in record:
        (request,) = read_counterfact(record)
    else:
        (request,) = read_zsre(record, chosen_target(data))
    coupled = record.child("coupled_prompts_and_properties")
    subject, others = coupled.child("subject_entity"), coupled.children("coupled_entities")
    if not others:
        raise RequestError(f"no '{coupled.path}coupled_entities' in it")
    names = request.subject, others[0].text("entity")
    essays = _essay(subject, *names), _essay(others[0], *reversed(names))
    facts = (
        _facts(subject, "ground_truth", request),
        _facts(others[0], "overlapping_ground_truth", request),
    )
    return [replace(request, generation=essays, references=tuple(filter(None, facts)))]


def _essay(entity: Fields, about: str, related: str) -> str:
    """LEME's prompt for an essay; it ends in the name that the essay begins with."""
    return f"{entity.text('coupled_prompt')}\n-relationship to {related}\n\n{about}"


def _facts(entity: Fields, name: str, request: Request) -> str:
    """The facts listed under ``name``, one per line, without the answer that is edited out."""
    if name not in entity:
        return ""
    facts = entity.child(name)
    lines = []
    for relation in facts.content:
        values = [value for value in facts.texts(relation) if value != request.ground_truth]
        lines += [f"{relation}: {', '.join(values)}"] if values else []
    return "\n".join(lines)


def _prepare(data: DataConfig) -> Reading:
    conventions = "" if data.target is None else f"of zsRE: {CONVENTIONS[data.target]}"
    return Reading(lambda record: read_leme(record, data), conventions)


DATA.register(
    "leme",
    FileData(
        "leme",
        "counterfact_with_coupled_entities.json or zsre_mend_eval_with_coupled_entities.json",
        "https://github.com/domenicrosati/longform-evaluation-model-editing/tree/main/data",
        _prepare,
        marks=("coupled_prompts_and_properties",),
        options=("target",),
    ),
)
