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

    stuck_after_s: no sign of the loop, records to read and none read, or what the loop waits for not there; a turn of
        the loop takes well under a second, a broker's restart some ten.
    long_work_within_s: no sign of the loop while it reads back a checkpoint and compiles kernels, or writes a
        checkpoint; 10 GB at 50 MB/s are 200 s.
    checkpoints_within_s: checkpoints fail, and none was kept for as long: what a crash would have to learn again.
    catching_up_records: records to read above which the model is not fresh; two seconds of work at 50,000 a second.
    """

    stuck_after_s: Seconds = 60.0
    long_work_within_s: Seconds = 600.0
    checkpoints_within_s: Seconds = 600.0
    catching_up_records: Annotated[int, Meta(ge=0)] = 100_000


class TelemetryConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Logs to standard error; metrics and health on `host:port`."""

    host: Annotated[str, Meta(min_length=1)] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65_535)] = 9100
    log_format: Literal["console", "json"] = "console"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    health: HealthConfig = HealthConfig()
