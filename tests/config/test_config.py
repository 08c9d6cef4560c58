"""The Hydra groups compose in every combination, hold the paper's settings, and explain errors."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from alphaedit_plugin.cli.edit import EditSettings
from alphaedit_plugin.common.errors import ConfigError
from alphaedit_plugin.common.groups import groups, options
from alphaedit_plugin.config.build import build_method
from alphaedit_plugin.config.compose import as_config, load_config, register_configs
from alphaedit_plugin.config.schema import ComparisonConfig, EditorConfig
from alphaedit_plugin.data.base import DATA
from alphaedit_plugin.data.request import FactToken
from alphaedit_plugin.methods.base import METHODS
from alphaedit_plugin.nullspace.cut import CutRule, Mode

CONF = Path(__file__).parents[2] / "conf"
NEEDED = {"custom": ["model.path=somewhere", "model.layers=[1,2]"]}


def test_groups_are_those_on_disk() -> None:
    on_disk = sorted(f.name for f in CONF.iterdir() if f.is_dir() and list(f.glob("*.yaml")))
    assert groups() == on_disk
    for group in on_disk:
        assert options(group) == sorted(f.stem for f in (CONF / group).glob("[!_]*.yaml"))
    assert options("no_such_group") == []


def test_every_registered_method_has_a_config() -> None:
    assert options("base") == sorted(METHODS)


@pytest.mark.parametrize("projector", options("projector"))
@pytest.mark.parametrize("model", options("model"))
@pytest.mark.parametrize("base", options("base"))
def test_every_combination_composes(base: str, model: str, projector: str) -> None:
    for null_space in ("true", "false"):
        chosen = [f"base={base}", f"model={model}", f"projector={projector}"]
        config = load_config([*chosen, f"null_space={null_space}", *NEEDED.get(model, [])])
        assert isinstance(config, EditorConfig)
        assert config.base["name"] == base
        assert config.null_space is (null_space == "true")
        assert config.model.layers
        if projector != "default":
            assert config.projector.cut.rule.value == projector
        else:
            assert config.projector.cut == config.model.cut
        assert config.projector.l2 == config.model.l2
        assert type(build_method(config.base)) is METHODS.get(base)


@pytest.mark.parametrize("data", options("data"))
def test_every_data_composes(data: str) -> None:
    needed = ["data.target=alt"] if data in ("zsre", "leme") else []
    config = load_config([f"data={data}", *needed])
    assert (config.data.name, config.data.limit) == (data, None)


def test_all_data_have_a_config() -> None:
    assert options("data") == sorted(DATA)


def test_every_experiment_composes() -> None:
    for name in options("experiment"):
        config = load_config([f"experiment={name}"], ComparisonConfig)
        assert config.compare.out == f"runs/{name}"


@pytest.mark.parametrize("base", options("base"))
def test_base_file_lists_exactly_the_fields_of_its_method(base: str) -> None:
    """A field added to a method shows up here until its YAML file has it too."""
    settings = yaml.safe_load((CONF / "base" / f"{base}.yaml").read_text(encoding="utf-8"))
    own = [field.name for field in fields(METHODS.get(base))]  # type: ignore[arg-type]
    assert sorted(settings) == sorted([*own, "name", "span"])
    assert settings["name"] == base
    assert settings["span"] in ("single", "spread")


# ---------------------------------------------------------------------------------------------
# Values


@pytest.mark.parametrize(
    ("model", "layers", "weight", "steps", "lr"),
    [
        ("gpt2-xl", [13, 14, 15, 16, 17], 20_000, 20, 0.5),
        ("gpt-j-6b", [3, 4, 5, 6, 7, 8], 15_000, 25, 0.5),
        ("llama3-8b", [4, 5, 6, 7, 8], 15_000, 25, 0.1),
    ],
)
def test_paper_settings(
    model: str, layers: list[int], weight: float, steps: int, lr: float
) -> None:
    config = load_config([f"model={model}"])
    assert config.model.layers == layers
    assert config.model.moment_weight == config.base["moment_weight"] == weight
    assert (config.model.target.steps, config.model.target.lr) == (steps, lr)
    assert config.model.target.clamp_norm_factor == 0.75
    assert (config.projector.cut.rule, config.projector.cut.value) == (CutRule.absolute, 2e-2)
    assert config.projector.l2 == 10
    assert config.model.contexts.bare_apart


MEMIT_OF_LLAMA = ([4, 5, 6, 7, 8], 25, 0.5, 1e-3, 4.0)
ROME_OF_LLAMA = ([5], 25, 0.5, 1e-3, 4.0)


@pytest.mark.parametrize(
    ("model", "rome", "memit", "l2"),
    [
        ("gpt2-xl", ([17], 20, 0.5, 0.5, 4.0), ([13, 14, 15, 16, 17], 20, 0.5, 0.5, 0.75), 10),
        ("gpt-j-6b", ([5], 20, 0.5, 0.5, 4.0), ([3, 4, 5, 6, 7, 8], 25, 0.5, 0.5, 0.75), 10),
        ("llama3-8b", ROME_OF_LLAMA, ([4, 5, 6, 7, 8], 25, 0.1, 0.5, 0.75), 10),
        ("llama3.1-8b", ROME_OF_LLAMA, ([4, 5, 6, 7, 8], 25, 0.1, 0.5, 0.75), 10),
        ("llama3.2-3b", ROME_OF_LLAMA, MEMIT_OF_LLAMA, 10),
        ("llama2-7b", ROME_OF_LLAMA, MEMIT_OF_LLAMA, 10),
        ("mistral-7b", ROME_OF_LLAMA, MEMIT_OF_LLAMA, 10),
        ("qwen2-7b", ROME_OF_LLAMA, MEMIT_OF_LLAMA, 10),
        ("qwen2.5-7b", ROME_OF_LLAMA, MEMIT_OF_LLAMA, 1),
    ],
)
def test_settings_of_the_host(
    model: str, rome: tuple[object, ...], memit: tuple[object, ...], l2: float
) -> None:
    """Layers, steps, learning rate, weight decay, clamp: hparams/{ROME,MEMIT,AlphaEdit}."""
    for base, expected in (("rome", rome), ("memit", memit)):
        config = load_config([f"model={model}", f"base={base}"])
        search = config.model.target
        found = (search.steps, search.lr, search.weight_decay, search.clamp_norm_factor)
        assert (config.model.layers, *found) == expected
        assert config.projector.l2 == l2
        assert (config.model.moments.texts, config.model.moments.tokens) == (100_000, None)
        assert config.model.moments.stats_samples == 100_000


@pytest.mark.parametrize("model", ["gpt2-xl", "gpt-j-6b", "llama3-8b"])
def test_presets_follow_the_span_of_the_base(model: str) -> None:
    rome, memit = (load_config([f"base={base}", f"model={model}"]) for base in ("rome", "memit"))
    assert rome.model.layers == rome.model.presets["single"].layers
    assert len(rome.model.layers) == 1
    assert rome.model.target.clamp_norm_factor == 4
    assert rome.model.contexts.lengths == [(5, 10), (10, 10)]
    assert not rome.model.contexts.bare_apart
    assert memit.model.layers == memit.model.presets["spread"].layers
    assert len(memit.model.layers) > 1
    assert memit.model.contexts.lengths == [(10, 5)]


@pytest.mark.parametrize("base", options("base"))
def test_layers_given_win_over_presets(base: str) -> None:
    config = load_config([f"base={base}", "model=gpt2-xl", "model.layers=[3,5]"])
    assert config.model.layers == [3, 5]


def test_one_moment_weight_for_model_and_base() -> None:
    both = load_config(["base=rect", "model.moment_weight=7"])
    assert both.base["moment_weight"] == 7
    own = load_config(["base=rect", "model.moment_weight=7", "base.moment_weight=3"])
    assert own.base["moment_weight"] == 3


def test_the_model_says_whether_rome_reads_its_second_moment() -> None:
    for chosen in ("model=gpt2-xl", "model=gpt-j-6b", "model=llama3-8b"):
        assert load_config(["base=rome", chosen]).base["use_moment"] is True
    assert load_config(["base=rome", "base.use_moment=true"]).base["use_moment"] is True
    assert load_config(["base=rome", "model.use_moment=false"]).base["use_moment"] is False


def test_the_one_flag_example_of_the_readme() -> None:
    config = load_config(["base=rect", "model=gpt2-xl", "null_space=true", "model.layers=[13,14]"])
    assert (config.base["name"], config.null_space, config.model.layers) == (
        "rect",
        True,
        [13, 14],
    )


def test_enums_are_typed() -> None:
    config = load_config(["projector.mode=post", "model.fact_token=last", "projector=rank"])
    assert config.projector.mode is Mode.post
    assert config.model.fact_token is FactToken.last
    assert config.projector.cut.rule is CutRule.rank


def test_custom_model() -> None:
    config = load_config(["model=custom", "model.path=/some where/x", "model.layers=[2]"])
    assert config.model.path == "/some where/x"
    assert config.projector.cut.rule is CutRule.auto
    assert (config.model.moment_weight, config.projector.l2) == (None, None)


@pytest.mark.parametrize(
    "text",
    [
        "The mother tongue of {} is",
        "it's {}, isn't it",
        'a "{}" b',
        "{}: 1 = 2, [3]",
        "back\\slash {} \\' \\",
        "true",
        "1984",
        "",
    ],
)
def test_request_text_needs_no_quotes(text: str) -> None:
    assert load_config([f"request.prompt={text}"], EditSettings).request.prompt == text


def test_quoted_request_text_is_taken_as_hydra_does() -> None:
    for typed, prompt in (("'The {} is'", "The {} is"), ("null", None)):
        assert load_config([f"request.prompt={typed}"], EditSettings).request.prompt == prompt


# ---------------------------------------------------------------------------------------------
# Errors


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["bse=rect"], "unknown key 'bse'; did you mean 'base'"),
        (["model.layer=[1]"], "unknown key 'model.layer'; did you mean 'model.layers'"),
        (["lr=0.1"], "unknown key 'lr'; did you mean 'model.target.lr'"),
        (["target.lr=0.1"], "did you mean 'model.target.lr'"),
        (["model.target.lrr=1"], "did you mean 'model.target.lr'"),
        (["+model.target.lrr=1"], "did you mean 'model.target.lr'"),
        (["base.alpa=2", "base=prune"], "did you mean 'base.alpha'"),
        (["+base.foo=1"], "unknown key 'base.foo' (known: base.alpha"),
        (["base=rct"], "unknown option for base 'rct'; did you mean 'rect'?"),
        (["model=gpt2-xll"], "did you mean 'gpt2-xl'"),
        (["projector=enery"], "did you mean 'energy'"),
        (["model.target.lr=fast"], "model.target.lr is 'fast': it must be a valid number"),
        (["projector.mode=slve"], "projector.mode is 'slve': it must be 'auto', 'solve' or 'post'"),
        (["null_space=maybe"], "null_space is 'maybe': it must be a valid boolean"),
        (["model.layers=3"], "model.layers is 3: it must be a valid list"),
        (["model=custom", "model.layers=[0]"], "model.path is not set"),
        (["model=custom", "model.path=x"], "model.layers is not set"),
        (["foo"], "cannot read 'foo': overrides look like key=value"),
        (["model.layers=[3"], "cannot read 'model.layers=[3'"),
        (["=3"], "cannot read '=3'"),
        (["="], "cannot read '='"),
        ("base=rect", """give a list of texts, ["base=rect"]"""),
        ([5], "overrides are [5]"),
        (["~base"], "base"),
        (["batch_size=0"], "batch_size is 0"),
        (["data.limit=0"], "data.limit is 0"),
        (["data.offset=-1"], "data.offset is -1"),
        (["data.shuffle_seed=-1"], "data.shuffle_seed is -1"),
        (["data=plain", "data.path=' '"], "data.path is ' '"),
        (["data=counterfact", "data.references="], "data.references is ''"),
        (["compare.edits=0"], "compare.edits is 0"),
        (["model.target.steps=0"], "model.target.steps is 0"),
        (["compare.bases=[rome,rome]"], "compare.bases is ['rome', 'rome']"),
        (["compare.retention=-1"], "compare.retention is -1"),
        (["compare.every=-1"], "compare.every is -1"),
        (["compare.jobs=0"], "compare.jobs is 0"),
        (["compare.out="], "compare.out is ''"),
        (["save=' '"], "save is ' '"),
        (["seed=-1"], "seed is -1"),
        ([f"seed={2**63}"], f"seed is {2**63}"),
        (["model.path="], "model.path is ''"),
        (["model.layout.down_proj=mlp.c_proj"], "must be a path with one {} for the layer's"),
        (["model.layout.block='h.{0}'"], "model.layout.block is 'h.{0}'"),
        (["model.threads=0"], "model.threads is 0"),
        (["model.contexts.lengths=[[10,5],[1]]"], "model.contexts.lengths[1][1] is not set"),
        (["model.contexts.lengths=[[10,0]]"], "model.contexts.lengths[0][1] is 0: it must be at"),
        (["model.moments.tokens=0"], "model.moments.tokens is 0"),
        (["model.moments.stats_samples=-5"], "model.moments.stats_samples is -5"),
        (["projector=absolute", "projector.cut.value=0"], "needs a positive eigenvalue"),
        (["projector.cut.value=1.5"], "needs a share of the energy in (0, 1]"),
        (["projector.cut.value=nan"], "needs a share of the energy in (0, 1]"),
        (["projector=rank", "projector.cut.value=2.5"], "needs a whole number"),
        (["data.name=easyedti"], "unknown data 'easyedti'; did you mean 'easyedit'"),
        (
            ["base=memit", "base.keep_percent=20"],
            "setting of base=rect, not of base=memit",
        ),
        (["base.moment_weight=1", "base=rome"], "of base=memit and base=prune and base=rect, not"),
        (["base="], "base=: choose one of memit, prune, rect, rome"),
        (["data="], "data=: choose one of atlas, counterfact, default, easyedit, knowedit"),
        (["base=null"], "base=null: choose one of"),
        (["base=[rect]"], "compare.bases=[rome,rect]"),
        (["base=rome,rect"], "compare.bases=[rome,rect]"),
        (["seed=1,2"], "seed=1,2: write a list as [a,b]"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else "",
)
def test_errors_take_one_line_with_the_nearest_names(overrides: list[str], expected: str) -> None:
    compared = any("compare." in str(override) for override in overrides)
    with pytest.raises(ConfigError) as caught:
        load_config(overrides, ComparisonConfig if compared else EditSettings)
    message = str(caught.value)
    assert expected in message
    assert "\n" not in message
    assert caught.value.__suppress_context__ or caught.value.__cause__ is None


def test_the_pocket_model_sets_romes_direction_by_the_flag() -> None:
    """Along C⁻¹k when plain, along k when projected; whoever sets it decides."""
    for overrides, expected in (
        (["base=rome"], False),
        (["base=rome", "null_space=false"], True),
        (["base=rome", "model.use_moment=true"], True),
        (["base=rome", "model=gpt2-xl"], True),
    ):
        assert load_config(overrides).base["use_moment"] is expected


# ---------------------------------------------------------------------------------------------
# In an application of the user's own


def test_inside_an_application_of_ones_own(tmp_path: Path) -> None:
    """Our config.yaml under a node of another application, with its own overrides on top."""
    (tmp_path / "app.yaml").write_text(
        "defaults:\n"
        "  - config@editor\n"
        "  - _self_\n"
        "epochs: 3\n"
        "editor: {batch_size: 5}\n"
        "hydra: {searchpath: ['pkg://alphaedit_plugin.conf']}\n"
    )
    register_configs()
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        composed = compose("app", ["base@editor.base=rect", "model@editor.model=gpt2-xl"])
    config = as_config(composed.editor)
    assert composed.epochs == 3
    assert (config.base["name"], config.batch_size) == ("rect", 5)
    assert config.model.layers == [13, 14, 15, 16, 17]


def test_groups_alone_in_an_application_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "app.yaml").write_text(
        "defaults: [base: prune, model: gpt-j-6b, projector: default, _self_]\n"
        "seed: 4\n"
        "hydra: {searchpath: ['pkg://alphaedit_plugin.conf']}\n"
    )
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        composed = compose("app", ["model.layers=[6]"])
    config = as_config(composed)
    assert (config.base["alpha"], config.model.layers, config.seed) == (1.2, [6], 4)


def test_load_config_works_while_hydra_runs(tmp_path: Path) -> None:
    (tmp_path / "app.yaml").write_text("epochs: 3\n")
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        assert load_config(["base=rome"]).base["name"] == "rome"
        assert compose("app").epochs == 3


def test_as_config_explains_an_unknown_key_and_a_missing_base() -> None:
    with pytest.raises(ConfigError, match="unknown key 'modle'; did you mean 'model'"):
        as_config(OmegaConf.create({"modle": {}}))
    with pytest.raises(ConfigError, match=r"'model.target.lrr'; did you mean 'model.target.lr'"):
        as_config(OmegaConf.create({"model": {"target": {"lrr": 1}}}))
    with pytest.raises(ConfigError, match="base is not set"):
        as_config(OmegaConf.create({"model": {"path": None, "layers": [0]}}))


def test_hydra_main_application(tmp_path: Path) -> None:
    """A real ``@hydra.main`` script, in a process of its own, with our primary config."""
    script = tmp_path / "app.py"
    script.write_text(
        "import hydra\n"
        "from alphaedit_plugin.config.compose import as_config, register_configs\n"
        "register_configs()\n"
        "@hydra.main(config_path='pkg://alphaedit_plugin.conf', config_name='config',\n"
        "            version_base='1.3')\n"
        "def main(cfg):\n"
        "    config = as_config(cfg)\n"
        "    print(config.base['name'], config.model.layers)\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, str(script), "base=rome", "model=gpt2-xl"],
        cwd=tmp_path, capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    assert done.stdout.split("\n")[0] == "rome [17]"
