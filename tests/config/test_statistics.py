"""Second moments and projectors: from files, from the cache, from a corpus."""

from __future__ import annotations

import json
import logging
import multiprocessing
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from alphaedit_plugin.common.errors import ConfigError, ProjectorError
from alphaedit_plugin.common.tensor_file import checksum
from alphaedit_plugin.config import statistics as sources
from alphaedit_plugin.config.build import load_model
from alphaedit_plugin.config.schema import EditorConfig
from alphaedit_plugin.config.statistics import host_files, load_moments, provide_projectors
from alphaedit_plugin.data.corpus import corpus_from
from alphaedit_plugin.nullspace.collect import collect_second_moments
from alphaedit_plugin.nullspace.cut import Cut, CutRule
from alphaedit_plugin.nullspace.easyedit_stats import read_host_moment, write_host_moment
from alphaedit_plugin.nullspace.projector import Projector
from alphaedit_plugin.nullspace.projector_file import save_projectors
from alphaedit_plugin.nullspace.second_moment import SecondMoment
from tests.saved import config_of
from tests.tiny import TEXTS


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test's own."""
    monkeypatch.setenv("ALPHAEDIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def collected(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The layers of every pass over a corpus."""
    passes: list[list[int]] = []
    original = sources.collect_second_moments

    def counting(lm: Any, texts: Any, layers: Any, *args: Any, **more: Any) -> Any:
        passes.append(list(layers))
        return original(lm, texts, layers, *args, **more)

    monkeypatch.setattr(sources, "collect_second_moments", counting)
    return passes


def moments_of(config: EditorConfig) -> dict[int, SecondMoment]:
    return load_moments(load_model(config.model), config.model)


def projectors_of(config: EditorConfig) -> dict[int, Projector]:
    return provide_projectors(load_model(config.model), config)


def test_moments_of_a_corpus(saved: Path) -> None:
    config = config_of(saved)
    lm = load_model(config.model)
    found = load_moments(lm, config.model)
    expected = collect_second_moments(lm, TEXTS, [1, 2])
    assert set(found) == {1, 2}
    for layer, moment in found.items():
        assert moment.count == expected[layer].count
        torch.testing.assert_close(moment.total, expected[layer].total)


def test_tokens_limit_the_corpus(saved: Path) -> None:
    text = saved / "text.txt"
    text.write_text(text.read_text(encoding="utf-8") * 200, encoding="utf-8")
    config = config_of(saved, "model.moments.tokens=50")
    few = load_moments(load_model(config.model), config.model)
    full = config_of(saved, "model.moments.tokens=null")
    many = load_moments(load_model(full.model), full.model)
    assert 50 <= few[1].count < many[1].count


def test_moments_of_the_host(saved: Path, gpt2_moments: dict[int, SecondMoment]) -> None:
    folder = saved / "stats" / "model" / "wikipedia_stats"
    folder.mkdir(parents=True)
    for layer in (1, 2):
        np.savez(
            folder / f"transformer.h.{layer}.mlp.c_proj_float32_mom2_500.npz",
            **{
                "mom2.mom2": gpt2_moments[layer].total.float().numpy(),
                "mom2.count": gpt2_moments[layer].count,
                "mom2.constructor": "x",
                "constructor": "y",
                "sample_size": 500,
            },
        )
    config = config_of(
        saved, f"model.moments.stats_dir={saved / 'stats'}", "model.moments.stats_samples=500"
    )
    found = load_moments(load_model(config.model), config.model)
    for layer in (1, 2):
        torch.testing.assert_close(
            found[layer].mean, gpt2_moments[layer].mean, rtol=1e-5, atol=1e-6
        )


# ---------------------------------------------------------------------------------------------
# EasyEdit's folder


def test_what_is_missing_is_made_for_the_host_under_its_own_name(
    saved: Path, collected: list[list[int]], caplog: pytest.LogCaptureFixture
) -> None:
    """A text of one's own is never taken for Wikipedia, by us or by EasyEdit."""
    config = config_of(saved, f"model.moments.stats_dir={saved / 'stats'}")
    first = moments_of(config)
    sought = host_files(load_model(config.model), config.model, saved / "stats")
    assert f"stats_dir has no second moment of 2 layers: looked for {sought[1]}" in caplog.text
    assert "collecting on " in caplog.text
    assert not any(path.exists() for path in sought.values())
    again = moments_of(config)
    assert collected == [[1, 2]]  # the second time from the cache
    for layer in (1, 2):
        (path,) = (saved / "stats").rglob(f"*.h.{layer}.*.npz")
        count = first[layer].count
        assert re.fullmatch(r"text-[0-9a-f]{8}_stats", path.parent.name)
        assert path.name == f"transformer.h.{layer}.mlp.c_proj_float32_mom2_{count}.npz"
        assert int(np.load(path)["sample_size"]) == count
        assert torch.equal(again[layer].total, first[layer].total)
        mean = read_host_moment(path).mean
        torch.testing.assert_close(mean, first[layer].mean, rtol=1e-6, atol=1e-9)


def test_what_really_is_of_the_named_samples_is_kept_under_their_name(
    saved: Path, collected: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = corpus_from(saved / "text.txt")
    monkeypatch.setattr(sources, "corpus_for", lambda *_, **__: texts)
    monkeypatch.setattr(sources, "corpus_name", lambda config: texts.name)
    settings = ["corpus=null", "hub=wikimedia/wikipedia", "texts=7", "tokens=null"]
    for samples, kept in ((7, True), (8, False)):
        folder = saved / f"stats{samples}"
        config = config_of(
            saved,
            *(f"model.moments.{one}" for one in settings),
            f"model.moments.stats_dir={folder}",
            f"model.moments.stats_samples={samples}",
        )
        moments_of(config)
        files = host_files(load_model(config.model), config.model, folder)
        assert all(path.is_file() == kept for path in files.values())


def test_a_projector_says_whether_it_is_of_the_folder_or_of_the_text(saved: Path) -> None:
    config = config_of(saved, f"model.moments.stats_dir={saved / 'stats'}")
    lm = load_model(config.model)
    files, d_in = host_files(lm, config.model, saved / "stats"), lm.key_size(2)
    write_host_moment(SecondMoment(torch.eye(d_in).double(), 500), files[2], 100_000)
    found = provide_projectors(lm, config)
    assert found[1].source == str(saved / "text.txt")
    assert found[2].source == str(saved / "stats")


def test_a_second_moment_of_another_size_is_refused_with_both(saved: Path) -> None:
    config = config_of(saved, f"model.moments.stats_dir={saved / 'stats'}")
    lm = load_model(config.model)
    files = host_files(lm, config.model, saved / "stats")
    for path in files.values():
        write_host_moment(SecondMoment(torch.eye(7).double(), 3), path, 100_000)
    message = rf"{files[1].name} is for keys of 7 dimensions, but this model's .*\.1\..* has 128"
    with pytest.raises(ConfigError, match=message):
        load_moments(lm, config.model)


def test_a_host_folder_that_cannot_be_is_refused_first(
    saved: Path, collected: list[list[int]]
) -> None:
    config = config_of(saved, f"model.moments.stats_dir={saved / 'text.txt'}")
    with pytest.raises(ConfigError, match="cannot be written: what should be its folder is a file"):
        moments_of(config)
    assert collected == []


# ---------------------------------------------------------------------------------------------
# The cache


def test_nothing_is_collected_twice(saved: Path, collected: list[list[int]]) -> None:
    first, again = moments_of(config_of(saved)), moments_of(config_of(saved))
    more = moments_of(config_of(saved, "model.layers=[1,3]"))
    assert collected == [[1, 2], [3]]
    for layer in (1, 2):
        assert torch.equal(first[layer].total, again[layer].total)
        assert first[layer].count == again[layer].count
    assert list(more) == [1, 3]


def change_weights(saved: Path) -> None:
    config = config_of(saved)
    lm = load_model(config.model)
    lm.weight(0)[0, 0] += 1
    lm.model.save_pretrained(saved / "model")


def change_corpus(saved: Path) -> None:
    (saved / "text.txt").write_text("\n".join(TEXTS[1:]))


def change_tokenizer(saved: Path) -> None:
    path = saved / "model" / "tokenizer.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"normalizer": {"type": "Lowercase"}}))


@pytest.mark.parametrize(
    ("change", "overrides"),
    [
        (change_weights, []),
        (change_corpus, []),
        (change_tokenizer, []),
        (None, ["model.moments.tokens=50"]),
        (None, ["model.moments.texts=2"]),
        (None, ["model.dtype=bfloat16"]),
        (None, ["model.layers=[0,3]"]),
    ],
)
def test_whatever_changes_moments_is_in_their_key(
    saved: Path,
    collected: list[list[int]],
    change: Callable[[Path], None] | None,
    overrides: list[str],
) -> None:
    projectors_of(config_of(saved))
    if change is not None:
        change(saved)
    projectors_of(config_of(saved, *overrides))
    assert len(collected) == 2


def test_a_cut_is_in_the_key_of_projectors_only(saved: Path, collected: list[list[int]]) -> None:
    first = projectors_of(config_of(saved, "projector=rank", "projector.cut.value=5"))
    again = projectors_of(config_of(saved, "projector=rank", "projector.cut.value=5"))
    other = projectors_of(config_of(saved, "projector=rank", "projector.cut.value=6"))
    assert collected == [[1, 2]]
    assert torch.equal(first[1].basis, again[1].basis)
    assert (first[1].rank, other[1].rank) == (5, 6)
    near = (0.1, 0.10000001)
    made = [projectors_of(config_of(saved, "projector=energy", f"projector.cut.value={value}"))
            for value in near]  # fmt: skip
    assert [projectors[1].cut.value for projectors in made] == list(near)


@pytest.mark.parametrize("kind", ["moments", "projectors"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "another"])
def test_damage_is_noticed_and_made_good(
    saved: Path, cache: Path, caplog: pytest.LogCaptureFixture, kind: str, damage: str
) -> None:
    config = config_of(saved, "projector=rank", "projector.cut.value=5")
    expected = projectors_of(config)
    for path in (cache / "projectors").iterdir():
        if kind == "moments":
            path.unlink()
    for path in (cache / kind).glob("*.safetensors"):
        damaged = {"truncated": path.read_bytes()[:-60], "empty": b"", "another": b"x"}
        path.write_bytes(damaged[damage])
    found = projectors_of(config)
    for layer in (1, 2):
        assert torch.equal(found[layer].basis, expected[layer].basis)
    assert caplog.text.count("recomputing what the cache held") == 2
    caplog.clear()
    projectors_of(config)
    assert not caplog.records


def test_nothing_is_cached_where_that_is_not_wanted(
    saved: Path, cache: Path, collected: list[list[int]]
) -> None:
    config = config_of(saved, "model.moments.cache=false")
    projectors_of(config)
    projectors_of(config)
    assert collected == [[1, 2]] * 2
    assert not cache.exists()


def test_a_cache_that_cannot_be_used_is_done_without(
    saved: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("ALPHAEDIT_CACHE", str(saved / "text.txt"))
    assert set(projectors_of(config_of(saved))) == {1, 2}
    assert "nothing is cached" in caplog.text


def test_a_cache_that_is_full_is_done_without(
    saved: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: Any) -> None:
        raise ConfigError("x cannot be written: No space left on device")

    monkeypatch.setattr(sources, "write_tensors", full)
    assert set(moments_of(config_of(saved))) == {1, 2}
    assert "not cached: x cannot be written: No space left on device" in caplog.text


def collect_and_tell(config: EditorConfig, passes: list[Any], queue: Any) -> None:
    found = moments_of(config)
    queue.put((len(passes), checksum(found[1].total), checksum(found[2].total)))


def test_processes_at_once_collect_once(saved: Path, collected: list[list[int]]) -> None:
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    asked = (config_of(saved), collected, queue)
    processes = [context.Process(target=collect_and_tell, args=asked) for _ in range(3)]
    for process in processes:
        process.start()
    told = [queue.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert sorted(passes for passes, *_ in told) == [0, 0, 1]
    assert len({tuple(checksums) for _, *checksums in told}) == 1


def test_a_finished_run_leaves_no_checkpoint(saved: Path, cache: Path) -> None:
    moments_of(config_of(saved, "model.moments.checkpoint=20"))
    assert [path for path in (cache / "runs").iterdir() if path.is_dir()] == []


# ---------------------------------------------------------------------------------------------
# Projectors


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["projector=rank", "projector.cut.value=129"], "rank=129: needs a whole number .* 128"),
        (["projector=energy", "projector.cut.value=1.5"], "energy=1.5: needs a share"),
        (["projector=auto", "projector.cut.value=-1"], "auto=-1: needs a positive factor"),
    ],
)
def test_a_cut_that_cannot_be_is_refused_first(
    saved: Path, collected: list[list[int]], overrides: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        projectors_of(config_of(saved, *overrides))
    assert collected == []


def test_a_cached_projector_that_degenerates_is_reported_again(
    saved: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = config_of(saved, "projector=rank", "projector.cut.value=0")
    projectors_of(config)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        projectors_of(config)
    assert caplog.text.count("P is near the identity") == 2


def test_a_dense_reference_file(saved: Path, gpt2_moments: dict[int, SecondMoment]) -> None:
    cut = Cut(CutRule.rank, 5)
    made = {layer: Projector.fit(gpt2_moments[layer], cut) for layer in (1, 2)}
    eye = torch.eye(128)
    torch.save(torch.stack([made[layer].apply(eye) for layer in (1, 2)]), saved / "p.pt")
    found = projectors_of(config_of(saved, f"projector.path={saved / 'p.pt'}"))
    for layer in (1, 2):
        torch.testing.assert_close(found[layer].apply(eye), made[layer].apply(eye))


def test_a_trusted_file(saved: Path, templates: Any, gpt2_moments: Any) -> None:
    other = templates["gpt2"]
    made = {k: Projector.fit(gpt2_moments[k], Cut(CutRule.rank, 5)) for k in (1, 2)}
    save_projectors(other, made, saved / "p.safetensors")
    config = config_of(saved)
    lm = load_model(config.model)
    with torch.no_grad():
        lm.model.get_input_embeddings().weight.mul_(2)
    config.projector.path = str(saved / "p.safetensors")
    with pytest.raises(ProjectorError, match=r"projector\.trust=true"):
        provide_projectors(lm, config)
    config.projector.trust = True
    assert torch.equal(provide_projectors(lm, config)[1].basis, made[1].basis)


@pytest.mark.parametrize(
    "asked", ["projector=energy", "projector=absolute", "projector.cut.value=0.5"]
)
@pytest.mark.parametrize("name", ["p.safetensors", "p.pt"])
def test_a_stored_projector_keeps_its_cut(
    saved: Path, templates: Any, gpt2_moments: Any, asked: str, name: str
) -> None:
    """Another cut that is asked for beside it is refused, also the one that is the model's own."""
    made = {k: Projector.fit(gpt2_moments[k], Cut(CutRule.rank, 5)) for k in (1, 2)}
    save_projectors(templates["gpt2"], made, saved / "p.safetensors")
    torch.save(torch.stack([made[k].apply(torch.eye(128)) for k in (1, 2)]), saved / "p.pt")
    path = f"projector.path={saved / name}"
    with pytest.raises(ProjectorError, match="remove the cut"):
        projectors_of(config_of(saved, path, asked))
    assert set(projectors_of(config_of(saved, path))) == {1, 2}


def test_a_stored_projector_may_be_asked_for_by_its_cut(
    saved: Path, templates: Any, gpt2_moments: Any
) -> None:
    made = {k: Projector.fit(gpt2_moments[k], Cut(CutRule.rank, 5)) for k in (1, 2)}
    save_projectors(templates["gpt2"], made, saved / "p.safetensors")
    asked = ("projector=rank", "projector.cut.value=5", f"projector.path={saved}/p.safetensors")
    assert torch.equal(projectors_of(config_of(saved, *asked))[1].basis, made[1].basis)
