"""Requests that contradict each other or fail, and subjects that few tokenizers have seen."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from alphaedit_plugin.cli.main import main
from alphaedit_plugin.common.errors import NumericalError, RequestError
from alphaedit_plugin.data.conflicts import OnConflict
from alphaedit_plugin.data.request import FactToken, Request
from alphaedit_plugin.editing.recipe import Recipe
from alphaedit_plugin.editing.session import EditSession
from alphaedit_plugin.editing.target_settings import OnFailure
from alphaedit_plugin.editor import NullSpaceEditor
from alphaedit_plugin.methods.alphaedit import AlphaEdit
from alphaedit_plugin.methods.base import BaseMethod
from alphaedit_plugin.methods.memit import Memit
from alphaedit_plugin.methods.rome import Rome
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.models.tokens import locate
from alphaedit_plugin.nullspace.projector import Projector
from alphaedit_plugin.nullspace.second_moment import SecondMoment
from alphaedit_plugin.patches.sessions import load_session, save_session
from tests.saved import overrides_of
from tests.tiny import (
    CONTEXTS,
    REQUESTS,
    SEARCH,
    assert_same_weights,
    edit,
    fast_tokenizer,
    weights_of,
)

Moments = dict[int, SecondMoment]
Capture = pytest.CaptureFixture[str]
LAYERS = (0, 2)
SKIP = replace(SEARCH, on_failure=OnFailure.skip)
BROKEN = REQUESTS[2]  # about Norland


@pytest.fixture(params=["rome", "memit", "alphaedit"])
def method(request: pytest.FixtureRequest, gpt2_projectors: dict[int, Projector]) -> BaseMethod:
    return {
        "rome": Rome(), "memit": Memit(20.0), "alphaedit": AlphaEdit(Memit(), gpt2_projectors)
    }[request.param]  # fmt: skip


def poison(lm: EditableModel) -> None:
    """The model gives no number where it reads of Norland."""
    (token,) = lm.tokenizer(" Norland")["input_ids"]

    def spoil(_: nn.Module, args: tuple[Tensor], output: Tensor) -> Tensor:
        return output.masked_fill((args[0] == token)[..., None], torch.nan)

    lm.model.get_input_embeddings().register_forward_hook(spoil)


# ---------------------------------------------------------------------------------------------
# A target search that fails


def test_a_failure_refuses_its_batch(
    gpt2: EditableModel, gpt2_moments: Moments, method: BaseMethod
) -> None:
    poison(gpt2)
    session, before = EditSession(gpt2, LAYERS), weights_of(gpt2)
    recipe = Recipe(method, LAYERS, CONTEXTS, gpt2_moments, targets=SEARCH)
    with pytest.raises(NumericalError, match=r"'The capital of Norland is' → 'Rome'.*loss nan"):
        edit(session, recipe, REQUESTS)
    assert_same_weights(gpt2, before)
    assert session.journal == []


def test_a_failure_that_is_skipped_never_was(
    gpt2: EditableModel,
    gpt2_moments: Moments,
    method: BaseMethod,
    caplog: pytest.LogCaptureFixture,
) -> None:
    recipe = Recipe(method, LAYERS, CONTEXTS, gpt2_moments, targets=SKIP)
    session = EditSession(gpt2, LAYERS)
    others = [request for request in REQUESTS if request is not BROKEN]
    edit(session, recipe, others)
    expected = weights_of(gpt2)
    session.reset()
    poison(gpt2)
    entry = edit(session, recipe, REQUESTS)
    assert_same_weights(gpt2, expected)
    assert (entry.requests, entry.failed) == (tuple(others), (BROKEN,))
    assert "left out: the target search for 'The capital of Norland is' → 'Rome'" in caplog.text


def test_a_batch_of_failures_changes_nothing(
    gpt2: EditableModel, gpt2_moments: Moments, method: BaseMethod, tmp_path: Path
) -> None:
    """Its entry says so, also in a patch."""
    recipe = Recipe(method, LAYERS, CONTEXTS, gpt2_moments, targets=SKIP)
    session, before = EditSession(gpt2, LAYERS), weights_of(gpt2)
    poison(gpt2)
    entry = edit(session, recipe, [BROKEN])
    assert (entry.requests, entry.writes, entry.failed) == ((), (), (BROKEN,))
    assert_same_weights(gpt2, before)
    edit(session, recipe, REQUESTS)
    save_session(session, tmp_path / "p.safetensors")
    edited = weights_of(gpt2)
    session.reset()
    again = load_session(gpt2, tmp_path / "p.safetensors")
    assert [entry.failed for entry in again.journal] == [(BROKEN,)] * 2
    assert_same_weights(gpt2, edited)


@pytest.mark.parametrize("sequential", [True, False])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_metrics_say_which_was_left_out(
    gpt2: EditableModel, gpt2_moments: Moments, sequential: bool, batch_size: int
) -> None:
    recipe = Recipe(Memit(20.0), LAYERS, CONTEXTS, gpt2_moments, targets=SKIP)
    poison(gpt2)
    editor = NullSpaceEditor(gpt2, recipe)
    rows, _, _ = editor.edit_requests(REQUESTS, sequential, verbose=False, batch_size=batch_size)
    assert [row.get("left_out") for row in rows] == [None, None, "failed", None]


def test_the_command_line_names_it(saved: Path, capsys: Capture) -> None:
    """An ordinary model whose row for one token is spoilt; nothing else reads it."""
    from alphaedit_plugin.config.build import load_model
    from tests.saved import config_of

    lm = load_model(config_of(saved).model)
    (token,) = lm.tokenizer(" Norland")["input_ids"]
    with torch.no_grad():
        lm.model.get_input_embeddings().weight[token] = 1e30
    lm.model.save_pretrained(saved / "model")
    rows = [
        {"prompt": r.filled, "subject": r.subject, "target_new": r.target_new} for r in REQUESTS
    ]
    (saved / "data.json").write_text(json.dumps(rows))
    (saved / "text.txt").write_text("\n".join(["I think so.", "He said that I play."] * 40))
    words = ["edit", *overrides_of(saved), "data=easyedit", f"data.path={saved / 'data.json'}"]
    words += ["null_space=false", "model.target.steps=3"]
    assert main([*words, f"save={saved / 'edited'}"]) == 2
    assert "the target search for 'The capital of Norland is' → 'Rome'" in capsys.readouterr().err
    assert not (saved / "edited").exists()
    assert main([*words, "model.target.on_failure=skip"]) == 0
    assert "not edited, as the search for its target failed: The capital of Norland is → Rome" in (
        capsys.readouterr().out
    )


# ---------------------------------------------------------------------------------------------
# Contradictions

OTHER = replace(BROKEN, target_new="Spanish")


def test_in_one_batch_the_last_wins(
    gpt2: EditableModel,
    gpt2_moments: Moments,
    method: BaseMethod,
    caplog: pytest.LogCaptureFixture,
) -> None:
    recipe = Recipe(method, LAYERS, CONTEXTS, gpt2_moments, targets=SEARCH)
    session = EditSession(gpt2, LAYERS)
    edit(session, recipe, [REQUESTS[0], OTHER])
    expected = weights_of(gpt2)
    session.reset()
    with caplog.at_level(logging.WARNING):
        entry = edit(session, recipe, [BROKEN, REQUESTS[0], OTHER])
    assert entry.requests == (REQUESTS[0], OTHER)
    assert "requests 0 and 2 want different answers" in caplog.text
    assert_same_weights(gpt2, expected)


def test_over_batches_of_one_call_the_last_wins(gpt2: EditableModel, gpt2_moments: Moments) -> None:
    recipe = Recipe(Memit(20.0), LAYERS, CONTEXTS, gpt2_moments, targets=SEARCH)
    editor = NullSpaceEditor(gpt2, recipe)
    rows, _, _ = editor.edit_requests([BROKEN, REQUESTS[0], OTHER], True, verbose=False)
    assert [row.get("left_out") for row in rows] == ["contradicted", None, None]
    assert editor.session.requests == [REQUESTS[0], OTHER]


def test_edits_that_are_taken_back_contradict_nothing(
    gpt2: EditableModel, gpt2_moments: Moments, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = Recipe(Memit(20.0), LAYERS, CONTEXTS, gpt2_moments, targets=SEARCH)
    rows, _, _ = NullSpaceEditor(gpt2, recipe).edit_requests([BROKEN, OTHER], verbose=False)
    assert not any("left_out" in row for row in rows)
    assert "the last one wins" not in caplog.text
    assert "replaces it" not in caplog.text


def test_contradictions_can_be_refused(gpt2: EditableModel, gpt2_moments: Moments) -> None:
    recipe = Recipe(
        Memit(20.0), LAYERS, CONTEXTS, gpt2_moments, targets=SEARCH, on_conflict=OnConflict.refuse
    )
    session, before = EditSession(gpt2, LAYERS), weights_of(gpt2)
    with pytest.raises(RequestError, match=r"'Rome' and 'Spanish': remove one"):
        edit(session, recipe, [BROKEN, OTHER])
    assert_same_weights(gpt2, before)


def test_a_correction_lets_go_of_what_it_replaces(
    gpt2: EditableModel, gpt2_projectors: dict[int, Projector], caplog: pytest.LogCaptureFixture
) -> None:
    """Else the history would hold the old answer's key where it is; an undo holds it again."""
    recipe = Recipe(AlphaEdit(Memit(), gpt2_projectors), LAYERS, CONTEXTS, {}, targets=SEARCH)
    session = EditSession(gpt2, LAYERS)
    edit(session, recipe, [BROKEN, REQUESTS[0]])
    keys = session.past(0).blocks[0]
    with caplog.at_level(logging.WARNING):
        edit(session, recipe, [OTHER])
    assert [message for message in caplog.messages if "wrote" in message] == [
        f"'Spanish' is wanted for {BROKEN.filled!r}, where an earlier edit wrote 'Rome': the later "
        "one replaces it"
    ]
    assert session.standing == [REQUESTS[0], OTHER]
    assert torch.equal(session.past(0).blocks[0], keys[:, 1:])
    again = edit(session, recipe, [BROKEN])
    assert session.standing == [REQUESTS[0], BROKEN]
    assert [block.shape[1] for block in session.past(0).blocks] == [1, 1]
    assert session.past(0).blocks[1] is again.past_keys[0]
    session.undo(2)
    assert session.past(0).blocks[0] is keys
    with pytest.raises(RequestError, match=r"'Rome': undo that one first.*on_conflict=last"):
        edit(session, replace(recipe, on_conflict=OnConflict.refuse), [OTHER])


