"""Reading the file anew while policies are at work: all of it or nothing, and the policies stay the same objects."""

import asyncio
import os
import threading

import pytest

from tenfold._core.errors import MisuseError
from tenfold._core.events import Hub
from tenfold.resilience.config import load_policies
from tenfold.resilience.config_read import ConfigError
from tenfold.resilience.config_watch import ConfigRejected, ConfigReloaded
from tenfold.resilience.config_watch import watch as watch_file
from tenfold.resilience.errors import BulkheadFull
from tenfold.resilience.fallback import Fallback
from tenfold.resilience.registry import Registry
from tenfold.testing import FakeClock

TWO = '[policy.a]\ndeadline = "2s"\nretry = { attempts = 3 }\n[policy.b]\nbulkhead = 5\n'


@pytest.fixture
def path(tmp_path):
    made = tmp_path / "policies.toml"
    made.write_text(TWO, encoding="utf-8")
    return made


@pytest.fixture
def clock():
    with FakeClock() as made:
        yield made


@pytest.fixture
def told():
    return []


@pytest.fixture
def registry():
    return Registry()


@pytest.fixture
def policies(path, clock, told, registry):
    hub = Hub()
    hub.subscribe(ConfigReloaded, told.append)
    hub.subscribe(ConfigRejected, told.append)
    return load_policies(path, registry=registry, clock=clock, hub=hub)


def replace(path, text):
    """As careful programs do it: a new file moved into place."""
    fresh = path.with_suffix(".new")
    fresh.write_text(text, encoding="utf-8")
    os.replace(fresh, path)


# By hand


def test_a_reload_says_what_changed_and_the_objects_stay(policies, path, told):
    before = dict(policies)
    path.write_text(
        '[policy.a]\ndeadline = "1s"\nretry = { attempts = 3, base = "1ms" }\n[policy.b]\nbulkhead = 5\n'
        "[policy.c]\nbreaker = true\n",
        encoding="utf-8",
    )
    changes = ("a.deadline: '2s' -> '1s'", "a.retry.base: none -> '1ms'", "c: added")
    assert policies.reload() == changes
    assert told == [ConfigReloaded(str(path), added=("c",), removed=(), changes=changes)]
    assert {name: policies[name] for name in before} == before
    assert policies["a"].options.deadline == 1.0
    assert policies["a"].options.retry.base == 0.001
    assert policies["c"].options.breaker is not None
    assert policies.reloads == 1


def test_a_decorated_function_goes_by_the_new_settings(policies, path):
    entered, leave = threading.Semaphore(0), threading.Event()

    @policies["b"]
    def work():
        entered.release()
        leave.wait(10)

    threads = [threading.Thread(target=work) for _ in range(5)]
    for thread in threads:
        thread.start()
        entered.acquire()
    replace(path, '[policy.b]\nbulkhead = { places = 5, queue = 0 }\n[policy.a]\ndeadline = "2s"\n')
    policies.reload()
    with pytest.raises(BulkheadFull):
        work()
    leave.set()
    for thread in threads:
        thread.join(10)
    assert policies["b"].counters.successes == 5


def test_what_is_taken_out_of_a_table_is_off(policies, path):
    replace(path, '[policy.a]\ndeadline = "2s"\n[policy.b]\nbulkhead = 5\n')
    assert policies.reload() == ("a.retry.attempts: 3 -> none",)
    assert policies["a"].options.retry is None
    assert policies["a"].options.deadline == 2.0


def test_a_policy_that_leaves_the_file_works_on_and_is_marked(policies, path, told):
    held = policies["b"]
    replace(path, '[policy.a]\ndeadline = "2s"\nretry = { attempts = 3 }\n')
    assert policies.reload() == ("b: removed",)
    assert told[-1].removed == ("b",)
    assert policies.removed == {"b"}
    assert policies.state()["removed"] == ["b"]
    assert policies["b"] is held
    assert held.call(len, "four") == 4
    assert policies.reload() == ()  # told once
    replace(path, TWO.replace("bulkhead = 5", "bulkhead = 7"))
    assert policies.reload() == ("b: back again", "b.bulkhead: 5 -> 7")
    assert policies["b"] is held
    assert held.options.bulkhead.size == 7
    assert policies.removed == frozenset()
    assert told[-1].added == ()


def test_a_bad_file_changes_nothing_is_counted_and_told(policies, path, told):
    options = policies["a"].options
    path.write_text('[policy.a]\ndeadline = "1s"\n[policy.b]\nbulkhed = 5\n', encoding="utf-8")
    with pytest.raises(ConfigError, match="bulkhed: unknown key; did you mean bulkhead"):
        policies.reload()
    problem = f"{path}: [policy.b] bulkhed: unknown key; did you mean bulkhead?"
    assert told == [ConfigRejected(str(path), (problem,))]
    assert policies["a"].options is options
    assert (policies.reloads, policies.rejections, policies.problems) == (0, 1, (problem,))
    assert policies.state()["problems"] == [problem]
    path.write_text(TWO, encoding="utf-8")
    assert policies.reload() == ()
    assert policies.problems == ()


