"""Locust's FastHttpUser with the journey of the bench: 4 requests, each checked for status and length. Prints JSON."""

from gevent import monkey

monkey.patch_all()

import json  # noqa: E402
import resource  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402

import gevent  # noqa: E402
from locust import FastHttpUser, constant, task  # noqa: E402
from locust.env import Environment  # noqa: E402


class Shopper(FastHttpUser):
    wait_time = constant(0)
    host = sys.argv[1]

    @task
    def four(self) -> None:
        for name in ("/a", "/b", "/c", "/d"):
            with self.client.get(name, catch_response=True) as answer:
                if answer.status_code != 200:
                    answer.failure("status 200")
                elif len(answer.content) != 1024:
                    answer.failure("1 KiB")


def cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


env = Environment(user_classes=[Shopper])
runner = env.create_local_runner()
runner.start(50, spawn_rate=1000)
gevent.sleep(1.0)
env.stats.reset_all()
before, began = cpu(), time.monotonic()
gevent.sleep(float(sys.argv[2]))
requests, spent, wall = env.stats.total.num_requests, cpu() - before, time.monotonic() - began
failures = env.stats.total.num_failures
runner.quit()
print(json.dumps({"requests": requests, "failures": failures, "cpu": spent, "wall": wall}))
