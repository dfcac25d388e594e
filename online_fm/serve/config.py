"""What can be set about serving.

A request is bounded three times: in the time its body may take, in bytes before it is parsed, and in rows before they
are scored. 1,000 rows of 39 fields are about half a mebibyte of JSON, and scoring is done between requests, so that a
larger bound lets one caller hold up the others.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

__all__ = ["ServeConfig"]

Positive = Annotated[int, Meta(ge=1)]


class ServeConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The model's public name, where it answers, how often it looks for snapshots, and what a request may ask.

    body_timeout_s: how long the body of a request may take to come.
    drain_s: how long requests at hand may take to finish after SIGTERM.
    """

    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.-]+$")] = "ctr"
    host: Annotated[str, Meta(min_length=1)] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65_535)] = 8080
    poll_interval_s: Annotated[float, Meta(gt=0)] = 1.0
    max_rows: Positive = 1_000
    max_body_bytes: Positive = 4 * 2**20
    body_timeout_s: Annotated[float, Meta(gt=0)] = 10.0
    drain_s: Annotated[int, Meta(ge=0)] = 10
