"""The metrics as a scrape gets them."""

import pytest
from metering import written
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from localinfra.metrics import Metrics


def lines(metrics: Metrics, name: str) -> list[str]:
    """The samples of one metric."""
    return [line for line in written(metrics).splitlines() if line.startswith(name)]


def test_a_counter_sums_up_for_each_combination_of_labels() -> None:
    metrics = Metrics()
    for number, key in ((2, "a"), (3, "b"), (0.5, "a"), (0, "c")):
        metrics.cost.add(number, key, "m")
    assert lines(metrics, "localinfra_cost_usd_total") == [
        'localinfra_cost_usd_total{key="a",model="m"} 2.5',
        'localinfra_cost_usd_total{key="b",model="m"} 3.0',
    ]


def test_a_gauge_shows_what_it_was_given_last() -> None:
    metrics = Metrics()
    metrics.kv_cells.show({("gone",): 1, ("m",): 2})
    metrics.kv_cells.show({("m",): 0})
    assert lines(metrics, "localinfra_kv_cells{") == ['localinfra_kv_cells{model="m"} 0.0']


def test_a_histogram_counts_what_is_at_most_each_bound() -> None:
    metrics = Metrics()
    for seconds in (0.05, 0.06, 70, 8):
        metrics.first_token_seconds.observe(seconds, "m")
    name = "localinfra_time_to_first_token_seconds"
    found = dict(line.rsplit(" ", 1) for line in lines(metrics, name))
    assert found[name + '_bucket{le="0.05",model="m"}'] == "1.0"
    assert found[name + '_bucket{le="0.1",model="m"}'] == "2.0"
    assert found[name + '_bucket{le="10.0",model="m"}'] == "3.0"
    assert found[name + '_bucket{le="+Inf",model="m"}'] == "4.0"
    assert found[name + '_sum{model="m"}'] == "78.11"
    assert found[name + '_count{model="m"}'] == "4.0"


@pytest.mark.parametrize(
    ("value", "shown"), [('a"b', r"a\"b"), ("a\\b", r"a\\b"), ("a\nb", r"a\nb"), ("ü", "ü")]
)
def test_label_values_are_escaped(value: str, shown: str) -> None:
    metrics = Metrics()
    metrics.images.add(1, value)
    assert lines(metrics, "localinfra_images") == [
        f'localinfra_images_total{{model="{shown}"}} 1.0'
    ]


def test_the_list_has_units_in_its_names_and_each_metric_once() -> None:
    metrics = Metrics()
    types = [line.split()[2:] for line in written(metrics).splitlines() if "# TYPE" in line]
    assert len({name for name, _ in types}) == len(types) == len(vars(metrics))
    for name, kind in types:
        assert name.startswith(("localinfra_", "gen_ai_server_"))
        assert name.endswith("_total") == (kind == "counter")
        assert name.endswith("_seconds") == (kind == "histogram")


def test_scrapers_that_ask_for_openmetrics_get_it() -> None:
    metrics = Metrics()
    metrics.images.add(1, "m")
    metrics.request_seconds.observe(0.2, "/v1/models", "m")
    metrics.disk_cache_bytes.show({(): 1.5e9})
    text = written(metrics, "application/openmetrics-text; version=1.0.0, text/plain;q=0.5")
    assert "# TYPE localinfra_images counter\n" in text
    assert 'localinfra_images_total{model="m"} 1.0\n' in text and text.endswith("# EOF\n")
    families = list(text_string_to_metric_families(text))  # type: ignore[no-untyped-call]  # strict
    assert len(families) == len(list(metrics))


def test_an_application_has_numbers_of_its_own() -> None:
    one, other = Metrics(), Metrics()
    one.images.add(1, "m")
    assert lines(one, "localinfra_images") and not lines(other, "localinfra_images")
