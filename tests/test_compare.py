"""Several configurations over one stream: each gives what its replay alone gives, and a table tells them apart."""

from __future__ import annotations

import math

import pytest
import yaml
from daemon import Folder
from traffic import CONFIG, config, pipeline, records, source

from online_fm.config import learning, parse
from online_fm.errors import ConfigError
from online_fm.train.compare import alike, best_first, compare
from online_fm.train.replay import replay
from online_fm.variants import MOST, differences, shown, variants

EVENTS = 1500
MODELS = [
    ("model.kind=lr",),
    ("model.k=2", "quality.window=40"),
    ("model.kind=ffm", "model.w={kind: adagrad}"),
    ("model.seed=7",),
    ("model.max_features=9",),
]


def untimed(result):
    """All that a replay says but the time it took; NaN, which equals nothing, as a word."""
    result = {name: value for name, value in result.items() if name not in ("seconds", "events_per_s")}
    return {name: "nan" if value != value else value for name, value in result.items()}


def side_by_side(configs, **more):
    return compare(source(), [learning(config(*each)) for each in configs], topics=("impressions", "clicks"), **more)


@pytest.mark.parametrize(("batch_records", "drain"), [(5000, False), (7, True)])
def test_each_of_several_gives_bit_for_bit_what_its_replay_alone_gives(batch_records, drain) -> None:
    together = side_by_side(MODELS, batch_records=batch_records, drain=drain)
    alone = [replay(source(), pipeline(*each), batch_records=5000, drain=drain) for each in MODELS]
    assert [untimed(each) for each in together] == [untimed(each) for each in alone]
    assert len({each["state_hash"] for each in together}) == len(MODELS)
    assert len({each["log_loss_at_impression"] for each in together}) == len(MODELS)


def test_who_else_is_there_changes_nothing() -> None:
    first, again = side_by_side(MODELS[:3], batch_records=100), side_by_side(MODELS[2::-1], batch_records=100)
    assert [untimed(each) for each in first] == [untimed(each) for each in again[::-1]]


def test_the_time_of_one_is_what_all_share_and_its_own() -> None:
    small, large = side_by_side([("model.kind=lr",), ("model.kind=ffm", "model.k=32")], batch_records=5000)
    assert small["seconds"] > 0.0
    assert small["events_per_s"] == small["read"] / small["seconds"]
    assert large["read"] == small["read"]


@pytest.mark.parametrize(
    "setting", ["events.impression.score=null", "features.fields=[user]", "join.window_s=30", "join.max_pending=3"]
)
def test_configurations_that_differ_before_the_model_cannot_share_a_pass(setting) -> None:
    assert not alike(learning(config()), learning(config(setting)))
    with pytest.raises(ValueError, match="differ before the model"):
        side_by_side([(), (setting,)], batch_records=100)


def test_the_best_comes_first_and_what_was_not_judged_last() -> None:
    results = [{"log_loss": loss} for loss in (0.5, math.nan, 0.4)] + [{"rmse": 0.1}]
    assert best_first(results) == [results[i] for i in (2, 0, 1, 3)]


# what is compared


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(CONFIG)
    return str(path)


def test_a_grid_makes_every_combination_in_order(file) -> None:
    found = variants([file], ["model.seed=3"], ["model.kind=fm,ffm", "model.k=2,4,8"])
    models = [variant.config.model for variant in found]
    assert [(model.kind, model.k) for model in models] == [
        ("fm", 2), ("fm", 4), ("fm", 8), ("ffm", 2), ("ffm", 4), ("ffm", 8),
    ]  # fmt: skip
    assert {model.seed for model in models} == {3}


