"""From configurations to models, second moments, projectors and contexts."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from alphaedit_plugin.cli.main import main
from alphaedit_plugin.common.errors import ConfigError, ModelError, ProjectorError
from alphaedit_plugin.config import statistics as sources
from alphaedit_plugin.config.build import (
    check_sources,
    load_contexts,
    load_model,
    load_recipe,
)
from alphaedit_plugin.config.compose import load_config
from alphaedit_plugin.editor import NullSpaceEditor
from alphaedit_plugin.methods.alphaedit import AlphaEdit
from alphaedit_plugin.methods.memit import Memit
from alphaedit_plugin.methods.rome import Rome
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.models.families import LAYOUTS
from alphaedit_plugin.nullspace.cut import Cut, CutRule, Mode
from alphaedit_plugin.nullspace.projector import Projector
from alphaedit_plugin.nullspace.projector_file import save_projectors
from alphaedit_plugin.nullspace.second_moment import SecondMoment
from tests.saved import config_of
from tests.tiny import TEXTS

# ---------------------------------------------------------------------------------------------
# Models


def test_model_from_a_folder(saved: Path, gpt2: EditableModel) -> None:
    lm = load_model(config_of(saved).model)
    assert not lm.model.training
    for name, parameter in lm.model.named_parameters():
        assert torch.equal(parameter, gpt2.model.get_parameter(name))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_dtype(saved: Path, dtype: str) -> None:
    lm = load_model(config_of(saved, f"model.dtype={dtype}").model)
    assert lm.parameter(1).dtype is getattr(torch, dtype)


def test_pocket_model() -> None:
    lm = load_model(load_config().model)
    assert lm.parameter(0).dtype is torch.float32
    assert lm.device.type == "cpu" or torch.cuda.is_available()


@pytest.mark.parametrize(
    ("override", "kind", "message"),
    [
        ("model.dtype=float23", ConfigError, r"model\.dtype is 'float23': it must be 'float32'"),
        ("model.device=warp", ConfigError, r"model\.device=warp cannot be used"),
        ("model.device=meta", ConfigError, r"model\.device=meta cannot be used"),
        ("model.layers=[1,9]", ModelError, "layer 9 is out of range: this model has 4 blocks"),
        ("model.layers=[]", ModelError, "no layer to edit"),
        ("model.layers=[1,1]", ModelError, "name one layer twice"),
    ],
)
def test_bad_model_settings(
    saved: Path, override: str, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        load_model(config_of(saved, override).model)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(saved: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.device=cuda cannot be used"):
        load_model(config_of(saved, "model.device=cuda").model)


BAD_DEPTH = '{"model_type": "gpt2", "n_layer": "x"}'


@pytest.mark.parametrize(
    ("files", "content", "message"),
    [
        ("*", None, "cannot load model"),
        ("model.safetensors", "x", "cannot load model"),
        *(
            ("config.json", text, "cannot load model")
            for text in ("[]", "{", "null", '{"model_type": 5}', BAD_DEPTH)
        ),
        *(
            ("tokenizer.json", text, "cannot load the tokenizer of")
            for text in ("[]", "{", "{}", "null")
        ),
        ("tokenizer*", None, "tokenizer"),
    ],
)
def test_a_folder_that_is_damaged(
    saved: Path, files: str, content: str | None, message: str
) -> None:
    for path in (saved / "model").glob(files):
        path.unlink() if content is None else path.write_text(content)
    with pytest.raises(ModelError, match=message) as caught:
        load_model(config_of(saved).model)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_missing_weights_are_never_made_up(
    saved: Path, templates: dict[str, EditableModel], family: str
) -> None:
    templates[family].model.save_pretrained(saved / "model")
    assert load_model(config_of(saved).model).model.config.model_type == family
    file = saved / "model" / "model.safetensors"
    kept = {name: tensor for name, tensor in load_file(file).items() if ".1." not in name}
    save_file(kept, file, {"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks \d+ weights, .*\.1\..* random numbers"):
        load_model(config_of(saved).model)


CODE = """
from pathlib import Path
from transformers import GPT2Config, GPT2LMHeadModel, GPT2Tokenizer, PreTrainedTokenizerFast

Path(__file__).with_name("RAN").touch()
Path({marker!r}).touch()

class Config(GPT2Config):
    model_type = "theirs"

class Model(GPT2LMHeadModel):
    config_class = Config

class Tokens(PreTrainedTokenizerFast):
    pass
