"""KnowEdit's four layouts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from alphaedit_plugin.data.request import Probe
from tests.data.files import load, without, write

RECENT: dict[str, Any] = {
    "subject": "Ada Marsh",
    "prompt": "The place of death of Ada Marsh is",
    "target_new": "Port Velm",
    "portability": {
        "Logical_Generalization": [
            {"prompt": "Is Ada Marsh still alive?", "ground_truth": [["no"], ["false", "wrong"]]}
        ],
        "Reasoning": [
            {"prompt": "The mayor of the place where Ada died is", "ground_truth": [["Boris"]]},
            {"prompt": ["Its river is", "Its stream is"], "ground_truth": "Lume"},
            {"prompt": "The sea at the place where Ada died is", "ground_truth": [[""]]},
        ],
        "Subject_Aliasing": [],
    },
    "locality": {
        "Relation_Specificity": [
            {"prompt": "The father of Ada Marsh is", "ground_truth": [["Olaf Marsh", "Olaf"]]}
        ]
    },
}
COUNTERFACT = {
    "subject": "Clara Holm",
    "prompt": "The name of the position held by Clara Holm is",
    "target_new": "harbour master",
    "ground_truth": "judge",
    "portability": {"Subject_Aliasing": [{"prompt": "C. Holm is a", "ground_truth": "master"}]},
    "locality": {"Forgetfulness": [{"prompt": "Clara was also", "ground_truth": "judge"}]},
}
WIKIBIO = {
    "text": "This is a passage about dario vega. Dario Vega was a weaver.",
    "labels": "He learned his trade in Port Velm.",
    "concept": "dario vega",
    "locality": {
        "Relation_Specificity": [{"prompt": "dario vega occupation", "ground_truth": ["weaver"]}]
    },
}
ZSRE = {
    "subject": "Lumen ater",
    "target_new": "Noctidae",
    "prompt": "Which family does Lumen ater belong to?",
    "ground_truth": ["Aspididae"],
    "rephrase_prompt": "What family are Lumen ater?",
    "cond": "x >> Noctidae || Which family does Lumen ater belong to?",
    "locality": {},
    "portability": {},
}


def test_all_four(tmp_path: Path) -> None:
    data = load("knowedit", write(tmp_path, [RECENT, COUNTERFACT, WIKIBIO, ZSRE]))
    recent, counterfact, wikibio, zsre = data.requests
    assert recent.portability == {
        "Logical_Generalization": Probe(
            ("Is Ada Marsh still alive?",), ("no",), (("false", "wrong"),)
        ),
        "Reasoning": Probe(
            ("The mayor of the place where Ada died is", "Its river is", "Its stream is"),
            ("Boris", "Lume", "Lume"),
        ),
    }
    assert recent.locality["Relation_Specificity"].accept == (("Olaf",),)
    assert (recent.ground_truth, counterfact.ground_truth) == (None, "judge")
    assert counterfact.portability["Subject_Aliasing"].answers == ("master",)
    assert counterfact.locality["Forgetfulness"].prompts == ("Clara was also",)
    assert wikibio.prompt == "This is a passage about {}. Dario Vega was a weaver."
    assert (wikibio.subject, wikibio.target_new) == ("dario vega", WIKIBIO["labels"])
    assert (zsre.ground_truth, zsre.rephrase) == ("Aspididae", ("What family are Lumen ater?",))
    assert (dict(zsre.locality), dict(zsre.portability)) == ({}, {})
    (trimmed,) = data.trimmed
    assert trimmed.reason == "portability.Reasoning[2].ground_truth is blank"


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (without(RECENT, "subject"), "no 'subject' or 'concept' in it"),
        (RECENT | {"locality": ["x"]}, "locality is ['x']: needs an object"),
        (RECENT | {"locality": {"Forgetfulness": "x"}}, "needs a list of objects"),
        (
            RECENT | {"locality": {"Forgetfulness": [{"ground_truth": "x"}]}},
            "no 'locality.Forgetfulness[0].prompt' in it",
        ),
        (
            RECENT | {"portability": {"Reasoning": [{"prompt": "a", "ground_truth": [[5]]}]}},
            "portability.Reasoning[0].ground_truth is 5",
        ),
    ],
)
def test_bad_records(tmp_path: Path, bad: dict[str, Any], reason: str) -> None:
    data = load("knowedit", write(tmp_path, [bad, ZSRE]))
    assert len(data.requests) == 1
    assert reason in data.dropped[0].reason
