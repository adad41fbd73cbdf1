"""What must not type-check, with the code of the error that each line must have."""

from tenfold.cache import Cache, FreshnessOptions, load_context

cache = Cache("shop", stale=["1h"])  # E: arg-type
wrong = Cache("shop", staleness="1h")  # E: call-arg
options: FreshnessOptions = {"eager": "0.8"}  # E: typeddict-item


@cache("1m", eager="often")  # E: arg-type
async def page(number: int) -> str:
    ctx = load_context()
    ctx.ttl = ["5m"]  # E: assignment
    ctx.etag = b"v1"  # E: assignment
    ctx.stale_value = 1  # E: misc
    return ""
