"""Projector files: round trips, and whom they are refused to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from alphaedit_plugin.common.errors import ProjectorError
from alphaedit_plugin.common.version import VERSION
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.models.fingerprint import Fingerprint
from alphaedit_plugin.nullspace.cut import Cut, CutRule
from alphaedit_plugin.nullspace.projector import Projector
from alphaedit_plugin.nullspace.projector_file import (
    load_projectors,
    read_projectors,
    save_projectors,
)
from alphaedit_plugin.nullspace.second_moment import SecondMoment
from tests.nullspace.spectra import moment_with
from tests.tiny import build_model


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
    for lm in (gpt2, other):
        assert str(Fingerprint.of(lm, 2 if lm is gpt2 else 1)) in str(error.value)
    assert str(path) in str(error.value)
    trusted = load_projectors(other, [1], path, trust=True)
    assert torch.equal(trusted[1].basis, fitted[1].basis)


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


def test_it_says_what_it_is(
    gpt2: EditableModel, fitted: dict[int, Projector], tmp_path: Path
) -> None:
    gpt2.model.config._name_or_path = "openai-community/gpt2-tiny"
    save_projectors(gpt2, fitted, tmp_path / "p.safetensors", "wiki.txt")
    file = read_projectors(tmp_path / "p.safetensors")
    assert file.model == "openai-community/gpt2-tiny (gpt2)"
    assert file.fingerprint.covers(Fingerprint.of(gpt2, 2))
    assert file.modules == {1: "transformer.h.1.mlp.c_proj", 2: "transformer.h.2.mlp.c_proj"}
    assert (file.corpus, file.version) == ("wiki.txt", VERSION)
    for layer, projector in file.projectors.items():
        assert projector.tokens == fitted[layer].tokens == 1200
        assert projector.cut == Cut(CutRule.energy, 0.9)
        assert len(projector.eigenvalues) == projector.d_in


@pytest.mark.parametrize("rank", [0, 1, 63, 64, 65, 127, 128])
def test_the_smaller_basis_is_stored(
    gpt2: EditableModel, gpt2_moments: dict[int, SecondMoment], tmp_path: Path, rank: int
) -> None:
    made = Projector.fit(gpt2_moments[1], Cut(CutRule.rank, rank))
    save_projectors(gpt2, {1: made}, tmp_path / "p.safetensors")
    found = load_projectors(gpt2, [1], tmp_path / "p.safetensors")[1]
    assert found.basis.shape[1] == min(rank, 128 - rank)
    assert (found.rank, found.null_dimension) == (rank, 128 - rank)
    exact = Projector(*(made.basis, made.eigenvalues, made.cut, made.spans_null))
    columns = torch.randn(128, 3)
    assert torch.equal(found.apply(columns), exact.apply(columns))


@pytest.mark.parametrize(("dtype", "tilt"), [(torch.float16, 1e-3), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("share", [0.3, 0.8])
def test_half_precision_is_orthonormal_again(
    gpt2: EditableModel,
    gpt2_moments: dict[int, SecondMoment],
    tmp_path: Path,
    dtype: torch.dtype,
    tilt: float,
    share: float,
) -> None:
    made = Projector.fit(gpt2_moments[1], Cut(CutRule.rank, int(share * 128)))
    save_projectors(gpt2, {1: made}, tmp_path / "half.safetensors", dtype=dtype)
    found = load_projectors(gpt2, [1], tmp_path / "half.safetensors")[1]
    gram = found.basis.double().T @ found.basis.double()
    assert (gram - torch.eye(len(gram)).double()).abs().max() < 1e-6
    columns = torch.randn(128, 50)
    assert (found.apply(columns) - made.apply(columns)).norm() < tilt * columns.norm()
    once = found.apply(columns)
    assert torch.allclose(found.apply(once), once, atol=1e-5)


def test_a_file_is_a_third_of_the_dense_one(tmp_path: Path) -> None:
    """For a spectrum that falls as ``1/i``, with both cuts that fit it; see benchmarks/."""
    d_in, layers = 1024, range(3)
    lm = EditableModel.wrap(build_model("llama", 20, intermediate=d_in), None)
    values = (2e-2 * 0.1 * d_in / torch.arange(1, d_in + 1)).tolist()
    moment = moment_with(values)
    dense = len(layers) * 4 * d_in**2
    for cut in (Cut(CutRule.absolute, 2e-2), Cut(CutRule.auto, 1.0)):
        made = dict.fromkeys(layers, Projector.fit(moment, cut))
        save_projectors(lm, made, tmp_path / "p.safetensors")
        assert 3 * (tmp_path / "p.safetensors").stat().st_size < dense
    worst = dict.fromkeys(layers, Projector.fit(moment, Cut(CutRule.rank, d_in // 2)))
    save_projectors(lm, worst, tmp_path / "p.safetensors", dtype=torch.float16)
    assert 3 * (tmp_path / "p.safetensors").stat().st_size < dense


def bfloat16(lm: EditableModel) -> None:
    lm.model.bfloat16()


def float16(lm: EditableModel) -> None:
    lm.model.half()


def edited(lm: EditableModel) -> None:
    lm.weight(1).add_(torch.randn_like(lm.weight(1)))


@pytest.mark.parametrize("change", [bfloat16, float16, edited])
def test_the_same_model_is_accepted(
    gpt2: EditableModel,
    fitted: dict[int, Projector],
    tmp_path: Path,
    change: Callable[[EditableModel], None],
) -> None:
    save_projectors(gpt2, fitted, tmp_path / "p.safetensors")
    change(gpt2)
    assert set(load_projectors(gpt2, [1, 2], tmp_path / "p.safetensors")) == {1, 2}


def test_another_shape_is_refused_even_if_trusted(
    gpt2: EditableModel, fitted: dict[int, Projector], tmp_path: Path
) -> None:
    small = Projector.fit(moment_with([3.0, 2.0, 1.0]), Cut(CutRule.rank, 1))
    save_projectors(gpt2, {1: small}, tmp_path / "p.safetensors")
    with pytest.raises(ProjectorError, match=r"keys of 3 dimensions, but .* with 128"):
        load_projectors(gpt2, [1], tmp_path / "p.safetensors", trust=True)


def test_a_layer_that_the_model_lacks_is_refused(
    gpt2: EditableModel, fitted: dict[int, Projector], tmp_path: Path
) -> None:
    save_projectors(gpt2, fitted, tmp_path / "p.safetensors")
    shallow = replace(gpt2, model=build_model("gpt2", 20, depth=2))
    with pytest.raises(ProjectorError, match=r"h\.2\.mlp.*but this is .* with 2 blocks"):
        load_projectors(shallow, [2], tmp_path / "p.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: replace(p, basis=p.basis * 2), "not orthonormal"),
        (lambda p: replace(p, basis=torch.full_like(p.basis, torch.nan)), "no basis"),
        (lambda p: replace(p, basis=p.basis.T.contiguous()), "no basis"),
    ],
)
def test_what_is_no_projector_is_refused(
    gpt2: EditableModel,
    fitted: dict[int, Projector],
    tmp_path: Path,
    change: Callable[[Projector], Projector],
    message: str,
) -> None:
    save_projectors(gpt2, {1: change(fitted[1])}, tmp_path / "p.safetensors")
    with pytest.raises(ProjectorError, match=message):
        load_projectors(gpt2, [1], tmp_path / "p.safetensors")
