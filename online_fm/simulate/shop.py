"""A shop's population: users see items, on a device, at an hour of the day.

user, item, category, device, hour are categories; age and price are numbers that the truth cuts at `AGE_BOUNDS` and
`PRICE_BOUNDS`; each of n tags has the value 1 / sqrt(n): as `features.Encoder` makes them, so that a learner with
these fields can reach the truth. A user always has the same age, an item the same category, price and tags.

Items may come and go: each of the `items` places, of which the first is the most visited, is held by an item for an
exponential time; then comes a new item, with a new number, new traits and the place's visitors.
"""

from __future__ import annotations

import numpy as np
from msgspec import json

from online_fm.simulate.config import SHOP_FIELDS, SimulateConfig
from online_fm.simulate.parts import Context, Ints, Layout, Part, zipf

__all__ = ["AGE_BOUNDS", "DEVICES", "PRICE_BOUNDS", "Shop"]

AGE_BOUNDS = (18.0, 25.0, 35.0, 45.0, 55.0, 65.0)
PRICE_BOUNDS = (5.0, 10.0, 20.0, 50.0, 100.0)
DEVICES = ("mobile", "desktop", "tablet", "tv")
_DEVICE_SHARES = (0.6, 0.25, 0.1, 0.05)
_BOUNDS = {"age": AGE_BOUNDS, "price": PRICE_BOUNDS}
_NUMBERED = frozenset(("user", "category", "tags"))  # their values are a letter and a number; items': of a place
_MAX_TAGS = 3
_HOUR_MS = 3_600_000


class Shop:
    """Users and items with their traits; the parts are user, item, device, hour."""

    def __init__(self, config: SimulateConfig, rng: np.random.Generator) -> None:
        self._config = config
        sizes = {
            "user": config.users,
            "item": config.items,
            "category": config.categories,
            "device": len(DEVICES),
            "hour": 24,
            "age": len(AGE_BOUNDS) + 1,
            "price": len(PRICE_BOUNDS) + 1,
            "tags": config.tags,
        }
        self.layout = Layout({field: sizes[field] for field in SHOP_FIELDS})
        ages = np.clip(np.round(rng.gamma(6.0, 6.5, config.users)), 13, 90).astype(np.int64)
        self.parts: tuple[Part, ...] = (
            self._users(ages),
            self._items(),
            self._category("device", DEVICES),
            self._category("hour", range(24)),
        )
        self._place: dict[int, int] = {}
        self._numbers = np.arange(config.items)
        self._next = config.items
        self._furnish(np.arange(config.items), rng)
        self._user_cdf, self._item_cdf = zipf(config.users, config.zipf), zipf(config.items, config.zipf)
        self._device_cdf = np.cumsum(_DEVICE_SHARES)

    def _users(self, ages: Ints) -> Part:
        bucket = self.layout.first["age"] + np.searchsorted(AGE_BOUNDS, ages, side="right")
        rows = np.stack([self.layout.first["user"] + np.arange(len(ages)), bucket], axis=1)
        texts = [f'"user":"u{user}","age":{age}' for user, age in enumerate(ages.tolist())]
        return Part(("user", "age"), rows, np.ones(rows.shape), texts)

    def _items(self) -> Part:
        """Places without items."""
        fields = ("item", "category", "price", *("tags",) * _MAX_TAGS)
        n = self._config.items
        rows = np.tile([self.layout.first[field] for field in fields], (n, 1))
        rows[:, 0] += np.arange(n)
        return Part(fields, rows, np.zeros(rows.shape), [""] * n)

    def _category(self, field: str, values: range | tuple[str, ...]) -> Part:
        rows = self.layout.first[field] + np.arange(len(values))[:, None]
        return Part((field,), rows, np.ones(rows.shape), [_members({field: value}) for value in values])

    def _furnish(self, places: Ints, rng: np.random.Generator) -> None:
        """Put the items `_numbers` into these places, with traits."""
        c, first, part, n = self._config, self.layout.first, self.parts[1], len(places)
        category = rng.integers(c.categories, size=n)
        price = np.round(np.exp(rng.normal(3.0, 1.0, n)), 2)
        n_tags = rng.integers(1, 1 + min(_MAX_TAGS, c.tags), size=n)
        part.rows[places, 1] = first["category"] + category
        part.rows[places, 2] = first["price"] + np.searchsorted(PRICE_BOUNDS, price, side="right")
        part.vals[places] = 0.0
        part.vals[places, :3] = 1.0
        for i, place in enumerate(places.tolist()):
            tags = np.sort(rng.choice(c.tags, size=n_tags[i], replace=False))
            part.rows[place, 3 : 3 + len(tags)] = first["tags"] + tags
            part.vals[place, 3 : 3 + len(tags)] = len(tags) ** -0.5
            number = int(self._numbers[place])
            self._place[number] = place
            traits = {"category": f"c{category[i]}", "price": float(price[i]), "tags": [f"t{t}" for t in tags.tolist()]}
            part.texts[place] = _members({"item": f"i{number}", **traits})

    def draw(self, rng: np.random.Generator, ts: Ints) -> Context:
        """Who sees what on which device at these times (ms); with lists, each time is there once for each row."""
        length = self._config.list_length
        n = len(ts) // length
        user = np.searchsorted(self._user_cdf, rng.random(n), side="right")
        item = np.searchsorted(self._item_cdf, rng.random(n), side="right") if length == 1 else self._different(rng, n)
        device = np.searchsorted(self._device_cdf, rng.random(n), side="right")
        return user.repeat(length), item, device.repeat(length), ts // _HOUR_MS % 24

    def _different(self, rng: np.random.Generator, n: int) -> Ints:
        """N lists of different items, one after another by their shares among those left (Gumbel's trick)."""
        c = self._config
        log_shares = -c.zipf * np.log(np.arange(1, c.items + 1))
        order = np.argsort(-log_shares - rng.gumbel(size=(n, c.items)), axis=1)
        return order[:, : c.list_length].ravel()

    def row(self, field: str, value: object) -> int | None:
        text = str(value)[1:]
        number = int(text) if text.isdecimal() else -1
        if field == "item":
            number = self._place.get(number, -1)
        elif field in _BOUNDS and isinstance(value, int | float):
            number = int(np.searchsorted(_BOUNDS[field], value, side="right"))
        elif field == "device" and value in DEVICES:
            number = DEVICES.index(str(value))
        elif field == "hour" and isinstance(value, int):
            number = value
        elif field not in _NUMBERED:
            number = -1
        return self.layout.first[field] + number if 0 <= number < self.layout.size.get(field, 0) else None

    def renew(self, rng: np.random.Generator, elapsed_ms: float) -> Ints:
        """Replace the items whose life ended within so much event time; the places of the new ones."""
        life_h = self._config.item_life_h
        if life_h is None:
            return np.empty(0, np.int64)
        ended = rng.random(self._config.items) < -np.expm1(-elapsed_ms / (life_h * _HOUR_MS))
        places = np.flatnonzero(ended)
        for place in places.tolist():
            del self._place[int(self._numbers[place])]
        self._numbers[places] = self._next + np.arange(len(places))
        self._next += len(places)
        self._furnish(places, rng)
        return places


def _members(members: dict[str, object]) -> str:
    return json.encode(members).decode()[1:-1]
