"""What the service counts, in Prometheus's words."""

__all__ = ["Metrics"]

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from recokit.serve.serving import Serving

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
_AMOUNTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


class Metrics:
    """The counters of one service; an application has its own, so several may live in a process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        of = self.registry
        self.requests = Counter("recokit_requests", "Requests answered.", ("endpoint", "status"), registry=of)
        self.seconds = Histogram(
            "recokit_request_seconds", "Time to answer.", ("endpoint",), buckets=_SECONDS, registry=of
        )
        self.ids = Histogram("recokit_request_ids", "Ids of a request.", ("endpoint",), buckets=_AMOUNTS, registry=of)
        self.unknown = Counter("recokit_unknown_ids", "Ids that were not known.", ("endpoint",), registry=of)
        self.merged = Histogram("recokit_call_requests", "Requests answered by a call.", buckets=_AMOUNTS, registry=of)
        self.in_flight = Gauge("recokit_in_flight", "Requests being answered.", registry=of)
        self.version = Gauge("recokit_version_info", "The version that is served.", ("version",), registry=of)
        self.loaded = Gauge("recokit_version_loaded_timestamp_seconds", "When it was ready.", registry=of)
        self.loading = Gauge("recokit_load_seconds", "What loading it took.", registry=of)
        self.reloads = Counter("recokit_loads", "Versions that were loaded.", registry=of)
        self.failures = Counter("recokit_load_failures", "Versions that could not be loaded.", registry=of)

    def now_serving(self, serving: Serving, seconds: float) -> None:
        """Note that a version has taken its place."""
        self.version.clear()
        self.version.labels(serving.name).set(1)
        self.loaded.set(serving.loaded.timestamp())
        self.loading.set(seconds)
        self.reloads.inc()

    def text(self) -> bytes:
        """Return everything in the text format."""
        return generate_latest(self.registry)
