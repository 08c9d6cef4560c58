"""``corpus=self``: second moments of text that the model writes, once, and from then on cached."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from alphaedit_plugin.cli.main import main
from alphaedit_plugin.common.errors import ConfigError
from alphaedit_plugin.config import corpora
from alphaedit_plugin.config.build import load_model, load_recipe
from alphaedit_plugin.config.compose import load_config
from alphaedit_plugin.config.corpora import PER_DIMENSION, corpus_for, corpus_name
from alphaedit_plugin.config.statistics import load_moments
from alphaedit_plugin.data.corpus import Text
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.models.writing import Manuscript, write_texts
from alphaedit_plugin.nullspace.collect import collect_second_moments
from alphaedit_plugin.nullspace.projector_file import read_projectors
from tests.saved import config_of, overrides_of

SELF = ("model.moments.corpus=self", "model.moments.written.tokens=300")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test's own."""
    monkeypatch.setenv("ALPHAEDIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def wrote(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The first number of every part that was written, not read from the cache."""
    parts: list[int] = []

    def writing(lm: Any, manuscript: Any, numbers: Sequence[int], **more: Any) -> Any:
        parts.append(numbers[0])
        return write_texts(lm, manuscript, numbers, **more)

    monkeypatch.setattr(corpora, "PART", 4)
    monkeypatch.setattr(corpora, "write_texts", writing)
    return parts


def texts_of(saved: Path, *overrides: str) -> list[Text]:
    config = config_of(saved, *SELF, *overrides).model
    return list(corpus_for(load_model(config), config).texts())


def size(texts: Sequence[Text]) -> int:
    return sum(map(len, texts))


def test_moments_are_of_what_the_model_writes(saved: Path, gpt2: EditableModel) -> None:
    config = config_of(saved, *SELF).model
    found = load_moments(load_model(config), config)
    texts = write_texts(gpt2, Manuscript.of(gpt2, 256), range(40))
    expected = collect_second_moments(gpt2, texts, [1, 2], 300)
    for layer, moment in found.items():
        assert moment.count == 300
        torch.testing.assert_close(moment.total, expected[layer].total)


def test_exactly_as_many_tokens_as_asked_for(saved: Path) -> None:
    assert size(texts_of(saved)) == 300
    assert size(texts_of(saved, "model.moments.tokens=77")) == 77
    few = texts_of(saved, "model.moments.written.length=10")
    assert (size(few), max(map(len, few))) == (300, 9)
    widest = load_model(config_of(saved).model).key_size(0)
    default = texts_of(saved, "model.moments.written.tokens=null")
    assert size(default) == PER_DIMENSION * widest


def test_written_once_and_continued_where_more_is_asked_for(saved: Path, wrote: list[int]) -> None:
    first = texts_of(saved)
    parts = list(wrote)
    assert texts_of(saved) == first
    assert wrote == parts
    more = texts_of(saved, "model.moments.written.tokens=600")
    assert wrote[: len(parts)] == parts
    assert wrote == sorted(set(wrote))
    assert more[: len(first) - 1] == first[:-1]


def test_a_killed_run_goes_on_after_the_last_part(
    saved: Path, wrote: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    writing = corpora.write_texts

    def killed(lm: Any, manuscript: Any, numbers: Sequence[int], **more: Any) -> Any:
        if numbers[0] >= 4:
            raise KeyboardInterrupt
        return writing(lm, manuscript, numbers, **more)

    with monkeypatch.context() as patch:
        patch.setattr(corpora, "write_texts", killed)
        with pytest.raises(KeyboardInterrupt):
            texts_of(saved)
    resumed = texts_of(saved)
    assert wrote.count(0) == 1
    assert resumed == texts_of(saved, "model.moments.cache=false")


def change_last_block(saved: Path) -> None:
    """Above all edited layers: what it changes is the text alone."""
    lm = load_model(config_of(saved).model)
    lm.weight(3)[0, 0] += 1
    lm.model.save_pretrained(saved / "model")


@pytest.mark.parametrize(
    "change",
    [
        "model.moments.written.seed=1",
        "model.moments.written.length=20",
        "model.moments.written.start='<end>'",
        "model.dtype=bfloat16",
        change_last_block,
    ],
)
def test_whatever_changes_the_text_is_in_its_key(
    saved: Path, wrote: list[int], change: Any
) -> None:
    config = config_of(saved, *SELF).model
    before = load_moments(load_model(config), config)
    count = len(wrote)
    overrides = [change] if isinstance(change, str) else []
    if not overrides:
        change(saved)
    config = config_of(saved, *SELF, *overrides).model
    after = load_moments(load_model(config), config)
    assert len(wrote) > count
    assert not torch.equal(before[1].total, after[1].total)


def test_a_model_that_writes_nothing(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpora, "write_texts", lambda lm, manuscript, numbers, **_: [[]])
    with pytest.raises(ConfigError, match=r"writes nothing, .* model\.moments\.written\.start"):
        texts_of(saved)


@pytest.mark.parametrize("source", [["model.moments.hub=null"], ["corpus=self"]])
def test_where_nothing_is_named_the_model_writes(source: list[str]) -> None:
    named = ["model=custom", "model.path=x", "model.layers=[0]"]
    assert corpus_name(load_config([*named, *source]).model) == "text that the model writes itself"
    assert corpus_name(load_config(["model=pocket"]).model) == "the pocket world"


def test_a_file_of_that_name(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(saved)
    (saved / "self").write_text("one\n")
    assert corpus_name(config_of(saved, "model.moments.corpus=./self").model) == "self"


@pytest.mark.parametrize("override", ["written.tokens=0", "written.length=1", "written.seed=-1"])
def test_settings_that_make_no_sense(saved: Path, override: str) -> None:
    with pytest.raises(ConfigError, match=r"model\.moments\.written\."):
        config_of(saved, f"model.moments.{override}")


def test_commands(saved: Path, monkeypatch: pytest.MonkeyPatch, wrote: list[int]) -> None:
    """``fit`` writes; whatever edits afterwards takes what is there."""
    monkeypatch.chdir(saved)
    model = [word for word in overrides_of(saved) if "corpus" not in word]
    words = [*model, "corpus=self", "model.moments.written.tokens=300"]
    assert main(["fit", *words, "fit.out=p.safetensors"]) == 0
    file = read_projectors(saved / "p.safetensors")
    assert file.corpus == "text that the model writes itself"
    assert file.projectors[1].tokens == 300
    count = len(wrote)
    config = load_config(words)
    recipe = load_recipe(load_model(config.model), config)
    assert torch.equal(recipe.method.projectors[1].basis, file.projectors[1].basis)
    assert len(wrote) == count
