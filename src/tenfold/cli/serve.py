"""``tenfold serve``: parsing and printing."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

Several = Annotated[list[str] | None, Parameter(negative="")]
Flag = Annotated[bool, Parameter(negative="")]


def serve(
    app: str,
    *,
    name: str = "",
    workers: str = "1",
    target_inflight: float | None = None,
    target_p95: str | None = None,
    target_cpu: str | None = None,
    schedule: Several = None,
    schedule_zone: str = "UTC",
    server: Literal["granian", "uvicorn"] = "uvicorn",
    factory: Flag = False,
    app_dir: str = ".",
    listen: str = "127.0.0.1:8000",
    admin: str = "127.0.0.1:0",
    admin_public: Flag = False,
    edge: Flag = False,
    reload: Flag = False,
    warm: Several = None,
    memory_limit: str | None = None,
    max_requests: int | None = None,
    ready_timeout: str = "30s",
    drain_timeout: str = "30s",
    max_inflight: int = 1000,
    queue: int = 1000,
    queue_timeout: str = "10s",
    slow_start: str = "5s",
    period: str = "1s",
    export: Literal["kubernetes", "keda", "azure"] | None = None,
    image: str | None = None,
    measured: Path | None = None,
    health: str = "/health",
    namespace: str = "default",
    prometheus: str = "",
    environment: str = "",
    location: str = "",
    bicep: Flag = False,
) -> int:
    """Serve an ASGI app in worker processes behind the gateway, and scale them by what is measured; or export.

    SIGHUP restarts the workers in turn, with no failed request; SIGTERM and SIGINT drain, and a second SIGINT ends at
    once. A worker that dies is replaced, and what was under way there and is safe to repeat goes to another one.

    Exit code 0: all requests were answered; 1: some were cut at the end of the drain; 2: it could not start.

    Parameters
    ----------
    app
        The app, as "module:name".
    name
        What metrics and events call it. Not given: the first part of the module.
    workers
        A fixed number such as 4, or a range such as 2..8.
    target_inflight
        Requests in flight in each worker, waiting ones included, to scale to. With a range and no other target: 20.
    target_p95
        The 95th percentile of the response time to scale to, such as 100ms.
    target_cpu
        The share of a core in each worker to scale to, such as 70%.
    schedule
        "START..END=WORKERS" with two cron times, such as "0 8 * * mon-fri..0 20 * * mon-fri=6": so many at least.
    schedule_zone
        The time zone of the schedules, such as Europe/Berlin.
    server
        What runs in each worker.
    factory
        The name is a function that makes the app.
    app_dir
        Where the module is looked for.
    listen
        Where clients come in: an address, or unix:/path.
    admin
        Where metrics and the admin API are; port 0 is a free one. The token is $TENFOLD_ADMIN_TOKEN, or made up.
    admin_public
        Says that the admin address may be reached from other machines, as a scraper of a pod's metrics must.
    edge
        Cache responses that may be (RFC 9111).
    reload
        Restart the workers in turn when a *.py file below the app's directory changes.
    warm
        A path that is asked of each new worker before it gets requests. May be given several times.
    memory_limit
        Replace a worker that uses more, such as 512MB.
    max_requests
        Replace a worker after so many requests.
    ready_timeout
        What a new worker may take to be ready.
    drain_timeout
        What requests under way get when a worker, or all of it, ends.
    max_inflight
        Most requests at one worker at once; more wait.
    queue
        How many may wait for a place; more are answered 503.
    queue_timeout
        How long each waits; then it is answered 503.
    slow_start
        How long a worker that joins others takes to get its whole share.
    period
        How often the number of workers is decided.
    export
        Serve nothing; print documents for that platform that scale by the same policy. Needs image and a range.
    image
        The image of the app, for export.
    measured
        A JSON file of what one worker was measured to use, for export: cpu (cores), memory, response_time.
    health
        The path that says whether a worker takes requests, for export.
    namespace
        Of Kubernetes, for export.
    prometheus
        The address of a Prometheus, for export to KEDA and Azure.
    environment
        The resource id of the environment, for export to Azure.
    location
        The location, for export to Azure.
    bicep
        Bicep instead of YAML, for export to Azure.
    """
    from tenfold._core.errors import MisuseError
    from tenfold.autoscale import Target
    from tenfold.serve import ServeOptions, run
    from tenfold.serve import schedule as read

    targets = []
    if target_inflight is not None:
        targets.append(Target.in_flight(target_inflight))
    if target_p95 is not None:
        targets.append(Target.p95(target_p95))
    if target_cpu is not None:
        targets.append(Target.cpu(target_cpu))
    if schedule_zone != "UTC" and not schedule:
        raise MisuseError("schedule zone: means nothing without a schedule; say both or neither")
    options = ServeOptions(
        app=app,
        name=name,
        workers=workers,
        targets=tuple(targets),
        schedules=tuple(read(text, number, schedule_zone) for number, text in enumerate(schedule or (), start=1)),
        server=server,
        factory=factory,
        app_dir=app_dir,
        listen=listen,
        admin=admin,
        admin_public=admin_public,
        edge=edge,
        reload=reload,
        warm=tuple(warm or ()),
        memory_limit=memory_limit,
        max_requests=max_requests,
        ready_timeout=ready_timeout,
        drain_timeout=drain_timeout,
        max_inflight=max_inflight,
        queue=queue,
        queue_timeout=queue_timeout,
        slow_start=slow_start,
        period=period,
    )
    if export is None:
        if image is not None:
            raise MisuseError("--image: means nothing without --export; say both or neither")
        return run(options, _say)
    from tenfold.cli import _serve_export

    policy = options.policy()
    if policy is None:
        raise MisuseError(f"--export: expected a range of workers such as 2..8 to scale in, got {workers}")
    if image is None:
        raise MisuseError("--export: expected --image, got none")
    text = _serve_export.export(
        export,
        policy,
        name=options.name,
        image=image,
        health=health,
        drain=drain_timeout,
        use=None if measured is None else _serve_export.read_use(measured),
        namespace=namespace,
        prometheus=prometheus,
        environment=environment,
        location=location,
        bicep=bicep,
    )
    print(text, end="" if text.endswith("\n") else "\n")
    return 0


def _say(line: str) -> None:
    sys.stderr.write(f"tenfold: {line}\n")
    sys.stderr.flush()
