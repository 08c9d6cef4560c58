"""Every base method, plain and projected, through the whole engine."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from alphaedit_plugin import conf
from alphaedit_plugin.common.delta import Delta
from alphaedit_plugin.common.errors import ConfigError, ModelError, ProjectorError
from alphaedit_plugin.editing.engine import finalize
from alphaedit_plugin.editing.recipe import Recipe
from alphaedit_plugin.editing.session import EditSession
from alphaedit_plugin.methods.alphaedit import AlphaEdit
from alphaedit_plugin.methods.base import METHODS, BaseMethod, LayerProblem
from alphaedit_plugin.methods.memit import Memit
from alphaedit_plugin.methods.prune import Prune
from alphaedit_plugin.methods.rect import Rect
from alphaedit_plugin.methods.rome import Rome
from alphaedit_plugin.models.activations import Part
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.nullspace.cut import Cut, CutRule, Mode
from alphaedit_plugin.nullspace.projector import Projector
from alphaedit_plugin.nullspace.second_moment import SecondMoment
from tests.tiny import CONTEXTS, REQUESTS, SEARCH, assert_same_weights, edit, relative, weights_of

LAYERS = (1, 2)
BASES: dict[str, BaseMethod] = {
    "rome": Rome(),
    "rome without C": Rome(use_moment=False),
    "memit": Memit(20.0),
    "memit-seq": Memit(20.0, sequential_cache=True),
    "rect": Rect(20.0),
    "prune": Prune(20.0),
}
LEAST_SQUARES = [name for name in BASES if not name.startswith("rome")]
PROJECTED = [(name, Mode.post) for name in BASES] + [(name, Mode.solve) for name in LEAST_SQUARES]
Moments = dict[int, SecondMoment]
Projectors = dict[int, Projector]
CUT_NOTHING, CUT_HALF = Cut(CutRule.rank, 0), Cut(CutRule.energy, 0.8)


def run(lm: EditableModel, method: BaseMethod, moments: Moments) -> EditSession:
    """Two batches and the end of the run."""
    session = EditSession(lm, LAYERS)
    recipe = Recipe(method, LAYERS, CONTEXTS, moments, targets=SEARCH)
    edit(session, recipe, REQUESTS[:2])
    edit(session, recipe, REQUESTS[2:])
    finalize(session, recipe)
    return session


@pytest.mark.parametrize(("base", "mode"), PROJECTED)
def test_a_projected_method_is_invisible_to_old_keys(
    lm: EditableModel, moments: Moments, projectors: Projectors, base: str, mode: Mode
) -> None:
    session = run(lm, AlphaEdit(BASES[base], projectors, mode), moments)
    batches = [entry for entry in session.journal if entry.requests]
    assert len(batches) == 2
    for entry in batches:
        for write in entry.writes:
            assert projectors[write.layer].leakage(write.delta) < 1e-6
    for layer in LAYERS:
        written = Delta(lm.weight(layer) - session.pristine(layer))
        assert written.norm > 0
        assert projectors[layer].leakage(Delta(session.accumulated(layer))) < 1e-6
        # What is in the weight itself is rounded to the weight's precision.
        rounding = 1e-7 * session.pristine(layer).norm().item() / written.norm
        assert projectors[layer].leakage(written) < 1e-6 + rounding


@pytest.mark.parametrize("base", BASES)
def test_a_plain_method_is_visible_to_old_keys(
    lm: EditableModel, moments: Moments, projectors: Projectors, base: str
) -> None:
    session = run(lm, BASES[base], moments)
    for layer in LAYERS:
        assert projectors[layer].leakage(Delta(session.accumulated(layer))) > 1e-3


@pytest.mark.parametrize(("base", "mode"), PROJECTED)
def test_a_run_is_taken_back_bit_for_bit(
    gpt2: EditableModel, gpt2_moments: Moments, base: str, mode: Mode
) -> None:
    half = {i: Projector.fit(m, CUT_HALF) for i, m in gpt2_moments.items()}
    before = weights_of(gpt2)
    session = run(gpt2, AlphaEdit(BASES[base], half, mode), gpt2_moments)
    session.reset()
    assert_same_weights(gpt2, before)


@pytest.mark.parametrize("base", LEAST_SQUARES)
def test_a_closed_form_needs_no_second_moment(
    gpt2: EditableModel, gpt2_moments: Moments, base: str
) -> None:
    whole = {i: Projector.fit(m, CUT_NOTHING) for i, m in gpt2_moments.items()}
    method = AlphaEdit(BASES[base], whole)
    assert (method.solves, method.needs_moment, method.needs_history) == (True, False, True)
    run(gpt2, method, {})


def problem_for(seed: int, n: int = 3) -> LayerProblem:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    keys = normal(12, 40)
    moment = SecondMoment((keys @ keys.T).double(), 40)
    return LayerProblem(0, normal(12, n), normal(12, n), normal(8, n), normal(8, 12), moment)


def test_post_is_the_bases_delta_times_p() -> None:
    problem = problem_for(1)
    assert problem.moment is not None
    projector = Projector.fit(problem.moment, CUT_HALF)
    span = projector.basis @ projector.basis.T
    p = span if projector.spans_null else torch.eye(12) - span
    for base in BASES.values():
        if base.one_by_one:
            problem = problem_for(1, n=1)
        projected = AlphaEdit(base, {0: projector}, Mode.post).delta(problem).dense
        assert relative(projected, base.delta(problem).dense.float() @ p) < 1e-5


@pytest.mark.parametrize("percent", [5, 20, 40, 100])
def test_rect_writes_its_share_of_memits_delta(percent: float) -> None:
    problem = problem_for(2)
    full, kept = (m.delta(problem).dense for m in (Memit(2.0), Rect(2.0, keep_percent=percent)))
    assert kept.count_nonzero() == round(full.numel() * percent / 100)
    assert torch.equal(kept[kept != 0], full[kept != 0])


def test_rect_refuses_a_share_too_small_to_keep_an_entry() -> None:
    with pytest.raises(ConfigError, match=r"keep_percent is 0\.1: it must be enough to keep"):
        Rect(2.0, keep_percent=0.1).delta(problem_for(2))


NAN, INFINITY = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("kind", "name", "values"),
    [
        (Memit, "moment_weight", [0.0, -1.0, INFINITY, NAN]),
        (Rect, "moment_weight", [0.0]),
        (Rect, "keep_percent", [0, -5, 101, NAN]),
        (Prune, "alpha", [1.0, 0.5, INFINITY, NAN]),
    ],
)
def test_a_setting_outside_its_range_is_refused(
    kind: type[BaseMethod], name: str, values: list[float]
) -> None:
    for value in values:
        with pytest.raises(ConfigError, match=rf"base\.{name} is {value}: it must be"):
            kind(**{name: value})


@pytest.mark.parametrize("ridge", [0.0, -1.0, INFINITY, NAN])
def test_the_ridge_must_be_positive_where_it_is_used(ridge: float) -> None:
    with pytest.raises(ConfigError, match=r"projector\.l2 is .* must be positive"):
        AlphaEdit(Memit(), {}, ridge=ridge)
    AlphaEdit(Rome(), {}, ridge=ridge)


def test_layers_must_ascend_have_a_projector_and_a_second_moment(gpt2: EditableModel) -> None:
    with pytest.raises(ModelError, match=r"must ascend: give model\.layers=\[1, 2\]"):
        Memit().check_layers([2, 1])
    Rome().check_layers([2, 1])
    with pytest.raises(ProjectorError, match=r"no projector for layer 1, only for layers \[\]"):
        AlphaEdit(Rome(), {}).check_layers([1])
    with pytest.raises(ConfigError, match="layer 1 has no second moment"):
        run(gpt2, Memit(), {})


@pytest.mark.parametrize("projected", [False, True])
def test_prune_acts_against_the_pristine_weight(
    lm: EditableModel, projectors: Projectors, projected: bool
) -> None:
    """At the end ``W = W0 + Δ'``, not ``W + Δ'``, with Δ' from the sum of all deltas."""
    lm.weight(1).mul_(100)  # so that σ* is where the published curve shrinks
    pristine = lm.weight(1).clone()
    session = EditSession(lm, [1])
    method: BaseMethod = Prune(alpha=1.2)
    method = AlphaEdit(method, projectors, Mode.post) if projected else method
    limit = torch.linalg.matrix_norm(pristine, ord=2).item()
    parts = [Delta(torch.randn(pristine.shape)) for _ in range(2)]
    parts = [projectors[1].project(part) for part in parts] if projected else parts
    median = torch.linalg.svdvals(parts[0].dense + parts[1].dense).median()
    for part in parts:  # half of the sum's singular values are above σ*
        with session.batch():
            session.write(1, Delta(part.dense * limit / median))
            session.commit(REQUESTS[:1])
    u, values, vt = np.linalg.svd(session.accumulated(1).double().numpy(), full_matrices=False)
    assert (values > limit).any()
    assert not (values > limit).all()
    restrained = (np.log(values) - np.log(limit)) / np.log(1.2) + limit
    expected = torch.from_numpy((u * np.where(values > limit, restrained, values)) @ vt)

    edited = weights_of(lm)
    finalize(session, Recipe(method, (1,), CONTEXTS, targets=SEARCH))
    assert relative(session.accumulated(1), expected) < 1e-5
    assert relative(lm.weight(1) - pristine, expected) < 1e-4
    if projected:
        assert projectors[1].leakage(Delta(session.accumulated(1))) < 1e-6
    session.undo()
    assert_same_weights(lm, edited)