# ---------------------------------------------------------------------------------------------
# Subjects

SUBJECTS = {
    "emoji": "👩‍🚀",
    "flag": "🏳️‍🌈 Lund",
    "right to left": "ירושלים",
    "arabic": "القاهرة",
    "composed": "Zo\u00eb",
    "combining": "Zoe\u0308",
    "stacked": "Z\u0300\u0301\u0323",
    "devanagari": "नमस्ते",
    "chinese": "北京",
    "invisible": "Ada\u200bMarsh",
    "long": "Ada Marsh " * 8 + "Ada",
}


@pytest.mark.parametrize("subject", SUBJECTS.values(), ids=SUBJECTS)
@pytest.mark.parametrize("template", ["The capital of {} is", "{} plays", "I know {}"])
@pytest.mark.parametrize("kind", ["byte_level", "bos", "left"])
def test_the_position_is_that_of_the_subjects_last_byte(
    kind: str, template: str, subject: str
) -> None:
    """Byte-level tokens decode to the very bytes of the text, which need no offsets."""
    tokenizer = fast_tokenizer(kind)
    found = locate(tokenizer, template, subject, FactToken.subject_last)
    through = tokenizer.decode(found.ids[: found.position + 1], skip_special_tokens=True)
    before = tokenizer.decode(found.ids[: found.position], skip_special_tokens=True)
    whole = template.partition("{}")[0] + subject
    assert through == whole
    assert before != whole


