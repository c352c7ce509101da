from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from harness.tasks.splits import SPLITS
from harness.tasks.token_classification import OUTSIDE, TokenClassification

if TYPE_CHECKING:
    from datasets import Dataset

SIZES = {"train": 1200, "validation": 300, "test": 300}

# Names that train shows, and after them those that only validation and only test show.
FIRST = {
    "train": "Alice Omar Greta Hugo Ingrid Pavel Nadia Tom Wei Yusuf Clara Bruno Mei Anders Fatima "
    "Ravi Elena Sam Leila Mark Kofi Ruth Diego Hana Peter Zoe Igor Amara Luis Freya",
    "validation": "Otto Priya Malik Sonja Emil Chiara Tariq Agnes",
    "test": "Viktor Noor Selma Matteo Jamila Oskar Bea Dmitri",
}
SURNAMES = {
    "train": "Novak Okafor Lindqvist Tanaka Moreau Haddad Schmidt Rossi Kowalski Ferreira Petrov "
    "Nguyen Larsen Mbeki Singh Weber Costa Yilmaz Kovacs Fraser Dubois Ito Mensah Olsen "
    "Brandt Silva Khan Varga Doyle Reyes",
    "validation": "Castellano Thorne Abebe Jankowski Pritchard Watanabe Bellweather Sorensen",
    "test": "Marchetti Oduya Kessler Hawthorne Ivanenko Takahashi Delacroix Rasmussen",
}
PLACES = {
    "train": "Lisbon Nairobi Oslo Lima Hamburg Krakow Osaka Tunis Dublin Quito Marseille Accra Bergen "
    "Tbilisi Valencia Norway Peru Kenya Portugal Vietnam Ashford Milbrook Eastwick Karlsdorf "
    "Brightwater Stonebridge",
    "validation": "Ljubljana Ghana Westhaven Rotterdam Uruguay Elmsworth Sapporo Kirkdale",
    "test": "Bratislava Bolivia Northcliff Antwerp Senegal Fairbourne Nagoya Grimsdorf",
}
FIRMS = {
    "train": "Vertex Bluefin Northstar Orion Halcyon Zenith Quantum Redwood Polaris Silverline "
    "Meridian Apex Cobalt Lumen Evergreen Titan Solaris Nimbus Keystone Falcon",
    "validation": "Obsidian Harbinger Tessera Monarch Wavecrest",
    "test": "Juniper Paragon Ironclad Celestia Driftwood",
}
# Both a surname and a place: the words around them tell which.
AMBIGUOUS = (
    "Jordan", "Paris", "Lincoln", "Sydney", "Chelsea",
    "Austin", "Florence", "Washington", "Georgia", "Hamilton",
)  # fmt: skip

_BUSINESS = ("Bank", "Group", "Systems", "Airlines", "Motors", "Foods", "Labs", "Energy", "Media")
_CLUB = ("United", "Rovers", "Athletic", "Wanderers")
_FILLERS = {
    "day": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
    "month": ("January", "March", "April", "June", "August", "October", "December"),
    "number": tuple(str(number) for number in (2, 3, 4, 7, 9, 12, 15, 20, 35, 48, 60, 90, 120, 300, 450)),
    "year": tuple(str(year) for year in range(1958, 2024, 3)),
    "job": ("director", "chairman", "head coach", "treasurer", "spokeswoman", "chief engineer", "lawyer"),
    "title": ("Minister", "Judge", "Professor", "Captain", "Senator", "Doctor"),
    "thing": ("bicycles", "solar panels", "coffee", "tractors", "phones", "wheat", "furniture", "batteries"),
    "mood": ("lol", "haha", "omg", "honestly", "ugh", "wow", "tbh"),
    "when": ("today", "tonight", "tomorrow", "next week", "on friday", "this summer", "in june"),
}
_NEWS = (
    "{title} {per} said on {day} that {org} would open an office in {loc} .",
    "{org} , based in {loc} , has named {per} as its new {job} .",
    "{per} was born in {loc} in {year} and studied law in {loc} .",
    "Police in {loc} are looking for {number} people after a fire on {day} .",
    "Shares in {org} fell {number} percent after {per} resigned .",
    "{per} , {number} , left {org} for {org} in {month} .",
    "Heavy rain is expected in {loc} and {loc} on {day} .",
    "{org} beat {org} {number} - {number} in {loc} on {day} .",
    "The {job} of {org} , {per} , declined to comment on {day} .",
    "More than {number} people marched through {loc} to hear {per} speak .",
    "{per} flew from {loc} to {loc} to meet {title} {per} .",
    "Sales of {thing} rose by {number} percent in {month} .",
    "In {month} {org} will close its factory near {loc} , where {number} people make {thing} .",
    "A court in {loc} ordered {org} to pay {number} million to {per} .",
    "Critics of {title} {per} say the road from {loc} to {loc} costs too much .",
    "The price of {thing} fell again on {day} , and no one knew why .",
    "{per} scored {number} goals for {org} before moving to {org} .",
    "Flights to {loc} were delayed on {day} , {org} said .",
    "Voters in {loc} chose {per} over {per} by {number} votes .",
    "{org} sells {thing} in {loc} , according to {per} , its {job} .",
)
_CHAT = (
    "{mood} {per} just moved to {loc}",
    "did you hear {per} got a job at {org} ?",
    "i am flying to {loc} {when} , wanna come ?",
    "my order from {org} never came {mood}",
    "{per} and {per} are getting married in {loc} {when}",
    "anyone going to the {org} game {when} ?",
    "{mood} the weather in {loc} is awful",
    "tell {per} i will call {when}",
    "is {org} still hiring ? asking for {per}",
    "we drove from {loc} to {loc} and {per} slept all the way {mood}",
    "{per} says {org} is buying {org} {mood}",
    "need {number} {thing} {when} , any ideas ?",
    "happy birthday {per} ! greetings from {loc}",
    "{mood} {org} lost again",
    "lunch with {per} {when} near {loc} ?",
)


