"""The dashboard, the alerts and their page speak of metrics and labels that there are."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from api.metric_table import METRICS
from scheduler.measures import VALUES

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = (ROOT / "docs" / "monitoring.md").read_text()
FOLDER: Final = ROOT / "docs" / "monitoring"
DASHBOARD: Final = json.loads((FOLDER / "dashboard.json").read_text())
RULES: Final = [
    rule for group in yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"] for rule in group["rules"]
]
SERIES: Final = {series: said for said in METRICS.values() for series in said.series}
PROMTOOL: Final = shutil.which("promtool")

_SELECTOR: Final = re.compile(r"(tidegate_[a-z_]+)(?:\{([^}]*)\})?")
_MATCHER: Final = re.compile(r'(\w+)\s*(=~|!=|!~|=)\s*"([^"]*)"')

_ONE_OF: Final = re.compile(r"\b(?:max|min)(?: by \((?P<labels>[^)]*)\))? ?\(((rate|increase)\()?$")
"""What stands before a series of which every API has the same."""


def expressions() -> Iterator[tuple[str, str]]:
    """Every query: where it stands, and what it is."""
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            yield f"panel {panel['title']}: {target['refId']}", target["expr"]
    for rule in RULES:
        yield rule["alert"], rule["expr"]


QUERIES: Final = dict(expressions())


def labels_of(series: str) -> set[str]:
    """Those that a series' samples have."""
    return {*SERIES[series].labels, "instance", "job"} | ({"le"} if series.endswith("_bucket") else set())


@pytest.mark.parametrize("place", QUERIES)
def test_every_query_asks_for_series_and_labels_that_there_are(place: str) -> None:
    """Of a label whose values are known, it asks for one of them."""
    query = QUERIES[place]
    used = _SELECTOR.findall(query)
    assert used or query == 'up{job="tidegate"} == 0'
    for series, matchers in used:
        assert series in SERIES, series
        for label, operator, value in _MATCHER.findall(matchers):
            assert label in labels_of(series), (series, label)
            if label in VALUES and operator != "!=":
                wanted = set(value.split("|")) if operator == "=~" else {value}
                assert wanted <= VALUES[label]
    kept = set().union(*(labels_of(series) for series, _ in used)) if used else set()
    for labels in re.findall(r"\b(?:by|without) \(([^)]*)\)", query):
        assert {label.strip() for label in labels.split(",")} - {""} <= kept


@pytest.mark.parametrize("place", QUERIES)
def test_what_every_api_tells_alike_is_not_summed_over_apis(place: str) -> None:
    """A worker's and the queue's figures go through max or min, all their labels kept; an API's own need not."""
    query = QUERIES[place]
    for found in re.finditer(r"tidegate_(?!api_)[a-z_]+", query):
        before = _ONE_OF.search(query[: found.start()])
        assert before is not None, found[0]
        kept = set(re.findall(r"\w+", before["labels"] or ""))
        pinned = set(re.findall(r'(\w+)="', query[found.end() :].partition("}")[0]))
        own = {*SERIES[found[0]].labels} | ({"le"} if found[0].endswith("_bucket") else set())
        assert own <= kept | pinned, found[0]


def test_the_dashboard_shows_every_metric_but_names() -> None:
    """What nobody looks at need not be counted."""
    shown = {SERIES[series].name for query in QUERIES.values() for series, _ in _SELECTOR.findall(query)}
    assert METRICS.keys() - shown == {
        "tidegate_build_info",
        "tidegate_worker_info",
        "tidegate_worker_prefix_cache_bytes",
    }


def test_the_dashboard_is_one_that_grafana_imports() -> None:
    """Its data source is chosen by whoever imports it; panels have names and ids of their own, and lie beside each other."""
    assert DASHBOARD["schemaVersion"] >= 39 and DASHBOARD["id"] is None and DASHBOARD["uid"]
    variables = {each["name"]: each["type"] for each in DASHBOARD["templating"]["list"]}
    assert variables == {"datasource": "datasource", "worker": "query"}
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = set[tuple[int, int]]()
    for panel in panels:
        assert panel["title"]
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        mine = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not mine & cells, panel["title"]
        cells |= mine
        if panel["type"] != "row":
            assert panel["targets"] and panel["datasource"]["uid"] == "${datasource}"
            assert all(each["datasource"]["uid"] == "${datasource}" for each in panel["targets"])
    (tide,) = (panel for panel in panels if panel["title"].startswith("Memory of"))
    stacked = [each["legendFormat"] for each in tide["targets"]][:4]
    assert stacked == ["weights", "reserved", "cache", "headroom"]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_every_alert_says_what_is_wrong_and_what_to_do(rule: dict[str, Any]) -> None:
    """One line each; the page has its row with the same severity."""
    assert rule["labels"]["severity"] in {"page", "ticket"}
    assert {*rule["annotations"]} == {"summary", "runbook"}
    assert all(text.endswith(".") and "\n" not in text for text in rule["annotations"].values())
    assert f"| `{rule['alert']}` | {rule['labels']['severity']} | " in PAGE
    tried = (FOLDER / "alerts.test.yml").read_text()
    assert rule["alert"] in tried


def test_the_page_names_no_other_alert_or_metric() -> None:
    """What was renamed is renamed there too."""
    assert {*re.findall(r"`(Tidegate\w+)`", PAGE)} == {rule["alert"] for rule in RULES}
    assert {*re.findall(r"`(tidegate_\w+)`", PAGE)} <= SERIES.keys() | METRICS.keys()


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not on the path")
def test_prometheus_takes_all_of_it(tmp_path: Path) -> None:
    """Its own tool reads the configuration, tries the alerts, and parses the dashboard's queries."""
    rules = [
        {"record": "x:y", "expr": query.replace("$__rate_interval", "5m").replace("$worker", ".*")}
        for query in QUERIES.values()
    ]
    (tmp_path / "queries.yml").write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    for words in (
        ("check", "config", str(FOLDER / "prometheus.yml")),
        ("test", "rules", str(FOLDER / "alerts.test.yml")),
        ("check", "rules", "--lint=none", str(tmp_path / "queries.yml")),
    ):
        done = subprocess.run([str(PROMTOOL), *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
