"""Policies from TOML: what a file may say, and one sentence for each way in which it can be wrong."""

import json
from pathlib import Path

import pytest

from tenfold._core.errors import MisuseError
from tenfold._core.events import Event, Hub
from tenfold.resilience.adaptive import AdaptiveLimit
from tenfold.resilience.breaker import Breaker
from tenfold.resilience.budget import Budget
from tenfold.resilience.bulkhead import Bulkhead
from tenfold.resilience.chaos import Chaos, ChaosStarted
from tenfold.resilience.config import load_policies
from tenfold.resilience.config_read import ConfigError, read
from tenfold.resilience.fallback import Fallback
from tenfold.resilience.hedge import Hedge
from tenfold.resilience.ratelimit import RateLimit
from tenfold.resilience.registry import Registry
from tenfold.resilience.retry import Retry

WHOLE = """
[policy.payments]
deadline = "2s"
timeout = "500ms"
idempotent = true
retry = { attempts = 3, on = ["TimeoutError", "ConnectionError"], budget = { share = "10%" } }
breaker = { ratio = "50%", consecutive = "off" }
bulkhead = { places = 50, queue = 100 }
limit = { rate = "100/s" }
hedge = { delay = "50ms" }
fallback = { value = "pending" }

[policy.search]
retry = true
breaker = true
bulkhead = 20
limit = "3000/m"
fallback = []

[policy.quiet]
deadline = 1.5
retry = false
"""


def options(text, name="p"):
    return read(text, Path("p.toml"), {})[name].options


@pytest.fixture
def load(tmp_path):
    def made(text, **more):
        path = tmp_path / "policies.toml"
        path.write_text(text, encoding="utf-8")
        return load_policies(
            path, registry=more.pop("registry", None) or Registry(), hub=more.pop("hub", Hub()), **more
        )

    return made


def test_a_file_says_all_that_code_says(load):
    found = read(WHOLE, Path("p.toml"), {})
    assert found["payments"].options == {
        "deadline": "2s",
        "timeout": "500ms",
        "idempotent": True,
        "retry": Retry(attempts=3, on=(TimeoutError, ConnectionError), budget=Budget(share=0.1)),
        "breaker": Breaker(ratio=0.5, consecutive="off"),
        "bulkhead": Bulkhead(50, queue=100),
        "limit": RateLimit("100/s"),
        "hedge": Hedge("50ms"),
        "fallback": Fallback("pending"),
    }
    assert found["search"].options == {
        "retry": Retry(),
        "breaker": Breaker(),
        "bulkhead": Bulkhead(20),
        "limit": RateLimit("3000/m"),
        "fallback": Fallback([]),
    }
    assert found["quiet"].options == {"deadline": 1.5}
    assert list(load(WHOLE)) == ["payments", "search", "quiet"]


def test_the_other_parts_too():
    assert options('[policy.p]\nadaptive = { initial = 10, tolerance = "50%" }')["limit"] == AdaptiveLimit(
        initial=10, tolerance=0.5
    )
    assert options('[policy.p]\nchaos = { fault = "5%", error = "TimeoutError", for = "10m", seed = 1 }')[
        "chaos"
    ] == Chaos(fault=0.05, error="TimeoutError", for_=600, seed=1)
    assert options("[policy.p]\nfallback = { value = { status = 'pending' } }")["fallback"] == Fallback(
        {"status": "pending"}
    )
    assert options("[policy.p]\nfallback = false")["fallback"] == Fallback(False)
    assert options('[policy.p.retry]\nattempts = 4\n[policy.p.retry.budget]\nfloor = "2/s"')["retry"] == Retry(
        4, budget=Budget(floor=2)
    )
    assert options("[policy.p]\nretry = { attempts = 2, budget = false }")["retry"].budget is None


async def test_the_policies_of_a_file_work(load):
    policies = load('[policy.payments]\ndeadline = "2s"\nretry = true\nbreaker = true\nfallback = "pending"')

    @policies["payments"]
    async def charge(order):
        if order < 0:
            raise OSError("down")
        return order

    assert await charge(7) == 7
    assert await charge(-1) == "pending"


