"""``alphaedit doctor``: what is installed, what is wrong with it, and what to do about it."""

from __future__ import annotations

import importlib
import importlib.metadata
import io
import platform
import sys
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from alphaedit_plugin.cli.base import Command
from alphaedit_plugin.common.errors import ConfigError, first_line
from alphaedit_plugin.common.version import VERSION

if TYPE_CHECKING:
    from packaging.requirements import Requirement

DISTRIBUTION = "alphaedit-plugin"
STYLES = {"ok": "green", "note": "yellow", "broken": "red"}


@dataclass(frozen=True)
class Finding:
    """One line of the table; where there is a fix, also the problem that it solves."""

    name: str
    found: str
    verdict: str = "ok"  # or "note", or "broken", which alone changes the exit status
    problem: str = ""
    fix: str = ""


def _run(words: Sequence[str], console: Console) -> int:
    if words:
        raise ConfigError(f"doctor takes no settings: remove {words[0]!r}")
    findings = [finding for check in (_packages, _device, _caches, _host) for finding in check()]
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("", "what", "found"):
        table.add_column(heading, overflow="fold")
    for finding in findings:
        verdict = Text(finding.verdict, STYLES[finding.verdict])
        table.add_row(verdict, Text(finding.name), Text(finding.found))
    console.print(table)
    for finding in findings:
        if finding.problem:
            head = Text(f"\n{finding.verdict}: ", STYLES[finding.verdict])
            console.print(head + Text(f"{finding.name}: {finding.problem}"), soft_wrap=True)
            console.print(Text(f"  fix: {finding.fix}"), soft_wrap=True)
    broken = sum(finding.verdict == "broken" for finding in findings)
    console.print(Text(f"\n{broken or 'nothing is'} broken"))
    return 1 if broken else 0


def _packages() -> Iterator[Finding]:
    """What our own installation asks for."""
    yield Finding(DISTRIBUTION, f"{VERSION}, {Path(__file__).parents[1]}")
    yield Finding("Python", f"{platform.python_version()}, {sys.executable}")
    with suppress(importlib.metadata.PackageNotFoundError):  # used without being installed
        wrong = [
            requirement
            for requirement in _requirements(importlib.metadata.requires(DISTRIBUTION) or [])
            if not _fits(requirement)
        ]
        for requirement in wrong:
            needed = f"{requirement.name}{requirement.specifier}"
            fix = "pip install --upgrade " + " ".join(f"'{r.name}{r.specifier}'" for r in wrong)
            found = _version(requirement.name) or "missing"
            yield Finding(requirement.name, found, "broken", f"{needed} is needed", fix)
    for name in ("torch", "transformers", "torchvision"):
        version = _version(name)
        if version is not None:
            yield _imported(name, version)


def _imported(name: str, version: str) -> Finding:
    """Whether a package can be imported: EasyEdit brings a torchvision that may not fit torch."""
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            importlib.import_module(name)
    except Exception as error:
        why = f"it cannot be imported, and what uses it fails: {first_line(error)}"
        fix = f"pip uninstall -y {name} && pip install {name} {_same_torch()}"
        return Finding(name, version, "broken", why, fix)
    return Finding(name, version)


def _device() -> Iterator[Finding]:
    try:
        import torch

        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        names = [torch.cuda.get_device_name(number) for number in range(count)]
    except Exception as error:
        fix = "reinstall torch: https://pytorch.org/get-started/locally"
        yield Finding("device", "unknown", "broken", first_line(error), fix)
    else:
        if not names and Path("/dev/nvidia0").exists():
            problem = f"there is a GPU, but torch {torch.__version__} cannot use it"
            fix = "install a CUDA build of torch for this driver, and see CUDA_VISIBLE_DEVICES"
            yield Finding("device", "CPU", "note", problem, fix)
        else:
            yield Finding("device", ", ".join([*names, "CPU"]))


def _caches() -> Iterator[Finding]:
    from huggingface_hub.constants import HF_HUB_CACHE

    from alphaedit_plugin.common.cache import VARIABLE, Cache

    for name, folder in (("HF_HUB_CACHE", Path(HF_HUB_CACHE)), (VARIABLE, Cache.default().folder)):
        yield Finding(name, str(folder.expanduser()))


def _host() -> Iterator[Finding]:
    """EasyEdit, which is optional: what is wrong with it is never broken, but a note."""
    from alphaedit_plugin.easyedit.find_host import HostError, host_folder
    from alphaedit_plugin.easyedit.run import plugged_in

    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), plugged_in({}):
            pass
    except HostError as error:
        folder, cause = host_folder(), error.__cause__
        if cause is None:
            problem, _, fix = str(error).rpartition(": ")
        else:
            problem = f"it cannot be imported: {first_line(cause)}"
            fix = f"pip install {' '.join(_needed(folder, cause))} {_same_torch()}"
        yield Finding("EasyEdit", str(folder or "not found"), "note", problem, fix)
    else:
        yield Finding("EasyEdit", str(host_folder()))


def _needed(folder: Path | None, cause: BaseException) -> list[str]:
    """What a clone of EasyEdit lacks, or has in a version that it was not written for.

    Args:
        folder: the clone.
        cause: why it cannot be imported.
    """
    package = ((cause.name if isinstance(cause, ImportError) else None) or "").partition(".")[0]
    lines: list[str] = []
    with suppress(OSError, TypeError):
        lines = ((folder or Path()) / "requirements.txt").read_text(encoding="utf-8").splitlines()
    needed = []
    for requirement in _requirements(lines):
        if _version(requirement.name) is None:
            needed.append(requirement.name)
        # Transformers is what both of us need: its version counts whatever fails first.
        elif requirement.name in (package, "transformers") and not _fits(requirement):
            needed.append(f"'{requirement}'")
    return needed or [package or "-r requirements.txt"]


def _requirements(lines: Sequence[str]) -> list[Requirement]:
    """The requirements that apply here, of a file or of a package without its extras."""
    from packaging.requirements import InvalidRequirement, Requirement

    requirements = []
    for line in lines:
        with suppress(InvalidRequirement):  # empty, or one of pip's options
            requirement = Requirement(line.partition("#")[0].strip())
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                requirements.append(requirement)
    return requirements


def _fits(requirement: Requirement) -> bool:
    version = _version(requirement.name)
    return version is not None and requirement.specifier.contains(version, prereleases=True)


def _same_torch() -> str:
    """What keeps pip from replacing torch, as the newest torchvision would.

    A build of torch for a certain device has its own torchvision, from the same index.
    """
    version, _, build = (_version("torch") or "").partition("+")
    index = f" --extra-index-url https://download.pytorch.org/whl/{build}" if build else ""
    return f"torch=={version}{index}"


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


COMMAND = Command(
    "doctor",
    "say what is installed, what is wrong, and the fix for each",
    "Looks at the packages that this one and EasyEdit need, the device and the cache folders; its "
    "exit status is 1 if something is broken. EasyEdit is optional.",
    ("alphaedit doctor",),
    _run,
    "",
)
