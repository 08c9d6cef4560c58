"""General abilities: what else a model can do, by lm-evaluation-harness (Gao et al. 2024).

An extra, ``pip install alphaedit-plugin[eval]``. Its tasks download their data on first use.
"""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from alphaedit_plugin.common.errors import AlphaEditError, ConfigError, first_line, unknown_name
from alphaedit_plugin.models.editable import EditableModel

# AlphaEdit's six (Fang et al. 2025, §4.3) by the harness's names; NLI is MultiNLI.
PAPER: Mapping[str, str] = MappingProxyType(
    {"sst": "sst2", "mrpc": "mrpc", "cola": "cola", "rte": "rte", "mmlu": "mmlu", "nli": "mnli"}
)


@dataclass(frozen=True)
class Abilities:
    """What is asked, and how.

    Attributes:
        tasks: names of `PAPER`, or any of the harness's own.
        folder: further task files.
        limit: documents per task; ``None`` for all.
        shots: examples before each question; ``None`` for the task's default.
        batch_size: questions at once.
    """

    tasks: tuple[str, ...]
    folder: str | None = None
    limit: int | None = None
    shots: int | None = None
    batch_size: int = 8

    def check(self) -> None:
        """Refuse what cannot be asked, before anything is loaded or edited.

        Raises:
            ConfigError: the harness is not installed, or has no such task.
        """
        if self.tasks:
            self._manager()

    def measure(self, lm: EditableModel) -> dict[str, float]:
        """Every metric of every task and group of tasks: ``{"sst2.acc": 0.9, …}``.

        Raises:
            AlphaEditError: a task cannot be run, e.g. because its data cannot be downloaded.
        """
        manager = self._manager()
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM

        try:
            # It adds a padding token to the tokenizer it is given: ours must not change.
            wrapped = HFLM(
                pretrained=lm.model,
                tokenizer=copy.deepcopy(lm.tokenizer),
                batch_size=self.batch_size,
            )
            results = simple_evaluate(
                wrapped, tasks=self._names(), task_manager=manager, limit=self.limit,
                num_fewshot=self.shots, bootstrap_iters=0, log_samples=False,
                random_seed=None, numpy_random_seed=None, torch_random_seed=None,
            )  # fmt: skip
        except Exception as error:  # a missing data set can raise anything
            raise AlphaEditError(
                f"compare.abilities: {', '.join(self._names())} cannot be asked: "
                f"{first_line(error)} ({type(error).__name__})"
            ) from error
        return _numbers(results or {})

    def _names(self) -> list[str]:
        return [PAPER.get(task, task) for task in self.tasks]

    def _manager(self) -> Any:
        if importlib.util.find_spec("lm_eval") is None:
            raise ConfigError(
                "compare.abilities needs lm-evaluation-harness: pip install alphaedit-plugin[eval]"
            )
        from lm_eval.tasks import TaskManager

        folder = None if self.folder is None else Path(self.folder).expanduser()
        if folder is not None:
            if not folder.is_dir():
                raise ConfigError(
                    f"compare.abilities_folder={self.folder} is not a folder of task files"
                )
            # The harness's own are thousands of files, read only if one of them is asked for.
            manager = TaskManager(include_path=str(folder), include_defaults=False)
            if set(self._names()) <= set(manager.all_tasks):
                return manager
        manager = TaskManager(include_path=None if folder is None else str(folder))
        for name in self._names():
            if name not in manager.all_tasks:
                raise ConfigError(unknown_name("ability", name, [*PAPER, *manager.all_tasks]))
        return manager


def _numbers(results: Mapping[str, Any]) -> dict[str, float]:
    """The harness names a metric ``acc,none``, the latter being the filter of the answers."""
    values: dict[str, float] = {}
    for table in (results.get("results", {}), results.get("groups", {})):
        for task, metrics in table.items():
            for key, value in metrics.items():
                metric, _, used = key.partition(",")
                if isinstance(value, float) and used and not metric.endswith("_stderr"):
                    values[f"{task}.{metric}" + ("" if used == "none" else f".{used}")] = value
    return values