def test_a_file_that_only_a_decorated_function_speaks_against_changes_nothing(policies, path, told, registry):
    """Whether a plain function is decorated the file cannot know; by then others may have got their new settings."""

    @policies["b"]
    def work():
        return 7

    replace(path, '[policy.a]\ndeadline = "1s"\n[policy.new]\nretry = true\n[policy.b]\ntimeout = "1s"\n')
    with pytest.raises(ConfigError, match=r"\[policy.b\]: timeout stops asynchronous calls"):
        policies.reload()
    assert policies["a"].options.deadline == 2.0
    assert policies["a"].options.retry is not None
    assert "new" not in policies
    assert registry.names() == ["a", "b"]
    assert policies["b"].options.bulkhead.size == 5
    assert isinstance(told[-1], ConfigRejected)
    assert work() == 7


def test_a_policy_whose_name_is_taken_is_a_problem_of_the_file(policies, path, registry):
    from tenfold.resilience.policy import Policy
    from tenfold.resilience.retry import Retry

    taken = Policy("c", retry=Retry(), registry=registry)
    replace(path, TWO + "[policy.c]\nretry = true\n")
    with pytest.raises(ConfigError, match=r"\[policy.c\]: expected a name of its own"):
        policies.reload()
    assert registry.get("c") is taken


def test_a_reload_that_changes_nothing_leaves_the_live_parts_alone(policies, told):
    plan = policies["a"].plan
    assert policies.reload() == ()
    assert policies["a"].plan is plan
    assert told == []
    assert policies.reloads == 0


def test_true_and_one_are_two_settings(policies, path):
    replace(path, TWO.replace("{ attempts = 3 }", "true"))
    policies.reload()
    assert policies["a"].options.retry.attempts == 3
    replace(path, TWO.replace("{ attempts = 3 }", "1"))
    assert policies.reload() == ("a.retry: True -> 1",)
    assert policies["a"].options.retry.attempts == 1


def test_what_code_adds_outlives_reloads_and_does_not_keep_a_policy_in_the_file(path, clock):
    fallback = Fallback("pending")
    policies = load_policies(path, code={"b": {"fallback": fallback}}, registry=Registry(), clock=clock, hub=Hub())
    replace(path, TWO.replace("bulkhead = 5", "bulkhead = 6"))
    policies.reload()
    assert policies["b"].options.fallback == fallback
    replace(path, '[policy.a]\ndeadline = "2s"\n')
    policies.reload()
    assert policies.removed == {"b"}
    assert policies["b"].options.fallback == fallback


def test_threads_may_reload_at_once(policies, path):
    errors = []

    def reload(number):
        for turn in range(10):
            replace_text = TWO.replace('"2s"', f'"{2 + (number + turn) % 3}s"')
            fresh = path.with_name(f"{number}.new")
            fresh.write_text(replace_text, encoding="utf-8")
            os.replace(fresh, path)
            try:
                policies.reload()
            except MisuseError as exc:
                errors.append(exc)

    threads = [threading.Thread(target=reload, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    policies.reload()
    assert errors == []
    assert f'"{policies["a"].options.deadline:g}s"' in path.read_text(encoding="utf-8")


# Watching


def watch(clock, policies, steps, interval="1s"):
    """Take each step and let three seconds pass."""

    async def main():
        async with policies.watching(interval):
            for step in steps:
                step()
                await clock.sleep(3)

    clock.run(main())


def test_a_changed_file_comes_into_force(clock, policies, path, told):
    watch(clock, policies, [lambda: path.write_text(TWO.replace("2s", "1s"), encoding="utf-8")])
    assert policies["a"].options.deadline == 1.0
    assert [event.changes for event in told] == [("a.deadline: '2s' -> '1s'",)]


def test_a_file_moved_into_place_comes_into_force_even_with_its_old_time_and_size(clock, policies, path):
    stat = path.stat()

    def swap():
        replace(path, TWO.replace("2s", "1s"))
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))

    watch(clock, policies, [swap])
    assert path.stat().st_mtime_ns == stat.st_mtime_ns
    assert policies["a"].options.deadline == 1.0


def test_a_swapped_symbolic_link_comes_into_force(clock, tmp_path):
    """Kubernetes updates a mounted ConfigMap so: the file is a link through a folder that is itself a swapped link."""
    for name, text in (("v1", TWO), ("v2", TWO.replace("2s", "1s"))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "p.toml").write_text(text, encoding="utf-8")
    (tmp_path / "data").symlink_to("v1")
    (tmp_path / "p.toml").symlink_to("data/p.toml")
    policies = load_policies(tmp_path / "p.toml", registry=Registry(), clock=clock, hub=Hub())

    def swap():
        (tmp_path / "fresh").symlink_to("v2")
        os.replace(tmp_path / "fresh", tmp_path / "data")

    watch(clock, policies, [swap])
    assert policies["a"].options.deadline == 1.0


