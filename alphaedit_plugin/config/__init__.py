"""Typed configuration behind the Hydra groups in ``conf/``."""

from __future__ import annotations

from alphaedit_plugin.common.groups import CONFIG_MODULE, options
from alphaedit_plugin.config.checks import build_method
from alphaedit_plugin.config.compose import as_config, load_config, register_configs
from alphaedit_plugin.config.model import (
    ContextsConfig,
    LayoutConfig,
    ModelConfig,
    MomentsConfig,
    Preset,
)
from alphaedit_plugin.config.schema import (
    CompareConfig,
    DataConfig,
    EditorConfig,
    ExportConfig,
    ExportFormat,
    Host,
    ProjectorConfig,
    RequestConfig,
)

__all__ = [
    "CONFIG_MODULE",
    "CompareConfig",
    "ContextsConfig",
    "DataConfig",
    "EditorConfig",
    "ExportConfig",
    "ExportFormat",
    "Host",
    "LayoutConfig",
    "ModelConfig",
    "MomentsConfig",
    "Preset",
    "ProjectorConfig",
    "RequestConfig",
    "as_config",
    "build_method",
    "load_config",
    "options",
    "register_configs",
]