def test_values_of_a_grid_are_yaml_whose_inner_commas_part_nothing(file) -> None:
    found = variants([file], [], ["model.w={kind: ftrl, alpha: 1e-2}, {kind: adagrad}", 'source.path="a,b",c'])
    assert [(variant.config.model.w.__class__.__name__, variant.config.source.path) for variant in found] == [
        ("Ftrl", "a,b"), ("Ftrl", "c"), ("AdaGrad", "a,b"), ("AdaGrad", "c"),
    ]  # fmt: skip
    assert found[0].config.model.w.alpha == 0.01


def test_a_grid_over_several_files_is_tried_on_each(file) -> None:
    assert [variant.file for variant in variants([file, file], [], ["model.k=2,4"])] == [file] * 4


@pytest.mark.parametrize(
    ("grid", "told"),
    [
        (["model.k"], "--grid model.k: a dotted path, '=' and values with commas between are expected"),
        (["=1,2"], "--grid =1,2: a dotted path"),
        (["model.k="], "--grid model.k: has no values"),
        (["model.k=1", "model.k=2"], "--grid model.k: is there twice"),
        (["model.k=[1"], "--grid model.k: not YAML"),
        (["model.k=1], [2"], "--grid model.k: not YAML"),
        (["model.k=2,0"], "a.yaml model.k=0: model.k: Expected `int` >= 1"),
        (["model.kind=fm,gm", "model.k=2"], "a.yaml model.kind=gm model.k=2: model.kind: Invalid"),
        (["model.rank=1,2"], "a.yaml model.rank=1: model.rank: there is no such setting"),
        (["features=null"], "a.yaml features=null: features: name the fields"),
        (["model.k=1,2,3,4,5", "model.seed=1,2,3,4,5,6,7", "join.window_s=1,2"],
         f"5 values x 7 values x 2 values make 70 configurations to compare; at most {MOST} are taken at once"),
    ],
)  # fmt: skip
def test_a_grid_that_cannot_be_used_says_why(file, grid, told) -> None:
    with pytest.raises(ConfigError) as raised:
        variants([file], [], grid)
    assert told in str(raised.value)


