"""The docs' page of the table of problems: ``python -m tenfold.gateway.engine.problem_reference`` writes it."""

from __future__ import annotations

import sys
from typing import Final

from tenfold.gateway.engine.problem import TYPE, table

_HEAD: Final = f"""# Answers of the gateway itself

<!-- Made by `python -m tenfold.gateway.engine.problem_reference`; change `engine/problem.py` instead. -->

What the gateway answers by itself is a problem of RFC 9457 (`application/problem+json`):

| member | |
|---|---|
| `type` | `{TYPE}` and the type below; it never changes its meaning |
| `title` | the type in words, always the same |
| `status` | the status of the answer |
| `detail` | this case in words, with the limit and what it is set to |
| `reason` | the type, or a closer reason: `upstream_` and why an endpoint's answer cannot be passed on, or why a \
request is no HTTP; the access log has it as `fault` |
| `limit` | the option of the configuration that drew the line, where one did |
| `limit_value` | what that option is set to, in the unit below; for `route.adaptive` the number of places now |
| `request_id` | the request's id, where it has one already |

A refusal that passes by itself has `Retry-After`; one by a rate limit also `RateLimit` and `RateLimit-Policy` \
(draft-ietf-httpapi-ratelimit-headers), whose policy is called as the route is.

"""


def reference() -> str:
    """The whole page."""
    return f"{_HEAD}{table()}\n"


if __name__ == "__main__":
    sys.stdout.write(reference())
