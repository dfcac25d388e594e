"""What traffic to simulate: sizes, speed, truth, and how bad the weather is.

Rates of noise are shares of the records of their kind: `duplicate_rate` of the impressions (and of the clicks) are
sent twice, beside `malformed_rate` of them a broken record is sent, `orphan_rate` of the clicks bring one more
click to no impression. Noise only adds records or delays them: each impression is sent whole at least once.

Two speeds are apart: `event_rate_per_s` is how many impressions lie in a second of event time, `rate_per_s` how
many are sent in a second of the wall clock.

An impression has the eight fields of a shop (users see items), or with `vocabulary` the categories that are named
there, each drawn for itself. The truth over either is an FM, or with `ffm_pairs` an FFM; it may drift, be drawn anew
once, and in a shop items may come and go and be shown in lists, of which the user takes one.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct, field

__all__ = ["SHOP_FIELDS", "SimulateConfig"]

SHOP_FIELDS = ("user", "item", "category", "device", "hour", "age", "price", "tags")
EARLIEST_MS = 946_684_800_000  # the year 2000: what lies before is malformed traffic

Count = Annotated[int, Meta(ge=1)]
Name = Annotated[str, Meta(min_length=1)]
Positive = Annotated[float, Meta(gt=0)]
Share = Annotated[float, Meta(ge=0, le=1)]
NotNegative = Annotated[float, Meta(ge=0)]


class SimulateConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The traffic; the same config and start give the same bytes, at any `rate_per_s`.

    events, duration_s : impressions to send, or event time to cover; without both it goes on for ever.
    rate_per_s : speed by the wall clock; None (null) is as fast as possible, and needs an end or a start.
    event_rate_per_s : density in event time; None is that of `rate_per_s`, or 1000.
    start_ms : event time of the first impression; None lets event time never run ahead of the wall clock.
    users, items : sizes of the vocabularies; drawn by Zipf with exponent `zipf`.
    item_life_h : mean life of an item (exponential); a new one, with traits and a truth of its own, takes its place.
    list_length : so many items are shown to one user at one time, all different, and exactly one of them is clicked:
        drawn by the softmax of their true logits. The click rate is then 1 in so many, whatever `click_rate` says.
    vocabulary : instead of the shop's fields, these: how many values each has, drawn by Zipf with exponent `zipf`.
    fields : features of an impression; those beyond the ones with effect are noise.
    k, effect_sd, interaction_sd : rank of the true model, spread of the logit from fields alone and from pairs.
    ffm_pairs : this share of the pairs of fields interacts, each by factors of its own; None: all, by shared ones.
    drift_half_life_h : after this event time the part of `drifting` in the truth is half forgotten; None: no drift.
    redraw_at : the whole truth is drawn anew once so many impressions were made; None: never.
    click_delay_s, click_delay_max_s : mean of an exponential, which is cut (and redrawn) at the maximum.
    out_of_order_rate, out_of_order_s : this share is sent up to so much later than it happened.
    """

    seed: Annotated[int, Meta(ge=0)] = 1
    events: Count | None = None
    duration_s: Positive | None = None
    rate_per_s: Positive | None = 1000.0
    event_rate_per_s: Positive | None = None
    start_ms: Annotated[int, Meta(ge=EARLIEST_MS)] | None = None
    partitions: Annotated[int, Meta(ge=1, le=10_000)] = 2

    users: Count = 2000
    items: Count = 500
    categories: Count = 12
    tags: Count = 30
    item_life_h: Positive | None = None
    list_length: Count = 1
    vocabulary: dict[Name, Count] = {}
    zipf: NotNegative = 0.8
    fields: Annotated[int, Meta(ge=len(SHOP_FIELDS), le=1000)] = len(SHOP_FIELDS)

    click_rate: Annotated[float, Meta(gt=0, lt=1)] = 0.15
    k: Annotated[int, Meta(ge=1, le=64)] = 3
    effect_sd: NotNegative = 0.9
    interaction_sd: NotNegative = 1.0
    ffm_pairs: Annotated[float, Meta(gt=0, le=1)] | None = None
    drift_half_life_h: Positive | None = 12.0
    drifting: list[Name] = field(default_factory=lambda: ["item"])
    redraw_at: Count | None = None

    click_delay_s: Positive = 10.0
    click_delay_max_s: Positive = 60.0
    duplicate_rate: Share = 0.005
    out_of_order_rate: Share = 0.01
    out_of_order_s: Positive = 2.0
    malformed_rate: Share = 0.001
    orphan_rate: Share = 0.005

    def __post_init__(self) -> None:
        if self.events is not None and self.duration_s is not None:
            raise ValueError("events and duration_s exclude each other: set one of them, or none to go on for ever")
        if self.click_delay_max_s < self.click_delay_s:
            raise ValueError("click_delay_max_s must be at least click_delay_s")
        if self.impressions is None and self.start_ms is None and self.speed > 1.0:
            raise ValueError(
                "without events, duration_s or start_ms, event time would run ahead of the wall clock: "
                "set rate_per_s to at most event_rate_per_s"
            )
        self._check_fields()
        self._check_lists()

    def _check_fields(self) -> None:
        if len(self.vocabulary) == 1:
            raise ValueError("vocabulary must name at least two fields")
        twice = sorted(set(self.noise_fields) & set(self.vocabulary))
        if twice:
            raise ValueError(f"vocabulary names '{twice[0]}', which is noise: set fields to {len(self.vocabulary)}")
        strange = [field for field in self.drifting if field not in self.effect_fields]
        if strange and self.drift_half_life_h is not None:
            raise ValueError(f"drifting names '{strange[0]}', which is none of {', '.join(self.effect_fields)}")

    def _check_lists(self) -> None:
        if self.vocabulary and (self.item_life_h is not None or self.list_length > 1):
            raise ValueError("item_life_h and list_length are for a shop: they exclude vocabulary")
        if self.list_length > self.items:
            raise ValueError("list_length must be at most items: a list shows different ones")
        for name, count in (("events", self.events), ("redraw_at", self.redraw_at)):
            if count is not None and count % self.list_length:
                raise ValueError(f"{name} must be a multiple of list_length")

    @property
    def effect_fields(self) -> tuple[str, ...]:
        """The fields that the truth knows, in order."""
        return tuple(self.vocabulary) or SHOP_FIELDS

    @property
    def noise_fields(self) -> tuple[str, ...]:
        """The fields without effect that come after them."""
        return tuple(f"x{i}" for i in range(self.fields - len(self.effect_fields)))

    @property
    def density_per_s(self) -> float:
        """Impressions in a second of event time."""
        return self.event_rate_per_s or self.rate_per_s or 1000.0

    @property
    def impressions(self) -> int | None:
        """Impressions to send, if there is an end."""
        if self.duration_s is not None:
            return max(1, round(self.duration_s * self.density_per_s / self.list_length)) * self.list_length
        return self.events

    @property
    def speed(self) -> float:
        """Seconds of event time that pass in a second of the wall clock."""
        return self.rate_per_s / self.density_per_s if self.rate_per_s else float("inf")

    def first_ms(self, now_ms: int) -> int:
        """Event time of the start: so far before `now_ms` that the last impression is not after its sending."""
        if self.start_ms is not None:
            return self.start_ms
        if self.impressions is None or self.speed <= 1.0:
            return now_ms
        span_s = self.impressions / self.density_per_s + self.click_delay_max_s
        return now_ms - round(1000 * span_s * (1.0 - 1.0 / self.speed))