def test_code_adds_what_no_file_can_hold(load):
    fallback = Fallback(call=lambda error, order: f"{order} pending")
    policies = load('[policy.payments]\ndeadline = "2s"', code={"payments": {"fallback": fallback}})

    @policies["payments"]
    def charge(order):
        raise OSError("down")

    assert charge(7) == "7 pending"


# Each thing that can be wrong

FUNCTION = "takes a function, which a file cannot hold"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        # the file
        ("deadline = [", "p.toml: expected TOML, got a file that breaks its rules: "),
        ("", "p.toml: expected at least one table such as [policy.payments], got none"),
        ("policy = 3", "p.toml: policy: expected tables such as [policy.payments], got 3"),
        (
            "[polcy.payments]",
            "p.toml: polcy: unknown table; did you mean policy?; policies stand in tables such as [policy.payments]",
        ),
        (
            "[gateway]\n[policy.p]",
            "p.toml: gateway: unknown table; expected policy; policies stand in tables such as [policy.payments]",
        ),
        ("[policy]\np = 3", "p.toml: [policy.p]: expected a table of settings, got 3"),
        # unknown keys
        ('[policy.p]\ndeadlin = "2s"', "p.toml: [policy.p] deadlin: unknown key; did you mean deadline?"),
        ("[policy.p]\nbraker = true", "p.toml: [policy.p] braker: unknown key; did you mean breaker?"),
        (
            "[policy.p]\nretry = { atempts = 3 }",
            "p.toml: [policy.p] retry.atempts: unknown key; did you mean attempts?",
        ),
        (
            "[policy.p]\nbulkhead = { place = 3 }",
            "p.toml: [policy.p] bulkhead.place: unknown key; did you mean places?",
        ),
        (
            "[policy.p]\nretry = { budget = { shre = 0.1 } }",
            "p.toml: [policy.p] retry.budget.shre: unknown key; did you mean share?",
        ),
        (
            "[policy.p]\nretry = { budget = { xyz = 0.1 } }",
            "p.toml: [policy.p] retry.budget.xyz: unknown key; expected share or floor or burst or window",
        ),
        # wrong types
        ("[policy.p]\nidempotent = 1", "p.toml: [policy.p] idempotent: expected true or false, got 1"),
        (
            "[policy.p]\ndeadline = true",
            'p.toml: [policy.p] deadline: expected a number of seconds or a string such as "30s", got True',
        ),
        (
            "[policy.p]\ntimeout = [1]",
            'p.toml: [policy.p] timeout: expected a number of seconds or a string such as "30s", got [1]',
        ),
        (
            '[policy.p]\nretry = { attempts = "3" }',
            "p.toml: [policy.p] retry.attempts: expected a whole number, got '3'",
        ),
        (
            "[policy.p]\nretry = { attempts = 2.5 }",
            "p.toml: [policy.p] retry.attempts: expected a whole number, got 2.5",
        ),
        (
            "[policy.p]\nretry = { idempotent = 1 }",
            "p.toml: [policy.p] retry.idempotent: expected true or false, got 1",
        ),
        (
            "[policy.p]\nretry = { base = true }",
            "p.toml: [policy.p] retry.base: expected a string or a number, got True",
        ),
        (
            "[policy.p]\nbreaker = 3",
            "p.toml: [policy.p] breaker: expected true, false or a table such as { ratio = … }, got 3",
        ),
        ('[policy.p]\nbulkhead = "many"', "p.toml: [policy.p] bulkhead: expected a whole number, got 'many'"),
        ("[policy.p]\nbulkhead = 2.5", "p.toml: [policy.p] bulkhead: expected a whole number, got 2.5"),
        ("[policy.p]\nlimit = [1]", "p.toml: [policy.p] limit: expected a string or a number, got [1]"),
        (
            '[policy.p]\nchaos = { fault = 1, until = "tomorrow" }',
            "p.toml: [policy.p] chaos.until: expected a date and time with a time zone, got 'tomorrow'",
        ),
        ('[policy.p]\nbreaker = { key = "tenant" }', f"p.toml: [policy.p] breaker.key: {FUNCTION}, got 'tenant'"),
        ('[policy.p]\nlimit = { rate = 1, key = "tenant" }', f"p.toml: [policy.p] limit.key: {FUNCTION}, got 'tenant'"),
        ('[policy.p]\nfallback = { call = "f" }', f"p.toml: [policy.p] fallback.call: {FUNCTION}, got 'f'"),
        (
            '[policy.p]\nchaos = { fault = 1, where = "f", for = "1m" }',
            f"p.toml: [policy.p] chaos.where: {FUNCTION}, got 'f'",
        ),
        ('[policy.p]\nretry = { on_result = "f" }', f"p.toml: [policy.p] retry.on_result: {FUNCTION}, got 'f'"),
        # wrong units
        (
            '[policy.p]\ndeadline = "2 sec"',
            'p.toml: [policy.p] deadline: expected a duration such as "250ms", "30s" or "1h30m", got \'2 sec\'',
        ),
        (
            '[policy.p]\ntimeout = "500"',
            'p.toml: [policy.p] timeout: expected a duration such as "250ms", "30s" or "1h30m", got \'500\'',
        ),
        (
            '[policy.p]\nbreaker = { ratio = "50 percent" }',
            "p.toml: [policy.p] breaker.ratio: expected a share such as \"0.1%\" or 0.001, got '50 percent'",
        ),
        (
            "[policy.p]\nbreaker = { ratio = 50 }",
            "p.toml: [policy.p] breaker.ratio: expected a share between 0 and 1 (or 0% and 100%), got 50",
        ),
        (
            '[policy.p]\nbreaker = { open = "5 min" }',
            'p.toml: [policy.p] breaker.open: expected a duration such as "250ms", "30s" or "1h30m", got \'5 min\'',
        ),
        (
            '[policy.p]\nlimit = "100 per s"',
            'p.toml: [policy.p] limit: expected a rate such as "500/s" or "3000/m", got \'100 per s\'',
        ),
        (
            '[policy.p]\nlimit = { rate = "100/sec" }',
            'p.toml: [policy.p] limit.rate: expected a rate such as "500/s" or "3000/m", got \'100/sec\'',
        ),
        (
            '[policy.p]\nhedge = "soon"',
            'p.toml: [policy.p] hedge: expected a duration such as "250ms", "30s" or "1h30m", got \'soon\'',
        ),
        (
            '[policy.p]\nhedge = { quantile = "95" }',
            "p.toml: [policy.p] hedge.quantile: expected a share between 0 and 1 (or 0% and 100%), got '95'",
        ),
        (
            '[policy.p]\nretry = { budget = { floor = "1/x" } }',
            'p.toml: [policy.p] retry.budget.floor: expected a rate such as "500/s" or "3000/m", got \'1/x\'',
        ),
        # negative numbers
        (
            "[policy.p]\ndeadline = -1",
            "p.toml: [policy.p] deadline: expected a finite number that is not negative, got -1.0",
        ),
        ('[policy.p]\ntimeout = "-1s"', 'p.toml: [policy.p] timeout: expected a duration such as "250ms"'),
        (
            "[policy.p]\nretry = { attempts = -1 }",
            "p.toml: [policy.p] retry.attempts: expected a whole number of 1 or more, got -1",
        ),
        ("[policy.p]\nbulkhead = -5", "p.toml: [policy.p] bulkhead: expected a whole number of 1 or more, got -5"),
        (
            "[policy.p]\nbulkhead = { places = 0 }",
            "p.toml: [policy.p] bulkhead.places: expected a whole number of 1 or more, got 0",
        ),
        ("[policy.p]\nlimit = -5", "p.toml: [policy.p] limit: expected a finite number that is not negative, got -5.0"),
        (
            "[policy.p]\nbreaker = { minimum = -5 }",
            "p.toml: [policy.p] breaker.minimum: expected a whole number of 1 or more, got -5",
        ),
        (
            "[policy.p]\nhedge = { delay = -5 }",
            "p.toml: [policy.p] hedge.delay: expected a finite number that is not negative, got -5.0",
        ),
        (
            '[policy.p]\nchaos = { fault = -0.1, for = "1m" }',
            "p.toml: [policy.p] chaos.fault: expected a finite number that is not negative, got -0.1",
        ),
        (
            "[policy.p]\nadaptive = { initial = -1 }",
            "p.toml: [policy.p] adaptive.initial: expected a whole number of 1 or more, got -1",
        ),
        (
            "[policy.p]\nretry = { budget = { burst = -1 } }",
            "p.toml: [policy.p] retry.budget.burst: expected a whole number of 1 or more",
        ),
        (
            "[policy.p]\ndeadline = nan",
            "p.toml: [policy.p] deadline: expected a finite number that is not negative, got nan",
        ),
        # what does not go together within a part
        (
            "[policy.p]\nbulkhead = true",
            "p.toml: [policy.p] bulkhead: expected places, got none; say bulkhead = { places = … }",
        ),
        (
            "[policy.p]\nlimit = { burst = 5 }",
            "p.toml: [policy.p] limit: expected rate, got none; say limit = { rate = … }",
        ),
        ("[policy.p]\nfallback = {}", "p.toml: [policy.p] fallback: expected either value or call"),
        (
            '[policy.p]\nfallback = { value = 1, on = ["TimeOut"] }',
            "p.toml: [policy.p] fallback.on: expected exception classes, or names",
        ),
        ('[policy.p]\nchaos = { fault = "5%" }', "p.toml: [policy.p] chaos: expected exactly one of for_"),
        ('[policy.p]\nchaos = { fault = "5%", for = "25h" }', "p.toml: [policy.p] chaos.for: expected more than 0 and"),
        (
            '[policy.p]\nbreaker = { open = "10s", open_max = "5s" }',
            "p.toml: [policy.p] breaker.open_max: expected open (10 s) or more, got 5 s",
        ),
        (
            '[policy.p]\nretry = { base = "2s", cap = "1s" }',
            "p.toml: [policy.p] retry.cap: expected base (2 s) or more, got 1 s",
        ),
        (
            '[policy.p]\nretry = { jitter = "some" }',
            'p.toml: [policy.p] retry.jitter: expected "full", "decorrelated" or "none", got \'some\'',
        ),
    ],
)
def test_wrong(text, sentence):
    with pytest.raises(ConfigError) as caught:
        read(text, Path("p.toml"), {})
    (problem,) = caught.value.problems
    assert problem.startswith(sentence)
    assert str(caught.value) == problem
    assert "\n" not in problem
    assert isinstance(caught.value, MisuseError)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('deadline = "0s"', " deadline: expected a duration above 0"),
        ("timeout = 0", " timeout: expected a duration above 0"),
        ('deadline = "1s"\ntimeout = "2s"', " timeout: expected less than the deadline (1.00 s), got 2.00 s"),
        ("hedge = true", " hedge: a hedge makes the same call twice; say idempotent=True"),
        ("adaptive = true\nbulkhead = 5", ": AdaptiveLimit and Bulkhead both bound the calls at a time"),
        ("bulkhead = 2\nbreaker = { permits = 3 }", " bulkhead: expected at least the breaker's 3 permits, got 2"),
        ('deadline = "50ms"\nretry = true', " retry: the first back-off (100 ms) is as long as the deadline"),
        ("idempotent = true", ": expected at least one of deadline, timeout"),
    ],
)
def test_parts_that_do_not_go_together(load, text, sentence, tmp_path):
    with pytest.raises(ConfigError) as caught:
        load(f"[policy.p]\n{text}")
    (problem,) = caught.value.problems
    assert problem.startswith(f"{tmp_path / 'policies.toml'}: [policy.p]{sentence}")
    assert "\n" not in problem