def test_the_same_content_is_no_change(clock, policies, path, told):
    plan = policies["a"].plan
    watch(clock, policies, [lambda: os.utime(path), lambda: replace(path, TWO)])
    assert told == []
    assert policies["a"].plan is plan


def test_a_bad_file_is_told_once_and_its_repair_comes_into_force(clock, policies, path, told):
    watch(
        clock,
        policies,
        [
            lambda: path.write_text("[policy.a", encoding="utf-8"),
            lambda: None,
            lambda: path.write_text(TWO.replace("2s", "1s"), encoding="utf-8"),
        ],
    )
    assert [type(event) for event in told] == [ConfigRejected, ConfigReloaded]
    assert (policies.reloads, policies.rejections) == (1, 1)
    assert policies["a"].options.deadline == 1.0


def test_a_bad_file_put_back_is_told_as_well(clock, policies, path, told):
    watch(
        clock,
        policies,
        [
            lambda: path.write_text("[policy.a", encoding="utf-8"),
            lambda: path.write_text(TWO, encoding="utf-8"),
        ],
    )
    assert [type(event) for event in told] == [ConfigRejected, ConfigReloaded]
    assert policies.problems == ()


def test_a_file_that_is_gone_is_told_once_and_changes_nothing(clock, policies, path, told):
    watch(clock, policies, [path.unlink, lambda: None, lambda: path.write_text(TWO, encoding="utf-8")])
    assert [type(event) for event in told] == [ConfigRejected, ConfigReloaded]
    assert "expected a file to read" in told[0].problems[0]
    assert list(policies) == ["a", "b"]


def test_a_file_caught_while_it_is_being_written_is_not_taken(clock, policies, path, told):
    """Half of a file may be valid TOML in which half of the settings are missing."""

    async def main():
        async with policies.watching("1s"):
            await clock.sleep(0.95)
            for size in range(20, len(TWO) + 1):  # a byte every 20 ms, over several looks
                path.write_text((TWO.replace("2s", "1s") + "\n")[:size], encoding="utf-8")
                await clock.sleep(0.02)
            await clock.sleep(3)

    clock.run(main())
    assert [type(event) for event in told] == [ConfigReloaded]
    assert told[0].changes == ("a.deadline: '2s' -> '1s'",)


def test_what_a_reload_by_hand_took_is_not_taken_again(clock, policies, path, told):
    def change():
        path.write_text(TWO.replace("2s", "1s"), encoding="utf-8")
        policies.reload()

    watch(clock, policies, [change])
    assert len(told) == 1


def test_a_surprise_does_not_end_the_watch(clock, policies, path, told, monkeypatch):
    def surprise(policy, **changes):
        raise RuntimeError("a bug")

    policy = policies["a"]

    def breaks():
        monkeypatch.setattr(type(policy), "reconfigure", surprise)
        path.write_text(TWO.replace("2s", "1s"), encoding="utf-8")

    def works():
        monkeypatch.undo()
        path.write_text(TWO.replace("2s", "3s"), encoding="utf-8")

    watch(clock, policies, [breaks, works])
    assert [type(event) for event in told] == [ConfigRejected, ConfigReloaded]
    assert "RuntimeError" in told[0].problems[0]
    assert policies["a"].options.deadline == 3.0


def test_one_watches_and_after_it_another_may(clock, policies):
    async def main():
        async with policies.watching():
            with pytest.raises(MisuseError, match="somebody watches it already"):
                async with policies.watching():
                    pass
        async with policies.watching():
            pass

    clock.run(main())


def test_an_interval_of_zero_is_refused(clock, policies):
    async def main():
        with pytest.raises(MisuseError, match="interval: expected a duration longer than zero"):
            async with policies.watching(0):
                pass

    clock.run(main())


def test_watching_ends_with_its_block(clock, policies, path):
    watch(clock, policies, [lambda: None])
    path.write_text(TWO.replace("2s", "1s"), encoding="utf-8")

    async def later():
        await clock.sleep(10)

    clock.run(later())
    assert policies["a"].options.deadline == 2.0


def test_a_change_being_taken_when_the_watch_ends_is_taken_to_its_end(clock):
    taken = []

    async def take():
        await clock.sleep(1)
        taken.append(clock.monotonic())

    async def main():
        task = asyncio.ensure_future(watch_file(lambda: "new", lambda: "old", take, 1.0, clock))
        await clock.sleep(1.5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    clock.run(main())
    assert taken == [pytest.approx(2.1)]
