"""``alphaedit run`` and ``doctor`` with the real EasyEdit."""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import alphaedit_plugin
from alphaedit_plugin import RECTHyperParams
from alphaedit_plugin.cli.main import main
from alphaedit_plugin.models.editable import EditableModel
from tests.host.test_flag import NAMES, leaks
from tests.host.tiny_host import (
    TinyHostModel,
    algorithms,
    hparams_class,
    pin_contexts,
    skip_without_host,
)

skip_without_host()

Capture = pytest.CaptureFixture[str]

# Knows nothing of us: argparse, one of the host's hparams, its editor.
SCRIPT = """
import argparse, json, sys
import easyeditor
from easyeditor import BaseEditor

parser = argparse.ArgumentParser()
parser.add_argument("--editing_method", required=True)
parser.add_argument("--hparams", required=True)
parser.add_argument("--requests", required=True)
parser.add_argument("--save", required=True)
args = parser.parse_args()
kind = getattr(easyeditor, args.editing_method.replace("-", "_") + "HyperParams")
requests = json.load(open(args.requests))
editor = BaseEditor.from_hparams(kind.from_hparams(args.hparams))
metrics, model, _ = editor.edit(
    prompts=[r["prompt"].replace("{}", r["subject"]) for r in requests],
    subject=[r["subject"] for r in requests],
    target_new=[r["target_new"] for r in requests],
    sequential_edit=True, verbose=False,
)
model.save_pretrained(args.save)
sys.exit(7)
"""

RunIt = Callable[..., int]


@pytest.fixture
def run_it(host: ModuleType, tmp_path: Path) -> RunIt:
    """Runs the script above on two requests; the edited model is in ``edited``."""

    def run(tiny: TinyHostModel, method: str, *flags: str, **yaml: Any) -> int:
        (tmp_path / "script.py").write_text(SCRIPT)
        (tmp_path / "requests.json").write_text(json.dumps(tiny.requests[:2]))
        hparams = tiny.write_hparams(method, tmp_path, **yaml)
        if method in NAMES:
            pin_contexts(method)
        given = ["--hparams", str(hparams), "--requests", "requests.json", "--save", "edited"]
        return main(["run", "--", "script.py", "--editing_method", method, *flags, *given])

    return run


def edited(tiny: TinyHostModel, folder: str = "edited") -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def cut(tiny: TinyHostModel) -> list[str]:
    return [f"--null_space_cut={tiny.nullspace_threshold}", "--null_space_l2", "1.0"]


@pytest.mark.parametrize("method", ["ROME", "R-ROME", "MEMIT", "EMMET"])
def test_a_script_that_knows_nothing_of_us(run_it: RunIt, tiny: TinyHostModel, method: str) -> None:
    functions = dict(algorithms())
    constructors = {name: hparams_class(name).__init__ for name in NAMES}
    constructors["RECT"] = RECTHyperParams.__init__
    argv, path, place = sys.argv, list(sys.path), os.getcwd()
    assert run_it(tiny, method, "--null_space", *cut(tiny)) == 7
    assert max(leaks(tiny, method, edited(tiny)).values()) < 1e-5
    assert algorithms() == functions
    assert all(hparams_class(name).__init__ is constructors[name] for name in NAMES)
    assert RECTHyperParams.__init__ is constructors["RECT"]
    assert sys.argv is argv
    assert (sys.path, os.getcwd()) == (path, place)
    assert run_it(tiny, method, "--null_space", "false") == 7
    assert max(leaks(tiny, method, edited(tiny)).values()) > 1e-3


def test_what_is_typed_overrides_yaml_and_says_so(
    run_it: RunIt, tiny_gpt2: TinyHostModel, caplog: pytest.LogCaptureFixture
) -> None:
    assert run_it(tiny_gpt2, "MEMIT", "--null_space", *cut(tiny_gpt2), null_space=False) == 7
    assert max(leaks(tiny_gpt2, "MEMIT", edited(tiny_gpt2)).values()) < 1e-5
    assert "--null_space True overrides null_space: False of MEMITHyperParams" in caplog.text
    caplog.clear()
    assert run_it(tiny_gpt2, "MEMIT", "--null_space", "false", null_space=True) == 7
    assert max(leaks(tiny_gpt2, "MEMIT", edited(tiny_gpt2)).values()) > 1e-3
    caplog.clear()
    assert run_it(tiny_gpt2, "MEMIT", *cut(tiny_gpt2), null_space=True) == 7
    assert max(leaks(tiny_gpt2, "MEMIT", edited(tiny_gpt2)).values()) < 1e-5
    assert "overrides" not in caplog.text


def test_a_method_that_cannot_project_is_refused(
    run_it: RunIt, tiny_gpt2: TinyHostModel, tmp_path: Path, capsys: Capture
) -> None:
    functions = dict(algorithms())
    constructor = importlib.import_module("easyeditor").FTHyperParams.__init__
    script = tmp_path / "other.py"
    script.write_text("from easyeditor import FTHyperParams\nFTHyperParams(alg_name='FT')")
    assert main(["run", "--", str(script), "--null_space"]) == 2
    assert "null_space is not for FT: it projects ROME, " in capsys.readouterr().err
    with pytest.raises(TypeError, match="missing"):
        main(["run", "--", str(script), "--null_space", "false"])
    assert importlib.import_module("easyeditor").FTHyperParams.__init__ is constructor
    assert algorithms() == functions


