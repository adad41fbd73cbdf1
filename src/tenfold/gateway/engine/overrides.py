"""What an administrator has changed of endpoints at run time, and how long it lasts.

Theory. A person who drains an endpoint, because its machine is to be mended, must be able to rely on it: no reload of
the file, no settings of its pool that change, no discovery that tells of it anew may give it work meanwhile. So the
order is kept here and not in the balancer, which a reload may replace. A drain or maintenance lasts until the endpoint
is told to be ready or leaves its pool (HAProxy, "set server … state": the same, but that HAProxy forgets both at a
reload unless its state file is loaded). A weight lasts as long, and ends too when a reload declares another weight for
the endpoint than the file did before: then the file has the last word, because that is where somebody just said so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Literal

from tenfold._core.errors import MisuseError
from tenfold._core.events import EVENTS, Hub, Subscription
from tenfold.balance.happenings import MembersChanged

if TYPE_CHECKING:
    from tenfold.gateway.config import Changes
    from tenfold.gateway.engine.plan import Plan
    from tenfold.gateway.engine.pool_plan import PoolPlan

State = Literal["ready", "drain", "maint"]
STATES: Final = ("ready", "drain", "maint")


class Override:
    """The orders for one endpoint."""

    __slots__ = ("declared", "state", "weight")

    def __init__(self, declared: float) -> None:
        self.state: State = "ready"
        self.weight: float | None = None
        self.declared = declared
        """The weight before it was changed, for taking the change back."""

    @property
    def idle(self) -> bool:
        """Whether nothing is ordered."""
        return self.state == "ready" and self.weight is None

    def __repr__(self) -> str:
        return f"<Override {self.state} weight={self.weight}>"


class Overrides:
    """The orders of one gateway. Belongs to its event loop."""

    __slots__ = ("_found", "_plan", "_subscription")

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], Override] = {}
        self._plan: Callable[[], Plan] | None = None
        self._subscription: Subscription[MembersChanged] | None = None

    def watch(self, plan: Callable[[], Plan], hub: Hub = EVENTS) -> None:
        """Keep orders in force when discovery declares endpoints anew, until `close`."""
        self._plan = plan
        self._subscription = hub.subscribe(MembersChanged, self._changed)

    def close(self) -> None:
        """Watch no more."""
        if self._subscription is not None:
            self._subscription.cancel()
            self._subscription = None

    def state(self, pool: str, id: str) -> State:
        """What an endpoint was told to be."""
        found = self._found.get((pool, id))
        return "ready" if found is None else found.state

    def weight(self, pool: str, id: str) -> float | None:
        """The weight that it was given; None: the declared one counts."""
        found = self._found.get((pool, id))
        return None if found is None else found.weight

    def _of(self, pool: PoolPlan, id: str) -> Override:
        key = pool.options.name, id
        found = self._found.get(key)
        if found is None:
            declared = next((each.weight for each in pool.balancer.endpoints if each.id == id), 1.0)
            found = self._found[key] = Override(declared)
        return found

    def set_state(self, pool: PoolPlan, id: str, state: State) -> None:
        """Tell an endpoint what to be; `maint` closes its idle connections too.

        Raises `MisuseError` for an unknown id.
        """
        balancer = pool.balancer
        if state == "ready":
            balancer.resume(id)
        elif self.state(pool.options.name, id) == "ready":
            balancer.hold(id)
        if state == "maint" and (upstream := pool.upstreams.get(id)) is not None:
            for connection in list(upstream.idle):
                connection.drop()
        self._of(pool, id).state = state
        self._tidy()

    def set_weight(self, pool: PoolPlan, id: str, weight: float | None) -> None:
        """Give an endpoint another weight; None: the declared one again. Raises `MisuseError` for an unknown id."""
        override = self._of(pool, id)
        before, override.weight = override.weight, weight  # first, because the balancer tells `_changed` at once
        try:
            pool.balancer.reweight(id, override.declared if weight is None else weight)
        except MisuseError:
            override.weight = before
            raise
        finally:
            self._tidy()

    def forget(self, changes: Changes) -> None:
        """A reload is about to come into force: what it says itself counts again."""
        for change in changes.pools_changed:
            for endpoint in (*change.weights, *change.changed):
                found = self._found.get((change.name, endpoint.id))
                if found is not None:
                    if endpoint.weight != found.declared:
                        found.weight = None
                    found.declared = endpoint.weight
        self._tidy()

    def apply(self, plan: Plan) -> None:
        """Put all orders into force for the endpoints of ``plan``, and forget those whose endpoints have left."""
        for (name, id), override in list(self._found.items()):
            pool = plan.pools.get(name)
            if pool is None or not self._put(pool, id, override):
                del self._found[name, id]

    def _put(self, pool: PoolPlan, id: str, override: Override) -> bool:
        endpoint = next((each for each in pool.balancer.endpoints if each.id == id), None)
        if endpoint is None:
            # A discovery that has not spoken since its pool was made anew says nothing about who has left.
            return not pool.balancer.endpoints
        if override.weight is not None and endpoint.weight != override.weight:
            override.declared = endpoint.weight
            pool.balancer.reweight(id, override.weight)
        if override.state != "ready" and pool.balancer.state()["endpoints"][id]["why"] != "draining":
            pool.balancer.hold(id)
        return True

    def _changed(self, event: MembersChanged) -> None:
        if self._plan is None or not self._found:
            return
        pool = self._plan().pools.get(event.balancer)
        if pool is None:
            return
        for (name, id), override in list(self._found.items()):
            if name == event.balancer and not self._put(pool, id, override):
                self._found.pop((name, id), None)

    def _tidy(self) -> None:
        for key in [key for key, each in self._found.items() if each.idle]:
            del self._found[key]

    def __repr__(self) -> str:
        return f"<Overrides {len(self._found)}>"
