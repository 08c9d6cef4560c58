from __future__ import annotations

from typing import Any

from ..editors.batch_editor import BatchEditor
from ..models.tools import put_back
from ..util.alg_dict import ALG_DICT


class BaseEditor:
    """Edits ``(model, tokenizer)``, given as ``hparams.model_name``."""

    @classmethod
    def from_hparams(cls, hparams: Any) -> BaseEditor:
        return cls(hparams)

    def __init__(self, hparams: Any) -> None:
        self.model_name = hparams.model_name
        self.model, self.tok = hparams.model_name
        self.apply_algo = ALG_DICT[hparams.alg_name]  # looked up once
        self.alg_name, self.hparams = hparams.alg_name, hparams

    def edit(
        self,
        prompts: list[str],
        target_new: list[str],
        subject: list[str],
        sequential_edit: bool = False,
    ) -> tuple[list[Any], Any, Any]:
        return self._run([[r] for r in _requests(prompts, target_new, subject)], sequential_edit)

    def batch_edit(
        self,
        prompts: list[str],
        target_new: list[str],
        subject: list[str],
        sequential_edit: bool = False,
    ) -> tuple[list[Any], Any, Any]:
        assert BatchEditor.is_batchable_method(self.alg_name)
        requests, size = _requests(prompts, target_new, subject), self.hparams.batch_size
        batches = [requests[at : at + size] for at in range(0, len(requests), size)]
        return self._run(batches, sequential_edit)

    def _run(self, batches: list[list[Any]], sequential: bool) -> tuple[list[Any], Any, Any]:
        metrics: list[Any] = []
        edited, copies = self.model, {}
        for batch in batches:
            edited, copies = self.apply_algo(
                self.model,
                self.tok,
                batch,
                self.hparams,
                copy=False,
                return_orig_weights=True,
                keep_original_weight=False,
            )
            # Evaluation wants a name, and fails on a pair of model and tokenizer, as in the host.
            metrics += [{"model": self.model_name.lower(), "post": request} for request in batch]
            if not sequential:
                put_back(self.model, copies)
        return metrics, edited, copies


def _requests(prompts: list[str], target_new: list[str], subject: list[str]) -> list[Any]:
    return [
        {"prompt": prompt.replace(name, "{}"), "target_new": new, "subject": name}
        for prompt, new, name in zip(prompts, target_new, subject, strict=True)
    ]
