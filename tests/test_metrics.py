"""Prometheus' text format, as its page describes it."""

import re

import pytest

from localinfra.metrics import Counter, Gauge, Histogram, Metric, Metrics

SAMPLE = re.compile(
    r'(?P<name>[a-z_]+)(\{[a-z]+="([^"\\\n]|\\["\\n])*"(,[a-z]+="([^"\\\n]|\\["\\n])*")*\})? '
    r"[0-9.e+-]+"
)


def samples(metric: Metric) -> list[str]:
    return [line for line in metric.lines() if not line.startswith("#")]


def test_a_counter_sums_up_for_each_combination_of_labels() -> None:
    counter = Counter("tokens_total", "Tokens.", "model", "key")
    for number, key in ((2, "a"), (3, "b"), (0.5, "a"), (0, "c")):
        counter.add(number, "m", key)
    assert list(counter.lines()) == [
        "# HELP tokens_total Tokens.",
        "# TYPE tokens_total counter",
        'tokens_total{model="m",key="a"} 2.5',
        'tokens_total{model="m",key="b"} 3',
    ]


def test_a_gauge_shows_what_it_was_given_last() -> None:
    gauge = Gauge("waiting", "Waiting.", "model")
    gauge.show({("gone",): 1, ("m",): 2})
    gauge.show({("m",): 0})
    assert samples(gauge) == ['waiting{model="m"} 0']


def test_a_histogram_counts_what_is_at_most_each_bound() -> None:
    histogram = Histogram("took_seconds", "Time.", (0.1, 1), "model")
    for seconds in (0.05, 0.1, 0.5, 2):
        histogram.observe(seconds, "m")
    assert samples(histogram) == [
        'took_seconds_bucket{model="m",le="0.1"} 2',
        'took_seconds_bucket{model="m",le="1"} 3',
        'took_seconds_bucket{model="m",le="+Inf"} 4',
        'took_seconds_sum{model="m"} 2.65',
        'took_seconds_count{model="m"} 4',
    ]


@pytest.mark.parametrize(
    ("value", "written"), [('a"b', r"a\"b"), ("a\\b", r"a\\b"), ("a\nb", r"a\nb"), ("ü", "ü")]
)
def test_label_values_are_escaped(value: str, written: str) -> None:
    counter = Counter("x_total", "X.", "model")
    counter.add(1, value)
    assert samples(counter) == [f'x_total{{model="{written}"}} 1']


def test_a_metric_without_labels_has_a_bare_name() -> None:
    gauge = Gauge("up", "Up.")
    gauge.show({(): 1})
    assert samples(gauge) == ["up 1"]


def test_the_list_has_units_in_its_names_and_each_metric_once() -> None:
    metrics = Metrics()
    metrics.requests.add(1, "/v1/models", "", "2xx")
    metrics.request_seconds.observe(0.2, "/v1/models", "")
    metrics.cost.add(1e-7, "none", "org/name:2024-07")
    text = metrics.text()
    assert text.endswith("\n") and "\n\n" not in text
    lines = text.splitlines()
    assert all(SAMPLE.fullmatch(line) for line in lines if not line.startswith("#"))
    types = [line.split()[2:] for line in lines if line.startswith("# TYPE")]
    assert len({name for name, _ in types}) == len(types) == len(vars(metrics))
    for name, kind in types:
        assert name.startswith("localinfra_")
        assert name.endswith("_total") == (kind == "counter")
        assert name.endswith("_seconds") == (kind == "histogram")
