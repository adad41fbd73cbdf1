"""All workers as one: what the admin API asks when there are several processes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from tenfold._core.errors import MisuseError
from tenfold.gateway.config import Config, load_config, read_config
from tenfold.gateway.processes.channel import WorkerGoneError

if TYPE_CHECKING:
    from tenfold.gateway.processes.supervisor import Supervisor


class Processes:
    """The workers of a supervisor, for the admin API, which runs in the supervisor's process (`admin.Workers`).

    ``reload`` and ``drain`` are the supervisor's own: a configuration is judged once and given to all, and to those
    that are started later; and a drain ends all. Both answer as one. What ``endpoint`` says is kept for workers that
    are started later.
    """

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor: Final = supervisor

    @property
    def count(self) -> int:
        """How many workers serve."""
        return len(self._supervisor.living)

    async def call_all(self, method: str, params: dict[str, Any], *, timeout: float) -> list[dict[str, Any]]:
        """The answers of all that serve, in the order of their numbers; one that ends meanwhile is left out.

        Raises what the first of them that raised did: `MisuseError`, `WorkerError`; and `WorkerTimeoutError` for one
        that does not answer within ``timeout`` seconds, because a sum without it would be wrong.
        """
        supervisor = self._supervisor
        if method == "reload":  # it has deadlines of its own, and must not be halved
            changes = await supervisor.reload(await self._config(params))
            return [{"changes": list(changes.lines())}]
        if method == "drain":
            supervisor.asked_to_drain()
            return [{"draining": True}]
        answers = await asyncio.gather(
            *(each.call(method, params, timeout=timeout) for each in supervisor.living), return_exceptions=True
        )
        found: list[dict[str, Any]] = []
        for each in answers:
            if isinstance(each, BaseException):
                if not isinstance(each, WorkerGoneError):
                    raise each
            else:
                found.append(each)
        if not found:
            raise WorkerGoneError("no worker serves at the moment")
        if method == "endpoint":
            supervisor.remember(params)
        return found

    async def _config(self, params: dict[str, Any]) -> Config:
        file = self._supervisor.file
        if not params:
            return await asyncio.to_thread(load_config, file)
        text = params.get("toml")
        if len(params) != 1 or not isinstance(text, str):
            raise MisuseError(f'reload: expected {{"toml": the text of a configuration}} or {{}}, got {sorted(params)}')
        return read_config(text, "reload")

    def __repr__(self) -> str:
        return f"<Processes {self.count} of {self._supervisor.count}>"
