"""zsRE in MEND's layout, with both conventions of what is edited in (Mitchell et al. 2022).

``alt`` edits in a wrong answer: EasyEdit's reading, where ``answers[0]`` is the truth to forget.
``answers`` edits in the truth, ``answers[0]``: the reading of ROME, MEMIT and AlphaEdit, where
the old answer is not known. Results of the two are not comparable, so there is no default.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from alphaedit_plugin.common.errors import ConfigError, RequestError
from alphaedit_plugin.data.base import DATA
from alphaedit_plugin.data.fields import Fields
from alphaedit_plugin.data.request import NEIGHBOURHOOD, Probe, Request
from alphaedit_plugin.data.sets.counterfact import one_hop
from alphaedit_plugin.data.source import FileData, FileOptions


class Target(str, Enum):
    """Which of a record's answers is edited in."""

    alt = "alt"
    answers = "answers"


CONVENTIONS = {
    Target.alt: "target alt, old answer answers[0]",
    Target.answers: "target answers[0], old answer unknown",
}


@dataclass(frozen=True)
class ZsreOptions(FileOptions):
    """zsRE's options.

    Attributes:
        target: which answer is edited in; a choice is needed.
    """

    target: Target | None = None

    def __post_init__(self) -> None:
        if self.target not in CONVENTIONS:
            raise ConfigError(
                f"data.target is {self.target or 'not set'}, and zsRE can be read in two ways: set "
                "data.target=alt (a wrong answer is edited in, as EasyEdit does) or "
                "data.target=answers (the right one, as ROME, MEMIT and AlphaEdit do)"
            )

    @property
    def conventions(self) -> str:
        """The choice."""
        return CONVENTIONS[self.target] if self.target else ""


def read_zsre(record: Fields, options: ZsreOptions) -> list[Request]:
    """The request of one record.

    Raises:
        RequestError: it lacks a part, or cannot be edited as given.
    """
    answers = record.texts("answers", note=False)
    if not answers:
        raise RequestError("no 'answers' in it")
    right = options.target == Target.answers
    return [
        Request.parse(
            record.text("src"),
            record.text("subject"),
            answers[0] if right else record.text("alt"),
            ground_truth=None if right else answers[0],
            rephrase=record.texts("rephrase"),
            locality=_neighbourhood(record),
            portability=one_hop(record),
            accept=answers[1:] if right else (),
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


DATA.register(
    "zsre",
    FileData(
        "zsre_mend_eval.json",
        "https://rome.baulab.info/data/dsets/zsre_mend_eval.json",
        read_zsre,
        ZsreOptions,
    ),
)
