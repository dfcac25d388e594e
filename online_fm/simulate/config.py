"""What traffic to simulate: sizes, speed, truth, and how bad the weather is.

Rates of noise are shares of the records of their kind: `duplicate_rate` of the impressions (and of the clicks) are
sent twice, beside `malformed_rate` of them a broken record is sent, `orphan_rate` of the clicks bring one more
click to no impression. Noise only adds records or delays them: each impression is sent whole at least once.

Two speeds are apart: `event_rate_per_s` is how many impressions lie in a second of event time, `rate_per_s` how
many are sent in a second of the wall clock.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

__all__ = ["BASE_FIELDS", "SimulateConfig"]

BASE_FIELDS = 8  # user, item, category, device, hour, age, price, tags
EARLIEST_MS = 946_684_800_000  # the year 2000: what lies before is malformed traffic

Count = Annotated[int, Meta(ge=1)]
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
    k, effect_sd, interaction_sd : rank of the true model, spread of the logit from fields alone and from pairs.
    drift_half_life_h : after this event time an item's part of the truth is half forgotten; None is no drift.
    click_delay_s, click_delay_max_s : mean of an exponential, which is cut (and redrawn) at the maximum.
    out_of_order_rate, out_of_order_s : this share is sent up to so much later than it happened.
    fields : features of an impression; those beyond the first eight are noise without effect.
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
    zipf: NotNegative = 0.8
    fields: Annotated[int, Meta(ge=BASE_FIELDS, le=1000)] = BASE_FIELDS

    click_rate: Annotated[float, Meta(gt=0, lt=1)] = 0.15
    k: Annotated[int, Meta(ge=1, le=64)] = 3
    effect_sd: NotNegative = 0.9
    interaction_sd: NotNegative = 1.0
    drift_half_life_h: Positive | None = 12.0

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

    @property
    def density_per_s(self) -> float:
        """Impressions in a second of event time."""
        return self.event_rate_per_s or self.rate_per_s or 1000.0

    @property
    def impressions(self) -> int | None:
        """Impressions to send, if there is an end."""
        if self.duration_s is not None:
            return max(1, round(self.duration_s * self.density_per_s))
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
