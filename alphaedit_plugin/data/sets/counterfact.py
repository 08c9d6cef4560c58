"""CounterFact in the layout of ROME and MEMIT, and multi-counterfact in the same.

Meng et al. 2022, https://rome.baulab.info, and 2023, https://memit.baulab.info; the latter's
multi-counterfact is CounterFact without contradictions.

``requested_rewrite`` is the edit; ``paraphrase_prompts`` ask it in other words,
``neighborhood_prompts`` ask the same of subjects whose answer is and stays ``target_true``,
``attribute_prompts`` of subjects whose answer was ``target_new`` all along, and
``generation_prompts`` begin texts about the subject. With ``data.references``, the texts that ROME
compares those with are read from its ``attribute_snippets.json``. EasyEdit's editions with
``portability`` (``New Question``, ``New Answer``) are read, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from alphaedit_plugin.common.errors import ConfigError, RequestError
from alphaedit_plugin.common.validation import Text
from alphaedit_plugin.data.base import DATA
from alphaedit_plugin.data.fields import Fields
from alphaedit_plugin.data.records import read_records
from alphaedit_plugin.data.request import NEIGHBOURHOOD, Probe, Request
from alphaedit_plugin.data.source import FileData, FileOptions

SNIPPETS = "https://rome.baulab.info/data/dsets/attribute_snippets.json"
ONE_HOP = "one_hop"  # EasyEdit's name for the portability probe

Snippets = Mapping[tuple[str, str], tuple[str, ...]]  # texts by relation and target


@dataclass(frozen=True)
class CounterfactOptions(FileOptions):
    """CounterFact's options.

    Attributes:
        references: ROME's reference texts (``attribute_snippets.json``), for consistency.
    """

    references: Text | None = None

    @property
    def conventions(self) -> str:
        """Which reference texts are used."""
        return f"reference texts of {Path(self.references).name}" if self.references else ""

    @cached_property
    def snippets(self) -> Snippets | None:
        """The reference texts."""
        return read_snippets(Path(self.references).expanduser()) if self.references else None


def read_counterfact(record: Fields, options: CounterfactOptions) -> list[Request]:
    """The request of one record.

    Raises:
        RequestError: it lacks a part, or cannot be edited as given.
    """
    rewrite = record.child("requested_rewrite")
    truth = rewrite.child("target_true", required=False).maybe("str")
    return [
        Request.parse(
            rewrite.text("prompt"),
            rewrite.text("subject"),
            rewrite.child("target_new").text("str"),
            template=True,
            ground_truth=truth,
            rephrase=record.texts("paraphrase_prompts"),
            locality=_neighbourhood(record, truth),
            portability=one_hop(record),
            generation=record.texts("generation_prompts"),
            attribute=record.texts("attribute_prompts"),
            references=_references(rewrite, options.snippets),
            case_id=record.label("case_id"),
            relation=rewrite.maybe("relation_id"),
        )
    ]


def one_hop(record: Fields) -> dict[str, Probe]:
    """EasyEdit's one-hop question, where the record has one."""
    section = record.child("portability", required=False)
    return section.pairs(ONE_HOP, "New Question", "New Answer")


def _neighbourhood(record: Fields, truth: str | None) -> dict[str, Probe]:
    prompts = record.texts("neighborhood_prompts")
    if prompts and truth is None:
        raise RequestError("no 'requested_rewrite.target_true.str' in it, which neighbours need")
    return {NEIGHBOURHOOD: Probe(prompts, (truth,) * len(prompts))} if prompts and truth else {}


def _references(rewrite: Fields, snippets: Snippets | None) -> tuple[str, ...]:
    if snippets is None:
        return ()
    key = rewrite.text("relation_id"), rewrite.child("target_new").text("id")
    if key not in snippets:
        rewrite.note("no reference text for its relation and target")
    return snippets.get(key, ())


def read_snippets(path: Path) -> Snippets:
    """ROME's reference texts: passages about subjects of which a relation and target are true.

    Raises:
        ConfigError: the file is missing or of another kind.
    """
    snippets: dict[tuple[str, str], tuple[str, ...]] = {}
    try:
        for location, content in read_records(path):
            entry = Fields.of(content, location.record)
            key = entry.text("relation_id"), entry.text("target_id")
            texts = tuple(sample.text("text") for sample in entry.children("samples"))
            snippets[key] = (*snippets.get(key, ()), *texts)
    except FileNotFoundError:
        raise ConfigError(
            f"no reference texts at {path}: get {SNIPPETS}, or remove data.references"
        ) from None
    except RequestError as error:
        raise ConfigError(f"{path}, {location}: {error}; it should be {SNIPPETS}") from None
    return snippets


for name, project in (("counterfact", "rome"), ("multi-counterfact", "memit")):
    file = f"{name.replace('-', '_')}.json"
    url = f"https://{project}.baulab.info/data/dsets/{file}"
    DATA.register(name, FileData(file, url, read_counterfact, CounterfactOptions))
