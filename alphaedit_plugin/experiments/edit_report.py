"""What ``alphaedit edit`` shows: answers before and after, and what was added to the weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rich.table import Table
from rich.text import Text

from alphaedit_plugin.common.console import plain_table
from alphaedit_plugin.common.delta import Delta
from alphaedit_plugin.common.errors import counted
from alphaedit_plugin.data.request import Request
from alphaedit_plugin.editing.recipe import Recipe
from alphaedit_plugin.editing.session import EditSession
from alphaedit_plugin.methods.alphaedit import AlphaEdit
from alphaedit_plugin.metrics.easyedit import Metrics, accuracies, edit_quality
from alphaedit_plugin.models.boundary import continuations
from alphaedit_plugin.models.decoding import continue_greedily
from alphaedit_plugin.models.editable import EditableModel, dtype_name
from alphaedit_plugin.nullspace.leakage import origins, rounding_note

SHOWN = 10  # rows of the table


class Snapshot(NamedTuple):
    """What the model does with every request at one point of a run.

    Attributes:
        answers: its greedy answers to the prompts.
        metrics: as `edit_quality` gives them.
    """

    answers: list[str]
    metrics: list[Metrics]


def take(lm: EditableModel, requests: Sequence[Request]) -> Snapshot:
    """Ask the model as it is now."""

    def longest(request: Request) -> int:
        answers = [text for text in (request.target_new, request.ground_truth) if text]
        pairs = [(lm.asked(request.filled), answer) for answer in answers]
        return max(len(ids) for _, ids in continuations(lm.tokenizer, pairs, lm.separator))

    prompts = [request.filled for request in requests]
    answers = continue_greedily(lm, prompts, [longest(request) for request in requests])
    return Snapshot(answers, edit_quality(lm, requests))


def request_table(
    requests: Sequence[Request], before: Snapshot, after: Snapshot, numbers: bool = True
) -> Table:
    """The first requests: what was answered and what is, against what was wanted, and how well."""
    measured = ["rewrite", "rephrase", "locality"] if numbers else []
    table = plain_table(["prompt", "before → after", "wanted"], measured)
    for index, request in enumerate(requests[:SHOWN]):
        new, metrics = after.answers[index], after.metrics[index]
        right = metrics["rewrite_acc"] == [1.0]
        table.add_row(
            Text(request.filled),
            Text.assemble(before.answers[index], " → ", (new, "green" if right else "red")),
            Text(request.target_new.strip()),
            *(_percent(values) for values in accuracies(metrics).values() if numbers),
        )
    if len(requests) > SHOWN:
        table.add_row(f"… and {len(requests) - SHOWN} more", style="dim")
    return table


def summary(metrics: Sequence[Metrics]) -> str:
    """One line with the means over all requests that have the metric."""
    found = [accuracies(one) for one in metrics]
    parts = []
    for name in ("rewrite", "rephrase", "locality"):
        means = [_mean(one[name]) for one in found if one[name]]
        if means:
            parts.append(f"{name} {_mean(means):.1%}")
    return f"after {counted(len(metrics), 'edit')}: {', '.join(parts)}"


def unlearnt_notes(
    session: EditSession, requests: Sequence[Request], metrics: Sequence[Metrics]
) -> list[str]:
    """Why answers are not given: for how many the search failed, for how many the write."""
    searches = {
        (own.prompt, own.subject, own.target_new): search
        for entry in session.journal
        for own, search in zip(entry.requests, entry.searches, strict=False)
    }
    asked = [(request.prompt, request.subject, request.target_new) for request in requests]
    why = [
        searches[key].unlearnt(one["rewrite_acc"][0])
        for key, one in zip(asked, metrics, strict=True)
        if key in searches
    ]
    reasons = {
        "search": "the target search found no value that gives it: raise model.target.steps or "
        "model.target.lr, or edit earlier layers",
        "write": "a value was found, but the closed form could not write it: lower "
        "model.moment_weight (plain) or projector.l2 (null space), or edit more layers",
    }
    return [
        f"{why.count(kind)} of {counted(len(why), 'answer')} not given, as {reason}"
        for kind, reason in reasons.items()
        if kind in why
    ]


def layer_table(session: EditSession, recipe: Recipe) -> Table:
    """Per layer the norm of what was added and, where projected, the share old keys see."""
    method = recipe.method
    measured = ["null space", "‖ΔU‖/‖Δ‖"] if isinstance(method, AlphaEdit) else []
    table = plain_table(["layer"], ["‖Δ‖", "‖Δ‖/‖W‖", *measured])
    for layer in recipe.layers:
        delta = session.change(layer)
        share = delta.norm / session.pristine(layer).double().norm().item()
        row = [str(layer), f"{delta.norm:.3g}", f"{share:.3g}"]
        if isinstance(method, AlphaEdit):
            projector = method.projectors[layer]
            row += [
                f"{projector.null_dimension} of {projector.d_in}",
                f"{projector.leakage(delta):.1e}",
            ]
        table.add_row(*row)
    return table


def projector_notes(session: EditSession, recipe: Recipe) -> list[str]:
    """Whose projector the figures are measured with, and what rounding adds to them."""
    method = recipe.method
    if not isinstance(method, AlphaEdit):
        return []
    projectors, layers = method.projectors, recipe.layers
    shares = [
        (
            projectors[n].leakage(session.change(n)),
            projectors[n].leakage(Delta(session.accumulated(n))),
        )
        for n in layers
    ]
    rounding = rounding_note(shares, dtype_name(session.lm.weight(layers[0]).dtype))
    return [origins(projectors), *([rounding] if rounding else [])]


def _percent(values: Sequence[float]) -> str:
    return f"{_mean(values):.0%}" if values else "–"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
