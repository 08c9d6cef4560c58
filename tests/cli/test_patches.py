"""``alphaedit edit`` with a journal and a patch, then ``apply``, ``undo`` and ``verify``."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from alphaedit_plugin.cli.main import main
from alphaedit_plugin.common.errors import AlphaEditError
from alphaedit_plugin.config import statistics as sources
from alphaedit_plugin.config.build import load_model
from alphaedit_plugin.config.compose import load_config
from alphaedit_plugin.data.selection import load_data
from alphaedit_plugin.editing.encoding import encode
from alphaedit_plugin.editor import NullSpaceEditor
from alphaedit_plugin.patches.journal import Journal
from alphaedit_plugin.patches.patch import bytes_of
from alphaedit_plugin.patches.sessions import open_session
from tests.patches.edits import forge, parts_of
from tests.tiny import assert_same_weights, weights_of

Capture = pytest.CaptureFixture[str]
QUICK = ["model.moments.tokens=3000"]  # a poor second moment, in no time
EDIT = ["edit", *QUICK, "data.limit=4", "batch_size=2", "journal=j", "patch=p.safetensors"]


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.chdir(tmp_path)


def said(capsys: Capture) -> str:
    captured = capsys.readouterr()
    return captured.out + captured.err


def test_from_edit_to_verify(capsys: Capture) -> None:
    assert main([*EDIT, "save=run"]) == 0
    size = re.search(r"p\.safetensors: (0\.\d+) MiB, (\d\.\d+)% of a full checkpoint", said(capsys))
    assert size is not None
    whole = bytes_of(load_model(load_config().model))
    assert float(size[2]) == pytest.approx(100 * Path("p.safetensors").stat().st_size / whole, 0.01)
    assert main(["apply", "p.safetensors", "save=applied"]) == 0
    out = said(capsys)
    assert "p.safetensors: 4 edits for" in out
    assert "bit for bit" in out
    first, second = (AutoModelForCausalLM.from_pretrained(path) for path in ("run", "applied"))
    for name, parameter in first.named_parameters():
        assert torch.equal(parameter, second.get_parameter(name))
    assert main(["verify", "p.safetensors", *QUICK]) == 0
    out = said(capsys)
    assert "4 of 4 edits hold; all checks passed" in out
    assert re.search(r"0\s+\S+\s+\d\.\de-\d\d\s+\S+\s+yes", out)
    assert (
        main(["verify", "p.safetensors", *QUICK, "projector=rank", "projector.cut.value=900"]) == 1
    )
    assert "4 of 4 edits hold; some checks failed" in said(capsys)
    # The edited model itself, which the patch must not be applied to once more.
    held = ["verify", "p.safetensors", "model=custom", "model.path=run"]
    for more in ([], ["null_space=false"]):
        assert main([*held, *more]) == 0
        out = said(capsys)
        assert "4 of 4 edits hold; the checks that could be made passed" in out
        assert re.search(r"0\s+\S+\s+not measured\s+–", out)
        assert "not checked is what old keys see" in out
        assert "give projector.path=" in out


def test_edits_that_a_model_lost_are_told_without_a_projector(capsys: Capture) -> None:
    assert main([*EDIT, "save=run"]) == 0
    tensors, content = parts_of(Path("p.safetensors"))
    content["entries"][1]["requests"][1]["target_new"] = "nonsense"
    forge(Path("p.safetensors"), tensors, content)
    said(capsys)
    assert main(["verify", "p.safetensors", "model=custom", "model.path=run"]) == 1
    assert "3 of 4 edits hold; some checks failed" in said(capsys)


def test_the_invariant_of_a_model_that_holds_the_edits_is_measured_with_its_file(
    capsys: Capture,
) -> None:
    assert main(["fit", *QUICK, "fit.out=u"]) == 0
    assert main([*EDIT, "save=run", "projector.path=u"]) == 0
    said(capsys)
    held = ["verify", "p.safetensors", "model=custom", "model.path=run", "projector.path=u"]
    assert main(held) == 0
    assert "4 of 4 edits hold; all checks passed" in said(capsys)


def test_a_strangers_projector_alone_certifies_nothing(capsys: Capture) -> None:
    """It measures its own edits as 1e-7, whatever this model's text sees of them."""
    d_in = load_model(load_config().model).key_size(0)
    basis = torch.linalg.qr(torch.randn(d_in, d_in // 2)).Q
    torch.save((basis @ basis.T)[None], "stranger.pt")
    assert main([*EDIT, "save=run", "projector.path=stranger.pt"]) == 0
    said(capsys)
    held = ["verify", "p.safetensors", "model=custom", "model.path=run"]
    main([*held, "projector.path=stranger.pt"])
    out = said(capsys)
    assert "the checks that could be made passed" in out
    assert "not checked is what this model's own text sees of the edits" in out
    assert main(["verify", "p.safetensors", *QUICK, "projector.path=stranger.pt"]) == 1
    assert "4 of 4 edits hold; some checks failed" in said(capsys)


def test_undo_and_go_on(capsys: Capture, caplog: pytest.LogCaptureFixture) -> None:
    assert main(EDIT) == 0
    first = Journal.read(Path("j"))
    assert set(first.metrics) == {own for entry in first.entries for own in entry.ids}
    lost = first.entries[0].ids[1]
    said(capsys)
    assert main(["undo", "j", lost]) == 0
    assert main(["apply", "j", "save=less"]) == 0
    out = said(capsys)
    request = first.entries[0].requests[1]
    assert (
        f"took back 1 edit; 3 edits stay\n  {lost}  {request.filled} → {request.target_new}" in out
    )
    assert "the edits that stay are applied\nsaved to less" in out
    note = f"3 edits stay that were computed with {lost} in place, 1 of them in the same batch"
    assert note in caplog.text
    assert main(["undo", "j"]) == 0
    assert "took back 2 edits; 1 edit stays" in said(capsys)
    assert main(["undo", "j", "7"]) == 2
    assert "cannot undo the latest 7 batches: the journal has 1" in said(capsys)
    assert main(EDIT) == 0  # three of the four are to be edited again
    assert "in the journal already: 1 of 4" in said(capsys)
    assert main(["verify", "j", *QUICK]) == 0
    assert "4 of 4 edits hold; all checks passed" in said(capsys)


def test_an_answer_that_was_replaced_is_asked_for_again(capsys: Capture) -> None:
    """And ``before`` is the model without the journal's edits."""
    words = [
        "edit", *QUICK, "journal=j", "request.prompt='{} works as a'",
        "request.subject='Kiku Mulez'",
    ]  # fmt: skip
    for answer in ("writer", "sailor", "writer"):
        assert main([*words, f"request.target_new={answer}"]) == 0
        out = said(capsys)
        assert "in the journal already" not in out
        assert re.search(rf"Kiku Mulez works as a +\w+ → {answer} +{answer} +100%", out), out
        assert "Kiku Mulez works as a  writer →" not in out
    assert len(Journal.read(Path("j")).entries) == 3
    assert main([*words, "request.target_new=writer"]) == 0
    assert "in the journal already: 1 of 1" in said(capsys)
    assert main(["verify", "j", *QUICK]) == 0
    assert "1 of 1 edits hold; all checks passed" in said(capsys)


def test_a_run_with_nothing_left_to_do_shows_no_bar(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(sys.stderr), "isatty", lambda _: True)
    assert main(EDIT) == 0
    assert "editing" in said(capsys)
    assert main(EDIT) == 0
    out = said(capsys)
    assert "in the journal already: 4 of 4" in out
    assert "editing" not in out


def test_a_plain_edit_promises_nothing_and_one_that_fails_is_shown_first(capsys: Capture) -> None:
    assert main([*EDIT, "null_space=false"]) == 0
    tensors, content = parts_of(Path("p.safetensors"))
    content["entries"][1]["requests"][1]["target_new"] = "\x1b[2Jnonsense"
    forge(Path("p.safetensors"), tensors, content)
    said(capsys)
    assert main(["verify", "p.safetensors"]) == 1
    out = said(capsys)
    assert "2 of 2 batches were edited plainly" in out
    assert "\x1b" not in out
    assert "3 of 4 edits hold; some checks failed" in out
    rows = [line for line in out.splitlines() if re.match(r"e[0-9a-f]{10} ", line)]
    assert [row.split()[-1] for row in rows] == ["no", "yes", "yes", "yes"]


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["apply"], "type alphaedit apply PATCH"),
        (["apply", "a", "b"], "type alphaedit apply PATCH"),
        (["verify", "nowhere"], "no patch or journal at nowhere"),
        (["undo", "nowhere"], "no journal at nowhere"),
        (["undo", "j", "1", "2"], r"type alphaedit undo JOURNAL [N|EDIT]"),
        (["undo", "j", "save=x"], "undo reads no settings: remove 'save=x' (alphaedit apply j"),
        (["edit", "host=easyedit", "journal=j"], "host=easyedit keeps no journal"),
        (["edit", "journal=' '"], "journal is ' ': it must be a text that is not blank"),
        (["edit", "patch=."], "is a folder"),
    ],
)
def test_what_cannot_be_is_refused(capsys: Capture, words: list[str], error: str) -> None:
    assert main(words) == 2
    assert error in " ".join(said(capsys).split())


