"""CounterFact in the layout of ROME and MEMIT, and multi-counterfact in the same.

Meng et al. 2022, https://rome.baulab.info, and 2023, https://memit.baulab.info; the latter's
multi-counterfact is CounterFact without contradictions.

``requested_rewrite`` is the edit; ``paraphrase_prompts`` ask it in other words,
``neighborhood_prompts`` ask the same of subjects whose answer is and stays ``target_true``,
``attribute_prompts`` of subjects whose answer was ``target_new`` all along, and
``generation_prompts`` begin texts about the subject. With ``data.references``, the texts that
ROME compares those with come from its ``attribute_snippets.json``. EasyEdit's editions with
``portability`` (``New Question``, ``New Answer``) are read, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from alphaedit_plugin.common.errors import ConfigError, RequestError
from alphaedit_plugin.data.base import DATA, NEIGHBOURHOOD
from alphaedit_plugin.data.fields import Fields
from alphaedit_plugin.data.records import read_records
from alphaedit_plugin.data.request import Probe, Request
from alphaedit_plugin.data.settings import DataConfig
from alphaedit_plugin.data.source import FileData, Reading

SNIPPETS = "https://rome.baulab.info/data/dsets/attribute_snippets.json"
ONE_HOP = "one_hop"  # EasyEdit's name for the portability probe

Snippets = Mapping[tuple[str, str], tuple[str, ...]]  # texts by relation and target


def read_counterfact(record: Fields, snippets: Snippets | None = None) -> list[Request]:
    """The request of one record.

    Args:
        record: in ROME's layout.
        snippets: reference texts, if any.

    Raises:
        RequestError: it lacks a part, or cannot be edited as given.
    """
    rewrite = record.child("requested_rewrite")
    target = rewrite.child("target_new")
    truth = target_of(rewrite, "target_true")
    return [
        Request.parse(
            rewrite.text("prompt"),
            rewrite.text("subject"),
            target.text("str"),
            template=True,
            ground_truth=truth,
            rephrase=record.texts("paraphrase_prompts"),
            locality=_neighbourhood(record, truth),
            portability=one_hop(record),
            generation=record.texts("generation_prompts"),
            attribute=record.texts("attribute_prompts"),
            references=_references(rewrite, snippets),
            case_id=record.label("case_id"),
            relation=rewrite.maybe("relation_id"),
        )
    ]


def target_of(rewrite: Fields, name: str) -> str | None:
    """The text of ``target_true`` or the like, where there is one."""
    return rewrite.child(name).maybe("str") if name in rewrite else None


def one_hop(record: Fields) -> dict[str, Probe]:
    """EasyEdit's one-hop question, where the record has one."""
    if "portability" not in record:
        return {}
    return record.child("portability").pairs(ONE_HOP, "New Question", "New Answer")


def _neighbourhood(record: Fields, truth: str | None) -> dict[str, Probe]:
    prompts = record.texts("neighborhood_prompts")
    if prompts and truth is None:
        raise RequestError("no 'requested_rewrite.target_true.str' in it, which neighbours need")
    return {NEIGHBOURHOOD: Probe(prompts, (truth,) * len(prompts))} if prompts and truth else {}


def _references(rewrite: Fields, snippets: Snippets | None) -> tuple[str, ...]:
    if snippets is None:
        return ()
    found = snippets.get((rewrite.text("relation_id"), rewrite.child("target_new").text("id")), ())
    if not found:
        rewrite.note("no reference text for its relation and target")
    return found


def read_snippets(path: Path) -> Snippets:
    """ROME's reference texts: passages about subjects of which a relation and target are true.

    Raises:
        ConfigError: the file is missing or of another kind.
    """
    found: dict[tuple[str, str], tuple[str, ...]] = {}
    try:
        for place, content in read_records(path):
            entry = Fields.of(content, place.record)
            key = entry.text("relation_id"), entry.text("target_id")
            texts = tuple(sample.text("text") for sample in entry.children("samples"))
            found[key] = (*found.get(key, ()), *texts)
    except FileNotFoundError:
        raise ConfigError(
            f"no reference texts at {path}: get {SNIPPETS}, or leave data.references away"
        ) from None
    except RequestError as error:
        raise ConfigError(f"{path}, {place}: {error}; it should be {SNIPPETS}") from None
    return found


def _prepare(data: DataConfig) -> Reading:
    if data.references is None:
        return Reading(read_counterfact)
    path = Path(data.references).expanduser()
    snippets = read_snippets(path)
    return Reading(
        lambda record: read_counterfact(record, snippets), f"reference texts of {path.name}"
    )


DATA.register(
    "counterfact",
    FileData(
        "counterfact",
        "counterfact.json",
        "https://rome.baulab.info/data/dsets/counterfact.json",
        _prepare,
        marks=("requested_rewrite", "neighborhood_prompts"),
        options=("references",),
    ),
)
DATA.register(
    "multi-counterfact",
    FileData(
        "multi-counterfact",
        "multi_counterfact.json",
        "https://memit.baulab.info/data/dsets/multi_counterfact.json",
        _prepare,
        options=("references",),
    ),
)