"""


@pytest.mark.parametrize("part", ["config", "tokenizer", "model"])
def test_code_that_comes_with_a_checkpoint_is_never_run(
    saved: Path,
    gpt2: EditableModel,
    gpt2_moments: dict[int, SecondMoment],
    part: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Even where someone answers yes to what transformers asks."""
    folder, marker = saved / "model", saved / "RAN"
    projectors = {1: Projector.fit(gpt2_moments[1], Cut(CutRule.rank, 8))}
    save_projectors(gpt2, projectors, saved / "p.safetensors")
    corpus = f"corpus={saved}/text.txt"
    (folder / "theirs.py").write_text(CODE.format(marker=str(marker)))
    config = json.loads((folder / "config.json").read_text())
    tokens = json.loads((folder / "tokenizer_config.json").read_text())
    if part == "tokenizer":
        tokens |= {"auto_map": {"AutoTokenizer": ["theirs.Tokens", None]}, "tokenizer_class": "X"}
        (folder / "tokenizer.json").unlink()  # which Transformers reads without that code
    elif part == "config":
        both = {"AutoConfig": "theirs.Config", "AutoModelForCausalLM": "theirs.Model"}
        config |= {"model_type": "theirs", "auto_map": both}
    else:  # known, but not as a causal LM
        config |= {"model_type": "vit", "auto_map": {"AutoModelForCausalLM": "theirs.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text(json.dumps(tokens))
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 20))
    # A tokenizer that cannot be read without that code may fail for what else would be tried.
    said = ("needs custom code", "cannot load the tokenizer")[: 2 if part == "tokenizer" else 1]
    with pytest.raises(ModelError, match="|".join(said)):
        NullSpaceEditor.from_pretrained(folder, overrides=["model.layers=[1]", corpus])
    given = ["model=custom", f"model.path={folder}", "model.layers=[1]", corpus]
    asked = ["request.prompt={} is", "request.subject=Ada", "request.target_new=a"]
    for words in (
        ["edit", *asked, *given],
        ["fit", *given],
        ["inspect", str(saved / "p.safetensors"), *given],
    ):
        assert main(words) != 0
        told = capsys.readouterr().err
        assert any(one in told for one in said)
    assert not marker.exists()


def test_a_slash_behind_the_folder_does_not_hide_its_name(saved: Path) -> None:
    lm = load_model(config_of(saved, f"model.path={saved / 'model'}/").model)
    assert Path(lm.model.config._name_or_path).name == "model"
    assert not str(lm.model.config._name_or_path).endswith("/")


def test_a_model_loaded_in_inference_mode_can_be_edited(saved: Path) -> None:
    with torch.inference_mode():
        lm = load_model(config_of(saved).model)
    assert not any(parameter.is_inference() for parameter in lm.model.parameters())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model_type": "mixtral"}, r"mixtral is a mixture of experts \(num_.*experts=8\)"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, r"is quantised \(gptq\)"),
    ],
)
def test_what_cannot_be_edited(saved: Path, settings: dict[str, Any], message: str) -> None:
    """Refused before its weights are read: there are none here that would fit."""
    config = saved / "model" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | settings))
    (saved / "model" / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=message):
        load_model(config_of(saved).model)


