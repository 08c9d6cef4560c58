"""``alphaedit doctor``: what is here, what is wrong with it, and what to do about it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import io
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from alphaedit_plugin.cli.commits import commit_of
from alphaedit_plugin.common.errors import AlphaEditError, counted
from alphaedit_plugin.common.version import VERSION

DISTRIBUTION = "alphaedit-plugin"
REINSTALL = "in its checkout: pip install --editable ."
GIGABYTE = 1024**3


class Verdict(str, Enum):
    """How a finding is; only ``broken`` changes the exit status."""

    ok = "ok"
    note = "note"
    broken = "broken"


@dataclass(frozen=True)
class Finding:
    """One line of the table.

    Attributes:
        name: what was looked at.
        found: what is there.
        verdict: how it is.
        problem: what is wrong, where something is.
        fix: what to do about it.
    """

    name: str
    found: str
    verdict: Verdict = Verdict.ok
    problem: str = ""
    fix: str = ""


def run_doctor(console: Console) -> int:
    """Look at everything and print it.

    Returns:
        The exit status: 1 if something is broken that the package needs to work alone.
    """
    findings = examine()
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("", "what", "found"):
        table.add_column(heading, overflow="fold")
    styles = {Verdict.ok: "green", Verdict.note: "yellow", Verdict.broken: "red"}
    for finding in findings:
        verdict = Text(finding.verdict.value, styles[finding.verdict])
        table.add_row(verdict, Text(finding.name), Text(finding.found))
    console.print(table)
    for finding in findings:
        if finding.problem:
            head = Text(f"\n{finding.verdict.value}: ", styles[finding.verdict])
            console.print(head + Text(f"{finding.name}: {finding.problem}"), soft_wrap=True)
            console.print(Text(f"  fix: {finding.fix}"), soft_wrap=True)
    broken = sum(finding.verdict is Verdict.broken for finding in findings)
    console.print(Text(f"\n{broken} broken" if broken else "\nnothing is broken"))
    return 1 if broken else 0


def examine() -> list[Finding]:
    """All findings; a check that fails is one, too."""
    checks: tuple[tuple[str, Callable[[], list[Finding]], str], ...] = (
        ("alphaedit-plugin", _ourselves, REINSTALL),
        ("packages", _packages, REINSTALL),
        ("device", _device, "reinstall torch: https://pytorch.org/get-started/locally"),
        ("models", _models, REINSTALL),
        ("EasyEdit", _host, "try the EasyEdit of July 2026, and python -c 'import easyeditor'"),
        ("caches", _caches, "pip install --upgrade huggingface_hub"),
        ("optional", _optional, "pip install datasets"),
    )
    found: list[Finding] = []
    for name, check, fix in checks:
        try:
            found += check()
        except Exception as error:
            # The host is no part of what must work, nor is what only it asks for.
            verdict = Verdict.note if name in ("EasyEdit", "optional") else Verdict.broken
            found.append(Finding(name, "cannot be used", verdict, _one_line(error), fix))
    return found


def _ourselves() -> list[Finding]:
    from alphaedit_plugin.config.compose import load_config

    load_config()
    here = Path(__file__).parent
    python = f"{platform.python_version()}, {sys.executable}"
    return [Finding("alphaedit-plugin", f"{VERSION}, {here}"), Finding("Python", python)]


def _packages() -> list[Finding]:
    """What our own installation asks for."""
    from packaging.requirements import Requirement

    try:
        wanted = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        return [
            Finding(
                "packages", "unknown", Verdict.note, "the package is used without being installed",
                REINSTALL,
            )
        ]  # fmt: skip
    found, others = [], []
    for requirement in (Requirement(line) for line in wanted):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        version = _version(requirement.name)
        finding = Finding(requirement.name, version or "missing")
        plain = f"{requirement.name}{requirement.specifier}"
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            problem = f"{plain} is needed"
            fix = f"pip install --upgrade '{plain}'"
            finding = replace(finding, verdict=Verdict.broken, problem=problem, fix=fix)
        if finding.problem or requirement.name in ("torch", "transformers", "hydra-core"):
            found.append(finding)
        else:
            others.append(f"{requirement.name} {version}")
    return [*found, Finding("other packages", ", ".join(others))]


def _device() -> list[Finding]:
    import torch

    processor = f"CPU, {counted(torch.get_num_threads(), 'thread')}"
    if torch.cuda.is_available():
        names = []
        for number in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(number)
            memory = properties.total_memory / GIGABYTE
            names.append(f"cuda:{number} {properties.name} ({memory:.0f} GiB)")
        return [Finding("device", "; ".join([*names, processor]))]
    if Path("/dev/nvidia0").exists():
        problem = f"there is a GPU, but torch {torch.__version__} cannot use it"
        fix = "install a CUDA build of torch that suits the driver, and see CUDA_VISIBLE_DEVICES"
        return [Finding("device", processor, Verdict.note, problem, fix)]
    return [Finding("device", processor)]


def _models() -> list[Finding]:
    from alphaedit_plugin.common.groups import options
    from alphaedit_plugin.data.pocket_world.model import load_pocket
    from alphaedit_plugin.models.families import LAYOUTS

    with _quiet():
        load_pocket()
    return [
        Finding("model families", ", ".join(LAYOUTS)),
        Finding("model=", ", ".join(options("model"))),
    ]


def _host() -> list[Finding]:
    from alphaedit_plugin.easyedit.host import HostError, host_folder
    from alphaedit_plugin.easyedit.run import registered

    folder = host_folder()
    place = "not found" if folder is None else _described(folder)
    try:
        with _quiet(), registered() as cover:
            flagged = ", ".join(cover.supported)
            others = len(cover.unsupported)
    except HostError as error:
        problem, fix = _explained(error, folder)
        return [Finding("EasyEdit", place, Verdict.note, problem, fix)]
    return [
        Finding("EasyEdit", place if folder else _described(host_folder())),
        Finding("with null_space", flagged),
        Finding("without", f"{others} other methods, which refuse the flag"),
    ]


def _described(folder: Path | None) -> str:
    if folder is None:
        return "imported, of unknown origin"
    commit = commit_of(folder)
    return f"{folder}, commit {commit[:10]}" if commit else str(folder)


def _explained(error: AlphaEditError, folder: Path | None) -> tuple[str, str]:
    """Problem and fix of a host that is missing, or that cannot be imported."""
    from alphaedit_plugin.easyedit.host import package_of, unsuited

    cause = error.__cause__
    if cause is None:
        problem, _, fix = str(error).rpartition(": ")
        return problem, fix
    problem = f"it cannot be imported: {_one_line(cause)}"
    if not isinstance(cause, ImportError):
        fix = "run python -c 'import easyeditor' in its folder; the plug-in needs no EasyEdit"
        return problem, fix
    # Transformers is what both of us need: its version counts whatever fails first.
    missing = _missing_of(folder)
    other = unsuited(package_of(cause), folder) or unsuited("transformers", folder)
    if other:
        problem += f"; {other[0]}"
    if missing:
        problem += f"; of its requirements.txt are missing: {', '.join(missing)}"
    wanted = [*([f"'{other[1]}'"] if other else []), *missing]
    wanted = wanted or [(cause.name or "").partition(".")[0] or "-r requirements.txt"]
    return problem, f"pip install {' '.join(wanted)} {_same_torch()}"


def _same_torch() -> str:
    """What keeps pip from replacing torch: the newest torchvision, which timm asks for, would.

    A build of torch for a certain device has a torchvision of its own, from the same index.
    """
    version, _, build = (_version("torch") or "").partition("+")
    index = f" --extra-index-url https://download.pytorch.org/whl/{build}" if build else ""
    return f"torch=={version}{index}"


def _missing_of(folder: Path | None) -> list[str]:
    """Names in the clone's requirements file that are not installed, in any version."""
    from alphaedit_plugin.easyedit.host import requirements

    return [pin.name for pin in requirements(folder) if _version(pin.name) is None]


