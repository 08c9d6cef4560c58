from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.nullspace.cut import Cut, CutRule
from alphaedit_plugin.nullspace.projector import Projector
from alphaedit_plugin.nullspace.projector_file import load_projectors, save_projectors
from alphaedit_plugin.nullspace.second_moment import SecondMoment
from benchmarks.random_projector import main
from tests.tiny import build_model


def test_a_random_subspace_has_the_fitted_ones_rank(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = EditableModel.wrap(build_model("gpt2", 99), None)
    keys = torch.randn(lm.key_size(0), 200, dtype=torch.float64)
    moment = SecondMoment(keys @ keys.T / 200, 200)
    fitted = Projector.fit(moment, Cut(CutRule.rank, 5))
    file, out = tmp_path / "fitted.safetensors", tmp_path / "random.safetensors"
    save_projectors(lm, {0: fitted}, file)
    monkeypatch.setattr(sys, "argv", ["", str(file), str(out)])
    main()
    random = load_projectors(lm, [0], out)[0]
    assert (random.rank, random.spans_null) == (fitted.rank, fitted.spans_null)
    torch.testing.assert_close(random.basis.T @ random.basis, torch.eye(random.basis.shape[1]))
    assert (random.basis.T @ fitted.basis).norm() < 0.9 * fitted.basis.norm()