def test_at_most_so_many_are_taken(file) -> None:
    numbers = ",".join(map(str, range(MOST // 2)))
    assert len(variants([file, file], [], [f"model.seed={numbers}"])) == MOST
    with pytest.raises(ConfigError, match=f"3 files x {MOST // 2} values make {MOST * 3 // 2} configurations"):
        variants([file] * 3, [], [f"model.seed={numbers}"])


def test_the_differences_are_the_settings_that_are_not_the_same_in_all() -> None:
    configs = [config(), config("model.k=8"), config("join.window_s=3", "telemetry.port=1", "quality.window=100")]
    assert differences(configs) == [
        {"join.window_s": 20.0, "model.k": 4},
        {"join.window_s": 20.0, "model.k": 8},
        {"join.window_s": 3.0, "model.k": 4},
    ]
    assert differences([config(), config()]) == [{}, {}]


def test_the_defaults_of_another_kind_are_no_difference() -> None:
    configs = [config("model.w={kind: ftrl, alpha: 0.2}"), config("model.w={kind: adagrad}")]
    assert differences(configs) == [{"model.w.kind": "ftrl", "model.w.alpha": 0.2}, {"model.w.kind": "adagrad"}]


def test_a_default_is_said_where_another_has_something_else() -> None:
    configs = [config("model.kind=lr"), config("model.w.eta=0.2")]
    assert differences(configs) == [
        {"model.kind": "lr", "model.w.eta": 0.1},
        {"model.kind": "fm", "model.k": 4, "model.w.eta": 0.2},
    ]


def test_of_lists_that_differ_what_all_have_is_not_shown() -> None:
    configs = [parse("features: {fields: [a, b]}"), parse("features: {fields: [a, b, {kind: number, name: n}]}")]
    assert shown(differences(configs)) == [
        "features.fields=[…]",
        'features.fields=[…, {"kind":"number","scale":1.0,"name":"n","input":null}]',
    ]
    swapped = [parse("features: {fields: [a, b]}"), parse("features: {fields: [b, a]}")]
    assert shown(differences(swapped)) == ['features.fields=["a","b"]', 'features.fields=["b","a"]']


# the command


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = Folder(tmp_path_factory.mktemp("compare"))
    made.write(records(events=EVENTS))
    return made


@pytest.fixture(scope="module")
def other(folder):
    """The same, but for the window and the model."""
    tree = yaml.safe_load(folder.config.read_text())
    path = folder.path / "other.yaml"
    path.write_text(yaml.safe_dump(tree | {"join": {"window_s": 10}, "model": {"kind": "lr"}}))
    return path


def test_files_are_compared_best_first_whatever_they_differ_in(run, folder, other) -> None:
    said = run("replay", "--compare", folder.config, other, "--json").last["configurations"]
    assert {each["configuration"] for each in said} == {str(folder.config), str(other)}
    assert said[0]["log_loss"] < said[1]["log_loss"]
    for each in said:
        alone = run("replay", "-c", each["configuration"], "--json").last
        assert untimed(each) == untimed(alone) | {name: each[name] for name in ("configuration", "differs")}
    assert {name: each["differs"]["join.window_s"] for each in said for name in [each["configuration"]]} == {
        str(folder.config): 20.0,
        str(other): 10.0,
    }


def test_a_grid_is_compared_in_one_table_that_cuts_nothing(run, folder) -> None:
    words = ("replay", "-c", folder.config, "--grid", "model.kind=lr,fm", "--grid", "model.w.eta=0.05,0.2")
    said = run(*words, "--json").last["configurations"]
    assert [each["log_loss"] for each in said] == sorted(each["log_loss"] for each in said)
    own = {"lr": ["model.kind", "model.w.eta"], "fm": ["model.k", "model.kind", "model.w.eta"]}
    assert [sorted(each["differs"]) for each in said] == [own[each["differs"]["model.kind"]] for each in said]
    done = run(*words)
    assert (done.code, done.err) == (0, "")
    places = [done.out.index(f" {each['log_loss']:.5f} ") for each in said]
    assert places == sorted(places)
    for each in said:
        assert f" {each['features']:,} " in done.out
        assert f" model.kind={each['differs']['model.kind']} " in done.out
    assert str(folder.config) not in done.out


def test_the_environment_and_set_hold_for_all(run, folder, other, monkeypatch) -> None:
    monkeypatch.setenv("ONLINE_FM__JOIN__WINDOW_S", "5")
    said = run("replay", "-c", folder.config, "--compare", other, "--set", "model.kind=fm", "--set", "model.k=2",
               "--drain", "--json").last["configurations"]  # fmt: skip
    assert [each["differs"].keys() & {"join.window_s", "model.kind", "model.k"} for each in said] == [set(), set()]
    assert said[0]["pending"] == said[1]["pending"] == 0


def test_a_terminal_shows_how_far_a_comparison_is(run, folder, monkeypatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    done = run("replay", "-c", folder.config, "--grid", "join.window_s=5,10", "--json")
    assert "comparing" in done.err
    assert len(done.last["configurations"]) == 2


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "Missing option '--config'"),
        (("--compare",), "Missing option '--config'"),
        (("--compare", "{config}"), "--compare needs two configurations or more, or one with --grid"),
        (("{config}",), "FILES are for --compare"),
        (("-c", "{config}", "--grid", "model.k=0"), "model.k=0: model.k: Expected"),
        (("--compare", "{config}", "nowhere.yaml"), "nowhere.yaml: cannot read the configuration"),
        (("-c", "{config}", "--grid", "source.follow=false,true"), "source.follow: replay reads what there is"),
    ],
)
def test_a_comparison_that_cannot_be_made_leaves_with_2_and_says_why(run, folder, words, told) -> None:
    done = run("replay", *[word.format(config=folder.config) for word in words])
    assert (done.code, done.out) == (2, "")
    assert told in done.err
