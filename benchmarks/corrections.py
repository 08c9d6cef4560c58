"""What becomes of subjects that are edited again: corrected, or asked about something else.

    python -m benchmarks.corrections

Forty people of the pocket model's world, in batches of ten: first their jobs, then either other
jobs or their cities. *Held* keeps the keys of answers that were replaced, as published; see
`conflicts.superseded` for what is done instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from unittest.mock import patch

from rich.console import Console
from rich.table import Table

from alphaedit_plugin import NullSpaceEditor
from alphaedit_plugin.config.compose import load_config
from alphaedit_plugin.data.request import Request
from alphaedit_plugin.data.selection import load_data
from alphaedit_plugin.metrics.easyedit import accuracies, edit_quality

PEOPLE, BATCH = 40, 10
JOB, CITY = "{} works as a", "{} lives in the city of"


def people() -> tuple[list[Request], list[Request], list[Request]]:
    """Requests for the same people: a job, another job, and a city."""
    known = load_data(load_config([])).requests
    jobs = [request for request in known if request.prompt == JOB][:PEOPLE]
    cities = [request.target_new for request in known if request.prompt == CITY]
    answers = [job.target_new for job in jobs]
    others = [
        replace(job, target_new=next(o for o in answers[n:] + answers if o != job.target_new))
        for n, job in enumerate(jobs)
    ]
    moved = [Request(CITY, job.subject, cities[n % len(cities)]) for n, job in enumerate(jobs)]
    return jobs, others, moved


def edit(editor: NullSpaceEditor, requests: Sequence[Request]) -> None:
    """In batches."""
    for start in range(0, len(requests), BATCH):
        editor.apply(requests[start : start + BATCH])


def taken(editor: NullSpaceEditor, requests: Sequence[Request]) -> str:
    """The share of answers that the model gives."""
    right = [accuracies(found)["rewrite"][0] for found in edit_quality(editor.lm, requests)]
    return f"{sum(right) / len(right):.3f}"


def main() -> None:
    """Run every case, and print a table."""
    jobs, others, cities = people()
    both = [request for pair in zip(jobs, cities, strict=True) for request in pair]
    table = Table("MEMIT", "then", "first answers", "second answers", box=None, pad_edge=False)
    held = patch(
        "alphaedit_plugin.editing.engine.superseded", lambda batches, _: [{} for _ in batches]
    )
    for name, null_space, keys in (
        ("plain", False, nullcontext()),
        ("+ null space", True, nullcontext()),
        ("+ null space, held", True, held),
    ):
        editor = NullSpaceEditor.from_pretrained(
            "pocket", null_space=null_space, overrides=["base=memit"]
        )
        with keys:
            for then, second in (("another job", others), ("a city", cities)):
                edit(editor, jobs)
                edit(editor, second)
                table.add_row(name, then, taken(editor, jobs), taken(editor, second))
                editor.session.reset()
            edit(editor, both)
            table.add_row(name, "both at once", taken(editor, jobs), taken(editor, cities))
    Console().print(table)


if __name__ == "__main__":
    main()
