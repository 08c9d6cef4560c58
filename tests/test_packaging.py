"""The wheel holds everything: it works unpacked elsewhere, away from the checkout."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]


def packages() -> list[str]:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    return setup["options"]["packages"].split()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that no build folder appears in the checkout."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        if (ROOT / name).is_file():
            shutil.copy(ROOT / name, source)
    for folder in ("alphaedit_plugin", "conf"):
        shutil.copytree(
            ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__")
        )
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation",
         "--wheel-dir", str(built), str(source)],
        check=True, capture_output=True, timeout=300,
    )  # fmt: skip
    (found,) = built.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def unpacked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def run(unpacked: Path, cwd: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(unpacked), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *words],
        cwd=cwd, env=environment, capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip


def test_package_list_is_complete() -> None:
    code = {
        ".".join(found.parent.relative_to(ROOT).parts)
        for found in (ROOT / "alphaedit_plugin").rglob("__init__.py")
    }
    assert sorted(packages()) == sorted({*code, "alphaedit_plugin.conf"})


def test_no_code_outside_a_package() -> None:
    """A folder without ``__init__.py`` would be left out of the wheel silently."""
    for found in (ROOT / "alphaedit_plugin").rglob("*.py"):
        assert (found.parent / "__init__.py").is_file(), found


def test_wheel_holds_all_files(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    expected = {
        str(found.relative_to(ROOT))
        for found in (ROOT / "alphaedit_plugin").rglob("*")
        if found.is_file() and "__pycache__" not in found.parts
    }
    expected |= {
        f"alphaedit_plugin/conf/{found.relative_to(ROOT / 'conf')}"
        for found in (ROOT / "conf").rglob("*")
        if found.suffix in (".yaml", ".py")
    }
    assert expected <= held
    assert not [name for name in held if name.startswith(("tests/", "conf/", "benchmarks/"))]


def test_wheel_stays_small(wheel: Path) -> None:
    assert wheel.stat().st_size < 9e6


def test_wheel_brings_the_command(unpacked: Path) -> None:
    (entry,) = unpacked.glob("*.dist-info/entry_points.txt")
    assert "alphaedit = alphaedit_plugin.cli.main:main" in entry.read_text()


def test_configs_compose_from_the_wheel(unpacked: Path, tmp_path: Path) -> None:
    script = (
        "import alphaedit_plugin, alphaedit_plugin.conf\n"
        "from alphaedit_plugin.config.compose import load_config\n"
        "from alphaedit_plugin.common.groups import options\n"
        "print(alphaedit_plugin.__file__, alphaedit_plugin.conf.__file__, sep='\\n')\n"
        "for model in options('model'):\n"
        "    more = ['model.path=x', 'model.layers=[1]'] if model == 'custom' else []\n"
        "    for base in options('base'):\n"
        "        load_config([f'model={model}', f'base={base}', *more])\n"
        "        print(model, base)\n"
    )
    lines = run(unpacked, tmp_path, "-c", script).stdout.splitlines()
    assert all(Path(line).is_relative_to(unpacked) for line in lines[:2])
    assert "gpt2-xl rome" in lines
    assert len(lines) >= 2 + 4 * 5


def test_command_works_from_the_wheel(unpacked: Path, tmp_path: Path) -> None:
    words = ("-m", "alphaedit_plugin", "config", "base=rect", "model=gpt2-xl")
    shown = yaml.safe_load(run(unpacked, tmp_path, *words).stdout)
    assert (shown["base"]["name"], shown["model"]["layers"][0]) == ("rect", 13)


def test_pocket_model_loads_from_the_wheel(unpacked: Path, tmp_path: Path) -> None:
    script = (
        "from alphaedit_plugin.data.pocket_world.assets import ASSETS, read_texts\n"
        "from alphaedit_plugin.data.pocket_world.model import load_pocket\n"
        "print(ASSETS)\n"
        "model, tokenizer = load_pocket()\n"
        "print(model.config.model_type, len(read_texts('corpus.txt')))\n"
    )
    assets, described = run(unpacked, tmp_path, "-c", script).stdout.splitlines()[-2:]
    assert Path(assets).is_relative_to(unpacked)
    assert int(described.split()[1]) > 100


def test_public_names_resolve(unpacked: Path, tmp_path: Path) -> None:
    script = (
        "import alphaedit_plugin as a\n"
        "assert all(getattr(a, name) for name in a.__all__)\n"
        "try:\n    a.nonsense\nexcept AttributeError as error:\n    print(error)\n"
    )
    assert "nonsense" in run(unpacked, tmp_path, "-c", script).stdout
