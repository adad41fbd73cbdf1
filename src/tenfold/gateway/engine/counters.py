"""What the engine counts: plain ints, added to where things happen and read by whoever asks."""

from __future__ import annotations

from tenfold.gateway.engine.tally import CLASSES, answers


class Counters:
    """Numbers of one gateway process; they never fall, but for the three of `Counters.state`'s ``now``."""

    __slots__ = (
        "accepted",
        "answers",
        "bytes_in",
        "bytes_out",
        "canaries",
        "certificates_rejected",
        "certificates_reloaded",
        "clients_left",
        "connects",
        "connects_failed",
        "cut",
        "failovers",
        "fresh",
        "handshakes",
        "handshakes_failed",
        "in_flight",
        "late",
        "own_answers",
        "proxied",
        "proxied_failed",
        "queued",
        "rate_limited",
        "refused",
        "reloads",
        "replay_overflows",
        "requests",
        "retries",
        "retries_refused",
        "retries_status",
        "reused",
        "shed",
        "tunnels",
        "unsolicited",
        "upstreams",
    )

    def __init__(self) -> None:
        self.accepted = 0
        """Client connections."""
        self.requests = 0
        """Requests whose head was accepted."""
        self.in_flight = 0
        """Requests under way now."""
        self.upstreams = 0
        """Connections to endpoints that are open now."""
        self.answers = answers()
        """Final answers by `tally.CLASSES`; 1xx are switches to another protocol."""
        self.own_answers = 0
        """Problems that the gateway answered itself."""
        self.refused = 0
        """Requests that were no requests (`framing.Reason`)."""
        self.late = 0
        """Time-outs of every kind."""
        self.cut = 0
        """Responses that broke off when a part of them was with the client."""
        self.clients_left = 0
        """Clients that went away before their answer was complete."""
        self.bytes_in = self.bytes_out = 0
        """What was read from and written to clients."""
        self.connects = self.connects_failed = self.reused = 0
        """Connections to endpoints: opened, not come about, used again."""
        self.fresh = 0
        """Requests sent once more to the same endpoint, because a kept connection had closed under them."""
        self.failovers = self.retries = self.retries_refused = self.replay_overflows = 0
        """Further tries: of what was not sent, of what was; those not paid for; bodies too long to be kept."""
        self.retries_status = 0
        """Of the retries those of an answer with one of `Route.retry_statuses`."""
        self.queued = 0
        """Requests that waited for a free endpoint."""
        self.rate_limited = self.shed = 0
        """Requests refused by a rate limit, and for want of a place in an adaptive limit."""
        self.unsolicited = 0
        """Connections dropped because bytes came that nobody had asked for."""
        self.canaries = 0
        """Requests that went to a canary."""
        self.tunnels = 0
        """Connections switched to another protocol."""
        self.handshakes = self.handshakes_failed = 0
        """TLS handshakes of clients: complete, and ended before (no TLS, no common version, too slow, gone)."""
        self.proxied = self.proxied_failed = 0
        """Connections with a good PROXY header, and closed for want of one (none, malformed, too slow, gone)."""
        self.certificates_reloaded = self.certificates_rejected = 0
        """Certificates read anew because their files had changed: put into force, and wrong."""
        self.reloads = 0
        """Configurations put into force while running."""

    def state(self) -> dict[str, int]:
        """Plain values by name."""
        found = {f"answered_{name}": count for name, count in zip(CLASSES[1:], self.answers[1:], strict=True)}
        return found | {name: getattr(self, name) for name in self.__slots__ if name != "answers"}
