"""Projector files: round trips, and whom they are refused to."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from alphaedit_plugin.errors import ProjectorError
from alphaedit_plugin.fingerprint import Fingerprint
from alphaedit_plugin.models import EditableModel
from alphaedit_plugin.projector import Cut, CutRule, Projector, load_projectors, save_projectors
from alphaedit_plugin.statistics import SecondMoment
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
    for view in (gpt2, other):
        assert str(Fingerprint.of(view, 2 if view is gpt2 else 1)) in str(error.value)
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
