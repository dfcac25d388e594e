"""The source room's configuration: what is accepted, what is refused and where, and how secrets are read."""

from __future__ import annotations

import msgspec
import pytest

from online_fm.errors import ConfigError
from online_fm.source.config import (
    ConfluentConfig,
    DeadLetterConfig,
    FilesConfig,
    KafkaPythonConfig,
    Secret,
    SourceConfig,
    reveal,
)


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ({"kind": "files", "path": "events"}, FilesConfig),
        ({"kind": "kafka_python", "brokers": ["a:9092"]}, KafkaPythonConfig),
        ({"kind": "confluent", "brokers": ["a:9092"], "options": {"x": {"env": "Y"}, "z": 1.5}}, ConfluentConfig),
    ],
)
def test_the_kind_chooses_the_source(given, kind):
    config = msgspec.convert(given, SourceConfig)
    assert type(config) is kind
    assert (config.impressions, config.clicks, config.start, config.on_gap) == (
        "impressions",
        "clicks",
        "earliest",
        "stop",
    )
    assert msgspec.convert(msgspec.to_builtins(config), SourceConfig) == config


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kind": "rabbit"}, r"Invalid value 'rabbit' - at `\$.kind`"),
        ({"kind": "files"}, r"missing required field `path`"),
        ({"kind": "files", "path": "x", "broker": "y"}, r"unknown field `broker`"),
        ({"kind": "files", "path": "x", "speed": 0}, r"Expected `float` > 0.0 - at `\$.speed`"),
        ({"kind": "files", "path": "x", "clicks": "impressions"}, r"must be two topics"),
        ({"kind": "files", "path": "x", "start": "middle"}, r"Invalid enum value 'middle' - at `\$.start`"),
        ({"kind": "kafka_python", "brokers": []}, r"Expected `array` of length >= 1 - at `\$.brokers`"),
        ({"kind": "confluent", "brokers": ["a"], "options": {"group.id": "g"}}, r"`group.id` is the source's own"),
        ({"kind": "kafka_python", "brokers": ["a"], "options": {"auto_offset_reset": "latest"}}, r"source's own"),
        ({"kind": "kafka_python", "brokers": ["a"], "options": {"security_protocol": "SASL-SSL"}}, r"must be one of"),
        ({"kind": "confluent", "brokers": ["a"], "options": {"p": {}}}, r"names either `env` or `file`"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_place(given, message):
    with pytest.raises(msgspec.ValidationError, match=message):
        msgspec.convert(given, SourceConfig)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kind": "file"}, "kind `file` needs `path`"),
        ({"kind": "kafka", "path": "x"}, "kind `kafka` has no `path`"),
        ({"path": "x"}, "kind `none` has no `path`"),
    ],
)
def test_dead_letters_have_the_place_that_their_kind_needs(given, message):
    with pytest.raises(msgspec.ValidationError, match=message):
        msgspec.convert(given, DeadLetterConfig)


def test_secrets_are_read_from_the_environment_and_from_files(monkeypatch, tmp_path):
    monkeypatch.setenv("TOKEN", "t")
    (tmp_path / "password").write_text("p\n")
    options = {"a": Secret(env="TOKEN"), "b": Secret(file=str(tmp_path / "password")), "c": 3}
    assert reveal(options) == {"a": "t", "b": "p", "c": 3}


def test_a_secret_that_is_not_there_is_named(monkeypatch, tmp_path):
    monkeypatch.delenv("TOKEN", raising=False)
    with pytest.raises(ConfigError, match=r"source\.options\.a: the environment variable TOKEN is not set"):
        reveal({"a": Secret(env="TOKEN")})
    with pytest.raises(ConfigError, match=r"source\.options\.b: cannot read the secret's file"):
        reveal({"b": Secret(file=str(tmp_path / "none"))})