def test_a_flag_that_reaches_nothing_is_told(
    host: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    script = tmp_path / "idle.py"
    script.write_text("")
    assert main(["run", "--", str(script), "--null_space"]) == 0
    assert "made no hparams of a method that takes the flag" in caplog.text


def test_a_registration_from_before_stays(host: ModuleType, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("")
    alphaedit_plugin.register()
    try:
        functions = dict(algorithms())
        constructor = hparams_class("MEMIT").__init__
        assert main(["run", "--", str(script), "--null_space"]) == 0
        assert algorithms() == functions
        assert hparams_class("MEMIT").__init__ is constructor
    finally:
        alphaedit_plugin.unregister()


def test_a_script_that_unregisters(host: ModuleType, tmp_path: Path) -> None:
    functions, constructor = dict(algorithms()), hparams_class("MEMIT").__init__
    script = tmp_path / "script.py"
    script.write_text("import alphaedit_plugin\nalphaedit_plugin.unregister()\n1 / 0")
    with pytest.raises(ZeroDivisionError):
        main(["run", "--", str(script), "--null_space"])
    assert algorithms() == functions
    assert hparams_class("MEMIT").__init__ is constructor


def test_our_own_methods_take_the_flag(
    host: ModuleType, tiny_gpt2: TinyHostModel, tmp_path: Path
) -> None:
    script, out = tmp_path / "script.py", tmp_path / "out.json"
    script.write_text(
        "import json\nfrom alphaedit_plugin import RECTHyperParams\n"
        "made = RECTHyperParams.from_hparams('RECT.yaml')\n"
        f"json.dump(made.to_dict(), open({str(out)!r}, 'w'))"
    )
    settings = tiny_gpt2.settings("MEMIT", alg_name="RECT")
    (tmp_path / "RECT.yaml").write_text(json.dumps(settings))
    assert main(["run", "--", str(script), "--null_space", "--null_space_cut", "0.5"]) == 0
    made = json.loads(out.read_text())
    assert (made["null_space"], made["null_space_cut"]) == (True, 0.5)


@pytest.fixture
def home(host: ModuleType) -> Path:
    return Path(str(host.__file__)).parents[1]


@pytest.mark.parametrize("tiny", ["llama"], indirect=True)
def test_the_hosts_own_example(
    home: Path, tiny: TinyHostModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``examples/run_zsre_llama2.py`` as it is, with MEMIT on two records."""
    pytest.importorskip("sentence_transformers")
    records = [
        {
            "src": request["prompt"].replace("{}", request["subject"]),
            "rephrase": request["prompt"].replace("{}", request["subject"]),
            "alt": request["target_new"],
            "loc": tiny.requests[-1]["prompt"].replace("{}", tiny.requests[-1]["subject"]),
            "loc_ans": tiny.requests[-1]["target_new"],
            "portability": {"New Question": request["subject"], "New Answer": "Rome"},
            "subject": request["subject"],
        }
        for request in tiny.requests[:2]
    ]
    (tmp_path / "zsre_mend_eval_portability_gpt4.json").write_text(json.dumps(records))
    hparams = tiny.write_hparams("MEMIT", tmp_path)
    pin_contexts("MEMIT")
    seen: list[tuple[Any, float]] = []
    apply = algorithms()["MEMIT"]

    def watched(model: Any, tok: Any, requests: Any, given: Any, **options: Any) -> Any:
        fresh = EditableModel.wrap(*tiny.load())
        result = apply(model, tok, requests, given, **options)
        now = EditableModel.wrap(model, tok)
        moved = [(now.weight(n) - fresh.weight(n)).norm().item() for n in given.layers]
        seen.append((given, max(leaks(tiny, "MEMIT", model).values()) if all(moved) else -1.0))
        return result

    monkeypatch.setitem(algorithms(), "MEMIT", watched)
    line = ["--editing_method", "MEMIT", "--null_space", "--hparams_dir", str(hparams), *cut(tiny)]
    own = ["--data_dir", str(tmp_path), "--ds_size", "2", "--metrics_save_dir", str(tmp_path)]
    script = home / "examples" / "run_zsre_llama2.py"
    assert main(["run", "--", str(script), *line, *own]) == 0
    metrics = json.loads((tmp_path / "MEMIT_results.json").read_text())
    assert [m["requested_rewrite"]["target_new"] for m in metrics]
    assert len(metrics) == len(seen) == 2
    for given, leak in seen:
        assert given.null_space is True
        assert given.null_space_cut == tiny.nullspace_threshold
        assert 0 < leak < 1e-5


def test_doctor_finds_the_host(
    host: ModuleType, home: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    functions = dict(algorithms())
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert str(home) in out
    assert algorithms() == functions
