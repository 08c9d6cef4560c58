"""GGUF files: found in an installed package, and loaded as ordinary floating-point weights."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from pathlib import Path
from typing import Any

import transformers

from alphaedit_plugin.common.errors import ModelError

SUFFIX = ".gguf"
READERS = ("gguf", "accelerate")  # without which Transformers reads no such file


def require_readers(name: str) -> None:
    """Refuse a GGUF file before anything is read of it.

    Raises:
        ModelError: a package that reads it is missing.
    """
    missing = [reader for reader in READERS if importlib.util.find_spec(reader) is None]
    if missing:
        raise ModelError(
            f"{name} needs the {' and '.join(missing)} package: pip install {' '.join(missing)}"
        )


def is_installed(package: str) -> bool:
    """Whether there is a distribution of that name."""
    try:
        importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def packaged_file(package: str, name: str | None = None) -> Path:
    """The GGUF file that an installed distribution carries, wherever its metadata says it is.

    Args:
        package: the distribution.
        name: of the file, where there are several.

    Raises:
        ModelError: there is no such file, or ``name`` is needed.
    """
    listed = importlib.metadata.files(package) or []
    files = sorted(file for file in listed if file.suffix == SUFFIX)
    chosen = [file for file in files if name in (None, file.name)]
    names = ", ".join(file.name for file in files)
    if not chosen:
        others = f", but {names}" if names else ""
        raise ModelError(f"the package {package} carries no {name or 'GGUF file'}{others}")
    if len(chosen) > 1:
        raise ModelError(f"the package {package} carries {names}: set model.gguf_file to one")
    return Path(str(chosen[0].locate()))


def unpacking() -> dict[str, Any]:
    """What ``from_pretrained`` is told so that no weight stays in GGUF's blocks."""
    config = getattr(transformers, "GgufConfig", None)  # before 5.24 none could
    return {} if config is None else {"quantization_config": config(dequantize=True)}


def as_ordinary(model: Any, path: str) -> None:
    """Let a model whose weights are dequantized save, and be edited, as any other.

    Transformers still calls it quantized, and then refuses both.

    Args:
        model: changed in place.
        path: the name it goes by, instead of the GGUF file's folder.
    """
    for name in ("hf_quantizer", "is_quantized", "quantization_method"):
        vars(model).pop(name, None)
    vars(model.config).pop("quantization_config", None)
    model.name_or_path = model.config._name_or_path = path
