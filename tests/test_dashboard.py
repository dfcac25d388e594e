"""The dashboard asks for what exists, and shows what there is."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from exposed import asked_for, families

DASHBOARD = Path(__file__).parent.parent / "dashboards" / "online_fm.json"
# family -> why it is not on the dashboard
NOT_SHOWN = {
    "process_max_fds": "a limit of the machine",
    "process_open_fds": "an alarm of the machine's own monitoring",
    "process_start_time_seconds": "seen as a break in every counter",
    "process_virtual_memory_bytes": "NumPy reserves more than it uses; resident memory is shown",
    "python_info": "the version is in online_fm_build_info",
}


@pytest.fixture(scope="module")
def dashboard():
    return json.loads(DASHBOARD.read_text())


@pytest.fixture(scope="module")
def panels(dashboard):
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


@pytest.fixture(scope="module")
def queries(panels):
    return {
        f"{panel['id']} {panel['title']} {target['refId']}": target["expr"]
        for panel in panels
        for target in panel["targets"]
    }


def test_every_metric_that_a_panel_asks_for_exists(queries):
    exist = set().union(*families().values())
    missing = {title: asked_for(query) - exist for title, query in queries.items()}
    assert {title: names for title, names in missing.items() if names} == {}
    assert all(asked_for(query) for query in queries.values())


def test_every_family_is_shown_or_has_a_reason_not_to_be(queries):
    shown = set().union(*map(asked_for, queries.values()))
    hidden = {family for family, samples in families().items() if not samples & shown}
    assert hidden == set(NOT_SHOWN)


def test_panels_have_numbers_of_their_own_and_do_not_overlap(dashboard):
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    cells = [
        (x, y)
        for panel in dashboard["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) == 23


def test_every_panel_says_what_it_shows_and_asks_the_data_source_that_was_chosen(dashboard, panels):
    assert [each["type"] for each in dashboard["templating"]["list"]] == ["datasource"]
    for panel in panels:
        assert panel["title"], panel["id"]
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        for target in panel["targets"]:
            assert target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, panel["title"]


def test_the_schema_is_one_that_grafana_10_and_11_read(dashboard):
    assert dashboard["schemaVersion"] == 39
    assert {panel["type"] for panel in dashboard["panels"]} == {"row", "stat", "timeseries"}


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool (Debian's package prometheus) is not installed")
def test_every_query_is_promql(queries, tmp_path):
    rules = [
        {"record": f"panel:{n}", "expr": query.replace("$__rate_interval", "1m")}
        for n, query in enumerate(queries.values())
    ]
    path = tmp_path / "rules.yml"
    path.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    done = subprocess.run(["promtool", "check", "rules", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
