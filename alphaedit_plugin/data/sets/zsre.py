"""zsRE in MEND's layout, with both conventions of what is edited in (Mitchell et al. 2022).

``alt`` edits in a wrong answer: EasyEdit's reading, where ``answers[0]`` is the truth to forget.
``answers`` edits in the truth, ``answers[0]``: the reading of ROME, MEMIT and AlphaEdit, where
the old answer is not known. Figures of the two do not compare, so there is no default.
"""

from __future__ import annotations

from functools import partial

from alphaedit_plugin.common.errors import ConfigError, RequestError
from alphaedit_plugin.data.base import DATA, NEIGHBOURHOOD
from alphaedit_plugin.data.fields import Fields
from alphaedit_plugin.data.request import Probe, Request
from alphaedit_plugin.data.sets.counterfact import one_hop
from alphaedit_plugin.data.settings import DataConfig, Target
from alphaedit_plugin.data.source import FileData, Reading

CONVENTIONS = {
    Target.alt: "target alt, old answer answers[0]",
    Target.answers: "target answers[0], old answer unknown",
}


def read_zsre(record: Fields, target: Target) -> list[Request]:
    """The request of one record.

    Args:
        record: in MEND's layout.
        target: which answer is edited in.

    Raises:
        RequestError: it lacks a part, or cannot be edited as given.
    """
    answers = record.answers("answers")
    if not answers:
        raise RequestError("no 'answers' in it")
    wanted = target is Target.answers
    return [
        Request.parse(
            record.text("src"),
            record.text("subject"),
            answers[0] if wanted else record.text("alt"),
            ground_truth=None if wanted else answers[0],
            rephrase=record.texts("rephrase"),
            locality=_neighbourhood(record),
            portability=one_hop(record),
            accept=answers[1:] if wanted else (),
            case_id=record.label("case_id") or str(record.number),
        )
    ]


def _neighbourhood(record: Fields) -> dict[str, Probe]:
    """An unrelated question of Natural Questions, with the question mark that ROME adds."""
    prompt = record.maybe("loc")
    if prompt is None:
        return {}
    question = prompt if prompt.endswith("?") else f"{prompt}?"
    return {NEIGHBOURHOOD: Probe((question,), (record.text("loc_ans"),))}


def chosen_target(data: DataConfig) -> Target:
    """The target convention of ``data.target``.

    Raises:
        ConfigError: none is chosen.
    """
    if data.target is None:
        raise ConfigError(
            f"data={data.name} can be read in two ways: set data.target=alt (a wrong answer is "
            "edited in, as EasyEdit does) or data.target=answers (the right one, as ROME, MEMIT "
            "and AlphaEdit do)"
        )
    return data.target


def _prepare(data: DataConfig) -> Reading:
    target = chosen_target(data)
    return Reading(partial(read_zsre, target=target), CONVENTIONS[target])


DATA.register(
    "zsre",
    FileData(
        "zsre",
        "zsre_mend_eval.json",
        "https://rome.baulab.info/data/dsets/zsre_mend_eval.json",
        _prepare,
        marks=("src", "alt"),
        options=("target",),
    ),
)
