"""The streams that learners are judged on: KuaiRand, and simulated ones whose true click probability is known.

    kuairand  real feed logs, 41 fields, 222,444 rows
    syn       12 fields of 3 to 50,000 values, Zipf 1.1, an FM truth, click rate 17 %, 300,000 rows
    long      the same, 1.2 million rows
    synd      4 of the 12 fields drift: half forgotten after 346,000 rows
    synl      click rate 1.6 %
    synf      an FFM truth on 30 % of the pairs of fields, click rate 25 %
    jump      syn, whose truth is drawn anew at half time
    short     a shop whose items live 3 hours and whose taste changes by the half-hour; lists of ten, one click each
    crosses   syn with 78 blind crosses: every pair of fields, and every field once more

All come out of the project's own simulator, decoder and encoder and are kept in .cache/streams, under a name that
hashes what made them. KuaiRand lies where the variable ONLINE_FM_KUAIRAND says, or in shared/data/kuairand beside the
checkout. In `short` the true probability knows the rest of the list: no learner that scores row by row comes up to it.

    python benchmarks/_streams.py [NAME ...]     what there is to win: the Bayes loss, and that of the last quarter
"""

from __future__ import annotations

import gzip
import hashlib
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, islice
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import yaml
from numpy.typing import NDArray

import online_fm
from online_fm.events import EventDecoder, EventsConfig, ImpressionShape
from online_fm.features.batch import Rows
from online_fm.features.encode import Encoder
from online_fm.features.spec import FeaturesConfig
from online_fm.simulate import SimulateConfig, Simulator

__all__ = ["KUAIRAND", "NAMES", "Stream", "load", "loss"]

ROOT = Path(__file__).resolve().parents[1]
KUAIRAND = Path(os.environ.get("ONLINE_FM_KUAIRAND", ROOT.parent / "shared" / "data" / "kuairand"))
CACHE = ROOT / ".cache" / "streams"
BLOCK = 20_000

SIZES = (3, 7, 18, 43, 104, 252, 610, 1476, 3573, 8650, 20_900, 50_000)
VOCABULARY = dict(zip("abcdefghijkl", SIZES, strict=True))
SYN = {"seed": 3, "events": 300_000, "vocabulary": VOCABULARY, "fields": 12, "zipf": 1.1, "k": 4, "click_rate": 0.17,
       "effect_sd": 0.8, "interaction_sd": 0.5, "drift_half_life_h": None}  # fmt: skip
SHORT = {"events": 300_000, "event_rate_per_s": 10.0, "users": 5000, "items": 100, "item_life_h": 3.0,
         "list_length": 10, "effect_sd": 2.5, "interaction_sd": 0.3, "drift_half_life_h": 0.5,
         "drifting": ["item", "category", "price", "tags"]}  # fmt: skip
SIMULATED: dict[str, dict[str, Any]] = {
    "syn": SYN,
    "long": {**SYN, "events": 1_200_000},
    "synd": {**SYN, "seed": 2, "effect_sd": 1.7, "interaction_sd": 0.4, "event_rate_per_s": 1.0,
             "drift_half_life_h": 96.0, "drifting": ["d", "f", "h", "j"]},
    "synl": {**SYN, "click_rate": 0.016, "effect_sd": 1.1, "interaction_sd": 0.45},
    "synf": {**SYN, "seed": 2, "click_rate": 0.25, "effect_sd": 1.0, "interaction_sd": 1.3, "ffm_pairs": 0.3},
    "jump": {**SYN, "redraw_at": 150_000},
    "short": SHORT,
    "crosses": SYN,
}  # fmt: skip
NAMES = ("kuairand", *SIMULATED)
QUIET = {"start_ms": 1_700_000_000_000, "rate_per_s": None, "partitions": 1, "duplicate_rate": 0.0,
         "out_of_order_rate": 0.0, "malformed_rate": 0.0, "orphan_rate": 0.0}  # fmt: skip
SHOP_FIELDS = ["user", "item", "category", "device", "hour",
               {"kind": "bounds", "name": "age", "bounds": [18, 25, 35, 45, 55, 65]},
               {"kind": "bounds", "name": "price", "bounds": [5, 10, 20, 50, 100]},
               {"kind": "multi", "name": "tags"}]  # fmt: skip


@dataclass(frozen=True)
class Stream:
    """n rows in the order of time, of which row i is predicted, then learned.

    label, weight : f32[n].    time_ms : i64[n], event time.
    bayes : the true probability of a click, f64[n]; None where nobody knows it.
    """

    name: str
    rows: Rows
    label: NDArray[np.float32]
    weight: NDArray[np.float32]
    time_ms: NDArray[np.int64]
    bayes: NDArray[np.float64] | None
    fields: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.rows)


def load(name: str) -> Stream:
    """A stream by its name; the first time it is made, which takes seconds to a minute."""
    if name not in NAMES:
        raise ValueError(f"no stream is called {name!r}: there are {', '.join(NAMES)}")
    features = _features(name)
    path = CACHE / f"{name}-{_made_of(name, features)}.npz"
    if not path.exists():
        _keep(path, _kuairand(features) if name == "kuairand" else _simulated(name, features))
    with np.load(path) as arrays:
        found = dict(arrays)
    rows = Rows(*(found[part] for part in ("ptr", "fld", "key", "val")))
    label, bayes = found["label"], found["bayes"]
    known = None if np.isnan(bayes).any() else bayes
    return Stream(name, rows, label, np.ones_like(label), found["time_ms"], known, Encoder(features).fields)


