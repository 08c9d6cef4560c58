"""Whatever is typed or lies in a file: an answer or one line that says what is wrong.

Longer: ``pytest tests/fuzz --hypothesis-profile=long``.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from alphaedit_plugin.cli.main import main
from alphaedit_plugin.config.build import load_model
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.patches.sessions import save_session
from tests.fuzz.strategies import any_text, documents, nearly_text, overrides
from tests.patches.test_lora_adapter import edited
from tests.saved import config_of, overrides_of, save_model

EXAMPLES = settings.default.max_examples
LONGEST = 2000  # characters of an error that a person will read


@pytest.fixture(scope="module")
def place(
    tmp_path_factory: pytest.TempPathFactory, templates: dict[str, EditableModel]
) -> Iterator[Path]:
    """A model, its corpus, a projector and a patch, here; nothing is looked for on the net."""
    folder = save_model(templates["gpt2"], tmp_path_factory.mktemp("fuzz"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("ALPHAEDIT_CACHE", str(folder / "cache"))
        assert call(["fit", *overrides_of(folder), "fit.out=projector.safetensors"]) == 0
        save_session(edited(load_model(config_of(folder).model)), "patch.safetensors")
        yield folder


def call(words: Sequence[str]) -> int:
    """Run the command line; whatever it ends with is one of our own ends."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        status = main(words)
    said = err.getvalue()
    assert status in (0, 1, 2), said
    assert "Traceback" not in said
    assert "a bug or an unexpected state" not in said
    if status == 2:
        error = said[said.rindex("alphaedit: error: ") :]
        assert error.count("\n") == 1
        assert len(error) < LONGEST
    return status


@settings(max_examples=max(1, EXAMPLES // 4), suppress_health_check=list(HealthCheck))
@given(document=documents, words=overrides(), saving=st.booleans())
def test_edit(place: Path, document: Any, words: list[str], saving: bool) -> None:
    """A checkpoint is there exactly if all went well, and is whole."""
    (place / "data.json").write_text(json.dumps(document))
    out = place / "edited"
    fast = ["projector.path=projector.safetensors", "model.target.steps=2"]
    save = [f"save={out}"] if saving else []
    base = ["data=easyedit", "data.path=data.json", *fast, *save]
    status = call(["edit", *overrides_of(place), *base, *words])
    event(f"exit status {status}")
    assert out.exists() == (saving and status == 0)
    assert not list(place.glob("*.part"))
    if out.exists():
        model = AutoModelForCausalLM.from_pretrained(out)
        assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
        for path in out.iterdir():
            path.unlink()
        out.rmdir()


@settings(max_examples=max(1, EXAMPLES // 2), suppress_health_check=list(HealthCheck))
@given(
    command=st.sampled_from(("config", "inspect", "export", "fit", "edit")),
    words=st.lists(
        st.one_of(nearly_text, any_text, st.sampled_from(("-v", "--", "--format"))), max_size=3
    ),
    settings_given=overrides(2),
)
def test_any_words(place: Path, command: str, words: list[str], settings_given: list[str]) -> None:
    files = {"inspect": ["projector.safetensors"], "export": ["patch.safetensors"]}
    call([command, *files.get(command, []), "data.path=none.json", "model.path=/none",
          *settings_given, *words])  # fmt: skip


@settings(max_examples=max(1, EXAMPLES // 4), suppress_health_check=list(HealthCheck))
@given(place_of_change=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255))
@example(place_of_change=0.0, value=255)
def test_a_patch_with_a_changed_byte(place: Path, place_of_change: float, value: int) -> None:
    """Refused, or written as a whole model; no error but ours."""
    whole = (place / "patch.safetensors").read_bytes()
    index = math.floor(place_of_change * len(whole))
    (place / "changed.safetensors").write_bytes(whole[:index] + bytes([value]) + whole[index + 1 :])
    out = place / "full"
    words = ["changed.safetensors", *overrides_of(place), "format=full", f"out={out}"]
    if call(["export", *words]) == 0:
        model = AutoModelForCausalLM.from_pretrained(out)
        assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
        for path in out.iterdir():
            path.unlink()
        out.rmdir()
    assert not out.exists()
