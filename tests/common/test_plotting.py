"""What all pictures have in common: a base is known by its color and marker."""

from __future__ import annotations

import pytest
from matplotlib.colors import to_hex
from matplotlib.container import BarContainer

from alphaedit_plugin.common.plotting import colour, marker
from alphaedit_plugin.experiments.bootstrap import Gain
from alphaedit_plugin.experiments.pictures import curves, gain_bars
from alphaedit_plugin.experiments.studies import studies_of
from alphaedit_plugin.methods.base import METHODS
from tests.experiments.made import cell


@pytest.mark.parametrize("bases", [["rome", "memit", "prune", "rect"], ["rect", "memit"], ["rect"]])
def test_a_base_keeps_its_color_whichever_others_are_there(bases: list[str]) -> None:
    (study,) = studies_of([cell(base, side, 0.7) for base in bases for side in (False, True)])
    places = [n for n, row in enumerate(study.rows) if row.null_space]
    bars = gain_bars(study, {place: {"efficacy": Gain(0.1, 0.0, 0.2)} for place in places})
    number = list(METHODS).index("rect")
    lines = [
        line
        for axes in curves(study).axes
        for line in axes.lines
        if str(line.get_label()).startswith("RECT")
    ]
    assert len(lines) >= 2 * 2
    assert {to_hex(line.get_color()) for line in lines} == {colour(number).lower()}
    assert {line.get_marker() for line in lines} == {marker(number)}
    drawn = [bar for bar in bars.axes[0].containers if isinstance(bar, BarContainer)]
    (gain,) = [bar for bar in drawn if str(bar.get_label()).startswith("RECT")]
    assert to_hex(gain.patches[0].get_facecolor()) == colour(number).lower()
