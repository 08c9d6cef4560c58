"""The ``alphaedit`` command, in this process: what it prints, returns and refuses."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from alphaedit_plugin.cli import edit
from alphaedit_plugin.cli import main as cli
from alphaedit_plugin.cli.base import ANY_LAYER, COMMANDS, OVERRIDES
from alphaedit_plugin.cli.main import main
from alphaedit_plugin.common.groups import groups, options
from alphaedit_plugin.common.version import VERSION
from alphaedit_plugin.config import build as loading
from alphaedit_plugin.config.build import load_model, load_moments
from alphaedit_plugin.config.compose import load_config
from alphaedit_plugin.data.pocket_world.model import load_pocket
from alphaedit_plugin.data.selection import load_data
from alphaedit_plugin.metrics.easyedit import edit_quality
from alphaedit_plugin.models.decoding import continue_greedily
from alphaedit_plugin.models.editable import EditableModel
from alphaedit_plugin.nullspace.projector import fit_projectors
from alphaedit_plugin.nullspace.projector_file import save_projectors

Capture = pytest.CaptureFixture[str]
QUICK = ["model.moments.tokens=3000"]  # a poor second moment, in no time


@pytest.fixture(scope="module")
def projectors(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An override: projectors fitted once, which also spares the second moments."""
    config = load_config(QUICK)
    lm = load_model(config.model)
    fitted = fit_projectors(load_moments(lm, config.model), config.projector.cut)
    path = tmp_path_factory.mktemp("projectors") / "p.safetensors"
    save_projectors(lm, fitted, path)
    return f"projector.path={path}"


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")


# ---------------------------------------------------------------------------------------------
# Help


def test_version(capsys: Capture) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"alphaedit {VERSION}\n"


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"]])
def test_help(capsys: Capture, argv: list[str]) -> None:
    assert main(argv) == 0
    out = capsys.readouterr().out
    for command in ("edit", "compare", "config", "run", "doctor"):
        assert f"\n{command} " in out or f"  {command} " in out
    for group in groups():
        names = [name for name in options(group) if name != "default"]
        listed = r" \|\s+".join(map(re.escape, names))  # lines break between names
        assert re.search(rf"{group}= +{listed} *\n", out)
    assert re.search(r"null_space= +true \| false *\n", out)


@pytest.mark.parametrize("command", ["edit", "compare", "fit"])
@pytest.mark.parametrize("words", [["--help"], ["base=nonsense", "-h"]])
def test_help_of_a_command(capsys: Capture, command: str, words: list[str]) -> None:
    assert main([command, *words]) == 0
    out = capsys.readouterr().out
    assert f"usage: alphaedit {command}" in out
    assert f"  alphaedit {command} " in out
    assert "rome" in out


def test_examples_compose() -> None:
    """The example lines of the help are valid overrides, or another command's own words."""
    import shlex

    for name in COMMANDS:
        command = COMMANDS.get(name)
        for example in command.examples:
            program, typed, *overrides = shlex.split(example)
            assert (program, typed) == ("alphaedit", name)
            if "-m" in overrides:  # of a sweep its first cell
                swept = [word for word in overrides if not word.startswith(("-m", "hydra"))]
                overrides = [word.split(",")[0] for word in swept]
            if command.usage == OVERRIDES and command.schema is not None:
                load_config([ANY_LAYER, *overrides], command.schema)


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from alphaedit_plugin.cli.main import main; main(['--help']); "
        "main(['edit', '-h']); main(['run', '-h']); main(['nonsense']); "
        "assert not {'torch', 'transformers', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)


def test_python_dash_m() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "alphaedit_plugin", "confg"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("alphaedit: error: unknown command 'confg'; did you mean")
    assert done.stdout == ""


