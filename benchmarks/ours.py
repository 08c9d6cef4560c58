"""Our engine, timed from the outside: its public functions are wrapped while a batch runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

from torch import Tensor

from alphaedit_plugin.common.delta import Delta
from alphaedit_plugin.data.request import Request
from alphaedit_plugin.editing import engine
from alphaedit_plugin.editing.encoding import encode
from alphaedit_plugin.editing.recipe import Recipe
from alphaedit_plugin.editing.session import EditSession
from alphaedit_plugin.editing.targets import Targets, optimise_targets
from alphaedit_plugin.methods.base import LayerProblem
from benchmarks.measure import Stopwatch, peak_memory


@dataclass(frozen=True)
class Solved:
    """A closed form that our engine was asked for, and its answer."""

    problem: LayerProblem
    delta: Delta


@dataclass
class Seen:
    """What went through the engine's hands.

    Attributes:
        solved: every closed form, in order.
        recipe: what is run.
        watch: counts the phases.
        targets: ``(d_model, n)`` of every search, in order.
        solve_peak: bytes in use at most during a closed form; ``None`` where not measured.
    """

    recipe: Recipe
    watch: Stopwatch
    solved: list[Solved] = field(default_factory=list)
    targets: list[Tensor] = field(default_factory=list)
    solve_peak: int | None = None

    def edit(self, session: EditSession, requests: Sequence[Request]) -> None:
        """Edit one batch; what is not targets, closed form or write counts as keys."""
        with self.watch.phase("keys"):
            encoded = encode(session.lm, self.recipe, requests)
            engine.apply_batch(session, self.recipe, encoded, self._search)

    def _search(self, *args: Any) -> Targets:
        with self.watch.phase("targets"):
            result = optimise_targets(*args)
        self.targets.append(result.values)
        return result


@contextmanager
def observed(watch: Stopwatch, recipe: Recipe, peaks: bool = False) -> Iterator[Seen]:
    """Count the phases of every `Seen.edit` inside, and keep what they worked on.

    Args:
        watch: counts the phases.
        recipe: what will be run.
        peaks: measure the memory of closed forms; not inside another `peak_memory`.
    """
    method = type(recipe.method)

    seen = Seen(recipe, watch)

    def timed(owner: Any, name: str, phase: str, then: Callable[..., None] | None = None) -> Any:
        inner = getattr(owner, name)

        def run(*args: Any, **kwargs: Any) -> Any:
            with watch.phase(phase):
                result = inner(*args, **kwargs)
            if then is not None:
                then(result, *args)
            return result

        return patch.object(owner, name, run)

    def solve(self: Any, problem: LayerProblem, inner: Any = method.delta) -> Delta:
        with peak_memory(problem.keys.device) as peak:
            delta: Delta = inner(self, problem)
        if peak.bytes is not None:
            seen.solve_peak = max(seen.solve_peak or 0, peak.bytes)
        return delta

    def keep_delta(delta: Delta, _: Any, problem: LayerProblem) -> None:
        seen.solved.append(Solved(problem, delta))

    with ExitStack() as stack:
        if peaks:
            stack.enter_context(patch.object(method, "delta", solve))
        for wrapped in (
            timed(method, "delta", "solve", keep_delta),
            timed(EditSession, "past", "solve"),
            timed(EditSession, "write", "write"),
            timed(EditSession, "commit", "write"),
        ):
            stack.enter_context(wrapped)
        yield seen
