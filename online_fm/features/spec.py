"""What the fields of a model are: the user's words, checked.

A field has a name, a kind, and an input: where its value lies among the features of an event. Its position in the
list is its number (`fld`). Names seed the hash, so renaming a field makes it a new one.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from msgspec import Meta, Struct

__all__ = [
    "Bounds",
    "Categorical",
    "Cross",
    "FeaturesConfig",
    "Field",
    "Input",
    "LogBucket",
    "Multi",
    "Number",
    "named",
]

Name = Annotated[str, Meta(min_length=1, max_length=200)]


class _Field(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    name: Name


class _WithInput(_Field, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`input`: a dotted path among the event's features; without it, the name itself is the key there."""

    input: Name | None = None


class Categorical(_WithInput, frozen=True, tag="categorical"):
    """One value, taken as it is: a string, an integer or a boolean."""


class Multi(_WithInput, frozen=True, tag="multi"):
    """A list of values. `weighting` is the value of each of n: 1, 1/n, or 1/sqrt(n), which keeps the length at 1.

    What goes beyond `max_values` is cut and counted.
    """

    max_values: Annotated[int, Meta(ge=1, le=10_000)] = 64
    weighting: Literal["one", "mean", "sqrt"] = "sqrt"


class Number(_WithInput, frozen=True, tag="number"):
    """A number as itself, times `scale`: one feature whose value it is. Bring it near 1 by `scale`."""

    scale: float = 1.0


class LogBucket(_WithInput, frozen=True, tag="log_bucket"):
    """A number as the category floor(log(1 + |x|) / log(base)), with its sign."""

    base: Annotated[float, Meta(gt=1.0)] = 2.0


class Bounds(_WithInput, frozen=True, tag="bounds"):
    """A number as the category of how many of the rising `bounds` it has reached."""

    bounds: Annotated[tuple[float, ...], Meta(min_length=1)]

    def __post_init__(self) -> None:
        if any(a >= b for a, b in pairwise(self.bounds)):
            raise ValueError(f"bounds of '{self.name}' must rise")


class Cross(_Field, frozen=True, tag="cross"):
    """Two or more other fields together: every combination of their values is a category."""

    of: Annotated[tuple[Name, ...], Meta(min_length=2, max_length=8)]
    max_values: Annotated[int, Meta(ge=1, le=10_000)] = 256


Input = Categorical | Multi | Number | LogBucket | Bounds
Field = Input | Cross


class FeaturesConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The fields of the model, in order. A plain string is a categorical field of that name."""

    fields: Annotated[tuple[str | Field, ...], Meta(min_length=1, max_length=65_535)]

    def __post_init__(self) -> None:
        fields = named(self)
        if len(fields) != len(self.fields):
            names = [f if isinstance(f, str) else f.name for f in self.fields]
            twice = next(name for i, name in enumerate(names) if name in names[:i])
            raise ValueError(f"field '{twice}' is named twice")
        for cross in fields.values():
            if isinstance(cross, Cross):
                for part in cross.of:
                    if isinstance(fields.get(part, cross), Cross | Number):
                        raise ValueError(
                            f"cross '{cross.name}' needs '{part}' to be another field that is a category: "
                            "bucket a number first, and name all parts of a larger cross"
                        )


def named(config: FeaturesConfig) -> dict[str, Field]:
    """The fields by name, in order, with plain strings made categorical."""
    fields = (Categorical(name=f) if isinstance(f, str) else f for f in config.fields)
    return {field.name: field for field in fields}
