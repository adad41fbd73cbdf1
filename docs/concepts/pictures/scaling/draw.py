"""The picture of `autoscaling.md`: workers over time under each policy of `docs/how-to/scenarios/scaling/step.toml`.

python docs/concepts/pictures/scaling/draw.py       # the picture, and the table of the page
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from tenfold.simulate import ScaleResult, ScalingResult, load_scaling, simulate_scaling

HERE: Final = Path(__file__).parent
SCENARIO: Final = HERE.parents[2] / "how-to" / "scenarios" / "scaling" / "step.toml"
SHOWN: Final = ("local", "kubernetes", "azure")
WIDTH, HEIGHT, LEFT, ROW, SECONDS, MOST = 620, 96, 124, 116, 480, 12
STYLE: Final = (
    "text{font:11px system-ui,sans-serif;fill:#3d444d}.t{font-size:13px;font-weight:600}.l{fill:none;stroke:#c9ced6}"
    ".w{fill:#2f72c4;fill-opacity:.25;stroke:#2f72c4}.n{fill:none;stroke:#b3471d;stroke-dasharray:4 3}"
    "@media(prefers-color-scheme:dark){text{fill:#c4ccd6}.l{stroke:#3a424d}.w{fill:#5c9ff0;stroke:#5c9ff0}"
    ".n{stroke:#ee8650}}"
)


def run() -> ScalingResult:
    """The scenario, once for each policy."""
    scenario = load_scaling(SCENARIO)
    assert scenario is not None
    return simulate_scaling(scenario)


def row(one: ScaleResult) -> str:
    """Its line in the table of the page."""
    numbers = f"{one.late:,} | {one.refused:,} | {one.worker_seconds:,.0f} | {one.changes}"
    return f"| {one.label} | {one.share:.1%} | {numbers} |"


def draw(result: ScalingResult) -> str:
    """Wanted workers as an area, and what the arrivals need (a worker does 40 a second) as a broken line."""
    shown = [one for one in result.policies if one.label in SHOWN]
    height = len(shown) * ROW + 30
    label = "Workers wanted over time, scaled locally, by Kubernetes and by Azure, and the workers that the load needs"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH + LEFT + 36} {height}" role="img" '
        f'aria-label="{label}"><style>{STYLE}</style>'
    ]
    for number, one in enumerate(shown):
        top = number * ROW + 10
        parts.append(f'<text class="t" x="8" y="{top + 20}">{one.label}</text>')
        parts.append(f'<text x="8" y="{top + 38}">{one.share:.1%} in time</text>')
        for workers in (0, 5, 10):
            parts.append(f'<path class="l" d="M{LEFT} {_y(top, workers)}h{WIDTH}"/>')
            parts.append(f'<text x="{LEFT - 16}" y="{_y(top, workers) + 4:g}">{workers}</text>')
        wanted = [(0.0, 1.0), *((point.at, float(point.wanted)) for point in one.points)]
        parts.append(f'<path class="w" d="{_steps(top, wanted)}V{_y(top, 0)}H{LEFT}z"/>')
        needed = [(0.0, 0.5), (60.0, 7.5), (180.0, 0.5)]
        parts.append(f'<path class="n" d="{_steps(top, needed)}"/>')
    minutes = [f'<text x="{_x(at * 60):g}" y="{height - 6}">{at} min</text>' for at in range(SECONDS // 60 + 1)]
    return "\n".join([*parts, *minutes, "</svg>"]) + "\n"


def _x(at: float) -> float:
    return round(LEFT + at * WIDTH / SECONDS, 1)


def _y(top: float, workers: float) -> float:
    return round(top + HEIGHT * (1 - workers / MOST), 1)


def _steps(top: float, points: list[tuple[float, float]]) -> str:
    path, last = f"M{_x(points[0][0]):g} {_y(top, points[0][1]):g}", points[0][1]
    for at, value in points[1:]:
        if value != last:
            path, last = f"{path}H{_x(at):g}V{_y(top, value):g}", value
    return f"{path}H{_x(SECONDS):g}"


if __name__ == "__main__":
    found = run()
    (HERE / "step.svg").write_text(draw(found), encoding="utf-8")
    sys.stdout.write("".join(f"{row(one)}\n" for one in found.policies))
