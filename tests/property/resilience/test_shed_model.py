"""Laws of the shedder's heart, whatever comes in whatever order."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tenfold.resilience.shed import Line, Shed
from tenfold.resilience.wire import Priority


class Callers(RuleBasedStateMachine):
    """Random callers, a clock that only goes forward, and a shell that ends waits in time."""

    def __init__(self):
        super().__init__()
        self.now = 0.0
        self.line = Line(Shed(2, queue=3, max_wait=0.5, target=0.01, interval=0.1))
        self.everybody = []
        self.most_running = 2

    def tell(self, changed):
        for waiter in changed:
            assert waiter.state in ("running", "shed")
            if waiter.state == "running":
                # Strict priority: nobody who matters more still waits.
                assert all(other.priority <= waiter.priority for other in self.waiting())
                assert waiter.until > self.now
        return changed

    def waiting(self):
        return [waiter for waiter in self.everybody if waiter.state == "waiting"]

    def running(self):
        return [waiter for waiter in self.everybody if waiter.state == "running"]

    @rule(priority=st.sampled_from(Priority), patience=st.sampled_from([0.0, 0.02, 0.3, float("inf")]))
    def arrive(self, priority, patience):
        before = self.waiting()
        waiter, victim = self.line.arrive(self.now, priority, self.now + patience)
        self.everybody.append(waiter)
        assert waiter.until <= self.now + 0.5 or waiter.state != "waiting"
        if waiter.reason == "full":
            # Nobody who matters less keeps a place in the queue.
            assert all(other.priority >= priority for other in before)
            assert len(before) >= self.line.options.queue
        if victim is not None:
            assert victim in before
            assert victim.priority <= priority
            assert victim.priority == min(other.priority for other in before)
            assert victim.state == "shed"

    @rule(data=st.data())
    def end(self, data):
        running = self.running()
        if running:
            self.tell(self.line.leave(data.draw(st.sampled_from(running)), self.now))

    @rule(data=st.data())
    def go_away(self, data):
        waiting = self.waiting()
        if waiting:
            gone = data.draw(st.sampled_from(waiting))
            assert self.line.leave(gone, self.now) == []
            assert gone.state == "gone"

    @rule(seconds=st.sampled_from([0.001, 0.02, 0.09, 0.2, 0.6]))
    def pass_time(self, seconds):
        end = self.now + seconds
        for waiter in sorted(self.waiting(), key=lambda each: each.until):
            if waiter.until <= end and waiter.state == "waiting":
                self.now = max(self.now, waiter.until)
                assert self.line.expire(waiter, self.now)
        self.now = end

    @rule(limit=st.integers(1, 3), queue=st.integers(0, 4))
    def reconfigure(self, limit, queue):
        options = Shed(limit, queue=queue, max_wait=0.5, target=0.01, interval=0.1)
        self.tell(self.line.reconfigure(options, self.now))

    @rule(data=st.data())
    def disturb(self, data):
        """Leaving twice and expiring what does not wait changes nothing."""
        over = [waiter for waiter in self.everybody if waiter.state in ("done", "shed", "gone")]
        if over:
            waiter = data.draw(st.sampled_from(over))
            assert self.line.leave(waiter, self.now) == []
            assert not self.line.expire(waiter, self.now)

    @invariant()
    def nobody_is_lost(self):
        line = self.line
        assert line.running == len(self.running())
        assert line.waiting == len(self.waiting()) == sum(len(lane) for lane in line._lanes)
        ended = [waiter for waiter in self.everybody if waiter.state == "shed"]
        assert line.turned_away == len(ended)
        assert all(waiter.reason for waiter in ended)
        assert line.gone == sum(waiter.state == "gone" for waiter in self.everybody)
        assert sum(line.admitted) == sum(waiter.state in ("running", "done") for waiter in self.everybody)

    @invariant()
    def the_bounds_hold(self):
        line = self.line
        assert line.running <= max(line.options.limit, self.most_running)
        self.most_running = line.running  # after a limit was lowered the number may only fall
        assert line.waiting <= line.options.queue
        assert not (line.waiting and line.running < line.options.limit), "a place stands empty while somebody waits"

    @invariant()
    def every_wait_ends_in_time(self):
        for waiter in self.waiting():
            assert self.now <= waiter.until <= waiter.since + 0.5

    @invariant()
    def what_is_told_is_sane(self):
        assert 0.0 <= self.line.pressure(self.now) <= 2.0
        assert 0.0 < self.line.retry_after(self.now) <= 30.0
        for priority in Priority:
            assert 0.01 <= self.line.allowed_wait(priority, self.now) <= 0.5
        # The higher the priority, the less stands before it.
        standing = [self.line.standing(priority, self.now) for priority in Priority]
        assert standing == sorted(standing, reverse=True)


Callers.TestCase.settings = settings(max_examples=300, stateful_step_count=50, deadline=None)
TestCallers = Callers.TestCase