def _features(name: str) -> FeaturesConfig:
    if name == "kuairand":
        fields = yaml.safe_load((ROOT / "config" / "kuairand.yaml").read_text())["features"]["fields"]
    elif name == "short":
        fields = SHOP_FIELDS
    else:
        fields = list(VOCABULARY)
    if name == "crosses":
        again = [{"kind": "categorical", "name": f"{field}_{field}", "input": field} for field in VOCABULARY]
        pairs = [{"kind": "cross", "name": "_".join(pair), "of": pair} for pair in combinations(VOCABULARY, 2)]
        fields = [*fields, *again, *pairs]
    return msgspec.convert({"fields": fields}, FeaturesConfig)


def _made_of(name: str, features: FeaturesConfig) -> str:
    """A hash of all that decides what the stream is: settings, data, code."""
    package = Path(online_fm.__file__).parent
    sources = sorted(file for room in ("simulate", "features") for file in (package / room).glob("*.py"))
    settings = _configuration(name) if name in SIMULATED else [file.stat().st_size for file in _kuairand_files()]
    parts = [file.read_bytes() for file in sources] + [msgspec.json.encode((settings, features))]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _keep(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    for old in path.parent.glob(f"{path.name.partition('-')[0]}-*.npz"):
        old.unlink()
    beside = path.with_suffix(f".{os.getpid()}")
    with beside.open("wb") as file:
        np.savez(file, **arrays)
    beside.replace(path)


def _configuration(name: str) -> SimulateConfig:
    return SimulateConfig(**QUIET | SIMULATED[name])


def _simulated(name: str, features: FeaturesConfig) -> dict[str, NDArray[Any]]:
    clicked: list[bytes] = []

    def shown() -> Iterator[Sequence[bytes]]:
        for chunk in Simulator(_configuration(name)).chunks():
            clicked.extend(chunk.clicks[0].values)
            yield chunk.impressions[0].values

    return _arrays(features, shown(), clicked)


def _kuairand_files() -> tuple[Path, Path]:
    files = KUAIRAND / "impressions.jsonl.gz", KUAIRAND / "clicks.jsonl.gz"
    if not all(file.exists() for file in files):
        raise FileNotFoundError(f"KuaiRand is not in {KUAIRAND}: set ONLINE_FM_KUAIRAND")
    return files


def _kuairand(features: FeaturesConfig) -> dict[str, NDArray[Any]]:
    impressions, clicks = _kuairand_files()
    with gzip.open(impressions) as shown, gzip.open(clicks) as clicked:
        return _arrays(features, _blocks(shown), clicked.readlines())


def _blocks(lines: Iterable[bytes]) -> Iterator[list[bytes]]:
    lines = iter(lines)
    while block := list(islice(lines, BLOCK)):
        yield block


def _arrays(
    features: FeaturesConfig, shown: Iterable[Sequence[bytes]], clicked: Sequence[bytes]
) -> dict[str, NDArray[Any]]:
    """The records of both topics as arrays; `clicked` is complete once `shown` has been read to its end."""
    decoder = EventDecoder(EventsConfig(impression=ImpressionShape(score="score")))
    encoder = Encoder(features)
    ids: list[str] = []
    times_ms: list[int] = []
    scores: list[float] = []
    rows: list[Rows] = []
    for values in shown:
        found = decoder.impressions(values, np.full(len(values), -1))
        encoded = encoder.encode(found.features)
        assert not found.reasons
        assert not encoded.problems
        ids += found.ids
        times_ms += found.times_ms
        scores += found.scores
        rows.append(encoded.rows)
    assert times_ms == sorted(times_ms)
    positive = set(decoder.clicks(clicked, np.full(len(clicked), -1)).ids)
    return {
        "ptr": np.concatenate([[0], np.cumsum(np.concatenate([np.diff(block.ptr) for block in rows]))]),
        **{part: np.concatenate([getattr(block, part) for block in rows]) for part in ("fld", "key", "val")},
        "label": np.array([ident in positive for ident in ids], np.float32),
        "time_ms": np.array(times_ms),
        "bayes": np.array(scores),
    }


def loss(stream: Stream, since: float = 0.0) -> float:
    """The mean log-loss of the true probability over the rows after this share of them."""
    rows = slice(round(since * len(stream)), None)
    assert stream.bayes is not None
    p, label = stream.bayes[rows], stream.label[rows] > 0
    return float(-np.log(np.where(label, p, 1.0 - p)).mean())


def main() -> None:
    print(f"{'stream':10}{'rows':>10}{'fields':>8}{'clicked':>10}{'Bayes':>10}{'last 1/4':>10}")
    for name in sys.argv[1:] or NAMES:
        stream = load(name)
        losses = f"{loss(stream):10.5f}{loss(stream, 0.75):10.5f}" if stream.bayes is not None else f"{'unknown':>10}"
        print(f"{name:10}{len(stream):10,}{len(stream.fields):8}{stream.label.mean():10.4f}{losses}")


if __name__ == "__main__":
    main()