@pytest.mark.parametrize("base", ["rome", "rome without C"])
def test_rome_has_no_closed_form_to_replace(base: str) -> None:
    with pytest.raises(ConfigError, match=r"Rome is not a least-squares method.*mode=post"):
        AlphaEdit(BASES[base], {}, Mode.solve)


@pytest.mark.parametrize("base", BASES)
def test_auto_solves_where_there_is_a_least_squares(base: str) -> None:
    method = AlphaEdit(BASES[base], {}, Mode.auto)
    assert method.solves == (base in LEAST_SQUARES)
    assert method.one_by_one == BASES[base].one_by_one
    assert method.target == BASES[base].target
    assert not AlphaEdit(BASES[base], {}, Mode.post).solves


@pytest.mark.parametrize("name", ["rome", "memit", "rect", "prune"])
def test_the_yaml_of_a_method_says_what_its_dataclass_says(name: str) -> None:
    path = Path(conf.__file__).parent / "base" / f"{name}.yaml"
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert (settings.pop("name"), settings.pop("span") in ("single", "spread")) == (name, True)
    defaults = {field.name: field.default for field in fields(METHODS.get(name))}  # type: ignore[arg-type]
    assert settings.keys() == defaults.keys()
    for key, value in settings.items():
        assert value in (defaults[key], f"${{model.{key}}}")


