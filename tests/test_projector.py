from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from alphaedit_plugin.delta import Delta
from alphaedit_plugin.errors import ConfigError, ProjectorError
from alphaedit_plugin.models import EditableModel
from alphaedit_plugin.projector import (
    Cut,
    CutRule,
    Projector,
    fit_projectors,
    load_projectors,
    save_projectors,
)
from alphaedit_plugin.statistics import SecondMoment
from tests.tiny import build_model, relative


def moment_with(eigenvalues: list[float], seed: int = 0) -> SecondMoment:
    """A second moment with the given spectrum, in a random basis."""
    generator = torch.Generator().manual_seed(seed)
    size = len(eigenvalues)
    basis, _ = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64, generator=generator))
    return SecondMoment((basis * torch.tensor(eigenvalues, dtype=torch.float64)) @ basis.T, 1)


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


@pytest.mark.parametrize(
    ("rule", "value", "rank"),
    [
        (CutRule.absolute, 4.0, 3),  # eigenvalues at the cut belong to U
        (CutRule.absolute, 4.01, 2),
        (CutRule.absolute, 100.0, 0),
        (CutRule.absolute, 1e-9, 4),
        (CutRule.rank, 0, 0),
        (CutRule.rank, 2, 2),
        (CutRule.rank, 5, 5),
        (CutRule.energy, 0.5, 1),
        (CutRule.energy, 0.75, 2),
        (CutRule.energy, 0.76, 3),
        (CutRule.energy, 1.0, 4),
        (CutRule.energy, 1e-6, 1),
    ],
)
def test_cuts(rule: CutRule, value: float, rank: int) -> None:
    eigenvalues = torch.tensor([10.0, 5.0, 4.0, 1.0, 0.0]).double()
    assert Cut(rule, value).rank(eigenvalues) == rank


@pytest.mark.parametrize(
    ("rule", "value"),
    [
        (CutRule.absolute, 0.0),
        (CutRule.absolute, -1.0),
        (CutRule.absolute, float("nan")),
        (CutRule.rank, -1),
        (CutRule.rank, 6),
        (CutRule.rank, 2.5),
        (CutRule.energy, 0.0),
        (CutRule.energy, 1.1),
        (CutRule.energy, float("nan")),
    ],
)
def test_a_cut_out_of_range_is_refused_with_its_value(rule: CutRule, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"{rule.value}={value}"):
        Cut(rule, value).rank(torch.linspace(5, 1, 5))


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=30), st.floats(0.01, 1))
def test_an_energy_cut_is_the_smallest_that_holds_the_share(
    spectrum: list[float], share: float
) -> None:
    eigenvalues = torch.tensor(sorted(spectrum, reverse=True)).double()
    rank = Cut(CutRule.energy, share).rank(eigenvalues)
    held = eigenvalues.cumsum(0) / eigenvalues.sum()
    assert held[rank - 1] >= share - 1e-12
    assert rank == 1 or held[rank - 2] < share + 1e-12


def test_a_moment_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ProjectorError, match="not finite"):
        Projector.fit(SecondMoment(torch.full((3, 3), torch.nan), 1), Cut())


def test_diagnosis_of_a_cut_that_divides_the_space_is_none() -> None:
    assert Projector.fit(moment_with([1.0, 1e-5]), Cut()).diagnosis() is None


