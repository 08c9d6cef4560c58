"""The generated world the pocket model knows: people, relations, facts and edit requests.

Everything is a pure function of a seed. People are drawn from a sparse grid of first and last
names (each name belongs to about two people), so a last name alone never identifies anybody and
a model has to combine both names. People come in three groups:

* ``edit``: the people whose facts are edited;
* ``seen``: background people whose sentences are in the second-moment corpus;
* ``unseen``: background people the second-moment corpus never mentions.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from examples.train_pocket.vocabulary import (
    FILLER_TEMPLATES,
    FILLER_WORDS,
    RELATIONS,
    Relation,
)

Group = Literal["edit", "seen", "unseen"]
GROUPS: tuple[Group, ...] = ("edit", "seen", "unseen")

CONTEXT_TEMPLATES: tuple[str, ...] = (
    "{}",
    "The old river is calm today . {}",
    "We saw the red house near a lake . {}",
    "Some birds sing in the garden . {}",
    "The baker was kind and the bread is warm . {}",
)


@dataclass(frozen=True)
class Person:
    """One inhabitant: ``name`` is ``"First Last"``, unique in the world."""

    name: str
    group: Group


@dataclass(frozen=True)
class Fact:
    """One fact: ``prompt`` holds ``{}`` for ``subject`` and is completed by ``" " + answer``."""

    subject: str
    relation: str
    prompt: str
    rephrases: tuple[str, ...]
    answer: str
    group: Group

    @property
    def prompts(self) -> tuple[str, ...]:
        """All phrasings with the subject filled in, the main one first."""
        return tuple(t.format(self.subject) for t in (self.prompt, *self.rephrases))


@dataclass(frozen=True)
class EditCase:
    """A counterfactual request and what it is judged by.

    Attributes:
        fact: the fact to overwrite; its ``rephrases`` measure generalisation.
        target_new: another answer of the same relation.
        neighbourhood: facts of other, unedited subjects with the same relation and answer; their
            answer must stay (specificity).
        retention: facts of unedited subjects in other relations, half of them ``seen`` where
            possible; their answer must stay too.
    """

    fact: Fact
    target_new: str
    neighbourhood: tuple[Fact, ...]
    retention: tuple[Fact, ...]


@dataclass(frozen=True)
class World:
    """A whole world.

    Attributes:
        seed: what it was generated from.
        people: all inhabitants.
        facts: every person's facts, one per relation, in the order of ``people``.
    """

    seed: int
    people: tuple[Person, ...]
    facts: tuple[Fact, ...]

    def facts_of(self, *groups: Group) -> tuple[Fact, ...]:
        """The facts of the people in the given groups, in world order."""
        return tuple(f for f in self.facts if f.group in groups)


def make_names(count: int, pattern: str, rng: random.Random, taken: set[str]) -> list[str]:
    """Draw ``count`` distinct capitalised names; ``pattern`` is made of ``c`` and ``v``.

    Args:
        count: how many names.
        pattern: one letter per character, ``c`` for a consonant and ``v`` for a vowel.
        rng: source of randomness.
        taken: names that must not appear again; the new ones are added.
    """
    sounds = {"c": "bdfgklmnprstvz", "v": "aeiou"}
    names: list[str] = []
    while len(names) < count:
        name = "".join(rng.choice(sounds[kind]) for kind in pattern).capitalize()
        if name not in taken:
            taken.add(name)
            names.append(name)
    return names


def pair_names(firsts: list[str], lasts: list[str], uses: int, rng: random.Random) -> list[str]:
    """Pair every first name with ``uses`` last names and the other way round, never twice alike."""
    left, right = firsts * uses, lasts * uses
    rng.shuffle(left)
    while True:
        rng.shuffle(right)
        full = [f"{a} {b}" for a, b in zip(left, right, strict=True)]
        if len(set(full)) == len(full):
            return full


def generate_world(
    seed: int = 0, edit: int = 240, seen: int = 180, unseen: int = 180, uses: int = 2
) -> World:
    """Generate a world.

    Args:
        seed: the same seed gives the same world.
        edit: how many people are editable.
        seen: how many background people the second-moment corpus mentions.
        unseen: how many it does not.
        uses: how many people share each first and each last name.

    Raises:
        ValueError: if the number of people is not a multiple of ``uses``.
    """
    total = edit + seen + unseen
    if total % uses:
        raise ValueError(f"{total} people cannot share names by {uses}: not a multiple")
    rng = random.Random(seed)
    taken: set[str] = set()
    firsts = make_names(total // uses, "cvcv", rng, taken)
    lasts = make_names(total // uses, "cvcvc", rng, taken)
    names = pair_names(firsts, lasts, uses, rng)
    sizes = zip(GROUPS, (edit, seen, unseen), strict=True)
    groups = [group for group, size in sizes for _ in range(size)]
    people = tuple(Person(n, g) for n, g in zip(names, groups, strict=True))
    facts = tuple(
        make_fact(person, relation, rng.choice(relation.answers))
        for person in people
        for relation in RELATIONS
    )
    return World(seed, people, facts)


def make_fact(person: Person, relation: Relation, answer: str) -> Fact:
    """The fact that ``person`` has ``answer`` in ``relation``."""
    main, *rephrases = relation.prompts
    return Fact(person.name, relation.name, main, tuple(rephrases), answer, person.group)


def edit_cases(world: World, neighbours: int = 5, retained: int = 4) -> tuple[EditCase, ...]:
    """One counterfactual request per editable person, relations in turn.

    Args:
        world: the world; its seed also decides the requests.
        neighbours: neighbourhood facts per request (fewer where the background has fewer).
        retained: retention facts per request.
    """
    rng = random.Random(world.seed + 1)
    editable = world.facts_of("edit")
    background = world.facts_of("seen", "unseen")
    answers = {relation.name: relation.answers for relation in RELATIONS}
    cases: list[EditCase] = []
    for index in range(len(editable) // len(RELATIONS)):
        own = editable[index * len(RELATIONS) : (index + 1) * len(RELATIONS)]
        fact = own[index % len(RELATIONS)]
        target = rng.choice([a for a in answers[fact.relation] if a != fact.answer])
        alike = [f for f in background if (f.relation, f.answer) == (fact.relation, fact.answer)]
        others = [f for f in background if f.relation != fact.relation]
        seen = rng.sample([f for f in others if f.group == "seen"], retained // 2)
        unseen = rng.sample([f for f in others if f.group == "unseen"], retained - retained // 2)
        near = rng.sample(alike, min(neighbours, len(alike)))
        cases.append(EditCase(fact, target, tuple(near), tuple(seen + unseen)))
    return tuple(cases)


def filler_sentence(rng: random.Random) -> str:
    """One random sentence about no person, ending in ``" ."``."""
    template = rng.choice(FILLER_TEMPLATES)
    return template.format(**{kind: rng.choice(words) for kind, words in FILLER_WORDS.items()})


def stranger_sentence(world: World, rng: random.Random) -> str:
    """A sentence about a first and last name of the world that nobody has together."""
    known = {person.name for person in world.people}
    while True:
        first = rng.choice(world.people).name.split()[0]
        last = rng.choice(world.people).name.split()[1]
        if f"{first} {last}" not in known:
            return person_sentence(f"{first} {last}", rng)


def person_sentence(name: str, rng: random.Random) -> str:
    """A sentence that names somebody and says nothing about them."""
    words = {kind: rng.choice(options) for kind, options in FILLER_WORDS.items()}
    templates = (
        "{name} is a {adj} person .",
        "{name} is a friend of the {noun} .",
        "The {noun} {verb} near {name} .",
        "{name} saw the {adj} {noun} .",
    )
    return rng.choice(templates).format(name=name, **words)


def fact_sentence(fact: Fact, phrasing: int) -> str:
    """The fact as a sentence; ``phrasing`` 0 is the main one."""
    return f"{fact.prompts[phrasing]} {fact.answer} ."


def training_sentences(world: World, rng: random.Random) -> Iterator[str]:
    """One epoch of text: every fact in every phrasing, among fillers and strangers, shuffled."""
    sentences = [fact_sentence(f, i) for f in world.facts for i in range(len(f.prompts))]
    sentences += [person_sentence(p.name, rng) for p in world.people]
    sentences += [stranger_sentence(world, rng) for _ in range(len(world.people) // 2)]
    sentences += [filler_sentence(rng) for _ in range(len(world.facts))]
    rng.shuffle(sentences)
    yield from sentences


def corpus_sentences(
    world: World, count: int = 2000, seed: int = 0, people: Group = "seen"
) -> tuple[str, ...]:
    """Texts for second moments: people, strangers and fillers; never edited people.

    Args:
        world: the world.
        count: how many texts; each is one or two sentences.
        seed: of the choice of texts.
        people: ``seen``, or ``unseen`` for text that is held out.
    """
    rng = random.Random(seed)
    facts = world.facts_of(people)
    texts: list[str] = []
    for index in range(count):
        fact = facts[index % len(facts)]
        about = fact_sentence(fact, rng.randrange(len(fact.prompts)))
        kind = index % 4
        if kind == 1:
            about = stranger_sentence(world, rng)
        elif kind == 2:
            about = person_sentence(fact.subject, rng)
        texts.append(about if kind == 3 else f"{filler_sentence(rng)} {about}")
    return tuple(texts)


def write_world(world: World, folder: Path) -> None:
    """Write what the package ships of the world, as ``data/sets/pocket.py`` reads it.

    ``edits.json`` holds the requests in the layout of ``data=plain``, ``facts.json`` the facts of
    people who are not edited, ``corpus.txt`` the text of the second moments, and ``held_out.txt``
    text about people whom that does not mention.
    """
    edits = [
        {
            "prompt": case.fact.prompt,
            "subject": case.fact.subject,
            "target_new": case.target_new,
            "ground_truth": case.fact.answer,
            "rephrase": case.fact.prompts[1:],
            "locality": {"neighbourhood": _probe(case.neighbourhood)},
            "relation": case.fact.relation,
        }
        for case in edit_cases(world)
    ]
    facts = {group: _probe(world.facts_of(group)) for group in GROUPS if group != "edit"}
    texts = {
        "edits.json": "[\n" + ",\n".join(map(json.dumps, edits)) + "\n]",
        "facts.json": json.dumps(facts),
        "corpus.txt": "\n".join(corpus_sentences(world)),
        "held_out.txt": "\n".join(corpus_sentences(world, seed=1, people="unseen")),
    }
    for name, text in texts.items():
        (folder / name).write_text(text + "\n", encoding="utf-8")


def _probe(facts: Sequence[Fact]) -> dict[str, list[str]]:
    return {"prompt": [f.prompts[0] for f in facts], "ground_truth": [f.answer for f in facts]}
