"""From a configuration to the source that it describes; client libraries are imported only here and when needed."""

from __future__ import annotations

from collections.abc import Callable

from online_fm.source.config import FilesConfig, SourceConfig
from online_fm.source.port import Source

__all__ = ["open_source"]


def open_source(config: SourceConfig, *, time_of: Callable[[bytes], int | None] | None = None) -> Source:
    """Connect to the brokers, or find the files; raise `SourceError` where neither is there.

    time_of: the event time in ms of a record's bytes, None where it has none. Needed where `config.speed` is set.
    """
    if isinstance(config, FilesConfig):
        from online_fm.source.files import FilesSource

        return FilesSource(config, time_of=time_of)
    from online_fm.source.client_process import ClientProcess
    from online_fm.source.kafka_source import KafkaSource

    return KafkaSource(config, lambda: ClientProcess(config))
