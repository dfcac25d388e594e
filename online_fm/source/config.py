"""What a source needs to know, and where it is checked.

Invariant: a struct that exists is usable as far as can be told without connecting. Times in ms, sizes in bytes.
`SourceConfig` is a union told apart by `kind`: `kafka_python`, `confluent` or `files`.

Client options are passed through under the client's own names. The settings that the source answers for (brokers,
group, where to begin, commits) are refused there, so that nothing is configured twice. For `confluent` an
underscore may stand for the dot of librdkafka (`isolation_level`), and kafka-python's names for SASL and SSL are
understood, so that the same options serve both bodies.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct

from online_fm.errors import ConfigError

__all__ = [
    "ConfluentConfig",
    "DeadLetterConfig",
    "FilesConfig",
    "KafkaConfig",
    "KafkaPythonConfig",
    "Option",
    "Secret",
    "SourceConfig",
    "reveal",
]

Name = Annotated[str, Meta(min_length=1)]
OURS = frozenset(
    {
        "bootstrap_servers",
        "group_id",
        "enable_auto_commit",
        "auto_offset_reset",
        "enable_partition_eof",
        "key_deserializer",
        "value_deserializer",
    }
)

PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")  # kafka-python takes a misspelt one for PLAINTEXT


class Secret(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A value that is not written in the configuration: of an environment variable, or of a file."""

    env: str | None = None
    file: str | None = None

    def __post_init__(self) -> None:
        if (self.env is None) == (self.file is None):
            raise ValueError("a secret names either `env` or `file`")


Option = str | int | float | bool | Secret


class KafkaConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Two topics of a Kafka cluster; one worker reads all of their partitions.

    brokers: `host:port`, any few of the cluster's. group: under which offsets are committed, for monitoring;
    partitions are never shared out by it. start: where a first start begins; a partition that is not in the
    checkpoint of a later one begins at its first record.
    """

    impressions: Name = "impressions"
    clicks: Name = "clicks"
    brokers: Annotated[list[Name], Meta(min_length=1)]
    group: Name = "online-fm"
    start: Literal["earliest", "latest"] = "earliest"
    on_gap: Literal["stop", "accept"] = "stop"
    options: dict[str, Option] = {}

    def __post_init__(self) -> None:
        _check_topics(self.impressions, self.clicks)
        for name in self.options:
            if name.replace(".", "_") in OURS:
                raise ValueError(f"option `{name}` is the source's own and cannot be set")
        protocol = self.options.get("security_protocol", self.options.get("security.protocol", "PLAINTEXT"))
        if protocol not in PROTOCOLS:
            raise ValueError(f"option `security_protocol` must be one of {', '.join(PROTOCOLS)}")


class KafkaPythonConfig(KafkaConfig, frozen=True, kw_only=True, tag_field="kind", tag="kafka_python"):
    """Kafka through kafka-python: pure Python, always installed; about 100,000 records/s."""


class ConfluentConfig(KafkaConfig, frozen=True, kw_only=True, tag_field="kind", tag="confluent"):
    """Kafka through confluent-kafka (librdkafka), several times as fast: `pip install online-fm[confluent]`."""


class FilesConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="files"):
    """Two topics that are files of JSON lines, or folders of such files, in the folder `path`.

    follow: wait for more lines and files at the end, else reading ends there. speed: event time that passes per
    time that passes (60: an hour in a minute); without it, as fast as possible. max_line_bytes: a longer line
    is delivered cut to one byte more than this, so that the events room sees that it is too long.
    """

    impressions: Name = "impressions"
    clicks: Name = "clicks"
    path: Name
    follow: bool = False
    speed: Annotated[float, Meta(gt=0)] | None = None
    start: Literal["earliest", "latest"] = "earliest"
    on_gap: Literal["stop", "accept"] = "stop"
    max_line_bytes: Annotated[int, Meta(ge=1)] = 1 << 20

    def __post_init__(self) -> None:
        _check_topics(self.impressions, self.clicks)


SourceConfig = KafkaPythonConfig | ConfluentConfig | FilesConfig


class DeadLetterConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where rejected records go: nowhere, to a file of JSON lines, or to a topic of the source's cluster."""

    kind: Literal["none", "file", "kafka"] = "none"
    path: Name | None = None
    topic: Name | None = None

    def __post_init__(self) -> None:
        needs = {"none": None, "file": "path", "kafka": "topic"}[self.kind]
        for field, value in (("path", self.path), ("topic", self.topic)):
            if field == needs and value is None:
                raise ValueError(f"kind `{self.kind}` needs `{field}`")
            if field != needs and value is not None:
                raise ValueError(f"kind `{self.kind}` has no `{field}`")


def reveal(options: Mapping[str, Option]) -> dict[str, str | int | float | bool]:
    """The options with their secrets read; `ConfigError` where one is not there."""
    return {name: _read(name, o) if isinstance(o, Secret) else o for name, o in options.items()}


def _read(name: str, secret: Secret) -> str:
    if secret.env is not None:
        if secret.env not in os.environ:
            raise ConfigError(f"source.options.{name}: the environment variable {secret.env} is not set")
        return os.environ[secret.env]
    try:
        return Path(str(secret.file)).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"source.options.{name}: cannot read the secret's file: {exc}") from exc


def _check_topics(impressions: str, clicks: str) -> None:
    if impressions == clicks:
        raise ValueError("`impressions` and `clicks` must be two topics")