@pytest.mark.parametrize("command", ["edit", "fit"])
def test_a_file_of_another_kind_is_not_overwritten(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    def loaded(*_: object, **__: object) -> None:
        raise AssertionError("the model was loaded")

    edit, fit = ["edit", *QUICK, "data.limit=1", "patch=a"], ["fit", *QUICK, "fit.out=b"]
    assert main(edit) == main(fit) == 0
    assert main(edit) == main(fit) == 0  # one of the same kind is replaced
    Path("notes").write_text("mine")
    monkeypatch.setattr("alphaedit_plugin.config.build.load_model", loaded)
    monkeypatch.setattr("alphaedit_plugin.config.build.load_model", loaded)
    for taken in ("notes", "b" if command == "edit" else "a"):
        before = Path(taken).read_bytes()
        setting = "patch" if command == "edit" else "fit.out"
        said(capsys)
        assert main([command, *QUICK, f"{setting}={taken}"]) == 2
        assert f"{taken} exists and is not a p" in said(capsys)
        assert Path(taken).read_bytes() == before


def test_a_patch_is_no_projector(capsys: Capture) -> None:
    assert main(["edit", *QUICK, "data.limit=1", "patch=a"]) == 0
    assert main(["edit", *QUICK, "data.limit=1", "projector.path=a"]) == 2
    assert "a is not a projector file, but a patch: make one with alphaedit fit" in said(capsys)


@pytest.mark.parametrize("foreign", [False, True])
def test_a_journal_that_does_not_fit_is_refused_before_moments_are_collected(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, foreign: bool
) -> None:
    """Which takes hours on a large model."""

    def collected(*_: object, **__: object) -> None:
        raise AssertionError("second moments were collected")

    message = "journal=j holds notes.txt" if foreign else "it was kept in 'bfloat16'"
    if foreign:
        Path("j").mkdir()
        Path("j", "notes.txt").touch()
    else:
        open_session(load_model(load_config(["model.dtype=bfloat16"]).model), [0], "j")
    monkeypatch.setattr(sources, "collect_second_moments", collected)
    assert main(EDIT) == 2
    assert message in said(capsys)


@pytest.mark.parametrize(("base", "null_space"), [("memit", True), ("prune", False)])
def test_a_run_in_two_parts_is_the_run_in_one(base: str, null_space: bool) -> None:
    chosen = [*QUICK, f"base={base}", "data.limit=3", "model.target.steps=5"]
    requests = load_data(load_config(chosen)).requests

    def editor(journal: str) -> NullSpaceEditor:
        return NullSpaceEditor.from_pretrained(
            "pocket", null_space=null_space, overrides=chosen, journal=journal
        )

    whole = editor("whole")
    for request in requests:
        whole.apply([request])
    whole.finalize()
    first = editor("parts")
    first.apply(requests[:1])
    first.finalize()
    second = editor("parts")
    list(second.run(encode(second.lm, second.recipe, requests[1:2]), end=False))
    third = editor("parts")
    third.apply(requests[2:])
    third.finalize()
    assert_same_weights(third.lm, weights_of(whole.lm))


def test_metrics_of_a_sequential_edit_are_kept() -> None:
    editor = NullSpaceEditor.from_pretrained("pocket", overrides=QUICK, journal="j")
    requests = load_data(load_config(["data.limit=2"])).requests
    editor.edit_requests(requests, sequential_edit=True)
    assert set(editor.session.metrics) == set(editor.session.ids)
    editor.edit_requests(requests[:1], sequential_edit=False)  # and this one leaves no trace
    layers = list(editor.session.layers)
    again = open_session(load_model(load_config().model), layers, "j")
    assert again.metrics == editor.session.metrics
    assert_same_weights(again.lm, weights_of(editor.lm))
    with pytest.raises(AlphaEditError, match="refused"):
        open_session(editor.lm, layers, "j")
