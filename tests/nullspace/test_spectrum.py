"""All eigenvectors, or the leading ones: the same subspace."""

from __future__ import annotations

import pytest
import torch

from alphaedit_plugin.common.errors import ConfigError, ProjectorError
from alphaedit_plugin.nullspace import spectrum
from alphaedit_plugin.nullspace.cut import Cut, CutRule
from alphaedit_plugin.nullspace.spectrum import decompose
from tests.nullspace.spectra import moment_with

SIZE = 200


@pytest.fixture
def solved(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Lets the partial solver take on small matrices; grows with every full ``eigh``."""
    monkeypatch.setattr(spectrum, "LARGE", SIZE)
    monkeypatch.setattr(spectrum, "FEW", 1 / 10)
    full, calls = torch.linalg.eigh, []

    def counting(matrix: torch.Tensor) -> object:
        calls.append(len(matrix))
        return full(matrix)

    monkeypatch.setattr(torch.linalg, "eigh", counting)
    return calls


STEEP = torch.logspace(3, -5, SIZE).tolist()


@pytest.mark.parametrize(
    "cut", [Cut(CutRule.rank, 12), Cut(CutRule.energy, 0.8), Cut(CutRule.absolute, 300.0)]
)
def test_few_are_found_without_the_rest(cut: Cut, solved: list[int]) -> None:
    mean = moment_with(STEEP).mean
    found = decompose(mean, cut)
    assert solved == []
    values, vectors = torch.linalg.eigh(mean)
    assert found.rank == cut.rank(values.flip(0))
    torch.testing.assert_close(found.values, values.flip(0)[: len(found.values)], rtol=1e-5, atol=0)
    ours, exact = found.vectors[:, : found.rank], vectors.flip(1)[:, : found.rank]
    assert torch.linalg.svdvals(ours.T @ exact).min() > 1 - 1e-9
    assert torch.equal(decompose(mean, cut).vectors, found.vectors)


@pytest.mark.parametrize(
    ("values", "cut"),
    [
        (STEEP, Cut(CutRule.rank, 21)),  # not few
        (STEEP, Cut(CutRule.energy, 1.0)),
        (STEEP, Cut(CutRule.absolute, 1e-3)),
        (STEEP, Cut(CutRule.auto, 1.0)),  # needs them all
        (torch.linspace(1.0, 0.9, SIZE).tolist(), Cut(CutRule.rank, 12)),  # hard to tell apart
    ],
)
def test_many_or_close_ones_take_the_full_solver(
    values: list[float], cut: Cut, solved: list[int]
) -> None:
    found = decompose(moment_with(values).mean, cut)
    assert solved == [SIZE]
    assert len(found.values) == SIZE


def test_the_generator_is_left_alone(solved: list[int]) -> None:
    state = torch.random.get_rng_state()
    decompose(moment_with(STEEP).mean, Cut(CutRule.rank, 12))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_what_cannot_be_decomposed() -> None:
    with pytest.raises(ProjectorError, match="not finite"):
        decompose(torch.full((3, 3), torch.inf).double(), Cut())
    with pytest.raises(ConfigError, match="rank=4: needs a whole number from 0 to 3"):
        decompose(torch.eye(3).double(), Cut(CutRule.rank, 4))
