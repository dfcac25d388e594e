"""Files of `docker/`: each is valid by its own tool or schema, and they fit together."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import jsonschema
import pytest
import yaml
from exposed import asked_for, families

from online_fm.config import Config, load

ROOT = Path(__file__).parent.parent
DOCKER = ROOT / "docker"
PROMETHEUS = DOCKER / "prometheus"
# vendored from https://github.com/compose-spec/compose-spec (Apache-2.0), as it came with check-jsonschema 0.39.0
SCHEMA = Path(__file__).parent / "data" / "compose-spec" / "schema.json"

needs_promtool = pytest.mark.skipif(
    not shutil.which("promtool"), reason="promtool (Debian's package prometheus) is not installed"
)


@pytest.fixture(scope="module")
def compose():
    return yaml.safe_load((DOCKER / "compose.yaml").read_text())


@pytest.fixture(scope="module")
def alerts():
    groups = yaml.safe_load((PROMETHEUS / "rules.yml").read_text())["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", *arguments], cwd=PROMETHEUS, capture_output=True, text=True, check=False)


def test_the_compose_file_follows_the_compose_specification(compose):
    validator = jsonschema.validators.validator_for(schema := json.loads(SCHEMA.read_text()))(schema)
    assert [error.message for error in validator.iter_errors(compose)] == []


def test_every_port_is_bound_to_this_machine(compose):
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert len(ports) == 5
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_every_file_that_compose_mounts_or_builds_from_exists(compose):
    for name, service in compose["services"].items():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source in compose["volumes"] or (DOCKER / source).exists(), (name, volume)
        if "build" in service:
            context = DOCKER / service["build"]["context"]
            assert (context / service["build"]["dockerfile"]).is_file(), name


def test_services_wait_for_services_that_exist_and_that_tell_their_health(compose):
    services = compose["services"]
    for service in services.values():
        for other, how in service.get("depends_on", {}).items():
            if how["condition"] == "service_healthy":
                assert "healthcheck" in services[other]
            assert other in services


def test_prometheus_scrapes_the_ports_of_the_services(compose):
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    targets = {
        target for job in config["scrape_configs"] for static in job["static_configs"] for target in static["targets"]
    }
    assert targets == {"train:9100", "serve:8080"}
    for target in targets:
        service, port = target.split(":")
        assert compose["services"][service]["ports"] == [f"127.0.0.1:{port}:{port}"]


def configured(service: dict[str, object]) -> Config:
    path = ROOT / "config" / Path(service["command"][2]).name
    return load(path, environment={key: str(value) for key, value in service["environment"].items()})


def test_our_services_have_a_configuration_that_fits_the_others(compose):
    services = compose["services"]
    for name in ("simulate", "train", "serve"):
        config = configured(services[name])
        assert services[name]["command"][0] == name
        assert config.source.brokers == ["kafka:19092"]
        assert services["train"]["ports"] == [f"127.0.0.1:{config.telemetry.port}:{config.telemetry.port}"]
        assert services["serve"]["ports"] == [f"127.0.0.1:{config.serve.port}:{config.serve.port}"]
        (making,) = services["topics"]["command"]
        topics = {config.source.impressions, config.source.clicks, config.dead_letters.topic}
        assert set(re.search(r"for topic in (.+); do", making)[1].split()) == topics
        assert f"--partitions {config.simulate.partitions} " in making


def test_grafana_finds_the_dashboard_and_the_data_source_where_they_are_mounted(compose):
    provisioning = DOCKER / "grafana" / "provisioning"
    provider = yaml.safe_load((provisioning / "dashboards" / "online_fm.yaml").read_text())["providers"][0]
    assert f"../dashboards:{provider['options']['path']}:ro" in compose["services"]["grafana"]["volumes"]
    source = yaml.safe_load((provisioning / "datasources" / "prometheus.yaml").read_text())["datasources"][0]
    assert source["url"] == "http://prometheus:9090"
    assert "prometheus" in compose["services"]


def test_every_metric_that_an_alert_asks_for_exists(alerts):
    exist = set().union(*families().values())
    for name, rule in alerts.items():
        assert asked_for(rule["expr"]) <= exist, name


def test_every_alert_is_severe_in_a_known_way_and_says_what_is_wrong(alerts):
    assert {rule["labels"]["severity"] for rule in alerts.values()} == {"page", "ticket"}
    assert all(rule["annotations"]["summary"] for rule in alerts.values())


@needs_promtool
def test_prometheus_accepts_its_configuration():
    done = promtool("check", "config", "prometheus.yml")
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_alerts_fire_when_they_should_and_not_otherwise():
    done = promtool("test", "rules", "rules_test.yml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_image_is_made_of_what_is_let_through_and_no_more():
    let_through = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (DOCKER / "Dockerfile").read_text(), re.MULTILINE)
    assert {name for names in copied for name in names.split()} == let_through


def test_the_image_runs_as_a_user_and_looks_after_itself():
    dockerfile = (DOCKER / "Dockerfile").read_text()
    last_stage = dockerfile[dockerfile.rindex("\nFROM ") :]
    assert re.search(r"^USER \d{5}$", last_stage, re.MULTILINE)
    assert "HEALTHCHECK" in last_stage
    assert "[dev]" not in dockerfile
