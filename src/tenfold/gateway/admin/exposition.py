"""Samples as text for scrapers: Prometheus' format (0.0.4) and OpenMetrics (1.0.0), whichever is asked for.

Theory. The two differ in three things that matter here: OpenMetrics names a counter's family without ``_total``, ends
with ``# EOF``, and escapes quotes in help texts. Which one a scraper gets is decided by its Accept, with quality values
as RFC 9110 §12.5.1 has them; who says nothing gets Prometheus' format, which everything reads.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Final

from tenfold.gateway.admin.names import METRICS, Metric

PROMETHEUS: Final = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"


def negotiate(accept: str) -> str:
    """The content type for a scraper that says ``accept``."""
    best, kind = 0.0, PROMETHEUS
    for part in accept.lower().split(","):
        media, *parameters = (each.strip() for each in part.split(";"))
        quality = 1.0
        for each in parameters:
            if each.startswith("q="):
                try:
                    quality = float(each[2:])
                except ValueError:
                    quality = 0.0
        offered = {
            "application/openmetrics-text": OPENMETRICS,
            "text/plain": PROMETHEUS,
            "text/*": PROMETHEUS,
            "*/*": PROMETHEUS,
        }
        if media in offered and quality > best:
            best, kind = quality, offered[media]
    return kind


def expose(samples: Iterable[dict[str, Any]], kind: str = PROMETHEUS) -> bytes:
    """The text of ``samples`` in the format of that content type. Samples that `names` does not know are left out."""
    by_name: dict[str, list[dict[str, Any]]] = {}
    for each in samples:
        by_name.setdefault(each["name"], []).append(each)
    openmetrics = kind == OPENMETRICS
    lines: list[str] = []
    for metric in METRICS:
        found = [line for name in _names(metric) for line in map(_line, by_name.get(name, ()))]
        if metric.kind == "histogram":
            found = _by_histogram(metric, by_name)
        if found:
            family = metric.full
            if openmetrics and metric.kind == "counter":
                family = family.removesuffix("_total")
            lines.append(f"# HELP {family} {_help(metric.text, openmetrics)}")
            lines.append(f"# TYPE {family} {metric.kind}")
            lines += found
    if openmetrics:
        lines.append("# EOF")
    return ("\n".join(lines) + "\n").encode()


def _names(metric: Metric) -> tuple[str, ...]:
    return () if metric.kind == "histogram" else (metric.full,)


def _by_histogram(metric: Metric, by_name: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Each histogram's lines together, its buckets from the least to the greatest."""
    grouped: dict[tuple[tuple[str, str], ...], list[tuple[float, str]]] = {}
    for place, suffix in enumerate(("_bucket", "_sum", "_count")):
        for each in by_name.get(metric.full + suffix, ()):
            labels = dict(each["labels"])
            bound = float(labels.pop("le", "inf"))
            order = bound if place == 0 and bound < math.inf else 1e300 * (place + 1)
            grouped.setdefault(tuple(sorted(labels.items())), []).append((order, _line(each)))
    return [line for several in grouped.values() for _, line in sorted(several)]


def _line(sample: dict[str, Any]) -> str:
    labels = ",".join(f'{name}="{_label(value)}"' for name, value in sample["labels"].items())
    return f"{sample['name']}{'{' + labels + '}' if labels else ''} {_number(sample['value'])}"


def _label(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _help(text: str, openmetrics: bool) -> str:
    text = text.replace("\\", "\\\\").replace("\n", "\\n")
    return text.replace('"', '\\"') if openmetrics else text


def _number(value: float) -> str:
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
    return repr(value)