def test_two_kinds_of_limit():
    with pytest.raises(ConfigError, match=r"\[policy.p\] adaptive: expected either limit or adaptive, got both"):
        read('[policy.p]\nlimit = "1/s"\nadaptive = true', Path("p.toml"), {})


def test_all_that_is_wrong_is_told_at_once():
    with pytest.raises(ConfigError) as caught:
        read('[policy.a]\ndeadlin = 1\ntimeout = "x"\n[policy.b]\nretry = { attempts = 0 }', Path("p.toml"), {})
    assert [problem.split(":")[1] for problem in caught.value.problems] == [
        " [policy.a] deadlin",
        " [policy.a] timeout",
        " [policy.b] retry.attempts",
    ]


def test_no_sentence_holds_a_password():
    text = '[policy.p]\nlimit = { rate = 1, store = "redis://user:secret@host/0", leese = 1 }'
    with pytest.raises(ConfigError) as caught:
        read(text.replace("redis:", "memcached:").replace("leese", "lease"), Path("p.toml"), {})
    assert "secret" not in str(caught.value)
    assert "memcached://…@host/0" in str(caught.value)
    before = read(text.replace(", leese = 1", ""), Path("p.toml"), {})["p"]
    after = read(text.replace(", leese = 1", "").replace("secret", "other"), Path("p.toml"), {})["p"]
    assert after.changes("p", before) == ["p.limit.store: 'redis://…@host/0' -> 'redis://…@host/0'"]


