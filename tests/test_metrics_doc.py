"""docs/metrics.md and its dashboard agree with the metrics that there are."""

import re
from pathlib import Path
from typing import Any

import msgspec

from localinfra.metrics import OTEL_LABELS, Histogram, Metrics

DOCS = Path(__file__).resolve().parent.parent / "docs"
METRICS = {metric.name: metric for metric in Metrics()}
NAME = re.compile(r"\b(?:localinfra|gen_ai_server)_\w+")
SERIES = re.compile(r"\b((?:localinfra|gen_ai_server|process)_\w+)(?:\{([^}]*)\})?")
LABELS = re.compile(r"by \(([^)]*)\)")


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = msgspec.json.decode((DOCS / "grafana.json").read_bytes())[
        "panels"
    ]
    return found


def labels_of(series: str) -> set[str]:
    """Those of a time series; fails if there is none of this name."""
    if series.startswith("process_"):
        return set()
    name = re.sub("_(bucket|count|sum)$", "", series)
    if series != name:
        assert isinstance(METRICS[name], Histogram), series
    metric = METRICS[name]
    return {*metric.labels, *(["le"] if series.endswith("_bucket") else [])}


def test_the_document_lists_each_metric_with_its_labels() -> None:
    text = (DOCS / "metrics.md").read_text(encoding="utf-8")
    short = dict(zip(OTEL_LABELS, ("operation", "provider", "model*"), strict=True))
    for metric in METRICS.values():
        labels = ", ".join(short.get(label, label) for label in metric.labels)
        assert f"| `{metric.name}` | {labels} |" in text


def test_the_document_names_no_other_metrics() -> None:
    text = (DOCS / "metrics.md").read_text(encoding="utf-8")
    assert set(NAME.findall(text)) == METRICS.keys()


def test_the_dashboard_shows_metrics_and_labels_that_exist() -> None:
    for panel in panels():
        for target in panel["targets"]:
            query = target["expr"]
            found = SERIES.findall(query)
            assert found, query
            there: set[str] = set()
            for series, selectors in found:
                labels = labels_of(series)
                assert set(re.findall(r"(\w+)[!=]~?\"", selectors)) <= labels, query
                there |= labels
            grouped = {label for by in LABELS.findall(query) for label in by.split(", ")}
            shown = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            assert shown <= grouped <= there, query


def test_the_dashboards_panels_lie_beside_each_other() -> None:
    places = [panel["gridPos"] for panel in panels()]
    cells = [
        (x, y)
        for place in places
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells)) and max(x for x, _ in cells) < 24
    assert len({panel["id"] for panel in panels()}) == len(panels())