@pytest.mark.parametrize(
    ("spectrum", "word", "numbers"),
    [
        ([300.0, 200.0], "near 0", ("0 of 2", "2.00e+02", "3.00e+02")),
        ([1e-4, 1e-5], "near the identity", ("0 of 2", "1.00e-05", "1.00e-04")),
    ],
)
def test_diagnosis_says_which_way_a_cut_degenerates(
    spectrum: list[float], word: str, numbers: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    fit_projectors({7: moment_with(spectrum)}, Cut())
    for part in ("layer 7", "absolute=0.02", word, *numbers):
        assert part in caplog.text


@pytest.fixture
def fitted(gpt2_moments: dict[int, SecondMoment]) -> dict[int, Projector]:
    return {layer: Projector.fit(gpt2_moments[layer], Cut(CutRule.energy, 0.9)) for layer in (1, 2)}


def test_round_trip(gpt2: EditableModel, fitted: dict[int, Projector], tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "p.safetensors"
    save_projectors(gpt2, fitted, path)
    loaded = load_projectors(gpt2, [2, 1], path)
    assert list(loaded) == [2, 1]
    for layer, projector in loaded.items():
        assert torch.equal(projector.basis, fitted[layer].basis)
        assert torch.equal(projector.eigenvalues, fitted[layer].eigenvalues)
        assert projector.cut == fitted[layer].cut
    assert [file.name for file in path.parent.iterdir()] == ["p.safetensors"]


def test_round_trip_of_an_empty_basis(
    gpt2: EditableModel, gpt2_moments: dict[int, SecondMoment], tmp_path: Path
) -> None:
    whole = Projector.fit(gpt2_moments[0], Cut(CutRule.rank, 0))
    save_projectors(gpt2, {0: whole}, tmp_path / "p.safetensors")
    loaded = load_projectors(gpt2, [0], tmp_path / "p.safetensors")[0]
    keys = torch.randn(whole.d_in, 3)
    assert torch.equal(loaded.apply(keys), keys)


def test_another_model_is_refused(
    gpt2: EditableModel, fitted: dict[int, Projector], tmp_path: Path
) -> None:
    path = tmp_path / "p.safetensors"
    save_projectors(gpt2, fitted, path)
    model = build_model("gpt2", len(gpt2.tokenizer), seed=1)
    other = EditableModel.wrap(model, gpt2.tokenizer)
    with pytest.raises(ProjectorError) as error:
        load_projectors(other, [1], path)
    for part in (str(path), gpt2.fingerprint([1]), other.fingerprint([1]), "transformer.h.1.mlp"):
        assert part in str(error.value)


def test_another_family_is_refused(
    gpt2: EditableModel,
    templates: dict[str, EditableModel],
    fitted: dict[int, Projector],
    tmp_path: Path,
) -> None:
    path = tmp_path / "p.safetensors"
    save_projectors(gpt2, fitted, path)
    with pytest.raises(ProjectorError, match=r"transformer\.h\.1.*model\.layers\.1"):
        load_projectors(templates["llama"], [1], path)


def test_a_layer_that_is_not_in_the_file_is_refused(
    gpt2: EditableModel, fitted: dict[int, Projector], tmp_path: Path
) -> None:
    save_projectors(gpt2, fitted, tmp_path / "p.safetensors")
    with pytest.raises(ProjectorError, match="layers 1, 2, not layer 3"):
        load_projectors(gpt2, [1, 3], tmp_path / "p.safetensors")


@pytest.mark.parametrize("keep", [0, 4, 100, 0.5, 0.99])
def test_a_truncated_file_is_refused(
    gpt2: EditableModel, fitted: dict[int, Projector], tmp_path: Path, keep: float
) -> None:
    path = tmp_path / "p.safetensors"
    save_projectors(gpt2, fitted, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if keep < 1 else int(keep)])
    with pytest.raises(ProjectorError, match="damaged"):
        load_projectors(gpt2, [1], path)


@pytest.mark.parametrize("metadata", [None, {"layers": "no json"}, {"layers": "[1]"}])
def test_a_file_of_another_kind_is_refused(
    gpt2: EditableModel, tmp_path: Path, metadata: dict[str, str] | None
) -> None:
    path = tmp_path / "p.safetensors"
    save_file({"x": torch.zeros(3)}, path, metadata)
    with pytest.raises(ProjectorError, match=r"p\.safetensors"):
        load_projectors(gpt2, [1], path)


def test_a_missing_file_is_named(gpt2: EditableModel, tmp_path: Path) -> None:
    with pytest.raises(ProjectorError, match=r"no projector file at .*gone"):
        load_projectors(gpt2, [1], tmp_path / "gone")


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
