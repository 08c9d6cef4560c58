"""Fixtures shared by all tests: tiny models, tokenizers, second moments and projectors."""

from __future__ import annotations

import copy
import importlib.util
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.models.prefix_cache import can_resume
from alphaedit_plugin.nullspace.collect import collect_second_moments
from alphaedit_plugin.nullspace.cut import Cut, CutRule
from alphaedit_plugin.nullspace.projector import Projector
from alphaedit_plugin.nullspace.second_moment import SecondMoment
from tests.saved import save_model
from tests.tiny import (
    DEPTH,
    FAMILIES,
    TOKENIZER_KINDS,
    build_model,
    fast_tokenizer,
    random_sequences,
    tokenizer_of,
)

settings.register_profile("suite", deadline=None, max_examples=40, database=None, derandomize=True)
# By hand, as long as one likes: pytest tests/fuzz --hypothesis-profile=long
settings.register_profile("long", deadline=None, max_examples=1000, print_blob=True)
settings.load_profile("suite")


def pytest_report_header() -> str:
    """Say which EasyEdit the tests run in."""
    home, installed = os.environ.get("EASYEDIT_HOME"), importlib.util.find_spec("easyeditor")
    if home:
        folder = Path(home).expanduser().resolve()
    elif installed is not None and installed.origin:
        folder = Path(installed.origin).parents[1]
    else:
        return (
            "EasyEdit: contract double (set EASYEDIT_HOME to run tests/host against the real one)"
        )
    return f"EasyEdit: real host at {folder} (tests/host), contract double (tests/easyedit)"


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing that a test computes, or finds, is in the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALPHAEDIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return fast_tokenizer()


@pytest.fixture(scope="session", params=TOKENIZER_KINDS)
def any_tokenizer(request: pytest.FixtureRequest) -> Any:
    return tokenizer_of(request.param)


@pytest.fixture(scope="session")
def templates(tokenizer: Any) -> dict[str, EditableModel]:
    """One unedited model per family: read these, edit copies of them."""
    views = {
        family: EditableModel.wrap(build_model(family, len(tokenizer)), tokenizer)
        for family in FAMILIES
    }
    assert all(can_resume(lm) for lm in views.values())  # tried once, here, for all copies
    return views


@pytest.fixture(scope="session")
def all_moments(templates: dict[str, EditableModel]) -> dict[str, dict[int, SecondMoment]]:
    return {
        family: collect_second_moments(lm, random_sequences(len(lm.tokenizer)), range(DEPTH))
        for family, lm in templates.items()
    }


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def lm(family: str, templates: dict[str, EditableModel]) -> EditableModel:
    """A fresh copy of the model of each family in turn."""
    return _copy(templates[family])


@pytest.fixture
def gpt2(templates: dict[str, EditableModel]) -> EditableModel:
    """A fresh GPT-2, where the family does not matter."""
    return _copy(templates["gpt2"])


@pytest.fixture
def saved(tmp_path: Path, gpt2: EditableModel) -> Path:
    """A model folder and a corpus beside it: see `tests.saved`."""
    return save_model(gpt2, tmp_path)


@pytest.fixture
def moments(
    family: str, all_moments: dict[str, dict[int, SecondMoment]]
) -> dict[int, SecondMoment]:
    return all_moments[family]


@pytest.fixture
def projectors(moments: dict[int, SecondMoment]) -> dict[int, Projector]:
    """For each layer a projector that keeps half of the dimensions."""
    return _halves(moments)


@pytest.fixture
def gpt2_moments(all_moments: dict[str, dict[int, SecondMoment]]) -> dict[int, SecondMoment]:
    return all_moments["gpt2"]


@pytest.fixture(scope="session")
def gpt2_projectors(
    all_moments: dict[str, dict[int, SecondMoment]],
) -> dict[int, Projector]:
    return _halves(all_moments["gpt2"])


def _halves(moments: dict[int, SecondMoment]) -> dict[int, Projector]:
    half = Cut(CutRule.rank, moments[0].total.shape[0] // 2)
    return {layer: Projector.fit(moment, half) for layer, moment in moments.items()}


def _copy(template: EditableModel) -> EditableModel:
    return replace(template, model=copy.deepcopy(template.model))
