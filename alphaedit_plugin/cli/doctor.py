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
from rich.text import Text

from alphaedit_plugin.cli.base import COMMANDS, Command
from alphaedit_plugin.common.console import plain_table
from alphaedit_plugin.common.errors import ConfigError, first_line
from alphaedit_plugin.common.version import VERSION

if TYPE_CHECKING:
    from packaging.requirements import Requirement

DISTRIBUTION = "alphaedit-plugin"
REINSTALL = "reinstall the package that fails; torch: https://pytorch.org/get-started/locally"
STYLES = {"ok": "green", "note": "yellow", "broken": "red"}


@dataclass(frozen=True)
class Finding:
    """One line of the table; where there is a problem, it has a fix.

    Attributes:
        verdict: ``ok``, ``note``, or ``broken``, which alone changes the exit status.
    """

    name: str
    found: str
    verdict: str = "ok"
    problem: str = ""
    fix: str = ""


def _run(words: Sequence[str], console: Console) -> int:
    if words:
        raise ConfigError(f"doctor takes no settings: remove {words[0]!r}")
    findings: list[Finding] = []
    for check in (_packages, _torchvision, _device, _caches, _host):
        try:
            with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
                findings += check()
        except Exception as error:  # a package that is there but cannot be imported
            name, verdict = check.__name__.strip("_"), "note" if check is _host else "broken"
            findings.append(Finding(name, "unknown", verdict, first_line(error), REINSTALL))
    table = plain_table(["", "what", "found"])
    for finding in findings:
        style = STYLES[finding.verdict]
        table.add_row(Text(finding.verdict, style), Text(finding.name), Text(finding.found))
    console.print(table)
    for finding in (finding for finding in findings if finding.problem):
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
    lines: Sequence[str] = ()
    with suppress(importlib.metadata.PackageNotFoundError):  # used without being installed
        lines = importlib.metadata.requires(DISTRIBUTION) or ()
    requirements = [f"{r.name}{r.specifier}" for r in _requirements(lines) if not _fits(r)]
    fix = f"pip install --upgrade {' '.join(map(repr, requirements))}"
    for needed in requirements:
        yield Finding(needed, "missing or too old", "broken", "it is needed", fix)
    for name in ("torch", "transformers"):
        yield Finding(name, _version(name) or "missing")


def _torchvision() -> Iterator[Finding]:
    """EasyEdit brings it; one that was built for another torch breaks transformers."""
    version = _version("torchvision")
    if version is not None:
        try:
            importlib.import_module("torchvision")
            yield Finding("torchvision", version)
        except Exception as error:
            problem = f"it does not fit torch, and transformers fails with it: {first_line(error)}"
            fix = f"pip uninstall -y torchvision && pip install torchvision {_same_torch()}"
            yield Finding("torchvision", version, "broken", problem, fix)


def _device() -> Iterator[Finding]:
    import torch

    if torch.cuda.is_available():
        numbers = range(torch.cuda.device_count())
        yield Finding("device", ", ".join(torch.cuda.get_device_name(number) for number in numbers))
    elif Path("/dev/nvidia0").exists():
        problem = f"there is a GPU, but torch {torch.__version__} cannot use it"
        fix = "install a CUDA build of torch for this driver, and see CUDA_VISIBLE_DEVICES"
        yield Finding("device", "CPU", "note", problem, fix)
    else:
        yield Finding("device", "CPU")


def _caches() -> Iterator[Finding]:
    from huggingface_hub.constants import HF_HUB_CACHE

    from alphaedit_plugin.common.cache import VARIABLE, Cache

    yield Finding("HF_HUB_CACHE", str(Path(HF_HUB_CACHE).expanduser()))
    yield Finding(VARIABLE, str(Cache.default().folder))


def _host() -> Iterator[Finding]:
    """EasyEdit, which is optional: what is wrong with it is only a note."""
    from alphaedit_plugin.easyedit.find_host import HostError, host_folder
    from alphaedit_plugin.easyedit.run import plugged_in

    try:
        with plugged_in({}):
            pass
    except HostError as error:
        cause = error.__cause__
        if cause is None:
            problem, _, fix = str(error).rpartition(": ")
        else:
            problem = f"it cannot be imported: {first_line(cause)}"
            fix = f"pip install {' '.join(_needed(host_folder(), cause))} {_same_torch()}"
        yield Finding("EasyEdit", str(host_folder() or "not found"), "note", problem, fix)
    else:
        yield Finding("EasyEdit", str(host_folder()))


def _needed(folder: Path | None, cause: BaseException) -> list[str]:
    """What a clone of EasyEdit in ``folder`` lacks, or was written for another version of."""
    package = (getattr(cause, "name", None) or "").partition(".")[0]
    lines: list[str] = []
    if folder is not None and (folder / "requirements.txt").is_file():
        lines = (folder / "requirements.txt").read_text(encoding="utf-8").splitlines()
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
            requirements.append(Requirement(line.partition("#")[0].strip()))
    return [r for r in requirements if r.marker is None or r.marker.evaluate({"extra": ""})]


def _fits(requirement: Requirement) -> bool:
    version = _version(requirement.name)
    return version is not None and requirement.specifier.contains(version, prereleases=True)


def _same_torch() -> str:
    """What keeps pip from replacing torch, as the newest torchvision would."""
    version, _, build = (_version("torch") or "").partition("+")
    index = f" --extra-index-url https://download.pytorch.org/whl/{build}" if build else ""
    return f"torch=={version}{index}"


def _version(name: str) -> str | None:
    with suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(name)
    return None


COMMANDS.register(
    "doctor",
    Command(
        "say what is installed, what is wrong, and the fix for each",
        "Looks at the packages that this one and EasyEdit need, the device and the cache folders; "
        "its exit status is 1 if something is broken. EasyEdit is optional.",
        ("alphaedit doctor",),
        _run,
        usage="",
    ),
)
