"""Tables of what a model said before and after the edits."""

from __future__ import annotations

from collections.abc import Mapping

from alphaedit_plugin.experiments.studies import Row, Study
from alphaedit_plugin.experiments.tables import NOTHING, Field, Table
from alphaedit_plugin.metrics.generated import EDITS, GeneratedText

SHOWN = 20  # edits per table
LENGTH = 120  # characters of a text


def text_tables(study: Study) -> tuple[Table, ...]:
    """Per protocol up to `SHOWN` edits, of the first seed: those that fail most often first."""
    seed = study.seeds[0]
    said = {n: _edits_of(row, seed) for n, row in enumerate(study.rows)}
    asked = {key: text for texts in reversed(said.values()) for key, text in texts.items()}
    return tuple(
        _table(study, said, [text for (one, _), text in asked.items() if one == protocol], seed)
        for protocol in dict.fromkeys(protocol for protocol, _ in asked)
    )


Texts = Mapping[tuple[str, str], GeneratedText]  # by protocol and prompt


def _edits_of(row: Row, seed: int) -> Texts:
    texts = row.cells[seed].texts if seed in row.cells else ()
    return {(text.protocol, text.prompt): text for text in texts if text.kind == EDITS}


def _table(study: Study, said: Mapping[int, Texts], asked: list[GeneratedText], seed: int) -> Table:
    def after(text: GeneratedText) -> list[GeneratedText | None]:
        return [texts.get((text.protocol, text.prompt)) for texts in said.values()]

    def failures(text: GeneratedText) -> int:
        return sum(one is not None and not is_right(one) for one in after(text))

    shown = sorted(asked, key=failures, reverse=True)[:SHOWN]
    rows = []
    for text in shown:
        fields = [Field(_short(part)) for part in (text.prompt, text.answer, text.before)]
        fields += [
            Field(NOTHING) if one is None else Field(_said(one), is_right(one))
            for one in after(text)
        ]
        rows.append(tuple(fields))
    caption = (
        f"What the model says after edited prompts (protocol: {asked[0].protocol}): {len(shown)} "
        f"of {len(asked)} edits, those that fail most often first; seed {seed}. Bold where the "
        "text contains the answer; … where it hit the limit."
    )
    head = ("prompt", "answer", "unedited", *(row.name for row in study.rows))
    return Table(caption, head, tuple(rows), words=len(head), prose=True)


def is_right(text: GeneratedText) -> bool:
    """Whether it contains the answer."""
    return text.verdicts["contains"]


def _said(text: GeneratedText) -> str:
    return _short(text.after) + ("" if text.ended else " …")


def _short(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= LENGTH else flat[:LENGTH] + "…"