def test_a_name_that_is_taken_frees_the_names_made_before(load):
    registry = Registry()
    taken = load("[policy.b]\nretry = true", registry=registry)
    with pytest.raises(ConfigError, match=r"\[policy.b\]: expected a name of its own") as caught:
        load("[policy.a]\nretry = true\n[policy.b]\nretry = true", registry=registry)
    assert caught.value is not None  # and its traceback still lives
    assert registry.names() == ["b"]
    assert registry.get("b") is taken["b"]


def test_what_stands_in_the_file_and_in_the_code_is_refused():
    with pytest.raises(
        ConfigError, match=r"\[policy.p\] retry: expected it either in the file or in the code, got both"
    ):
        read("[policy.p]\nretry = true", Path("p.toml"), {"p": {"retry": Retry()}})


def test_code_for_what_is_not_there_is_refused(load):
    with pytest.raises(ConfigError, match=r"code adds to \[policy.q\], and the file does not have it"):
        load("[policy.p]\nretry = true", code={"q": {"retry": Retry()}})
    with pytest.raises(ConfigError, match=r"code adds to \[policy.p\] fallbak: unknown key; did you mean fallback?"):
        load("[policy.p]\nretry = true", code={"p": {"fallbak": Fallback(1)}})


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(ConfigError, match="expected a file to read, got: No such file or directory"):
        load_policies(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="expected a file to read, got: Is a directory"):
        load_policies(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b"[policy.p]\nfallback = '\xe4'")
    with pytest.raises(ConfigError, match="expected UTF-8, got something else"):
        load_policies(tmp_path / "latin.toml")


