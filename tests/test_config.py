"""The configuration as a contract: good files load, each bad file gives its message, and later settings win."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from online_fm import app
from online_fm.config import Config, learning, load, parse
from online_fm.errors import ConfigError
from online_fm.model.config import (
    AdaGrad,
    Committee,
    Ffm,
    Fm,
    Ftrl,
    Fwfm,
    Kalman,
    KalmanFactors,
    Lr,
    Member,
    Mf,
    PairScales,
    Scales,
)
from online_fm.source.config import ConfluentConfig

GOOD = sorted((Path(__file__).parent.parent / "config").glob("*.yaml"))
DATA = Path(__file__).parent / "data" / "config"
NOT_A_CATEGORY = "to be another field that is a category: bucket a number first, and name all parts of a larger cross"
SECRET = "source.options.sasl_plain_password: a secret names either `env` or `file`"

# NAME.bad.yaml -> the message that it must give; FILE stands for the file's path
BAD = {
    "control_character": "FILE: not YAML: unacceptable character #x0001: special characters are not allowed "
    'in "<unicode string>", position 23',
    "cross_of_a_number": f"features: cross 'user_price' needs 'price' {NOT_A_CATEGORY}",
    "cross_of_nothing": f"features: cross 'user_item' needs 'item' {NOT_A_CATEGORY}",
    "dead_letters_to_no_cluster": "dead_letters.kind: 'kafka' needs a source that is a Kafka cluster",
    "dead_letters_with_both": "dead_letters: kind `file` has no `topic`",
    "dead_letters_without_path": "dead_letters: kind `file` needs `path`",
    "delay_beyond_its_maximum": "simulate: click_delay_max_s must be at least click_delay_s",
    "duplicate_key": "FILE: not YAML: line 3, column 3: 'window_s' is there twice",
    "duplicate_section": "FILE: not YAML: line 3, column 1: 'model' is there twice",
    "empty_name": "source.path: Expected `str` of length >= 1",
    "falling_bounds": "features.fields[0]: bounds of 'age' must rise",
    "field_twice": "features: field 'user' is named twice",
    "infinite": "events.max_ahead_s: a finite number is expected",
    "key_is_a_list": "FILE: not YAML: line 1, column 9: found unhashable key",
    "key_is_a_number": "join: keys must be texts",
    "misspelt_protocol": "source: option `security_protocol` must be one of PLAINTEXT, SSL, SASL_PLAINTEXT, SASL_SSL",
    "negative": "join.grace_s: Expected `float` >= 0.0",
    "no_brokers": "source.brokers: Expected `array` of length >= 1",
    "no_choice": "telemetry.log_level: Invalid enum value 'loud'; it may be debug, error, info, warning",
    "no_fields": "features.fields: Expected `array` of length >= 1",
    "no_integer": "model.k: Expected `int`, got `float`",
    "no_integer_of_a_member": "model.members.ffm_fast.model.k: Expected `int`, got `float`",
    "no_name_of_a_member": "model.members: a key: Expected `str` matching regex '^[a-z0-9_-]{1,32}$'",
    "no_kind_of_a_member": "model.members.ffm_fast.model.kind: is required",
    "no_kind": "source.kind: is required",
    "no_name_in_url": "serve.name: Expected `str` matching regex '^[A-Za-z0-9_.-]+$'",
    "not_a_mapping": "FILE: sections with their settings are expected, not a list",
    "not_a_number": "join.window_s: Expected `float` >= 0.0",
    "not_utf8": "cannot read the configuration FILE: 'utf-8' codec can't decode byte 0xe9 in position 19: "
    "invalid continuation byte",
    "not_yaml": "FILE: not YAML: line 3, column 2: expected <block end>, but found '<block mapping start>'",
    "object_of_python": "FILE: not YAML: line 1, column 7: could not determine a constructor for the tag "
    "'tag:yaml.org,2002:python/object/apply:os.getcwd'",
    "one_folder": "snapshot.path: checkpoints and snapshots need folders of their own",
    "one_topic": "source: `impressions` and `clicks` must be two topics",
    "option_of_ours": "source: option `group_id` is the source's own and cannot be set",
    "out_of_range": "telemetry.port: Expected `int` <= 65535",
    "required": "source.path: is required",
    "ratings_without_a_number": "join.unclicked: 'skip' needs `events.click.value`, or all labels would be 1",
    "secret_of_both": SECRET,
    "secret_of_neither": SECRET,
    "time_runs_ahead": "simulate: without events, duration_s or start_ms, event time would run ahead of the wall "
    "clock: set rate_per_s to at most event_rate_per_s",
    "two_ends": "simulate: events and duration_s exclude each other: set one of them, or none to go on for ever",
    "unknown_key": "join.windows: there is no such setting; did you mean window_s?",
    "unknown_key_deep": "telemetry.health.stuck_s: there is no such setting; did you mean stuck_after_s?",
    "unknown_key_of_kind": "source.brokers: there is no such setting in the kind files",
    "unknown_key_of_kind_of_optimizer": "model.w.alpha: there is no such setting in the kind adagrad",
    "unknown_key_of_a_member": "model.members.slow.model.ks: there is no such setting; did you mean k?",
    "unknown_kind": "source.kind: Invalid value 'rabbit'; it may be kafka_python, confluent, files",
    "unknown_kind_of_field": "features.fields[1].kind: Invalid value 'image'; it may be categorical, multi, number, "
    "log_bucket, bounds, cross",
    "unknown_kind_of_optimizer": "model.v.kind: Invalid value 'rmsprop'; it may be ftrl, adagrad, kalman, adam, sgd",
    "unknown_kind_of_a_member": "model.members.slow.model.kind: Invalid value 'committee'; it may be lr, poly2, "
    "mf, fm, fwfm, ffm",
    "unknown_section": "joins: there is no such setting; did you mean join?",
    "wrong_type": "join.window_s: Expected `float`, got `str`",
    "wrong_type_in_list": "features.fields[1]: Expected `str | object`, got `int`",
    "wrong_type_of_section": "join: Expected `object`, got `int`",
    "yes_is_no_number": "serve.port: Expected `int`, got `bool`",
    "watched_only": "model: members: at least one must be mixed",
    "zero": "checkpoint.interval_s: Expected `float` > 0.0",
}


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.stem)
def test_every_configuration_that_is_shipped_is_good(path) -> None:
    kind = "committee" if path.stem.endswith("-committee") else "fm"
    assert app.check(load(path)).startswith(f"{kind}, ")


def test_every_bad_file_has_its_message() -> None:
    assert {path.name.removesuffix(".bad.yaml") for path in DATA.iterdir()} == set(BAD)


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused_in_one_line_that_says_what_and_where(name) -> None:
    path = DATA / f"{name}.bad.yaml"
    with pytest.raises(ConfigError) as refused:
        load(path)
    assert str(refused.value) == BAD[name].replace("FILE", str(path))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("text", ["", "# nothing but a comment\n", "---\n", "{}"])
def test_an_empty_file_has_all_defaults(text) -> None:
    assert parse(text) == Config()


def test_what_training_needs_is_asked_for_by_its_path() -> None:
    with pytest.raises(ConfigError, match=r"^features: name the fields"):
        learning(parse(""))
    with pytest.raises(ConfigError, match=r"^source: say where impressions and clicks come from"):
        app.check(parse("features: { fields: [user] }"))


def test_later_wins_file_then_environment_then_set() -> None:
    text = "join: { window_s: 1, grace_s: 1, max_pending: 1 }"
    environment = {"ONLINE_FM__JOIN__GRACE_S": "2", "ONLINE_FM__JOIN__MAX_PENDING": "2", "JOIN__WINDOW_S": "2"}
    join = parse(text, ["join.max_pending=3"], environment).join
    assert (join.window_s, join.grace_s, join.max_pending) == (1.0, 2.0, 3)


def test_of_two_settings_the_last_wins() -> None:
    assert parse("", ["model.k=4", "model.k=6"]).model.k == 6


def test_settings_are_read_as_yaml() -> None:
    settings = ["features.fields=[user, {kind: multi, name: tags}]", "source={kind: files, path: a=b}", "simulate.k=2"]
    config = parse("source: { kind: kafka_python, brokers: [a] }", settings)
    assert config.features is not None
    assert len(config.features.fields) == 2
    assert config.source is not None
    assert config.source.path == "a=b"
    assert config.simulate.k == 2


def test_a_setting_makes_the_sections_above_it() -> None:
    assert parse("", ["telemetry.health.stuck_after_s=5"]).telemetry.health.stuck_after_s == 5.0
    assert parse("model: { w: null }", ["model.w.kind=ftrl"]).model.w == Ftrl()


def test_a_setting_may_make_a_section_another_kind() -> None:
    text = "model: { w: { kind: ftrl, alpha: 0.2, l2: 0.5 } }\nsource: { kind: files, path: events, clicks: taps }"
    settings = ["model.w.eta=0.3", "model.w.kind=adagrad", "model.v.kind=ftrl", "model.kind=ffm", "model.k=6"]
    config = parse(text, [*settings, "source.kind=confluent", "source.brokers=['a:9092']"])
    assert config.model == Ffm(k=6, w=AdaGrad(eta=0.3, l2=0.5), v=Ftrl())
    assert config.source == ConfluentConfig(brokers=["a:9092"], clicks="taps")
    with pytest.raises(ConfigError, match=r"^model\.w\.alfa: there is no such setting"):
        parse("model: { w: { kind: ftrl, alfa: 0.2 } }", ["model.w.kind=adagrad"])


# a section has the defaults of its place


@pytest.mark.parametrize(
    ("text", "model"),
    [
        ("{}", Fm()),
        ("{k: 16}", Fm(k=16)),
        ("{v: {l2: 0.5}}", Fm(v=AdaGrad(eta=0.05, a0=0.4, l2=0.5))),
        ("{v: {kind: adagrad}}", Fm(v=AdaGrad(eta=0.05, a0=0.4))),
        ("{v: {kind: ftrl}}", Fm(v=Ftrl())),
        ("{kind: ffm, v: {eta: 0.2}}", Ffm(v=AdaGrad(eta=0.2, a0=0.1))),
        ("{kind: ffm, pairs: {eta: 0.1}}", Ffm(pairs=PairScales(eta=0.1))),
        ("{kind: fwfm, pairs: {eta: 0.1}}", Fwfm(pairs=PairScales(eta=0.1))),
        ("{kind: lr, scales: {}}", Lr()),
        ("{kind: lr, scales: null}", Lr(scales=None)),
        (
            "{kind: committee, members: {a: {model: {kind: ffm, v: {eta: 2}}}, b: {model: {kind: lr}, mixed: false}}}",
            Committee(
                members={
                    "a": Member(model=Ffm(v=AdaGrad(eta=2.0, a0=0.1))),
                    "b": Member(model=Lr(), mixed=False),
                }
            ),
        ),
    ],
)
def test_what_a_section_leaves_out_is_as_it_is_there_by_default(text, model) -> None:
    assert parse(f"model: {text}").model == model


@pytest.mark.parametrize(
    ("settings", "model"),
    [
        (["model.k=4"], Fm(k=4)),
        (["model.v.eta=0.2"], Fm(v=AdaGrad(eta=0.2, a0=0.4))),
        (["model.kind=ffm", "model.v.eta=0.2"], Ffm(v=AdaGrad(eta=0.2, a0=0.1))),
        (["model.v.eta=0.2", "model.kind=ffm"], Ffm(v=AdaGrad(eta=0.2, a0=0.1))),
        (["model.v.kind=kalman", "model.w.kind=kalman"], Fm(w=Kalman(), v=KalmanFactors())),
        (["model.scales=null"], Fm(scales=None)),
        (["model.scales.eta=0.05"], Fm(scales=Scales(eta=0.05))),
        (["model.k=4", "model.kind=lr"], Lr()),
        (["model.kind=mf", "model.user=u", "model.item=i"], Mf(user="u", item="i")),
    ],
)
def test_a_setting_on_top_of_a_kind_leaves_the_rest_as_it_is_there_by_default(settings, model) -> None:
    assert parse("", settings).model == model
    environment = {f"ONLINE_FM__{path.upper().replace('.', '__')}": value
                   for path, value in (setting.split("=") for setting in settings)}  # fmt: skip
    assert parse("", (), environment).model == model


def test_a_member_of_a_committee_is_set_by_its_name() -> None:
    text = "model: {kind: committee, members: {fm_fast: {model: {kind: fm}}, new-one: {model: {kind: lr}}}}"
    settings = ["model.members.fm_fast.model.kind=ffm", "model.members.new-one.mixed=false", "model.rate=0.1"]
    found = parse(text, settings, {"ONLINE_FM__MODEL__MEMBERS__FM_FAST__MODEL__K": "2"}).model
    members = {"fm_fast": Member(model=Ffm(k=2)), "new-one": Member(model=Lr(), mixed=False)}
    assert found == Committee(members=members, rate=0.1)
    assert parse(text, ["model.kind=lr"]).model == Lr()
    with pytest.raises(ConfigError, match=r"^model\.members: is required"):
        parse("model: { k: 4 }", ["model.kind=committee"])


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("{kind: mf, user: user, item: ad}", "model.item: there is no field 'ad'"),
        ("{kind: committee, members: {a: {model: {kind: mf, user: user, item: ad}}}}",
         "model.members.a: item: there is no field 'ad'"),
    ],
)  # fmt: skip
def test_a_field_that_a_model_names_must_be_there(model, message) -> None:
    with pytest.raises(ConfigError) as refused:
        learning(parse(f"features: {{ fields: [user, item] }}\nmodel: {model}"))
    assert str(refused.value) == message


def test_null_takes_a_setting_back_to_none() -> None:
    assert parse("simulate: { events: 5, start_ms: 1700000000000 }", ["simulate.events=null"]).simulate.events is None


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("join.window_s", "--set join.window_s: a dotted path, '=' and a value are expected"),
        ("=5", "--set =5: a dotted path, '=' and a value are expected"),
        ("join.windows=5", "join.windows: there is no such setting; did you mean window_s?"),
        ("joins.window_s=5", "joins: there is no such setting; did you mean join?"),
        ("join..window_s=5", "join.: there is no such setting"),
        ("join.window_s.x=5", "join.window_s: Expected `float`, got `object`"),
        ("join.window_s=", "join.window_s: Expected `float`, got `null`"),
        ("join.window_s=[", "--set join.window_s: not YAML: line 1, column 2: expected the node content, but found"),
    ],
)
def test_a_setting_that_cannot_be_used_is_refused_by_its_path(setting, message) -> None:
    with pytest.raises(ConfigError) as refused:
        parse("", [setting])
    assert str(refused.value).startswith(message)


def test_an_environment_variable_that_cannot_be_used_is_refused_by_its_path() -> None:
    with pytest.raises(ConfigError, match=r"^join\.windows: there is no such setting"):
        parse("", (), {"ONLINE_FM__JOIN__WINDOWS": "5"})
    with pytest.raises(ConfigError, match=r"^ONLINE_FM__JOIN__WINDOW_S: not YAML"):
        parse("", (), {"ONLINE_FM__JOIN__WINDOW_S": "{"})


@pytest.mark.parametrize(
    ("text", "value"), [("1e-3", 1e-3), ("5E+1", 50.0), ("2.e2", 200.0), (".5e1", 5.0), ("7", 7.0)]
)
def test_numbers_are_read_as_they_are_commonly_written(text, value) -> None:
    assert parse(f"join: {{ window_s: {text} }}").join.window_s == value


def test_a_word_that_begins_as_a_number_stays_a_word() -> None:
    assert parse("source: { kind: files, path: 2e4e }").source == parse('source: { kind: files, path: "2e4e" }').source


def test_yaml_may_merge_what_it_named_before_and_override_it() -> None:
    config = parse("model:\n  w: &steps { kind: ftrl, alpha: 0.2, l1: 1 }\n  v: { <<: *steps, alpha: 0.1 }")
    assert config.model.v == Ftrl(alpha=0.1, l1=1.0)


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^cannot read the configuration no\.yaml: .*No such file"):
        load("no.yaml")


@pytest.mark.parametrize("command", ["train", "serve", "simulate", "replay"])
def test_a_command_with_a_bad_configuration_leaves_with_2_and_one_line(command) -> None:
    path = DATA / "unknown_key.bad.yaml"
    done = subprocess.run(
        [sys.executable, "-m", "online_fm", command, "-c", path],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: {BAD['unknown_key']}\n"


def test_an_ffm_that_no_memory_holds_is_told_before_anything_connects() -> None:
    fields = ", ".join(f"f{i}" for i in range(9000))
    config = parse(f"features: {{ fields: [{fields}] }}\nmodel: {{ kind: ffm }}")
    with pytest.raises(ConfigError, match="model: an FFM of 9000 fields and k = 4 needs"):
        learning(config)


@pytest.mark.parametrize(("clip", "good"), [("", False), (", clip: [-1, 1]", False), (", clip: [0, 1]", True)])
def test_a_number_that_log_loss_learns_is_kept_between_0_and_1(clip, good) -> None:
    config = parse(f"features: {{fields: [a]}}\nevents: {{click: {{value: x{clip}}}}}")
    if good:
        assert learning(config).loss == "log"
    else:
        with pytest.raises(ConfigError, match=r"^events\.click\.clip: within \[0, 1\] is needed"):
            learning(config)
