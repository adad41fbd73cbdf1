"""The find act: where the time goes, by the database's own account. Counted, not guessed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from blackfriday.acts.stage import Stage
from blackfriday.story import Endpoint, Evidence, Finding, Statement

if TYPE_CHECKING:
    from blackfriday.shop import Shop

TOP: Final = 5
REPEATS: Final = 2
NOTABLE: Final = 0.05  # of the database's time
# Read-only requests of the journeys; a fixed few of each, so that every variant is asked the same.
ENDPOINTS: Final = {
    "listing": ("/products?sort=newest", "/products?sort=price"),
    "category": ("/categories/1/products", "/categories/7/products"),
    "product": ("/products/1", "/products/77", "/products/4242"),
    "search": ("/search?q=lamp", "/search?q=oak"),
}
_STATEMENTS: Final = (
    "SELECT query, calls, mean_exec_time / 1000 AS mean, total_exec_time / 1000 AS total FROM pg_stat_statements "
    "WHERE query !~* '^(BEGIN|COMMIT|ROLLBACK|SET|SHOW|DISCARD|DEALLOCATE)|pg_stat_statements|pg_catalog' "
    "ORDER BY total_exec_time DESC"
)


async def forget(stage: Stage) -> None:
    """Start counting anew."""
    await stage.connection.execute("SELECT pg_stat_statements_reset()")


async def statements(stage: Stage, requests: int) -> tuple[Statement, ...]:
    """The statements of the time since `forget`, the costliest first, divided by ``requests``."""
    rows = await stage.connection.fetch(_STATEMENTS)
    total = sum(row["total"] for row in rows) or 1.0
    return tuple(
        Statement(row["query"], row["calls"] / max(1, requests), row["mean"], row["total"] / total)
        for row in rows[:TOP]
    )


async def statements_per_request(stage: Stage, shop: Shop) -> dict[str, float]:
    """How many statements each kind of request sends: asked one after the other, counted by PostgreSQL."""
    import httpx2

    found = {}
    async with httpx2.AsyncClient(base_url=shop.url, timeout=30) as client:
        for name, paths in ENDPOINTS.items():
            await forget(stage)
            for _ in range(REPEATS):
                for path in paths:
                    (await client.get(path)).raise_for_status()
            calls = await stage.connection.fetchval(f"SELECT sum(calls) FROM ({_STATEMENTS}) AS s")
            found[name] = float(calls or 0) / (REPEATS * len(paths))
    return found


async def find(stage: Stage, baseline: Shop, draft: Shop) -> Evidence:
    """Read what the measure act has left behind since `forget`, then ask for a few pages one by one."""
    requests = (await baseline.stats())["requests"]
    top = await statements(stage, requests)
    counts = {"draft": await statements_per_request(stage, draft)}
    counts["baseline"] = await statements_per_request(stage, baseline)
    endpoints = tuple(Endpoint(name, {variant: found[name] for variant, found in counts.items()}) for name in ENDPOINTS)
    return Evidence(requests, top, endpoints, tuple(findings(top, endpoints)))


def findings(top: tuple[Statement, ...], endpoints: tuple[Endpoint, ...]) -> list[Finding]:
    """What the numbers say, and which rung acts on it. Rules on counts and shares alone; pure."""
    found = []
    worst = max(endpoints, key=lambda endpoint: endpoint.statements.get("draft", 0.0), default=None)
    if worst is not None and worst.statements.get("draft", 0.0) > 2 * worst.statements.get("baseline", 0.0):
        draft, eager = worst.statements["draft"], worst.statements["baseline"]
        found.append(
            Finding(
                "N+1", f"{worst.name}: {draft:.0f} statements a request, {eager:.0f} when loaded eagerly", "baseline"
            )
        )
    several = max(endpoints, key=lambda endpoint: endpoint.statements.get("baseline", 0.0), default=None)
    if several is not None and several.statements.get("baseline", 0.0) > 1:
        count = several.statements["baseline"]
        found.append(
            Finding("several statements a page", f"{several.name}: {count:.0f} where one would do", "+ query shapes")
        )
    searching = sum(row.share for row in top if "ilike" in row.text.lower())
    if searching >= NOTABLE:
        found.append(
            Finding("search reads the whole table", f"ILIKE: {searching:.0%} of the database's time", "+ indexes")
        )
    skipping = sum(row.share for row in top if "offset" in row.text.lower())
    if skipping >= NOTABLE:
        evidence = f"sorted, then skipped: {skipping:.0%} of the database's time"
        found.append(Finding("pages by OFFSET", evidence, "+ query shapes, + indexes"))
    if top:
        calls = sum(row.calls_per_request for row in top)
        evidence = f"{calls:.1f} of these statements a request, and no answer is kept"
        found.append(Finding("the same reads again and again", evidence, "+ cache"))
    return found
