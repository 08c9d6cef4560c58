"""A base method, a data set and a metric are each added by one file (and one YAML) from outside."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

METHOD = '''
from dataclasses import dataclass

from alphaedit_plugin.common.delta import Delta
from alphaedit_plugin.common.errors import require
from alphaedit_plugin.methods.base import METHODS, BaseMethod, LayerProblem


@dataclass(frozen=True)
class Hebbian(BaseMethod):
    """Outer products of keys and residuals."""

    rate: float = 0.1

    def __post_init__(self) -> None:
        require(self.rate > 0, "base.rate", self.rate, "positive")

    def solve(self, problem: LayerProblem) -> Delta:
        return Delta(self.rate * problem.residual, problem.keys)


METHODS.register("hebbian", Hebbian)
'''
DATA = """
from alphaedit_plugin.data.base import DATA
from alphaedit_plugin.data.request import Request
from alphaedit_plugin.data.source import FileData


def read(record, options):
    return [Request.parse(record.text("question"), record.text("about"), record.text("answer"))]


DATA.register("mine", FileData("mine.json", "https://example.org", read))
"""
METRIC = '''
from alphaedit_plugin.metrics.base import EvalContext, MetricValues, means, metric


@metric("name_length", lower=True)
def name_length(context: EvalContext) -> MetricValues:
    """Characters of the subject."""
    sizes = [[float(len(request.subject))] for request in context.requests]
    return means({"name_length": sizes})
'''
RUN = """
import {module}
from hydra import compose, initialize_config_module
from alphaedit_plugin.config.build import build_method
from alphaedit_plugin.config.compose import as_config, register_configs
from alphaedit_plugin.config.schema import ComparisonConfig
from alphaedit_plugin.data.selection import load_data
from alphaedit_plugin.metrics.base import METRICS, lower_is_better

register_configs(ComparisonConfig)
with initialize_config_module("alphaedit_plugin.conf", version_base="1.3"):
    config = as_config(compose("config", overrides={overrides}), ComparisonConfig)
{show}
"""


def run(folder: Path, module: str, code: str, overrides: list[str], show: str) -> str:
    """What a program prints that imports a module of the user's and composes a configuration."""
    (folder / f"{module}.py").write_text(code, encoding="utf-8")
    overrides = [f"hydra.searchpath=[file://{folder / 'conf'}]", *overrides]
    script = RUN.format(module=module, overrides=overrides, show=show)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120,
        env=os.environ | {"PYTHONPATH": str(folder)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def yaml(folder: Path, group: str, name: str, text: str) -> None:
    (folder / "conf" / group).mkdir(parents=True)
    (folder / "conf" / group / f"{name}.yaml").write_text(text, encoding="utf-8")


def test_a_base_method(tmp_path: Path) -> None:
    yaml(tmp_path, "base", "hebbian", "name: hebbian\nspan: spread\nrate: 0.1\n")
    words = ["base=hebbian", "base.rate=0.5"]
    assert run(tmp_path, "mine", METHOD, words, "print(build_method(config.base))") == (
        "Hebbian(rate=0.5)\n"
    )


def test_a_data_set(tmp_path: Path) -> None:
    yaml(tmp_path, "data", "mine", "name: mine\npath: null\n")
    records = '[{"question": "Ada speaks", "about": "Ada", "answer": "French"}]'
    (tmp_path / "mine.json").write_text(records)
    words = ["data=mine", f"data.path={tmp_path / 'mine.json'}"]
    show = "print(load_data(config).requests[0].filled)"
    assert run(tmp_path, "layout", DATA, words, show) == "Ada speaks\n"


def test_a_metric(tmp_path: Path) -> None:
    show = "print(config.compare.metrics, lower_is_better('name_length'), 'fluency' in METRICS)"
    words = ["compare.metrics=[name_length]"]
    assert run(tmp_path, "mine", METRIC, words, show) == "['name_length'] True True\n"