def test_paths_given_by_hand(saved: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A path that is not there is refused, one that is serves an unknown family without a word."""
    with pytest.raises(ModelError, match=r"layout\.down_proj is 'h\.\{\}\.fc': GPT2LM.* no h"):
        load_model(config_of(saved, "model.layout.down_proj='h.{}.fc'").model)
    path = "transformer.h.{}.mlp.c_proj"
    lm = load_model(config_of(saved, f"model.layout.down_proj='{path}'").model)
    assert lm.layout == LAYOUTS.get("gpt2")
    lm.model.config.model_type = "mine"
    again = EditableModel.wrap(lm.model, lm.tokenizer, {"down_proj": path})
    assert again.layout == lm.layout
    assert not caplog.messages


def test_weights_of_another_size(saved: Path) -> None:
    config = saved / "model" / "config.json"
    config.write_text(config.read_text().replace('"n_embd": 32', '"n_embd": 64'))
    with pytest.raises(ModelError, match="cannot load model") as caught:
        load_model(config_of(saved).model)
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------------------------------------
# Second moments


@pytest.mark.parametrize(
    ("overrides", "needed"),
    [
        (["base=memit", "null_space=false"], True),
        (["base=rome", "null_space=false", "base.use_moment=false"], False),
        (["base=rome", "null_space=true", "base.use_moment=false"], True),
        (["base=memit", "null_space=true"], True),
    ],
)
def test_moments_are_computed_only_where_needed(
    saved: Path, monkeypatch: pytest.MonkeyPatch, overrides: list[str], needed: bool
) -> None:
    asked: list[Any] = []
    original = sources.collect_second_moments

    def spy(*args: Any, **more: Any) -> Any:
        asked.append(args)
        return original(*args, **more)

    monkeypatch.setattr(sources, "collect_second_moments", spy)
    config = config_of(saved, "model.moments.cache=false", *overrides)
    load_recipe(load_model(config.model), config)
    assert bool(asked) is needed


# ---------------------------------------------------------------------------------------------
# Methods and projectors


def test_recipe_plain_and_projected(saved: Path) -> None:
    plain = config_of(saved, "base=memit", "null_space=false", "base.moment_weight=7")
    lm = load_model(plain.model)
    recipe = load_recipe(lm, plain)
    assert recipe.method == Memit(moment_weight=7)
    assert recipe.layers == (1, 2)
    assert recipe.targets == plain.model.target
    projected = config_of(saved, "base=rome", "projector.mode=post", "projector.l2=3")
    method = load_recipe(lm, projected).method
    assert isinstance(method, AlphaEdit)
    assert (method.base, method.mode, method.ridge) == (Rome(), Mode.post, 3)
    assert set(method.projectors) == {1, 2}


def test_a_mode_the_base_cannot_do(saved: Path) -> None:
    with pytest.raises(ConfigError, match=r"Rome is not a least-squares method.*mode=post"):
        check_sources(config_of(saved, "base=rome", "projector.mode=solve"))
    plain = config_of(saved, "base=rome", "projector.mode=solve", "null_space=false")
    assert load_recipe(load_model(plain.model), plain).method == Rome()


@pytest.mark.parametrize(("mode", "needed"), [("auto", set()), ("post", {1, 2})])
def test_projector_from_a_file(
    saved: Path, gpt2_moments: dict[int, SecondMoment], mode: str, needed: set[int]
) -> None:
    lm = load_model(config_of(saved).model)
    made = {k: Projector.fit(gpt2_moments[k], Cut(CutRule.rank, 5)) for k in (1, 2)}
    save_projectors(lm, made, saved / "p.safetensors")
    path = f"projector.path={saved / 'p.safetensors'}"
    recipe = load_recipe(lm, config_of(saved, path, f"projector.mode={mode}"))
    assert set(recipe.moments) == needed
    assert isinstance(recipe.method, AlphaEdit)
    for layer, projector in recipe.method.projectors.items():
        assert torch.equal(projector.basis, made[layer].basis)
        assert projector.cut == made[layer].cut


def test_a_projector_that_is_missing_or_of_another_model(
    saved: Path, gpt2_moments: dict[int, SecondMoment], templates: dict[str, EditableModel]
) -> None:
    config = config_of(saved, f"projector.path={saved / 'p.safetensors'}")
    with pytest.raises(ProjectorError, match="no projector file at"):
        load_recipe(load_model(config.model), config)
    made = {k: Projector.fit(gpt2_moments[k], Cut(CutRule.rank, 5)) for k in (1, 2)}
    save_projectors(templates["llama"], made, saved / "p.safetensors")
    with pytest.raises(ProjectorError, match="fit a projector for this model"):
        load_recipe(load_model(config.model), config)


# ---------------------------------------------------------------------------------------------
# Contexts


def test_contexts_given(saved: Path) -> None:
    config = config_of(saved, "model.contexts.bare_apart=true")
    found = load_contexts(load_model(config.model), config)
    assert found.groups == (("{}",), ("He said. {}",))


def test_contexts_sampled_are_those_of_the_seed(saved: Path) -> None:
    lengths = "model.contexts.lengths=[[5,3],[8,2]]"
    config = config_of(saved, "model.contexts.templates=null", lengths, "seed=3")
    lm = load_model(config.model)
    state = torch.random.get_rng_state()
    first, again = load_contexts(lm, config), load_contexts(lm, config)
    assert torch.equal(state, torch.random.get_rng_state())
    assert first == again
    assert len(first.flat) == 1 + 3 + 2
    other = config_of(saved, "model.contexts.templates=null", lengths, "seed=4")
    assert load_contexts(lm, other) != first


def test_a_recipe_of_a_layer_that_cannot_be_edited_is_refused_at_once(gpt2: EditableModel) -> None:
    config = load_config(["model=custom", "model.path=x", "model.layers=[9]"])
    with pytest.raises(ModelError, match="layer 9 is out of range"):
        load_recipe(gpt2, config)


def test_what_the_page_says_of_a_model_of_ones_own(
    gpt2: EditableModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = Path(__file__).parents[2] / "docs" / "models.md"
    (code,) = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    before = gpt2.weight(2).clone()
    known = {"model": gpt2.model, "tokenizer": gpt2.tokenizer}
    exec(code, known)
    assert len(known["metrics"]) == 1
    assert not torch.equal(gpt2.weight(2), before)
