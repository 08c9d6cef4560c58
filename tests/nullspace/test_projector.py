"""The projector: what it projects, and what it says of itself."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from alphaedit_plugin.common.delta import Delta
from alphaedit_plugin.common.errors import ProjectorError
from alphaedit_plugin.nullspace.cut import Cut, CutRule
from alphaedit_plugin.nullspace.projector import Projector, fit_projectors
from alphaedit_plugin.nullspace.second_moment import SecondMoment
from tests.nullspace.spectra import moment_with
from tests.tiny import relative


def dense(projector: Projector) -> Tensor:
    return projector.apply(torch.eye(projector.d_in, dtype=torch.float64))


@given(st.integers(2, 40), st.integers(0, 1000), st.data())
def test_it_is_an_orthogonal_projection(d_in: int, seed: int, data: st.DataObject) -> None:
    rank = data.draw(st.integers(0, d_in))
    spectrum = torch.logspace(2, -4, d_in).tolist()
    projector = Projector.fit(moment_with(spectrum, seed), Cut(CutRule.rank, rank))
    p = dense(projector)
    assert torch.allclose(p @ p, p, atol=1e-6)
    assert torch.allclose(p, p.T, atol=1e-6)
    assert p.trace().item() == pytest.approx(d_in - rank, abs=1e-4)


@given(st.integers(2, 40), st.integers(0, 1000), st.booleans())
def test_a_projected_delta_is_invisible_to_old_keys(d_in: int, seed: int, dense: bool) -> None:
    projector = Projector.fit(
        moment_with(torch.logspace(2, -4, d_in).tolist(), seed), Cut(CutRule.rank, d_in // 2)
    )
    delta = Delta(torch.randn(5, 3), torch.randn(d_in, 3))
    delta = Delta(delta.dense) if dense else delta
    projected = projector.project(delta)
    assert (projected.right is None) == dense
    assert projector.leakage(projected) < 1e-6
    assert projector.leakage(delta) > 1e-3
    exact = projector.project(delta.to(torch.float64))
    assert projector.leakage(exact) < 1e-12  # although U itself is in float32
    p = torch.eye(d_in) - projector.basis @ projector.basis.T
    assert torch.allclose(projected.dense, delta.dense @ p, atol=1e-4)


def test_it_spares_the_directions_that_keys_use() -> None:
    used, _ = torch.linalg.qr(torch.randn(12, 4))
    keys = used @ torch.randn(4, 100)
    projector = Projector.fit(SecondMoment((keys @ keys.T).double(), 100), Cut(value=1e-6))
    assert projector.null_dimension == 8
    assert projector.apply(keys).norm() < 1e-4 * keys.norm()


def test_leakage_of_nothing_is_zero() -> None:
    projector = Projector.fit(moment_with([2.0, 1.0]), Cut(CutRule.rank, 1))
    assert projector.leakage(Delta(torch.zeros(3, 2))) == 0


def test_a_moment_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ProjectorError, match="not finite"):
        Projector.fit(SecondMoment(torch.full((3, 3), torch.nan), 1), Cut())


def test_diagnosis_of_a_cut_that_divides_the_space_is_none() -> None:
    assert Projector.fit(moment_with([1.0, 1e-5]), Cut()).diagnosis() is None


@pytest.mark.parametrize(
    ("spectrum", "word", "numbers"),
    [
        ([300.0, 200.0], "near 0", ("0 of 2", "2.00e+02", "3.00e+02")),
        ([1e-4, 1e-5], "near the identity", ("2 of 2", "1.00e-05", "1.00e-04")),
    ],
)
def test_diagnosis_says_which_way_a_cut_degenerates(
    spectrum: list[float], word: str, numbers: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    fit_projectors({7: moment_with(spectrum)}, Cut())
    for part in ("layer 7", "absolute=0.02", word, *numbers):
        assert part in caplog.text


def test_applying_keeps_the_columns_dtype() -> None:
    projector = Projector.fit(moment_with([3.0, 2.0, 1.0]), Cut(CutRule.rank, 1))
    for dtype in (torch.float32, torch.float64):
        assert projector.apply(torch.ones(3, 2, dtype=dtype)).dtype == dtype


def test_it_agrees_with_the_published_construction(gpt2_moments: dict[int, SecondMoment]) -> None:
    """AlphaEdit: singular vectors below the threshold, ``P = U₀ U₀ᵀ``."""
    mean = gpt2_moments[2].mean
    threshold = torch.linalg.eigvalsh(mean).median().item() * 1.0001
    u, s, _ = torch.linalg.svd(mean)
    published = u[:, s < threshold] @ u[:, s < threshold].T
    projector = Projector.fit(gpt2_moments[2], Cut(CutRule.absolute, threshold))
    assert relative(dense(projector), published) < 1e-5
