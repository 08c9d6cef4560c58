"""``alphaedit inspect``: what is in a projector file, and what leaks through it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from alphaedit_plugin.cli.inspect import measure, plot_spectra
from alphaedit_plugin.cli.main import main
from alphaedit_plugin.common.version import VERSION
from alphaedit_plugin.config.build import load_model
from alphaedit_plugin.data.corpus import corpus_from
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.nullspace.cut import Cut, CutRule
from alphaedit_plugin.nullspace.projector import Projector
from alphaedit_plugin.nullspace.projector_file import read_projectors, save_projectors
from alphaedit_plugin.nullspace.second_moment import SecondMoment
from tests.saved import config_of, overrides_of
from tests.tiny import build_model

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def path(
    saved: Path,
    gpt2: EditableModel,
    gpt2_moments: dict[int, SecondMoment],
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A projector file for the model in ``saved``; its layers are cut differently."""
    monkeypatch.setenv("COLUMNS", "160")
    made = {
        layer: Projector.fit(gpt2_moments[layer], Cut(CutRule.rank, 20 * layer)) for layer in (1, 3)
    }
    save_projectors(gpt2, made, saved / "p.safetensors", "wiki.txt")
    return saved / "p.safetensors"


def test_without_a_model(path: Path, capsys: Capture) -> None:
    assert main(["inspect", str(path)]) == 0
    out = capsys.readouterr().out
    file = read_projectors(path)
    for part in ("(gpt2), from wiki.txt", f"fingerprint {file.fingerprint}", VERSION,
                 "rank=20 128 20 108 (84%)", "rank=60 128 60 68 (53%)"):  # fmt: skip
        assert part in " ".join(out.split())
    assert "E‖Pk‖²" not in out
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_with_a_model_and_held_out_text(saved: Path, path: Path, capsys: Capture) -> None:
    (saved / "held.txt").write_text("It is known that Norland is a country.\n")
    words = [*overrides_of(saved)[:-2], f"corpus={saved / 'held.txt'}"]
    assert main(["inspect", str(path), *words]) == 0
    out = capsys.readouterr().out
    config = config_of(saved)
    lm = load_model(config.model)
    found = measure(lm, read_projectors(path).projectors, corpus_from(saved / "held.txt"), None)
    for layer, leakage in found.items():
        assert 0 < leakage.keys < 1
        row = f"{layer}{leakage.tokens:>8}{leakage.keys:>14.2%}{leakage.outputs:>16.2%}"
        assert row.split() in [line.split() for line in out.splitlines()]


def test_a_degenerate_cut_is_named(
    saved: Path, gpt2: EditableModel, gpt2_moments: dict[int, SecondMoment], capsys: Capture
) -> None:
    made = {1: Projector.fit(gpt2_moments[1], Cut(CutRule.rank, 0))}
    save_projectors(gpt2, made, saved / "p.safetensors")
    assert main(["inspect", str(saved / "p.safetensors")]) == 0
    out = capsys.readouterr().out
    assert "from an unnamed corpus" in out
    assert "layer 1: the cut rank=0 leaves a null space of 128 of 128" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "type alphaedit inspect PROJECTOR"),
        (["a", "b"], "type alphaedit inspect PROJECTOR"),
        (["gone"], "no projector file at gone"),
        (["x" * 300], "no projector file at xxx"),
        (["{saved}/text.txt"], "is damaged, or not a file of alphaedit_plugin"),
        (["{saved}/p.safetensors", "{model}"], "no held-out text: give corpus="),
        (["{saved}/p.safetensors", "{model}", "corpus=gone.txt"], "no corpus at gone.txt"),
        (["{saved}/p.safetensors", "model=pocket"], "but this is "),
    ],
)
def test_refusals_are_one_line(
    saved: Path, path: Path, capsys: Capture, words: list[str], message: str
) -> None:
    model = overrides_of(saved)[:-2]
    filled: list[str] = []
    for word in words:
        filled += model if word == "{model}" else [word.replace("{saved}", str(saved))]
    assert main(["inspect", *filled]) == 2
    err = capsys.readouterr().err
    assert message in err.splitlines()[-1]
    assert "Traceback" not in err


def test_another_model_is_refused_unless_trusted(
    saved: Path, path: Path, gpt2: EditableModel, capsys: Capture
) -> None:
    build_model("gpt2", len(gpt2.tokenizer), seed=1).save_pretrained(saved / "model")
    words = ["inspect", str(path), *overrides_of(saved)[:-2], f"corpus={saved / 'text.txt'}"]
    assert main(words) == 2
    assert "fingerprint" in capsys.readouterr().err
    assert main([*words, "projector.trust=true"]) == 0


def test_a_picture_that_cannot_be_written(path: Path, capsys: Capture) -> None:
    path.with_suffix(".png").mkdir()
    assert main(["inspect", str(path)]) == 2
    assert "p.png cannot be written: Is a directory" in capsys.readouterr().err


def test_a_plot_of_what_is_known(gpt2_moments: dict[int, SecondMoment], tmp_path: Path) -> None:
    """Without eigenvalues, as the reference's files are, and with some of them."""
    whole = Projector.fit(gpt2_moments[1], Cut(CutRule.rank, 5))
    none = Projector(whole.basis, torch.empty(0), whole.cut)
    some = Projector(whole.basis, whole.eigenvalues[:9], whole.cut)
    for number, held in enumerate(({1: none}, {1: some, 2: whole}, {1: none, 2: whole})):
        plot_spectra(held, tmp_path / f"{number}.png")
        assert (tmp_path / f"{number}.png").stat().st_size > 1000
