"""General abilities: what else a model can do, by lm-evaluation-harness (Gao et al. 2024).

An extra, ``pip install alphaedit-plugin[eval]``. Its tasks download their data when first asked.
"""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from alphaedit_plugin.common.errors import AlphaEditError, ConfigError, first_line, unknown_name
from alphaedit_plugin.models.editable import EditableModel

# The six that AlphaEdit asks (Fang et al. 2025, §4.3), as the harness calls them; NLI is MultiNLI.
PAPER: Mapping[str, str] = MappingProxyType(
    {"sst": "sst2", "mrpc": "mrpc", "cola": "cola", "rte": "rte", "mmlu": "mmlu", "nli": "mnli"}
)


@dataclass(frozen=True)
class Abilities:
    """What is asked, and how.

    Attributes:
        tasks: names of `PAPER`, or any of the harness's own.
        folder: of task files of one's own, besides the harness's.
        limit: documents per task; ``None`` for all.
        shots: examples before each question; ``None`` for as many as the task says.
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
        """Ask the model as it is now.

        Returns:
            Every metric of every task, and of every group of tasks: ``{"sst2.acc": 0.9, …}``.

        Raises:
            AlphaEditError: a task cannot be run, e.g. as its data cannot be had.
        """
        manager = self._manager()
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM

        try:
            # It gives a tokenizer without padding a token for it: ours stays as it is.
            asked = HFLM(
                pretrained=lm.model,
                tokenizer=copy.deepcopy(lm.tokenizer),
                batch_size=self.batch_size,
            )
            found = simple_evaluate(
                asked, tasks=self._names(), task_manager=manager, limit=self.limit,
                num_fewshot=self.shots, bootstrap_iters=0, log_samples=False,
                random_seed=None, numpy_random_seed=None, torch_random_seed=None,
            )  # fmt: skip
        except Exception as error:  # a data set that is not there can raise anything
            raise AlphaEditError(
                f"compare.abilities: {', '.join(self._names())} cannot be asked: "
                f"{first_line(error)} ({type(error).__name__})"
            ) from error
        return _numbers(found or {})

    def _names(self) -> list[str]:
        return [PAPER.get(task, task) for task in self.tasks]

    def _manager(self) -> Any:
        if importlib.util.find_spec("lm_eval") is None:
            raise ConfigError(
                "compare.abilities needs lm-evaluation-harness: pip install alphaedit-plugin[eval]"
            )
        from lm_eval.tasks import TaskManager

        if self.folder is not None and not Path(self.folder).expanduser().is_dir():
            raise ConfigError(f"compare.abilities_folder={self.folder} is no folder of task files")
        folder = None if self.folder is None else str(Path(self.folder).expanduser())
        if folder is not None:  # the harness's own are thousands of files to read
            manager = TaskManager(include_path=folder, include_defaults=False)
            if set(self._names()) <= set(manager.all_tasks):
                return manager
        manager = TaskManager(include_path=folder)
        for name in self._names():
            if name not in manager.all_tasks:
                raise ConfigError(unknown_name("ability", name, [*PAPER, *manager.all_tasks]))
        return manager


def _numbers(found: Mapping[str, Any]) -> dict[str, float]:
    """The harness names a metric ``acc,none``, the latter being the filter of the answers."""
    values: dict[str, float] = {}
    tables: Sequence[Mapping[str, Any]] = [found.get("results", {}), found.get("groups", {})]
    for table in tables:
        for task, metrics in table.items():
            for key, value in metrics.items():
                metric, _, kept = key.partition(",")
                if isinstance(value, float) and kept and not metric.endswith("_stderr"):
                    suffix = "" if kept == "none" else f".{kept}"
                    values[f"{task}.{metric}{suffix}"] = value
    return values
