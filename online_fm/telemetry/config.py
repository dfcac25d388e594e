"""What can be set about logs, health and the port that shows them.

The port is open to this machine only, as long as nobody says otherwise: it tells topic names and has no password.
Port 0 takes any free one, which the log then names.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

__all__ = ["HealthConfig", "TelemetryConfig"]

Seconds = Annotated[float, Meta(gt=0)]


class HealthConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When the worker is catching up, and when it is stuck.

    start_within_s: reading back a checkpoint and compiling kernels; 10 GB at 50 MB/s are 200 s.
    stuck_after_s: no sign of the loop, or records to read and none read; a turn of the loop takes well under a
        second, writing a large checkpoint some ten seconds, a broker's restart about as long.
    checkpoints_within_s: checkpoints fail, and none was kept for as long: what a crash would have to learn again.
    catching_up_records: records to read above which the model is not fresh; two seconds of work at 50,000 a second.
    """

    start_within_s: Seconds = 600.0
    stuck_after_s: Seconds = 60.0
    checkpoints_within_s: Seconds = 600.0
    catching_up_records: Annotated[int, Meta(ge=0)] = 100_000


class TelemetryConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Logs to standard error; metrics and health on `host:port`."""

    host: Annotated[str, Meta(min_length=1)] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65_535)] = 9100
    log_format: Literal["console", "json"] = "console"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    health: HealthConfig = HealthConfig()
