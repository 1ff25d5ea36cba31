"""The metrics in the text formats of Prometheus and OpenMetrics, written by prometheus-client.

https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from localinfra.executor import DaemonThreads
from localinfra.metrics import Counter, Histogram, Metrics

if TYPE_CHECKING:
    import prometheus_client  # imported at the first scrape: it takes 10 ms
    from prometheus_client.metrics_core import Metric


class Exposition:
    """A registry of one application's own: its metrics, and what the system says of the process
    (on Linux: memory, processor time, open files)."""

    def __init__(self, metrics: Metrics):
        self._metrics = metrics
        self._threads = DaemonThreads("metrics", 1, 64)
        self._registry: prometheus_client.CollectorRegistry | None = None

    async def text(self, accept: str) -> tuple[bytes, str]:
        """The metrics as they are, and their content type: the one that `accept` names. Written in
        a thread: with many models and routes it takes tens of milliseconds."""
        return await self._threads.run(self._text, accept)

    def _text(self, accept: str) -> tuple[bytes, str]:
        from prometheus_client import CollectorRegistry, ProcessCollector, exposition

        if self._registry is None:
            registry = CollectorRegistry()
            registry.register(self)
            ProcessCollector(registry=registry)
            self._registry = registry
        encode, content_type = exposition.choose_encoder(accept)
        return encode(self._registry), content_type

    def collect(self) -> "Iterator[Metric]":
        """Called by the registry. The event loop may go on counting: what it changes is copied by
        `list` in one go."""
        from prometheus_client import metrics_core as families

        for metric in self._metrics:
            about = metric.name, metric.help
            if isinstance(metric, Histogram):
                histogram = families.HistogramMetricFamily(*about, labels=metric.labels)
                for values, total in list(metric.values.items()):
                    histogram.add_metric(values, metric.buckets(values), total)
                yield histogram
                continue
            kind = (
                families.CounterMetricFamily
                if isinstance(metric, Counter)
                else families.GaugeMetricFamily
            )
            family = kind(*about, labels=metric.labels)
            for values, number in list(metric.values.items()):
                family.add_metric(values, number)
            yield family
