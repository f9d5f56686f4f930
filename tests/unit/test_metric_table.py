"""The table of metrics keeps Prometheus' conventions, and this project's bounds."""

from __future__ import annotations

import re

import pytest

from api.metric_table import METRICS, Kind
from scheduler.blame import Fault
from scheduler.measures import VALUES


def test_faults_are_those_that_are_found() -> None:
    """Each has its series."""
    assert VALUES["fault"] == {fault.value for fault in Fault}


@pytest.mark.parametrize("name", METRICS)
def test_names_are_as_prometheus_has_them(name: str) -> None:
    """A prefix, base units at the end, `_total` on counters alone, words that end a sentence, few labels."""
    said = METRICS[name]
    assert re.fullmatch(r"tidegate_[a-z]+(_[a-z]+)*", name)
    assert (said.kind is Kind.COUNTER) == name.endswith("_total")
    assert not re.search(r"milli|micro|minutes|hours|kilo|mega|gib|percent|_(count|sum|bucket)$", name)
    assert said.help.endswith(".") and len(said.help) > 10 and "\n" not in said.help
    assert not re.search("^(a|the) (counter|gauge|histogram)", said.help.lower())
    assert len({*said.labels}) == len(said.labels) <= 4
    assert {*said.labels} <= {
        *VALUES,
        "worker",
        "model",
        "route",
        "method",
        "status",
        "version",
        "host",
        "outcome",
    }
    assert not {"id", "job", "job_id", "key", "owner", "path", "instance"} & {*said.labels}
    if said.kind is Kind.HISTOGRAM:
        assert said.unit and list(said.bounds) == sorted(set(said.bounds))
    else:
        assert not said.bounds