def _caches() -> list[Finding]:
    from huggingface_hub import constants

    found = []
    for name in ("HF_HOME", "HF_HUB_CACHE"):
        folder = Path(getattr(constants, name)).expanduser()
        there = next((f for f in (folder, *folder.parents) if f.exists()), Path("/"))
        free = f"{shutil.disk_usage(there).free / GIGABYTE:.0f} GiB free"
        finding = Finding(name, f"{folder}, {'' if folder == there else 'not there yet, '}{free}")
        if not there.is_dir() or not os.access(there, os.W_OK):
            problem, fix = f"{there} cannot be written", f"set {name} to a folder of yours"
            finding = replace(finding, verdict=Verdict.note, problem=problem, fix=fix)
        found.append(finding)
    return found


def _optional() -> list[Finding]:
    version = _version("datasets")
    if version is not None:
        return [Finding("datasets", version), *_torchvision()]
    problem = "second moments cannot be collected on Hub corpora without it"
    fix = "pip install datasets, or set corpus to a text file"
    return [Finding("datasets", "missing", Verdict.note, problem, fix), *_torchvision()]


def _torchvision() -> list[Finding]:
    """EasyEdit brings it; one that was built for another torch breaks all of transformers."""
    version = _version("torchvision")
    if version is None:
        return []
    try:
        importlib.import_module("torchvision")
    except Exception as error:
        problem = f"it does not fit torch, and transformers fails with it: {_one_line(error)}"
        fix = f"pip uninstall -y torchvision && pip install torchvision {_same_torch()}"
        return [Finding("torchvision", version, Verdict.broken, problem, fix)]
    return [Finding("torchvision", version)]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what others print while they load out of the report."""
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        yield


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