# ---------------------------------------------------------------------------------------------
# Errors


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["edti"], "unknown command 'edti'; did you mean 'edit'?"),
        (["base=rect"], "put a command first: alphaedit edit base=rect"),
        (["config", "bse=rect"], "unknown key 'bse'; did you mean 'base'?"),
        (["config", "base=rct"], "unknown option for base 'rct'; did you mean 'rect'?"),
        (["edit", "--nonsense"], "cannot read '--nonsense'"),
        (["compare", "host=easyedit"], "compare does not read host: edit does"),
        (["edit", "model=gpt2-xl"], "no requests for openai-community/gpt2-xl"),
        (["edit", "data.path=x.json"], "data.path is a setting of data="),
        (["edit", "model.device=" + "x" * 500], "cannot be used: "),
        (["edit", "data=easyedit"], "data=easyedit needs a file: set data.path"),
        (["edit", "data=easyedit", "data.path=none.json"], "no data at none.json"),
        (["edit", "request.prompt=The {} is"], "request.subject is not set"),
        (
            ["edit", "request.prompt=The {} is", "request.subject=x", "request.target_new="],
            "target_new is ''",
        ),
        (
            ["edit", "request.prompt=The is", "request.subject=x", "request.target_new=y"],
            "subject 'x' is not in prompt 'The is'",
        ),
        (["edit", "model=custom", "model.layers=[0]"], "model.path is not set"),
        (["edit", "model.moment_weight=0"], "model.moment_weight is 0: it must be positive"),
        (["edit", "base.moment_weight=0"], "base.moment_weight is 0.0: it must be positive"),
        (["edit", "model.l2=0"], "model.l2 is 0: it must be positive"),
        (
            [
                "edit",
                "data=pocket",
                "model=custom",
                "model.path=none",
                "model.layers=[0]",
                "null_space=false",
                "base=rome",
                "base.use_moment=false",
            ],
            "cannot load model",
        ),
        (["edit", "model.layers=[77]"], "layer 77 is out of range"),
        (["edit", "projector.path=none.safetensors"], "no projector file at none.safetensors"),
        (["compare", "compare.bases=[memitt]"], "unknown base method 'memitt'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_errors_are_one_line_on_stderr(capsys: Capture, argv: list[str], message: str) -> None:
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    lines = [line for line in err.splitlines() if line.startswith("alphaedit: error: ")]
    assert len(lines) == 1
    assert message in lines[0]
    assert err.rstrip().endswith(lines[0])
    assert "Traceback" not in err


def test_messages_of_several_lines_are_folded(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from alphaedit_plugin.common.errors import NumericalError

    def fail(*_: object) -> None:
        raise NumericalError("[bold]first\nsecond[/bold]")

    monkeypatch.setattr(edit, "request_of", fail)
    assert main(["edit"]) == 2
    assert capsys.readouterr().err == "alphaedit: error: [bold]first second[/bold]\n"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (KeyError("x\ny"), "KeyError: 'x\\ny' (a bug or an unexpected state; run again with -v"),
        (RuntimeError(), "RuntimeError (a bug or"),
        (RuntimeError("long " * 100), "long… (a bug or"),
        (MemoryError(), "out of memory: lower batch_size"),
        (torch.OutOfMemoryError("CUDA out of memory"), "out of memory: lower batch_size"),
        (OSError(28, "No space left on device", "/tmp/x"), "no space left for /tmp/x: make some"),
    ],
)
def test_whatever_else_fails_takes_one_line(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(edit, "request_of", fail)
    assert main(["edit"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("alphaedit: error: ")
    assert message in line
    if "out of memory" in message:
        monkeypatch.setattr("alphaedit_plugin.nullspace.projector_file.require_place", fail)
        assert main(["fit"]) == 2
        said = capsys.readouterr().err
        assert "fit fewer model.layers at a time" in said
        assert "batch_size" not in said
        assert main(["-v", "fit"]) == 2
        assert "fit fewer model.layers at a time" in capsys.readouterr().err
    assert main(["edit", "-v"]) == 2
    told = capsys.readouterr().err
    assert "Traceback" in told
    assert told.splitlines()[-1] == line


def test_a_terminal_that_lacks_characters() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "alphaedit_plugin", "config", "edit", "request.prompt=北京 ‖Δ‖"],
        env=os.environ | {"PYTHONIOENCODING": "latin-1"},
        capture_output=True, check=True, timeout=120,
    )  # fmt: skip
    assert b"request:\n  prompt: ?? ???\n" in done.stdout
    assert not done.stderr


def test_a_missing_package_is_missed_before_the_model_is_loaded(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    asked = [
        "model=gpt2-xl",
        "request.prompt=The {} is",
        "request.subject=x",
        "request.target_new=y",
    ]
    monkeypatch.setattr(loading, "load_model", None)  # nothing may be loaded
    assert main(["edit", *asked]) == 2
    assert "reading wikimedia/wikipedia needs the datasets package" in capsys.readouterr().err
    assert main(["compare", "model=gpt2-xl", "data=pocket"]) == 2
    assert "needs the datasets package" in capsys.readouterr().err
    assert main(["edit", *asked, "model.moments.corpus=none.txt"]) == 2
    assert "no corpus at none.txt" in capsys.readouterr().err


def test_interrupted(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(edit, "request_of", interrupt)
    assert main(["edit"]) == 130
    assert "Traceback" not in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------
# Config


def test_config_prints_what_is_composed(capsys: Capture) -> None:
    assert main(["config", "base=rome", "model=gpt2-xl", "model.layers=[3]"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["base"]["name"] == "rome"
    assert shown["model"]["layers"] == [3]
    assert shown["model"]["target"]["clamp_norm_factor"] == 4
    assert shown["projector"]["cut"] == {"rule": "absolute", "value": 0.02}


def test_config_keeps_long_lines_and_markup(capsys: Capture) -> None:
    prompt = "[red]The {} is[/red] :smile: " + "very " * 60 + "long"
    assert main(["config", f"request.prompt={prompt}"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["request"]["prompt"] == prompt


# ---------------------------------------------------------------------------------------------
# Edit


def asked(base: str = "memit", *more: str) -> list[str]:
    requests = load_data(load_config(["data.limit=1"])).requests
    (request,) = requests
    return [
        "edit",
        f"base={base}",
        f"request.prompt={request.prompt}",
        f"request.subject={request.subject}",
        f"request.target_new={request.target_new}",
        *QUICK,
        *more,
    ]


@pytest.mark.parametrize("null_space", ["true", "false"])
@pytest.mark.parametrize("base", options("base"))
def test_edit_one_request(capsys: Capture, base: str, null_space: str, projectors: str) -> None:
    (request,) = load_data(load_config(["data.limit=1"])).requests
    assert main(asked(base, f"null_space={null_space}", projectors)) == 0
    out = capsys.readouterr().out
    assert request.filled in out
    assert f"{request.ground_truth} → {request.target_new}" in out
    assert "after 1 edit: rewrite 100.0%" in out
    assert ("‖ΔU‖/‖Δ‖" in out) is (null_space == "true")


def test_edit_save_and_reload(capsys: Capture, tmp_path: Path) -> None:
    folder = tmp_path / "edited"
    argv = ["edit", "data.limit=4", "batch_size=2", *QUICK, f"save={folder}"]
    assert main(argv) == 0
    assert f"saved to {folder}" in capsys.readouterr().out
    requests = load_data(load_config(["data.limit=4"])).requests
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    lm = EditableModel.wrap(model.eval(), tokenizer)
    said = continue_greedily(lm, [request.filled for request in requests], [1] * 4)
    assert said == [request.target_new for request in requests]
    assert all(m["rewrite_acc"] == [1.0] for m in edit_quality(lm, requests))
    original = load_pocket()[0]
    config = load_config()
    edited = {lm.weight_name(layer) for layer in config.model.layers}
    for name, parameter in original.named_parameters():
        assert torch.equal(parameter, model.get_parameter(name)) is (name not in edited)


def test_a_checkpoint_in_another_dtype_than_its_original_says_so(
    capsys: Capture, tmp_path: Path, projectors: str
) -> None:
    half, whole, again = (tmp_path / name for name in ("half", "whole", "again"))
    assert main(asked("memit", projectors, "model.dtype=bfloat16", f"save={half}")) == 0
    assert f"saved to {half}\n" in capsys.readouterr().out
    custom = ["model=custom", f"model.path={half}", "model.layers=[0]", "null_space=false"]
    custom += ["model.contexts.templates=[]", "model.use_moment=false", "model.target.steps=2"]
    assert main(asked("rome", *custom, f"save={whole}")) == 0
    saved = f"saved to {whole} in float32, 2 times the size: the original is in bfloat16"
    assert f"{saved}, which model.dtype=bfloat16 keeps\n" in capsys.readouterr().out
    assert main(asked("rome", *custom, "model.dtype=bfloat16", f"save={again}")) == 0
    assert f"saved to {again}\n" in capsys.readouterr().out


def test_a_failed_save_leaves_nothing(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, projectors: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("transformers.PreTrainedModel.save_pretrained", fail)
    assert main(asked("memit", projectors, f"save={tmp_path / 'edited'}")) == 2
    out, err = capsys.readouterr()
    assert "after 1 edit: rewrite 100.0%" in out
    assert f"{tmp_path / 'edited'} cannot be written: No space left on device" in err
    assert not list(tmp_path.iterdir())


def test_half_precision_says_what_its_rounding_is(capsys: Capture, projectors: str) -> None:
    assert main(asked("memit", "model.dtype=bfloat16", "projector.cut.value=0.9")) == 0
    out = capsys.readouterr().out
    (note,) = [line for line in out.splitlines() if "rounding of bfloat16 weights" in line]
    assert float(note.split()[-1]) < 1e-6
    (layer,) = [line for line in out.splitlines() if line.startswith("0 ")]
    assert float(layer.split()[-1]) > 1e-4
    assert main(asked("memit", projectors)) == 0
    assert "rounding" not in capsys.readouterr().out


def test_edit_of_many_shows_ten(capsys: Capture) -> None:
    assert main(["edit", "data.limit=12", "null_space=false", "batch_size=6", *QUICK]) == 0
    out = capsys.readouterr().out
    requests = load_data(load_config(["data.limit=12"])).requests
    assert [request.filled in out for request in requests] == [True] * 10 + [False] * 2
    assert "… and 2 more" in out
    assert "after 12 edits: rewrite " in out
    assert "rephrase " in out
    assert "locality " in out


@pytest.mark.parametrize(
    ("setting", "blamed"),
    [
        ("model.target.lr=1e-6", "the target search found no value"),
        ("model.moment_weight=1e12", "a value was found, but the closed form could not write it"),
    ],
)
def test_edit_says_where_an_answer_was_lost(capsys: Capture, setting: str, blamed: str) -> None:
    words = ["edit", "data.limit=3", "null_space=false", *QUICK, "model.target.steps=20", setting]
    assert main(words) == 0
    assert f"3 of 3 answers not given, as {blamed}" in capsys.readouterr().out.replace("\n", " ")


def test_edit_from_easyedits_file(capsys: Capture, tmp_path: Path, projectors: str) -> None:
    (request,) = load_data(load_config(["data.limit=1"])).requests
    record = {
        "prompt": request.filled,
        "subject": request.subject,
        "target_new": request.target_new,
        "rephrase_prompt": request.rephrase[0],
    }
    path = tmp_path / "edits.json"
    path.write_text(json.dumps([record]))
    assert main(["edit", "data=easyedit", f"data.path={path}", projectors]) == 0
    assert "after 1 edit: rewrite 100.0%, rephrase" in capsys.readouterr().out


@pytest.mark.parametrize("taken", ["file", "folder"])
def test_a_folder_that_is_taken_is_refused_first(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: str
) -> None:
    monkeypatch.setattr(loading, "load_model", None)  # nothing may be loaded
    folder = tmp_path / "edited"
    if taken == "file":
        folder.write_text("x")
    else:
        folder.mkdir()
        (folder / "config.json").write_text("{}")
    assert main(asked("memit", f"save={folder}")) == 2
    err = capsys.readouterr().err
    assert ("is a file; give a folder" if taken == "file" else "is not empty") in err


def test_verbose_logs(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    levels: list[int] = []
    monkeypatch.setattr(cli, "_start_logging", lambda errors, level: levels.append(level))
    assert main(["-v", "config"]) == main(["config", "--verbose"]) == main(["config"]) == 0
    assert levels == [20, 20, 30]
    capsys.readouterr()


def test_an_error_that_quotes_a_whole_book_stays_readable(capsys: Capture) -> None:
    words = ["request.subject=Ada", f"request.prompt={'word ' * 5000}", "request.target_new=x"]
    assert main(["edit", *words]) == 2
    error = capsys.readouterr().err
    assert len(error) < 400
    assert error.startswith("alphaedit: error: subject 'Ada' is not in prompt 'word word")
    assert error.endswith("or put '{}' in its place\n")


def test_a_narrow_terminal_keeps_words_whole(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, projectors: str
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    assert main(asked("memit", projectors)) == 0
    heading = capsys.readouterr().out.splitlines()[0]
    assert heading.split() == ["prompt", "before", "→", "after", "wanted"]
