"""Cells are put together by what they share, and gains by what they differ in."""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean, stdev

import numpy as np
import pytest

from alphaedit_plugin.experiments.bootstrap import gains
from alphaedit_plugin.experiments.studies import studies_of
from tests.experiments.made import cell, seeds


def test_seeds_of_one_setting_are_one_study() -> None:
    cells = seeds(3)
    (study,) = studies_of(cells)
    assert study.seeds == [0, 1, 2]
    names = ["MEMIT, plain", "MEMIT, null space", "RECT, plain", "RECT, null space"]
    assert [row.name for row in study.rows] == names
    values = [c.final.score for c in cells[1::4]]
    spread = study.rows[1].spread("score")
    assert spread is not None
    assert (spread.mean, spread.deviation) == pytest.approx((fmean(values), stdev(values)))
    assert len(studies_of([*cells, *seeds(1, data="other")])) == 2


def test_one_seed_has_no_deviation() -> None:
    (study,) = studies_of(seeds(1))
    spread = study.rows[0].spread("score")
    assert spread is not None
    assert spread.deviation is None
    assert study.rows[0].spread("fluency") is None


def test_a_cell_that_came_twice_counts_once() -> None:
    cells = seeds(1)
    (study,) = studies_of([*cells, cells[0]])
    assert [row.cells[0] for row in study.rows] == cells


def test_cells_that_edit_other_requests_are_not_compared() -> None:
    cells = [
        replace(c, setting=replace(c.setting, requests=f"{c.base} {c.setting.seed}"))
        for c in seeds(2)
    ]
    first, second = studies_of(cells)
    assert [(row.base, row.null_space) for row in first.rows] == [("memit", False), ("memit", True)]
    assert {row.base for row in second.rows} == {"rect"}
    assert (first.seeds, second.seeds, first.other, second.other) == ([0, 1], [0, 1], False, True)


def test_variants_are_told_apart_and_paired() -> None:
    cells = [
        cell("memit", False, 0.5, layers=[3]),
        cell("memit", True, 0.9, layers=[3], cut="energy 0.9"),
        cell("memit", True, 0.8, layers=[3], cut="energy 0.5"),
    ]
    (study,) = studies_of(cells)
    assert [row.side for row in study.rows] == [
        "plain", "null space, cut energy 0.9", "null space, cut energy 0.5",
    ]  # fmt: skip
    assert [plain.side for plain, _ in study.pairs] == ["plain", "plain"]

    layers = [cell("memit", side, 0.5, layers=[n]) for n in (3, 5) for side in (False, True)]
    (study,) = studies_of(layers)
    assert [(p.variant, row.variant) for p, row in study.pairs] == [
        ((("layers", f"[{n}]"),),) * 2 for n in (3, 5)
    ]


def test_curves_are_over_the_points_that_all_seeds_have() -> None:
    cells = [cell("memit", False, 0.5, seed) for seed in (0, 1)]
    cells[1] = replace(cells[1], points=cells[1].points[1:])
    (study,) = studies_of(cells)
    curve = study.rows[0].curve("score")
    assert list(curve) == [20, 30]
    assert curve[30].mean == pytest.approx(fmean(c.final.score for c in cells))


def test_a_gain_is_sure_where_there_is_one() -> None:
    (study,) = studies_of(seeds(3))
    memit, rect = (gains(plain, row) for plain, row in study.pairs)
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
    (study,) = studies_of([cell("memit", False, 1e-9), cell("memit", True, 0.6)])
    ((plain, projected),) = study.pairs
    gain = gains(plain, projected, resamples=20_000)["efficacy"]
    share, count = gain.value, 30
    error = np.sqrt(share * (1 - share) / count)
    assert gain.high - gain.low == pytest.approx(2 * 1.96 * error, rel=0.1)


def test_both_sides_are_drawn_alike() -> None:
    """Sides that are right about the same requests differ by nothing, whatever is drawn."""
    same = cell("memit", False, 0.6)
    (study,) = studies_of([same, replace(same, null_space=True)])
    ((plain, projected),) = study.pairs
    assert {(g.value, g.low, g.high) for g in gains(plain, projected).values()} == {(0, 0, 0)}


def test_seeds_that_only_one_side_has_give_no_gain() -> None:
    (study,) = studies_of([cell("memit", False, 0.6), cell("memit", True, 0.6, 1)])
    ((plain, projected),) = study.pairs
    assert gains(plain, projected) == {}