@pytest.mark.parametrize("subject", SUBJECTS.values(), ids=SUBJECTS)
def test_any_subject_is_edited_and_taken_back(
    gpt2: EditableModel, gpt2_moments: Moments, subject: str
) -> None:
    recipe = Recipe(Memit(20.0), LAYERS, CONTEXTS, gpt2_moments, targets=SEARCH)
    session, before = EditSession(gpt2, LAYERS), weights_of(gpt2)
    request = Request("The {} is", subject, "Rome")
    edit(session, recipe, [request])
    assert session.change(2).norm > 0
    session.undo()
    assert_same_weights(gpt2, before)


@pytest.mark.parametrize(
    ("template", "subject", "message"),
    [
        ("The {}s are", "cat", None),  # a token of both
        ("{}\u0308 is", "Zoe", None),  # a mark of the prompt, on the subject's last letter
        ("The {} is", "Ada " * 60, "takes .* tokens .* the model's context is 64"),
        ("The {} is", "\ud800", "half a character"),
    ],
)
def test_what_cannot_be_placed_is_refused_by_name(
    gpt2: EditableModel, gpt2_moments: Moments, template: str, subject: str, message: str | None
) -> None:
    recipe = Recipe(Memit(20.0), LAYERS, CONTEXTS, gpt2_moments, targets=SEARCH)
    session, before = EditSession(gpt2, LAYERS), weights_of(gpt2)

    if message is None:
        edit(session, recipe, [Request(template, subject, "Rome")])
        session.undo()
    else:
        with pytest.raises(RequestError, match=message):
            edit(session, recipe, [Request(template, subject, "Rome")])
    assert_same_weights(gpt2, before)


def test_a_mark_that_the_tokenizer_merges_with_the_subject_is_edited_with_it() -> None:
    from tokenizers import normalizers

    tokenizer = fast_tokenizer("metaspace")
    tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    for template, subject in (("{}\u0308 is", "Zoe"), ("{} is", "Zoe\u0308")):
        found = locate(tokenizer, template, subject, FactToken.subject_last)
        assert tokenizer.decode(found.ids[1 : found.position + 1]) == "Zo\u00eb"
