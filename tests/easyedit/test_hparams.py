"""The flag's keys: what they are by default, and what they refuse."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from alphaedit_plugin.common.errors import ConfigError
from alphaedit_plugin.easyedit.hparams import KEYS, NullSpaceFlag
from alphaedit_plugin.nullspace.cut import Cut, CutRule


def test_it_is_off_where_hparams_say_nothing() -> None:
    flag = NullSpaceFlag.of(SimpleNamespace(layers=[1]))
    assert flag == NullSpaceFlag()
    assert not flag.null_space
    assert flag.cut == Cut(CutRule.absolute, 2e-2)


def test_every_key_is_read_from_hparams() -> None:
    given = {
        "null_space": True,
        "null_space_mode": "post",
        "null_space_rule": "rank",
        "null_space_cut": 7,
        "null_space_l2": 3.0,
        "projector_path": "some.safetensors",
    }
    assert set(given) <= set(KEYS)
    flag = NullSpaceFlag.of(SimpleNamespace(**given))
    assert {key: getattr(flag, key) for key in given} == given
    assert flag.cut == Cut(CutRule.rank, 7.0)


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("null_space", "true", "true or false"),
        ("null_space", 1, "true or false"),
        ("null_space", None, "true or false"),
        ("null_space_cut", "two", "a number"),
        ("null_space_cut", True, "a number"),
        ("null_space_l2", None, "a number"),
        ("projector_path", 3, "a path"),
    ],
)
def test_values_of_another_type_are_refused(key: str, value: object, wanted: str) -> None:
    with pytest.raises(ConfigError, match=f"{key} is {value!r}: give {wanted}"):
        NullSpaceFlag.of(SimpleNamespace(**{key: value}))


def test_numbers_may_be_text_as_yaml_reads_them_and_paths_objects() -> None:
    given = SimpleNamespace(null_space_cut="2e-3", null_space_l2=1, projector_path=Path("a/b"))
    flag = NullSpaceFlag.of(given)
    assert (flag.null_space_cut, flag.null_space_l2, flag.projector_path) == (2e-3, 1.0, "a/b")


@pytest.mark.parametrize(
    ("name", "nearest"), [("nullspace", "null_space"), ("null_space_cutt", "null_space_cut")]
)
def test_a_misspelt_attribute_is_not_overlooked(name: str, nearest: str) -> None:
    with pytest.raises(ConfigError, match=f"{name!r}; did you mean {nearest!r}"):
        NullSpaceFlag.of(SimpleNamespace(**{name: True}))


@pytest.mark.parametrize(
    ("mode", "able", "solves"),
    [
        ("auto", True, True),
        ("auto", False, False),
        ("solve", True, True),
        ("post", True, False),
        ("post", False, False),
    ],
)
def test_auto_solves_where_it_can(mode: str, able: bool, solves: bool) -> None:
    assert NullSpaceFlag.read({"null_space_mode": mode}).solves("MEMIT", able) is solves


def test_solving_is_refused_by_name_where_there_is_nothing_to_solve() -> None:
    with pytest.raises(ConfigError, match=r"EMMET takes post"):
        NullSpaceFlag.read({"null_space_mode": "solve"}).solves("EMMET", False)


@pytest.mark.parametrize(
    ("key", "value", "nearest"),
    [
        ("null_space_mode", "postx", "post"),
        ("null_space_rule", "enrgy", "energy"),
        ("null_space_rule", 2, "energy"),
        ("null_space_mode", None, "solve"),
    ],
)
def test_a_misspelt_mode_or_rule_names_the_nearest(key: str, value: object, nearest: str) -> None:
    with pytest.raises(ConfigError, match=f"unknown {key}.*{nearest}"):
        NullSpaceFlag.read({key: value})


@pytest.mark.parametrize("ridge", [0.0, -1.0, float("nan")])
def test_the_ridge_is_positive_where_it_is_used(ridge: float) -> None:
    with pytest.raises(ConfigError, match="null_space_l2"):
        NullSpaceFlag(True, null_space_l2=ridge).solves("MEMIT", True)
    assert not NullSpaceFlag(True, null_space_l2=ridge).solves("ROME", False)


def test_the_published_cut_means_nothing_to_other_rules() -> None:
    assert NullSpaceFlag(null_space_rule=CutRule.auto).cut == Cut(CutRule.auto, 1.0)
    assert NullSpaceFlag(null_space_rule=CutRule.energy, null_space_cut=0.9).cut.value == 0.9
    with pytest.raises(ConfigError, match="energy needs a null_space_cut"):
        _ = NullSpaceFlag(null_space_rule=CutRule.energy).cut
