"""LEME: long-form evaluation, essays about the edited subject and an entity coupled with it.

Rosati et al. 2024, https://arxiv.org/abs/2402.09394.

Records are CounterFact's or zsRE's with ``coupled_prompts_and_properties``. Its two essay prompts
(about the subject and the first coupled entity, assembled as in LEME's ``create_edit.py``) replace
CounterFact's generation prompts; the listed facts that the edit leaves true are the reference
texts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from alphaedit_plugin.common.errors import RequestError
from alphaedit_plugin.data.base import DATA
from alphaedit_plugin.data.fields import Fields
from alphaedit_plugin.data.request import Request
from alphaedit_plugin.data.sets.counterfact import CounterfactOptions, read_counterfact
from alphaedit_plugin.data.sets.zsre import Target, ZsreOptions, read_zsre
from alphaedit_plugin.data.source import FileData, FileOptions


@dataclass(frozen=True)
class LemeOptions(FileOptions):
    """LEME's options.

    Attributes:
        target: which answer is edited in where records are zsRE's.
    """

    target: Target | None = None

    @property
    def conventions(self) -> str:
        """The choice."""
        return f"of zsRE: {ZsreOptions(target=self.target).conventions}" if self.target else ""


def read_leme(record: Fields, options: LemeOptions) -> list[Request]:
    """The request of one record.

    Raises:
        RequestError: it lacks a part, or cannot be edited as given.
        ConfigError: it is one of zsRE, and no target convention is chosen.
    """
    if "requested_rewrite" in record:
        (request,) = read_counterfact(record, CounterfactOptions())
    else:
        (request,) = read_zsre(record, ZsreOptions(target=options.target))
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
    facts = entity.child(name, required=False)
    lines = []
    for relation in facts.content:
        values = [value for value in facts.texts(relation) if value != request.ground_truth]
        lines += [f"{relation}: {', '.join(values)}"] if values else []
    return "\n".join(lines)


DATA.register(
    "leme",
    FileData(
        "counterfact_with_coupled_entities.json or zsre_mend_eval_with_coupled_entities.json",
        "https://github.com/domenicrosati/longform-evaluation-model-editing/tree/main/data",
        read_leme,
        LemeOptions,
    ),
)
