"""What the flag's keys do in the host's own YAML files, and what is refused, with every method."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from alphaedit_plugin.common.errors import ConfigError, ProjectorError
from alphaedit_plugin.easyedit.host import hparams_classes
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.nullspace.cut import Cut, CutRule
from alphaedit_plugin.nullspace.easyedit_stats import HostMoments, read_host_moment
from alphaedit_plugin.nullspace.projector import Projector, fit_projectors
from alphaedit_plugin.nullspace.projector_file import save_projectors
from tests.host.test_flag import NAMES, flag, projector_of, request_of, run, weights
from tests.host.tiny_host import (
    SAMPLES,
    TinyHostModel,
    algorithms,
    hparams_class,
    pin_contexts,
    skip_without_host,
)

skip_without_host()


def fitted(tiny: TinyHostModel, cut: Cut) -> dict[int, Projector]:
    lm = EditableModel.wrap(*tiny.load())
    files = HostMoments(tiny.stats_dir, str(tiny.folder), samples=SAMPLES)
    modules = {layer: lm.layout.down_proj.format(layer) for layer in (1, 2, 3)}
    return fit_projectors({n: read_host_moment(files.path(m)) for n, m in modules.items()}, cut)


def written(tiny: TinyHostModel, method: str, path: Path) -> dict[int, Tensor]:
    """The deltas ``(d_out, d_in)`` of an edit with the hparams in a file."""
    pin_contexts(method)
    hparams = hparams_class(method).from_hparams(str(path))
    model, tokenizer = tiny.load()
    before = EditableModel.wrap(*tiny.load())
    algorithms()[method](model, tokenizer, request_of(tiny), hparams)
    after = EditableModel.wrap(model, tokenizer)
    return {n: (after.weight(n) - before.weight(n)).double() for n in hparams.layers}


def seen(delta: Tensor, projector: Projector) -> float:
    return ((delta @ projector.basis.double()).norm() / delta.norm()).item()


@pytest.mark.parametrize("method", NAMES)
def test_every_key_works_in_yaml(
    registered: ModuleType, tiny_gpt2: TinyHostModel, method: str, tmp_path: Path
) -> None:
    keys: dict[str, Any] = {"null_space": True, "null_space_mode": "post"}
    file = tiny_gpt2.write_hparams(
        method, tmp_path, **keys, null_space_rule="rank", null_space_cut=9
    )
    nine = fitted(tiny_gpt2, Cut(CutRule.rank, 9))
    by_rank = written(tiny_gpt2, method, file)
    assert all(seen(delta, nine[layer]) < 1e-5 for layer, delta in by_rank.items())
    wider = {layer: projector_of(tiny_gpt2, layer) for layer in by_rank}
    assert all(seen(delta, wider[layer]) > 1e-3 for layer, delta in by_rank.items())

    saved = tmp_path / "nine.safetensors"
    save_projectors(EditableModel.wrap(*tiny_gpt2.load()), nine, saved)
    file = tiny_gpt2.write_hparams(method, tmp_path, **keys, projector_path=str(saved))
    from_file = written(tiny_gpt2, method, file)
    for layer, delta in from_file.items():
        assert (delta - by_rank[layer]).norm() < 1e-4 * delta.norm()


@pytest.mark.parametrize("method", NAMES)
def test_the_ridge_of_the_closed_form(
    registered: ModuleType, tiny_gpt2: TinyHostModel, method: str, tmp_path: Path
) -> None:
    """MEMIT solves; the others say that they do not."""
    keys = flag(tiny_gpt2, null_space_mode="solve")
    small = tiny_gpt2.write_hparams(method, tmp_path, **{**keys, "null_space_l2": "1e-3"})
    if method != "MEMIT":
        with pytest.raises(ConfigError, match=f"{method} takes post"):
            written(tiny_gpt2, method, small)
        return
    near = written(tiny_gpt2, method, small)
    large = tiny_gpt2.write_hparams(method, tmp_path, **{**keys, "null_space_l2": 1e3})
    assert all(
        far.norm() < 0.1 * near[n].norm() for n, far in written(tiny_gpt2, method, large).items()
    )


@pytest.mark.parametrize("method", ["ROME", "MEMIT", "PMET"])
def test_a_projector_of_another_model_is_refused(
    registered: ModuleType, tiny_gpt2: TinyHostModel, method: str, tmp_path: Path
) -> None:
    saved = tmp_path / "other.safetensors"
    other, tokenizer = tiny_gpt2.load()
    with torch.no_grad():
        other.get_input_embeddings().weight.mul_(2)
    nine = fitted(tiny_gpt2, Cut(CutRule.rank, 9))
    save_projectors(EditableModel.wrap(other, tokenizer), nine, saved)
    model = tiny_gpt2.load()
    before = weights(model[0])
    with pytest.raises(ProjectorError, match="fit a projector for this model"):
        run(method, tiny_gpt2, request_of(tiny_gpt2), model, null_space=True, projector_path=saved)
    assert all(torch.equal(w, before[n]) for n, w in weights(model[0]).items())


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"null_space": "yes"}, "null_space is 'yes': give true or false"),
        ({"null_space_cut": [1]}, "null_space_cut is .1.: give a number"),
        ({"layers": []}, "name at least one layer"),
        ({"layers": [2, 2]}, "none twice"),
    ],
)
@pytest.mark.parametrize("method", ["ROME", "MEMIT"])
def test_a_value_of_another_type_is_refused(
    registered: ModuleType,
    tiny_gpt2: TinyHostModel,
    tmp_path: Path,
    method: str,
    keys: dict[str, Any],
    message: str,
) -> None:
    file = tiny_gpt2.write_hparams(method, tmp_path, **flag(tiny_gpt2) | keys)
    with pytest.raises(ConfigError, match=message):
        written(tiny_gpt2, method, file)


def test_every_other_method_refuses_the_keys_by_name(registered: ModuleType) -> None:
    ours = [hparams_class(name) for name in NAMES]
    others = [kind for kind in hparams_classes() if kind not in ours]
    assert {"AlphaEditHyperParams", "FTHyperParams"} <= {kind.__name__ for kind in others}
    for kind in others:
        with pytest.raises(ConfigError, match=r"null_space is not for X: it projects ROME, R-ROME"):
            kind(alg_name="X", null_space=True)


def test_alphaedits_own_yaml_refuses_the_flag(
    registered: ModuleType, tiny_gpt2: TinyHostModel, tmp_path: Path
) -> None:
    file = tiny_gpt2.write_hparams("AlphaEdit", tmp_path, null_space=True)
    with pytest.raises(ConfigError, match="null_space is not for AlphaEdit: it projects ROME"):
        hparams_class("AlphaEdit").from_hparams(str(file))
    hparams = tiny_gpt2.hparams("AlphaEdit")
    hparams.null_space = True
    with pytest.raises(ConfigError, match="null_space is not for AlphaEdit"):
        algorithms()["AlphaEdit"](*tiny_gpt2.load(), request_of(tiny_gpt2), hparams)


@pytest.mark.parametrize(
    ("option", "mode"), [("copy", "post"), ("copy", "solve"), ("cache_template", "solve")]
)
def test_options_that_do_not_go_with_the_flag(
    registered: ModuleType, tiny_gpt2: TinyHostModel, option: str, mode: str
) -> None:
    hparams = tiny_gpt2.hparams("MEMIT", **flag(tiny_gpt2, null_space_mode=mode))
    with pytest.raises(ConfigError, match=f"{option}="):
        algorithms()["MEMIT"](
            *tiny_gpt2.load(), request_of(tiny_gpt2), hparams, **{option: "some_{}_{}_{}.npz"}
        )


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu")])
@pytest.mark.parametrize("method", ["ROME", "MEMIT"])
def test_devices_may_be_named_or_objects(
    registered: ModuleType, tiny_gpt2: TinyHostModel, method: str, device: Any
) -> None:
    model, copies = run(method, tiny_gpt2, request_of(tiny_gpt2), device=device, **flag(tiny_gpt2))
    assert all(not torch.equal(model.get_parameter(n), w) for n, w in copies.items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("method", NAMES)
def test_half_precision(
    registered: ModuleType, tiny_gpt2: TinyHostModel, method: str, dtype: torch.dtype
) -> None:
    """A weight's own rounding is all that old keys see of an edit."""
    model, tokenizer = tiny_gpt2.load()
    model.to(dtype)
    before = EditableModel.wrap(*tiny_gpt2.load())
    before.model.to(dtype)
    run(method, tiny_gpt2, request_of(tiny_gpt2), (model, tokenizer), **flag(tiny_gpt2))
    after = EditableModel.wrap(model, tokenizer)
    for layer in tiny_gpt2.hparams(method).layers:
        delta = after.weight(layer).double() - before.weight(layer).double()
        rounding = torch.finfo(dtype).eps * after.weight(layer).double().norm()
        assert delta.norm() > rounding / 4
        leak = (delta @ projector_of(tiny_gpt2, layer).basis.double()).norm()
        assert leak < rounding