def test_the_registry_has_the_four() -> None:
    found = {name: METHODS.get(name) for name in METHODS}
    assert found == {"rome": Rome, "memit": Memit, "prune": Prune, "rect": Rect}


@dataclass(frozen=True)
class Hebbian(BaseMethod):
    """A user's method: outer products, and at the end half of them and of W0."""

    rate: float = 0.5
    target = Part.VALUE

    def solve(self, problem: LayerProblem) -> Delta:
        return Delta(self.rate * problem.residual, problem.keys)

    def finalize(self, layer: int, accumulated: Any, pristine: Any) -> Delta | None:
        return Delta((accumulated + pristine) / 2)


@pytest.mark.parametrize("mode", list(Mode))
def test_a_fifth_method_works_like_the_four(
    gpt2: EditableModel, gpt2_moments: Moments, mode: Mode
) -> None:
    half = {i: Projector.fit(m, CUT_HALF) for i, m in gpt2_moments.items()}
    method = AlphaEdit(Hebbian(), half, mode)
    session = run(gpt2, method, gpt2_moments)
    assert len(session.journal) == 3
    for layer in LAYERS:
        before_the_end = sum(
            w.delta.dense for e in session.journal[:2] for w in e.writes if w.layer == layer
        )
        p = half[layer].apply(torch.eye(half[layer].d_in))
        expected = (before_the_end + session.pristine(layer) @ p) / 2
        assert relative(session.accumulated(layer), expected) < 1e-5
        assert half[layer].leakage(Delta(session.accumulated(layer))) < 1e-6
