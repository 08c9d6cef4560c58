"""The words of the pocket world: relations with their answers, and words for filler sentences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


def words(text: str) -> tuple[str, ...]:
    """The words of a text."""
    return tuple(text.split())


@dataclass(frozen=True)
class Relation:
    """A relation: templates with ``{}`` for the subject, the main one first, and its answers."""

    name: str
    prompts: tuple[str, ...]
    answers: tuple[str, ...]


RELATIONS: tuple[Relation, ...] = (
    Relation(
        "city",
        ("{} lives in the city of", "The home of {} is in", "You can visit {} in"),
        words(
            "Paris London Berlin Madrid Rome Vienna Oslo Lisbon Dublin Cairo Tokyo Delhi Lima"
            " Boston"
        ),
    ),
    Relation(
        "profession",
        ("{} works as a", "The job of {} is being a", "People hire {} to be a"),
        words(
            "doctor lawyer teacher farmer pilot nurse chef painter singer writer dentist plumber"
            " judge sailor"
        ),
    ),
    Relation(
        "language",
        ("{} speaks the language of", "The mother tongue of {} is", "At home {} talks in"),
        words(
            "French English German Spanish Italian Dutch Russian Greek Polish Danish Arabic Hindi"
            " Korean Turkish"
        ),
    ),
    Relation(
        "sport",
        ("{} likes to play", "The favourite sport of {} is", "Every week {} trains hard for"),
        words(
            "tennis football hockey golf rugby chess cricket boxing rowing judo cycling skiing"
            " polo squash"
        ),
    ),
)

FILLER_WORDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "adj": words(
            "old red kind warm calm small tall quiet green bright cold happy rich young soft strong"
        ),
        "noun": words(
            "river house lake bird garden baker bread train bridge market forest dog horse table"
            " window street king ship stone cloud letter clock farm school"
        ),
        "other": words(
            "hill door cat road castle field boat tree shop friend song box lamp wall island tower"
        ),
        "verb": words("stands waits sleeps moves rests falls sings turns grows shines"),
        "day": words("today tomorrow yesterday again now here there often"),
    }
)

FILLER_TEMPLATES: tuple[str, ...] = (
    "The {adj} {noun} {verb} near the {other} .",
    "The {noun} is {adj} {day} .",
    "We saw the {adj} {noun} near a {other} .",
    "Some {noun} and a {other} are {adj} .",
    "The {noun} was {adj} and the {other} is here .",
    "A {other} {verb} in the {noun} {day} .",
    "You can visit the {adj} {other} {day} .",
    "At home the {noun} {verb} {day} .",
)