def test_a_wrong_file_makes_no_policy_and_tells_nobody(load):
    """Whether parts go together is tried on policies that nobody sees."""
    hub, seen, registry = Hub(), [], Registry()
    chaos = 'chaos = { fault = 1, for = "1m", enabled = true }'
    with hub.subscribe(Event, seen.append):
        with pytest.raises(ConfigError, match=r"\[policy.b\]"):
            load(f"[policy.a]\n{chaos}\n[policy.b]\nidempotent = true", hub=hub, registry=registry)
        assert registry.names() == []
        assert seen == []
        policies = load(f"[policy.a]\n{chaos}", hub=hub, registry=registry)
        assert [type(event) for event in seen] == [ChaosStarted]
    assert registry.get("a") is policies["a"]


# Reading them


def test_an_unknown_name_is_answered_with_the_known_ones(load, tmp_path):
    policies = load(WHOLE)
    with pytest.raises(KeyError) as caught:
        policies["paymnts"]
    assert isinstance(caught.value, MisuseError)
    assert str(caught.value) == (
        f"{tmp_path / 'policies.toml'}: expected the name of one of its policies (payments, search, quiet), "
        "got 'paymnts'"
    )
    assert policies.get("paymnts") is None
    assert "paymnts" not in policies
    assert "payments" in policies
    assert len(policies) == 3


def test_the_policies_are_registered(load):
    registry = Registry()
    policies = load(WHOLE, registry=registry)
    assert registry.names() == ["payments", "search", "quiet"]
    assert registry.get("payments") is policies["payments"]


def test_state_is_ready_for_json_and_repr_tells_it(load):
    policies = load(WHOLE)
    state = json.loads(json.dumps(policies.state()))
    assert state["path"].endswith("policies.toml")
    assert (state["reloads"], state["rejections"], state["problems"], state["removed"]) == (0, 0, [], [])
    assert set(state["policies"]) == {"payments", "search", "quiet"}
    assert "of payments, search, quiet; reloads=0 rejections=0>" in repr(policies)
