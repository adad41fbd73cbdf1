"""What the books say, to hold a simulation against. All waits are in the unit of the rates' inverse.

Sources. Waiting times: Erlang 1917 (M/M/k), Pollaczek 1930 and Khinchine 1932 (M/G/1). Balls into bins: Raab and Steger
1998, "Balls into Bins: a simple and tight analysis" (``ln n / ln ln n``); Azar, Broder, Karlin and Upfal 1994,
"Balanced Allocations" (``ln ln n / ln d``). Two choices over time: Mitzenmacher 1996, "The Power of Two Choices in
Randomized Load Balancing", and Vvedenskaya, Dobrushin and Karpelevich 1996.

The two growth terms are leading terms: they leave out constants that are as large as they are at any ``n`` one can
build. So `random_max_load` is the exact expectation for finite ``n``, and `two_choices_max_load` that of the fluid
limit (error O(1/n) in each layer): those are what a simulation of ``n`` servers is compared with.
"""

from __future__ import annotations

import math
from collections import deque

from tenfold._core.errors import MisuseError


def erlang_c(servers: int, load: float) -> float:
    """The probability of having to wait in M/M/k with an offered load of ``load`` < ``servers`` Erlang."""
    if servers < 1 or not 0 <= load < servers:
        raise MisuseError(f"erlang_c: expected 0 <= load < servers, got load {load!r} and {servers!r} servers")
    blocked = 1.0  # Erlang B by its recurrence, which neither overflows nor cancels
    for k in range(1, servers + 1):
        blocked = load * blocked / (k + load * blocked)
    return servers * blocked / (servers - load * (1 - blocked))


def mmk_wait(arrivals: float, services: float, servers: int = 1) -> float:
    """Mean wait in the queue of M/M/k: ``arrivals`` a second, each of ``servers`` does ``services`` a second."""
    return erlang_c(servers, arrivals / services) / (servers * services - arrivals)


def mg1_wait(arrivals: float, mean: float, cv: float) -> float:
    """Mean wait in M/G/1: work of ``mean`` seconds with the coefficient of variation ``cv``."""
    load = arrivals * mean
    if not 0 <= load < 1:
        raise MisuseError(f"mg1_wait: expected a load below 1, got {load!r}")
    return load * mean * (1 + cv * cv) / 2 / (1 - load)


def two_choices_time(load: float, choices: int = 2) -> float:
    """Mean time in the system, in mean service times, where each joins the shortest of ``choices`` random queues.

    For infinitely many M/M/1 servers, each under ``load``; one choice is M/M/1.
    """
    if not 0 < load < 1 or choices < 1:
        raise MisuseError(f"two_choices_time: expected 0 < load < 1 and a choice at least, got {load!r}, {choices!r}")
    if choices == 1:
        return 1 / (1 - load)
    total, exponent = 0.0, 0
    while (term := load**exponent) > 1e-15:  # exponents (d^i - d) / (d - 1): 0, d, d + d², …
        total += term
        exponent = exponent * choices + choices
    return total


def random_max_load(n: int, balls: int | None = None) -> float:
    """The expected number of balls in the fullest of ``n`` bins, with ``balls`` (``n``) thrown at random; exact.

    ``P(max <= m)`` is ``balls! / n^balls`` times the coefficient of ``x^balls`` in ``(sum of x^j / j!, j <= m)^n``,
    got by J. C. P. Miller's recurrence for powers of a polynomial. All its terms are positive here when balls <= n.
    """
    thrown = n if balls is None else balls
    if n < 1 or not 0 <= thrown <= n:
        raise MisuseError(f"random_max_load: expected n >= 1 and at most n balls, got {n!r} and {thrown!r}")
    expected, most = 0.0, 0
    while most < thrown:
        missing = 1 - _at_most(most, n, thrown)
        if most > 0 and missing < 1e-8:  # below that it is rounding, of logarithms as large as those of n!
            break
        expected += missing
        most += 1
    return expected


def two_choices_max_load(n: int) -> float:
    """The expected fullest of ``n`` bins after ``n`` balls, each into the emptier of two random ones.

    From the fluid limit: the share ``s_i`` of bins with ``i`` balls or more obeys ``s_i' = s_{i-1}² - s_i²``
    (Mitzenmacher, ch. 3); the number of such bins is taken to be Poisson with mean ``n s_i``.
    """
    depth, steps = 12, 2000
    shares = [1.0] + [0.0] * depth
    width = 1 / steps

    def slope(at: list[float]) -> list[float]:
        return [0.0] + [at[i - 1] ** 2 - at[i] ** 2 for i in range(1, depth + 1)]

    for _ in range(steps):  # Runge and Kutta
        a = slope(shares)
        b = slope([s + width / 2 * d for s, d in zip(shares, a, strict=True)])
        c = slope([s + width / 2 * d for s, d in zip(shares, b, strict=True)])
        d = slope([s + width * e for s, e in zip(shares, c, strict=True)])
        shares = [s + width / 6 * (w + 2 * x + 2 * y + z) for s, w, x, y, z in zip(shares, a, b, c, d, strict=True)]
    return sum(-math.expm1(-n * share) for share in shares[1:])


def random_growth(n: float) -> float:
    """The leading term of the fullest bin with one choice."""
    return math.log(n) / math.log(math.log(n))


def two_choices_growth(n: float) -> float:
    """The leading term of the fullest bin with two choices."""
    return math.log(math.log(n)) / math.log(2)


def chi_square(seen: list[int], weights: list[float]) -> tuple[float, float]:
    """Pearson's statistic of counts against weights, and the probability of one as large by chance.

    The probability is by Wilson and Hilferty's cube root (1931), good to three digits from ten degrees of freedom on.
    """
    total, whole = sum(seen), math.fsum(weights)
    expected = [total * weight / whole for weight in weights]
    statistic = math.fsum((s - e) ** 2 / e for s, e in zip(seen, expected, strict=True))
    freedom = len(seen) - 1
    spread = 2 / (9 * freedom)
    z = ((statistic / freedom) ** (1 / 3) - (1 - spread)) / math.sqrt(spread)
    return statistic, math.erfc(z / math.sqrt(2)) / 2


def _at_most(most: int, n: int, balls: int) -> float:
    """``P(fullest <= most)``."""
    if most == 0:
        return 0.0 if balls else 1.0
    terms = [1.0]
    for j in range(1, most + 1):
        terms.append(terms[-1] / j)
    recent: deque[float] = deque([1.0], maxlen=most)  # c_{k-1}, c_{k-2}, …
    scale = 0.0  # the logarithm of what the kept coefficients were divided by
    for k in range(1, balls + 1):
        value = math.fsum((n * j - k + j) * terms[j] * c for j, c in enumerate(recent, start=1)) / k
        recent.appendleft(value)
        if value > 1e100:
            scale += math.log(value)
            recent = deque((c / value for c in recent), maxlen=most)
    if recent[0] <= 0:
        return 0.0
    return math.exp(math.log(recent[0]) + scale + math.lgamma(balls + 1) - balls * math.log(n))
