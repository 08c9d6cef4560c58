"""``alphaedit doctor``: what it finds, and that a problem comes with its fix."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from pathlib import Path

import pytest

from alphaedit_plugin.cli import doctor
from alphaedit_plugin.cli.main import main
from alphaedit_plugin.common.version import VERSION
from alphaedit_plugin.easyedit.find_host import HostError, host_folder, import_host

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def no_host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No EasyEdit, neither imported nor to be found."""
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, package=None: None if name == "easyeditor" else find_spec(name, package),
    )
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.delenv("EASYEDIT_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in [name for name in sys.modules if name.startswith("easyeditor")]:
        monkeypatch.delitem(sys.modules, name)


@pytest.fixture
def clone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An EasyEdit that needs what is not here."""
    folder = tmp_path / "clone"
    (folder / "easyeditor").mkdir(parents=True)
    (folder / "easyeditor" / "__init__.py").write_text("import no_such.part\n")
    monkeypatch.setenv("EASYEDIT_HOME", str(folder))
    return folder


def pretend_versions(monkeypatch: pytest.MonkeyPatch, changed: dict[str, str | None]) -> None:
    real = importlib.metadata.version

    def version(name: str) -> str:
        found = changed.get(name) if name in changed else real(name)
        if found is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return found

    monkeypatch.setattr(importlib.metadata, "version", version)


def test_a_missing_host_is_only_a_note(capsys: Capture) -> None:
    assert main(["doctor"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    for part in (
        VERSION,
        python,
        "torch",
        "transformers",
        "CPU",
        "HF_HUB_CACHE",
        "ALPHAEDIT_CACHE",
    ):
        assert part in out
    assert "note: EasyEdit: EasyEdit is not here\n  fix: git clone https://" in out
    assert out.endswith("nothing is broken\n")


def test_one_line_installs_all_that_is_missing_or_too_old(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_versions(monkeypatch, {"hydra-core": "0.9", "omegaconf": None})
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    fix = "  fix: pip install --upgrade 'hydra-core>=1.3' 'omegaconf>=2.3'\n"
    assert f"broken: hydra-core>=1.3: it is needed\n{fix}" in out
    assert f"broken: omegaconf>=2.3: it is needed\n{fix}" in out
    assert out.endswith("2 broken\n")


def test_a_broken_torch_and_a_torchvision_that_does_not_fit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('no operator nms')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    monkeypatch.setattr("torch.cuda.is_available", lambda: 1 / 0)
    pretend_versions(monkeypatch, {"torchvision": "0.1", "torch": "2.13.0"})
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    fix = "pip uninstall -y torchvision && pip install torchvision torch==2.13.0\n"
    assert f"no operator nms\n  fix: {fix}" in out
    assert "broken: device: division by zero\n  fix: reinstall" in out
    assert "Traceback" not in out


def test_a_gpu_that_torch_cannot_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(Path, "exists", lambda self: True)
    (found,) = doctor._device()
    assert found.verdict == "note"
    assert "CUDA" in found.fix


@pytest.mark.parametrize("build", ["", "+cpu"])
def test_one_line_installs_what_the_host_lacks_and_leaves_torch_alone(
    monkeypatch: pytest.MonkeyPatch, clone: Path, build: str
) -> None:
    """A version counts of transformers, and of the package that fails: not of torch."""
    pins = "--pre\n\ntorch==2.9.1\ntransformers==4.0.1  # not later\nno_such-package==1\n"
    (clone / "requirements.txt").write_text(pins)
    pretend_versions(monkeypatch, {"torch": f"2.13.0{build}"})
    torch = "torch==2.13.0"
    if build:
        torch += " --extra-index-url https://download.pytorch.org/whl/cpu"
    (found,) = doctor._host()
    assert found.verdict == "note"
    assert str(clone) in found.found
    assert found.problem == "it cannot be imported: No module named 'no_such'"
    assert found.fix == f"pip install 'transformers==4.0.1' no_such-package {torch}"
    pretend_versions(monkeypatch, {"no_such-package": "1", "transformers": "4.0.1"})
    (found,) = doctor._host()
    assert found.fix == f"pip install no_such {torch}"
    (clone / "requirements.txt").unlink()
    (found,) = doctor._host()
    assert found.fix == f"pip install no_such {torch}"


def test_a_host_that_fails_otherwise(clone: Path) -> None:
    (clone / "easyeditor" / "__init__.py").write_text("raise RuntimeError('it broke: here')")
    (found,) = doctor._host()
    assert found.problem == "it cannot be imported: it broke: here"
    assert "requirements.txt" in found.fix


@pytest.mark.parametrize("where", ["home", "shell", "inside", "nowhere", "elsewhere"])
def test_the_host_is_looked_for_as_it_is_imported(
    monkeypatch: pytest.MonkeyPatch, clone: Path, where: str
) -> None:
    places = {"shell": clone, "inside": clone / "easyeditor"}
    monkeypatch.chdir(places.get(where, clone.parent))
    if where == "elsewhere":
        monkeypatch.setenv("EASYEDIT_HOME", str(clone.parent))
    elif where != "home":
        monkeypatch.delenv("EASYEDIT_HOME")
    expected = clone if where in ("home", "shell", "inside") else None
    assert host_folder() == expected
    with pytest.raises(HostError, match="no_such" if expected else "EASYEDIT_HOME"):
        import_host()


def test_it_takes_no_settings(capsys: Capture) -> None:
    assert main(["doctor", "base=rome"]) == 2
    assert "doctor takes no settings: remove 'base=rome'" in capsys.readouterr().err