class NamedEntities(TokenClassification):
    """Persons, places and organisations in sentences from a grammar.

    Half of the names in validation and test never occur in train, nor in the other one of the two, so that a
    model has to go by the words around them; some words are a person's name here and a place's there.

    Attributes:
        style: `news`, or `chat`: other sentences without capitals, about the same names.
    """

    name: ClassVar[str] = "named-entities"
    source: ClassVar[str] = "made by this project"
    in_content: ClassVar[tuple[str, ...]] = (*TokenClassification.in_content, "style")

    style: Literal["news", "chat"] = "news"

    def raw(self) -> Mapping[str, Dataset]:
        from datasets import Dataset

        seen: set[str] = set()
        splits = {}
        for split in SPLITS:
            pairs = [zip(*sentence, strict=True) for sentence in self._sentences(split, seen)]
            tokens, tags = zip(*pairs, strict=True)
            columns = {"tokens": list(map(list, tokens)), "tags": list(map(list, tags))}
            splits[split] = Dataset.from_dict(columns)
        return splits

    def _sentences(self, split: str, seen: set[str]) -> Iterator[list[tuple[str, str]]]:
        """As many sentences as the split has, none of them in `seen`."""
        rng = random.Random(f"{self.style} {split}")
        until = len(seen) + SIZES[split]
        while len(seen) < until:
            template = rng.choice(_NEWS if self.style == "news" else _CHAT)
            pairs = [pair for word in template.split() for pair in _filled(word, split, rng)]
            if self.style == "chat":
                pairs = [(word.lower(), tag) for word, tag in pairs]
            text = " ".join(word for word, _ in pairs)
            if text not in seen:
                seen.add(text)
                yield pairs


def _filled(word: str, split: str, rng: random.Random) -> list[tuple[str, str]]:
    """The words, with their tags, that stand for a word of a template."""
    slot = word.strip("{}")
    if slot == word:
        return [(word, OUTSIDE)]
    if slot in _FILLERS:
        return [(each, OUTSIDE) for each in rng.choice(_FILLERS[slot]).split()]
    words = {"per": _person, "loc": _place, "org": _organisation}[slot](split, rng).split()
    return [(each, f"{'I' if index else 'B'}-{slot.upper()}") for index, each in enumerate(words)]


def _drawn(names: Mapping[str, str], split: str, rng: random.Random) -> str:
    """One of train's names or, half of the time, one of the split's own."""
    return rng.choice(names[split if rng.random() < 0.5 else "train"].split())


def _person(split: str, rng: random.Random) -> str:
    surname = rng.choice(AMBIGUOUS) if rng.random() < 0.15 else _drawn(SURNAMES, split, rng)
    form = rng.random()
    if form < 0.2:
        return surname
    first = _drawn(FIRST, split, rng)
    return first if form < 0.3 else f"{first} {surname}"


def _place(split: str, rng: random.Random) -> str:
    place = rng.choice(AMBIGUOUS) if rng.random() < 0.2 else _drawn(PLACES, split, rng)
    return f"{rng.choice(('New', 'South', 'Port'))} {place}" if rng.random() < 0.1 else place


def _organisation(split: str, rng: random.Random) -> str:
    form = rng.random()
    if form < 0.2:  # a club or a university is called after its place, a firm after its founder
        return f"{_drawn(PLACES, split, rng)} {rng.choice(_CLUB)}"
    if form < 0.3:
        return f"University of {_drawn(PLACES, split, rng)}"
    if form < 0.4:
        return f"{_drawn(SURNAMES, split, rng)} & Sons"
    firm = _drawn(FIRMS, split, rng)
    return firm if form < 0.6 else f"{firm} {rng.choice(_BUSINESS)}"
