"""Settings of the target search, and its error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from pydantic import with_config

from alphaedit_plugin.common.errors import NumericalError, require
from alphaedit_plugin.common.validation import STRICT
from alphaedit_plugin.data.request import Request


class OnFailure(str, Enum):
    """What to do with a batch in which the target search of one request fails."""

    refuse = "refuse"
    skip = "skip"


class TargetError(NumericalError):
    """Target searches whose loss is not finite.

    Attributes:
        failed: the requests they were for.
    """

    def __init__(self, failed: Sequence[Request], reason: str) -> None:
        super().__init__(reason)
        self.failed = tuple(failed)


@with_config(STRICT)
@dataclass
class TargetSettings:
    """How a target value is searched.

    Attributes:
        steps: forward passes, at least 2: the last one only evaluates.
        lr: Adam's learning rate on ``δ``.
        weight_decay: weight of ``‖δ‖ / ‖z0‖²``.
        kl_factor: weight of the divergence on "{subject} is a".
        clamp_norm_factor: the largest ``‖δ‖ / ‖z0‖``.
        stop_loss: a request is done when its loss is below this.
        budget: largest number of padded tokens that are optimised together.
        mixed_precision: matrix products in bfloat16, where the processor multiplies it; a float32
            model is searched about twice as fast, and target values differ by some percent.
        append_eos: an answer ends in the end-of-text token, so that the model stops after it.
        on_failure: refuse the whole batch when one search fails, or skip that request with a
            warning.
    """

    steps: int = 25
    lr: float = 0.5
    weight_decay: float = 0.5
    kl_factor: float = 0.0625
    clamp_norm_factor: float = 0.75
    stop_loss: float = 5e-2
    budget: int = 16384
    mixed_precision: bool = False
    append_eos: bool = False
    on_failure: OnFailure = OnFailure.refuse

    def __post_init__(self) -> None:
        checks = {
            "steps": (self.steps >= 2, "at least 2: the last one only evaluates"),
            "lr": (0 < self.lr <= 1e30, "positive and at most 1e30"),  # a step is a float32
            "weight_decay": (0 <= self.weight_decay < math.inf, "at least 0 and finite"),
            "kl_factor": (0 <= self.kl_factor < math.inf, "at least 0 and finite"),
            "clamp_norm_factor": (self.clamp_norm_factor > 0, "positive"),
            "stop_loss": (not math.isnan(self.stop_loss), "a number"),
            "budget": (self.budget >= 1, "at least 1"),
        }
        for name, (holds, what) in checks.items():
            require(holds, f"model.target.{name}", getattr(self, name), what)
