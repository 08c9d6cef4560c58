"""Runs are put together by what they have in common, and gains by what they differ in."""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean, stdev

import numpy as np
import pytest

from alphaedit_plugin.experiments.bootstrap import gains
from alphaedit_plugin.experiments.cells import numbers_of
from alphaedit_plugin.experiments.studies import studies_of
from alphaedit_plugin.methods.base import METHODS
from tests.experiments.made import cell, run, seeds


def test_seeds_of_one_setting_are_one_study() -> None:
    runs = seeds(3)
    (study,) = studies_of(runs)
    assert study.seeds == [0, 1, 2]
    names = ["MEMIT, plain", "MEMIT, null space", "RECT, plain", "RECT, null space"]
    assert [entry.name for entry in study.entries] == names
    values = [r.cells[1].final.score for r in runs]
    spread = study.entries[1].spread("score")
    assert spread is not None
    assert (spread.mean, spread.deviation) == pytest.approx((fmean(values), stdev(values)))
    assert len(studies_of([*runs, *seeds(1, data="other")])) == 2


def test_one_seed_has_no_deviation() -> None:
    (study,) = studies_of(seeds(1))
    spread = study.entries[0].spread("score")
    assert spread is not None
    assert spread.deviation is None
    assert study.entries[0].spread("fluency") is None


def test_cells_of_a_sweep_may_come_one_by_one_and_twice() -> None:
    whole = seeds(1)[0]
    alone = [replace(whole, cells=(one,)) for one in whole.cells]
    (study,) = studies_of([*alone, alone[0]])
    assert [e.cells[0] for e in study.entries] == list(whole.cells)


def test_variants_are_told_apart_and_paired() -> None:
    cells = [
        cell("memit", False, 0.5, layers=[3]),
        cell("memit", True, 0.9, layers=[3], cut="energy 0.9"),
        cell("memit", True, 0.8, layers=[3], cut="energy 0.5"),
    ]
    (study,) = studies_of([run(cells)])
    assert [e.side for e in study.entries] == [
        "plain", "null space, cut energy 0.9", "null space, cut energy 0.5",
    ]  # fmt: skip
    assert [plain.side for plain, _ in study.pairs] == ["plain", "plain"]

    layers = [cell("memit", side, 0.5, layers=[n]) for n in (3, 5) for side in (False, True)]
    (study,) = studies_of([run(layers)])
    assert [(p.variant, e.variant) for p, e in study.pairs] == [
        ((("layers", f"[{n}]"),),) * 2 for n in (3, 5)
    ]


def test_curves_are_over_the_points_that_all_seeds_have() -> None:
    runs = seeds(2)
    first = runs[1].cells[0]
    runs[1] = replace(runs[1], cells=(replace(first, points=first.points[1:]),))
    (study,) = studies_of(runs)
    curve = study.entries[0].curve("score")
    assert list(curve) == [20, 30]
    expected = fmean(r.cells[0].points[-1].evaluation.score for r in runs)
    assert curve[30].mean == pytest.approx(expected)


def test_a_gain_is_sure_where_there_is_one() -> None:
    (study,) = studies_of(seeds(3))
    memit, rect = (gains(plain, entry) for plain, entry in study.pairs)
    assert set(memit) == {"efficacy", "specificity", "retention", "score"}
    for name, gain in memit.items():
        assert gain.low < gain.value < gain.high, name
        assert gain.sure
    assert not rect["score"].sure
    plain, projected = study.pairs[0]
    each = [projected.cells[s].final.score - plain.cells[s].final.score for s in range(3)]
    assert memit["score"].value == pytest.approx(fmean(each))


def test_the_interval_of_one_share_is_the_binomials() -> None:
    """With plain always wrong, the gain is a share, whose error is known."""
    (study,) = studies_of([run([cell("memit", False, 1e-9), cell("memit", True, 0.6)])])
    ((plain, projected),) = study.pairs
    gain = gains(plain, projected, resamples=20_000)["efficacy"]
    share, count = gain.value, 30
    error = np.sqrt(share * (1 - share) / count)
    assert gain.high - gain.low == pytest.approx(2 * 1.96 * error, rel=0.1)


def test_both_sides_are_drawn_alike() -> None:
    """Sides that are right about the same requests differ by nothing, whatever is drawn."""
    same = cell("memit", False, 0.6)
    (study,) = studies_of([run([same, replace(same, null_space=True)])])
    ((plain, projected),) = study.pairs
    assert {(g.value, g.low, g.high) for g in gains(plain, projected).values()} == {(0, 0, 0)}


def test_seeds_that_only_one_side_has_give_no_gain() -> None:
    (study,) = studies_of([run([cell("memit", False, 0.6)]), run([cell("memit", True, 0.6)], 1)])
    ((plain, projected),) = study.pairs
    assert gains(plain, projected) == {}


def test_what_is_not_registered_follows() -> None:
    numbers = numbers_of(["mine", "rome", "another"])
    assert numbers["rome"] == list(METHODS).index("rome")
    assert [numbers["another"], numbers["mine"]] == [len(list(METHODS)), len(list(METHODS)) + 1]
