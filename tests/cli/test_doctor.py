"""``alphaedit doctor``: what it finds, and that a problem comes with its fix."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers

from alphaedit_plugin.cli import diagnosis as doctor
from alphaedit_plugin.cli.diagnosis import Verdict
from alphaedit_plugin.cli.main import main
from alphaedit_plugin.common.version import VERSION
from alphaedit_plugin.easyedit import host, run
from alphaedit_plugin.easyedit.host import HostError, import_host

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")


@pytest.fixture
def folder_of_host() -> Callable[[], Path | None]:
    return host.host_folder


@pytest.fixture(autouse=True)
def no_host(folder_of_host: Callable[[], Path | None], monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> Any:
        raise HostError("EasyEdit is not here: git clone it")

    monkeypatch.setattr(run, "import_host", missing)
    monkeypatch.setattr(host, "host_folder", lambda: None)


def versions_without(monkeypatch: pytest.MonkeyPatch, changed: dict[str, str | None]) -> None:
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name not in changed:
            return real(name)
        found = changed[name]
        if found is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return found

    monkeypatch.setattr(importlib.metadata, "version", version)


def test_a_missing_host_is_only_a_note(capsys: Capture) -> None:
    assert main(["doctor"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    for part in (VERSION, python, "torch", "transformers", "hydra-core", "CPU, ", "HF_HOME"):
        assert part in out
    for name in ("gptj,", "llama,", "gpt2-xl", "pocket"):
        assert name in out
    assert "note: EasyEdit: EasyEdit is not here\n  fix: git clone it\n" in out
    assert out.endswith("nothing is broken\n")


def test_every_problem_has_a_fix(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    versions_without(monkeypatch, {"datasets": None, "hydra-core": "0.9", "omegaconf": None})
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(file / "cache"))
    monkeypatch.setattr("torch.cuda.is_available", lambda: 1 / 0)
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "fix: pip install --upgrade 'hydra-core>=1.3'" in out
    assert "fix: pip install --upgrade 'omegaconf>=2.3'" in out
    assert "note: datasets: " in out
    assert f"note: HF_HOME: {file} cannot be written\n  fix: set HF_HOME to a folder" in out
    assert "broken: device: division by zero\n  fix: reinstall torch" in out
    assert out.count("\n  fix: ") == 6
    assert out.endswith("3 broken\n")
    assert "Traceback" not in out


@pytest.mark.parametrize("name", ["_ourselves", "_packages", "_device", "_models", "_caches"])
def test_a_check_that_fails_is_a_finding(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def fail() -> Any:
        raise ImportError("first\nsecond [b]")

    monkeypatch.setattr(doctor, name, fail)
    assert main(["doctor"]) == 1
    assert ": first second [b]\n  fix: " in capsys.readouterr().out


def test_a_gpu_that_torch_cannot_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(Path, "exists", lambda self: True)
    (found,) = doctor._device()
    assert found.verdict is Verdict.note
    assert "CUDA" in found.fix


@pytest.mark.parametrize("build", ["", "+cpu"])
def test_a_broken_host_names_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, build: str
) -> None:
    """And the line that installs it leaves torch alone."""
    lines = "torch==2.9.1\n# a comment\n\nno_such-package==1\n"
    (tmp_path / "requirements.txt").write_text(lines)
    monkeypatch.setattr(host, "host_folder", lambda: tmp_path)
    versions_without(monkeypatch, {"torch": f"2.13.0{build}"})

    def fail() -> Any:
        cause = ImportError("No module named 'no_such'", name="no_such.part")
        raise HostError("it is there") from cause

    monkeypatch.setattr(run, "import_host", fail)
    (found,) = doctor._host()
    assert found.verdict is Verdict.note
    assert str(tmp_path) in found.found
    assert "No module named 'no_such'" in found.problem
    torch = "torch==2.13.0"
    if build:
        torch += " --extra-index-url https://download.pytorch.org/whl/cpu"
    assert found.fix == f"pip install no_such-package {torch}"
    (tmp_path / "requirements.txt").unlink()
    assert doctor._host()[0].fix == f"pip install no_such {torch}"


def test_a_package_of_another_version_is_told_from_one_that_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As transformers 5.24, which no longer has what the host of July 2026 imports."""
    clone = tmp_path / "clone"
    (clone / "easyeditor").mkdir(parents=True)
    lines = "--pre\n\ntorch==2.9.1\ntransformers==4.0.1  # not later\nno_such==1\n"
    (clone / "requirements.txt").write_text(lines)
    (clone / "easyeditor" / "__init__.py").write_text(
        "from transformers.no_longer import mask_of\n"
    )
    monkeypatch.delitem(sys.modules, "easyeditor", raising=False)
    monkeypatch.setenv("EASYEDIT_HOME", str(clone))
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(host, "host_folder", lambda: clone)
    monkeypatch.setattr(run, "import_host", import_host)
    here = f"transformers {transformers.__version__} is here, and this EasyEdit was written for "
    with pytest.raises(HostError, match=re.escape(here + "transformers==4.0.1")):
        import_host()
    versions_without(monkeypatch, {"torch": "2.13.0"})
    (found,) = doctor._host()
    assert "No module named 'transformers.no_longer'" in found.problem
    assert here in found.problem
    assert found.fix == "pip install 'transformers==4.0.1' no_such torch==2.13.0"


def test_a_host_that_fails_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Any:
        raise HostError("it is there") from RuntimeError("it broke: here")

    monkeypatch.setattr(run, "import_host", fail)
    (found,) = doctor._host()
    assert found.problem == "it cannot be imported: it broke: here"
    assert "import easyeditor" in found.fix


def test_a_torchvision_that_does_not_fit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('no operator nms')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    versions_without(monkeypatch, {"torchvision": "0.1", "torch": "2.13.0"})
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "broken: torchvision: it does not fit torch" in out
    assert "no operator nms\n  fix: pip uninstall -y torchvision && pip install torchvision" in out
    assert "torchvision torch==2.13.0\n" in out


@pytest.mark.parametrize("where", ["home", "shell", "inside", "nowhere", "elsewhere"])
def test_the_host_is_looked_for_as_it_is_imported(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    where: str,
    folder_of_host: Callable[[], Path | None],
) -> None:
    clone = tmp_path / "clone"
    (clone / "easyeditor").mkdir(parents=True)
    (clone / "examples").mkdir()
    (clone / "easyeditor" / "__init__.py").touch()
    monkeypatch.delitem(sys.modules, "easyeditor", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.delenv("EASYEDIT_HOME", raising=False)
    places = {"shell": clone, "inside": clone / "examples"}
    monkeypatch.chdir(places.get(where, tmp_path))
    if where in ("home", "elsewhere"):
        monkeypatch.setenv("EASYEDIT_HOME", str(clone if where == "home" else tmp_path))
    expected = clone if where in ("home", "shell", "inside") else None
    assert folder_of_host() == expected


def test_it_takes_no_settings(capsys: Capture) -> None:
    assert main(["doctor", "base=rome"]) == 2
    assert "doctor takes no settings: leave 'base=rome' away" in capsys.readouterr().err
