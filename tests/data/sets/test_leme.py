"""LEME's records: CounterFact's and zsRE's, with prompts for essays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from alphaedit_plugin.common.errors import ConfigError
from alphaedit_plugin.data.request import NEIGHBOURHOOD
from alphaedit_plugin.data.sets.zsre import Target
from tests.data.files import load, write
from tests.data.sets import test_counterfact, test_zsre

COUPLED: dict[str, Any] = {
    "subject_entity": {
        "properties": ["native language", "spouse"],
        "coupled_prompt": "Write an essay about Ada Marsh\nInclude:\n- native language\n- spouse",
        "ground_truth": {
            "native language": ["French", "Latin"],
            "spouse": ["Olaf"],
            "of": ["French"],
        },
        "entity_id": "Q1",
    },
    "coupled_entities": [
        {
            "entity": "Olaf Marsh",
            "coupled_prompt": "Write an essay about Olaf Marsh\n    Include:\n- spouse",
            "overlapping_ground_truth": {"spouse": ["Ada Marsh"]},
        },
        {"entity": "Port Velm", "coupled_prompt": "Write an essay about Port Velm"},
    ],
}
COUNTERFACT = test_counterfact.RECORD | {"coupled_prompts_and_properties": COUPLED}
ZSRE = test_zsre.RECORD | {"coupled_prompts_and_properties": COUPLED}


def test_counterfact_with_essays(tmp_path: Path) -> None:
    data = load("leme", write(tmp_path, [COUNTERFACT]))
    (request,) = data.requests
    assert request.generation == (
        "Write an essay about Ada Marsh\nInclude:\n- native language\n- spouse"
        "\n-relationship to Olaf Marsh\n\nAda Marsh",
        "Write an essay about Olaf Marsh\n    Include:\n- spouse"
        "\n-relationship to Ada Marsh\n\nOlaf Marsh",
    )
    # French is edited out, so an essay need not agree with it
    assert request.references == ("native language: Latin\nspouse: Olaf", "spouse: Ada Marsh")
    assert data.references == request.references
    assert request.locality[NEIGHBOURHOOD].answers == ("French", "French")
    assert data.conventions == ""


def test_zsre_with_essays_needs_its_convention(tmp_path: Path) -> None:
    path = write(tmp_path, [ZSRE])
    with pytest.raises(ConfigError, match=r"zsRE can be read in two ways: set data\.target"):
        load("leme", path)
    data = load("leme", path, target=Target.alt)
    assert data.requests[0].target_new == "sailing boats"
    assert data.requests[0].generation[0].endswith("\n-relationship to Olaf Marsh\n\nMarsh & Sons")
    assert data.conventions == "of zsRE: target alt, old answer answers[0]"


@pytest.mark.parametrize(
    ("coupled", "reason"),
    [
        (None, "coupled_prompts_and_properties is None"),
        (
            COUPLED | {"coupled_entities": []},
            "no 'coupled_prompts_and_properties.coupled_entities'",
        ),
        (COUPLED | {"subject_entity": {}}, "subject_entity.coupled_prompt' in it"),
    ],
)
def test_records_without_essays_are_dropped(tmp_path: Path, coupled: Any, reason: str) -> None:
    bad = COUNTERFACT | {"coupled_prompts_and_properties": coupled}
    data = load("leme", write(tmp_path, [bad, COUNTERFACT]))
    assert len(data.requests) == 1
    assert reason in data.dropped[0].reason
