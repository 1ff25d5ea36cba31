"""`localinfra ray` over echo models: `ray_server.py FOLDER`, whose models.toml it serves.

A program of its own: Ray's warnings are none of the tests'. It obeys lines on standard input, and
answers each with the replicas' states as JSON: `deploy` reads the file again, and answers with what
is wrong if it is refused; `impatient` does so with health checks that give up within seconds; `kill
GROUP` kills a process of the group, and `stop GROUP` stops one; the end of the input ends all.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parent
os.environ["PYTHONPATH"] = os.pathsep.join((str(TESTS.parent), str(TESTS)))  # of Ray's workers
sys.path[:0] = [str(TESTS.parent), str(TESTS)]

import ray  # noqa: E402 - needs the paths

from localinfra import ray_serve  # noqa: E402
from localinfra.cli.ray import read  # noqa: E402
from localinfra.errors import ConfigError  # noqa: E402

RUNTIME = "ray_runtime:RayRuntime"
# Period and limit of health checks, in seconds, after an order.
HEALTH = {
    "deploy": (ray_serve.HEALTH_PERIOD_S, ray_serve.HEALTH_TIMEOUT_S),
    "impatient": (2.0, 5.0),
}


def replicas(group: str) -> list[str]:
    """The names of a group's actors."""
    mark = f"#{ray_serve.deployment_name(group)}#"
    everyone = ray.util.list_named_actors(all_namespaces=True)
    return [one["name"] for one in everyone if mark in one["name"]]


def processes(group: str) -> list[int]:
    """Of the group's replicas, which name themselves as Ray has it: those of this cluster."""
    listed = subprocess.run(["ps", "-axo", "pid=,ppid=,args="], capture_output=True, text=True)
    rows = [line.split(maxsplit=2) for line in listed.stdout.splitlines()]
    parents = {int(pid): int(parent) for pid, parent, *_ in rows}
    mark = f"ray::ServeReplica:{ray_serve.APP}:{ray_serve.deployment_name(group)}"

    def is_own(pid: int) -> bool:
        while pid in parents and pid != os.getpid():
            pid = parents[pid]
        return pid == os.getpid()

    return [int(pid) for pid, _, *words in rows if mark in "".join(words) and is_own(int(pid))]


def obey(order: str, path: Path) -> Any:
    name, _, argument = order.partition(" ")
    if name in HEALTH:
        ray_serve.HEALTH_PERIOD_S, ray_serve.HEALTH_TIMEOUT_S = HEALTH[name]
        try:
            ray_serve.deploy(read(path, {}), RUNTIME)
        except ConfigError as error:
            return {"refused": str(error)}
    elif name == "kill":
        ray.kill(ray.get_actor(replicas(argument)[0], namespace="serve"))
    elif name == "stop":
        os.kill(processes(argument)[0], signal.SIGSTOP)
    return ray_serve.statuses()


def main() -> None:
    path = Path(sys.argv[1]) / "models.toml"
    ray_serve.join(None)
    try:
        print(json.dumps(obey("deploy", path)), flush=True)
        for line in sys.stdin:
            print(json.dumps(obey(line.strip(), path)), flush=True)
    finally:
        ray_serve.end()


if __name__ == "__main__":
    main()
