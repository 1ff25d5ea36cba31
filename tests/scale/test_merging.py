"""One answer out of those of several replicas."""

from pathlib import Path

import msgspec
import pytest
from echo import CATALOGUE
from prometheus_client.parser import text_string_to_metric_families

from localinfra.config import settings as config_file
from localinfra.models import catalog as catalog_file
from localinfra.scale.groups import Groups
from localinfra.scale.merging import Reply, merged, merged_metrics


@pytest.fixture
def groups(tmp_path: Path) -> Groups:
    path = tmp_path / "models.toml"
    path.write_text(CATALOGUE + '[ray.group.a]\nmodels = ["echo"]\n[ray.group.b]\n')
    config = config_file.load(path)
    return Groups(config.scale, catalog_file.load(config))


def reply(group: str, replica: str, body: object, status: int = 200) -> Reply:
    raw = msgspec.json.encode(body)
    return Reply(group, replica, status, [(b"content-length", b"1"), (b"x-own", b"1")], raw)


def test_each_model_is_described_by_its_own_group(groups: Groups) -> None:
    def cards(echo: str, filler: str) -> object:
        return {
            "data": [{"id": "tests/echo", "state": echo}, {"id": "filler", "state": filler}],
            "object": "list",
        }

    replies = [reply("a", "a1", cards("loaded", "absent")), reply("b", "b1", cards("x", "loading"))]
    found = merged("/v1/models", replies, groups)
    whole = msgspec.json.decode(found.body)
    assert [card["state"] for card in whole["data"]] == ["loaded", "loading"]
    assert whole["object"] == "list"
    assert dict(found.headers) == {b"x-own": b"1", b"content-length": b"%d" % len(found.body)}


def test_running_requests_are_those_of_all(groups: Groups) -> None:
    replies = [
        reply("a", "a1", {"data": [1]}),
        reply("a", "a2", {"data": [2, 3], "object": "list"}),
    ]
    assert msgspec.json.decode(merged("/v1/requests", replies, groups).body)["data"] == [1, 2, 3]


def test_health_is_that_of_the_worst(groups: Groups) -> None:
    well = reply("a", "a1", {"status": "ok", "models_loaded": 2})
    assert msgspec.json.decode(merged("/health", [well, well], groups).body) == {
        "status": "ok",
        "models_loaded": 4,
    }
    ill = reply("b", "b1", {"status": "degraded", "models_loaded": 1}, 503)
    assert merged("/health", [well, ill], groups) == ill


def test_an_error_of_one_is_the_answer(groups: Groups) -> None:
    refused = reply("a", "a2", {"error": {}}, 403)
    path = "/v1/models/echo/unload"
    assert merged(path, [reply("a", "a1", {}), refused], groups) == refused


METRICS = """# HELP own_requests_total Requests.
# TYPE own_requests_total counter
own_requests_total{{route="/v1/chat/completions",status="2xx"}} {number}
# HELP own_seconds How long.
# TYPE own_seconds histogram
own_seconds_bucket{{le="1.0",said="a \\"b\\" }} c"}} {number}
own_seconds_bucket{{le="+Inf",said="a \\"b\\" }} c"}} {number}
own_seconds_count{{said="a \\"b\\" }} c"}} {number}
own_seconds_sum{{said="a \\"b\\" }} c"}} 0.5
# HELP process_open_fds Files.
# TYPE process_open_fds gauge
process_open_fds {number}
"""


def test_metrics_say_whose_they_are() -> None:
    texts = {("a", "r1"): METRICS.format(number=1), ("b", 'r"2'): METRICS.format(number=2)}
    text = merged_metrics(texts)
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert text.count("# TYPE") == len(families) == 3
    assert families["own_seconds"].type == "histogram"
    for family in families.values():
        numbers = {
            (one.labels["group"], one.labels["replica"]): one.value
            for one in family.samples
            if not one.name.endswith("_sum")
        }
        assert numbers == {("a", "r1"): 1, ("b", 'r"2'): 2}
    (first, _) = families["own_requests"].samples
    assert first.labels["route"] == "/v1/chat/completions"
