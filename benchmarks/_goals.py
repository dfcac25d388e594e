"""What ours must reach at one setting, and what they do: losses, flatness of settings, safety of the committee."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from _learners import NEIGHBOURS, SHIPPED, Pass, Settings, pass_over, times
from _streams import Stream, load, loss

__all__ = ["Goal", "reached"]


class Goal(NamedTuple):
    """One number of ours, and its bound."""

    name: str
    ours: float
    goal: float
    at_most: bool = True

    @property
    def met(self) -> bool:
        return self.ours <= self.goal if self.at_most else self.ours >= self.goal


def reached(names: Sequence[str]) -> list[Goal]:
    """The goals on these streams."""
    found: list[Goal] = []
    for name in names:
        stream = load(name)
        found += [*_ON.get(name, _nothing)(stream), *_flat(stream), *_committee(stream)]
    return found


def _nothing(_stream: Stream) -> Iterator[Goal]:
    yield from ()


def _loss(passed: Pass) -> float:
    assert passed.score.log_loss is not None
    return passed.score.log_loss


def _of(stream: Stream, settings: Settings) -> float:
    return _loss(pass_over(stream, settings))


def _kuairand(stream: Stream) -> Iterator[Goal]:
    bounds = {"FM": (0.5985, 0.730), "LR": (0.5985, None), "FFM": (0.5980, None), "Committee": (0.5975, 0.731)}
    for name, (log_loss, auc) in bounds.items():
        score = pass_over(stream, SHIPPED[name]).score
        yield Goal(f"kuairand: {name}, log-loss", score.log_loss or 0.0, log_loss)
        if auc is not None:
            yield Goal(f"kuairand: {name}, AUC", score.auc or 0.0, auc, at_most=False)
    for name, bound in (("FM Kalman", 0.008),):
        yield Goal(f"kuairand: {name}, ECE", pass_over(stream, SHIPPED[name]).score.ece or 0.0, bound)


def _long(stream: Stream) -> Iterator[Goal]:
    for name, bound in (("FM Kalman", 0.0125), ("FM", 0.0135)):
        late = pass_over(stream, SHIPPED[name]).score.last_quarter
        assert late is not None
        yield Goal(f"long: {name}, excess over Bayes in the last quarter", late - loss(stream, 0.75), bound)


def _crosses(stream: Stream) -> Iterator[Goal]:
    for name in ("LR", "FM"):
        worse = _of(stream, SHIPPED[name]) - _of(load("syn"), SHIPPED[name])
        yield Goal(f"crosses: {name}, log-loss over that without the crosses", worse, 0.001)


def _short(stream: Stream) -> Iterator[Goal]:
    members = pass_over(stream, SHIPPED["Committee"]).members
    losses = {
        fast: min(x.log_loss or 9.0 for name, x in members.items() if ("fast" in name) is fast)
        for fast in (True, False)
    }
    yield Goal(
        "short: the best fast member under the best slow one", losses[False] - losses[True], 0.002, at_most=False
    )


def _flat(stream: Stream) -> Iterator[Goal]:
    for name in NEIGHBOURS:
        shipped = _of(stream, SHIPPED[name])
        worst = max(_of(stream, times(SHIPPED[name], factor)) for factor in (1 / 3, 3.0))
        yield Goal(f"{stream.name}: {name}, rate or prior x1/3 and x3, worst over shipped", worst - shipped, 0.001)


def _committee(stream: Stream) -> Iterator[Goal]:
    passed = pass_over(stream, SHIPPED["Committee"])
    best = min(score.log_loss or 9.0 for score in passed.members.values())
    yield Goal(f"{stream.name}: Committee over its best member", _loss(passed) - best, 0.0003)


_ON: dict[str, Callable[[Stream], Iterator[Goal]]] = {
    "kuairand": _kuairand,
    "long": _long,
    "crosses": _crosses,
    "short": _short,
}
