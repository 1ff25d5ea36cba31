"""localinfra on Ray Serve: a gateway deployment, and a deployment of replicas for each group of
models. The only importer of ray; nothing but `localinfra ray` imports it.

    client → Serve's HTTP proxy → Gateway (scale/gateway.py) → EngineReplica (scale/hosted.py)

The proxy can't read bodies, so it can't know which replica has a prompt's prefix: the gateway
chooses, and `NamedRouter` does as it says. https://docs.ray.io/en/latest/serve/
"""

import asyncio
import contextlib
import contextvars
import importlib
import logging
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import ray
from msgspec.structs import replace
from ray import serve
from ray._private.authentication import authentication_token_setup
from ray.exceptions import RayActorError
from ray.serve import context
from ray.serve.config import AutoscalingConfig, RequestRouterConfig
from ray.serve.exceptions import DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle
from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica
from ray.serve.schema import LoggingConfig
from starlette.types import ASGIApp

from localinfra import __version__, logs
from localinfra.api.app import create_app
from localinfra.config.settings import Config, ServerSettings
from localinfra.costs import Ledger, default_path
from localinfra.errors import ApiError, ConfigError
from localinfra.keys import file as key_file
from localinfra.keys.holders import Holders
from localinfra.models import catalog as catalog_file
from localinfra.models.catalog import Catalog
from localinfra.runtime import Runtime
from localinfra.scale import registry
from localinfra.scale.forwarded import Batches, Fleet, Forwarded, ReplicaLost
from localinfra.scale.gateway import create_gateway, without_own_id
from localinfra.scale.grouped import GroupOrigin, packed, unpacked
from localinfra.scale.groups import Groups
from localinfra.scale.hosted import HostedApp
from localinfra.scale.updates import config_of, digest, first_replicas, lacking, needs, version_of

logger = logging.getLogger(__name__)

APP = "localinfra"
GATEWAY = "gateway"
# Requests wait in the engines, which refuse more than `max_queue` of each model; Serve's own limit
# is only to be beyond that.
MOST_ONGOING = 100_000
# Three checks in a row without an answer end a replica. Its loop never blocks, but a machine that
# swaps may hold it up.
HEALTH_PERIOD_S, HEALTH_TIMEOUT_S = 10.0, 20.0
DRAIN_LOOK_S = 0.5  # between two looks whether a replica that shall end still answers
CLOSE_S = 30.0  # to free models, after that
RUNTIME = "localinfra.runtime:Runtime"


# --- Routing ------------------------------------------------------------------------------------


class NamedRouter(RequestRouter):  # type: ignore[misc]  # ray has no annotations that mypy reads
    """Sends a call to the replica that its `replica` argument names, as long as that runs; else to
    one with few requests."""

    def initialize_state(self, **options: object) -> None:
        registry.routers[self._deployment_id.name] = self

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        name = pending_request.kwargs.get("replica") if pending_request else None
        if pending_request:
            pending_request.routing_context.should_backoff = True
        for one in candidate_replicas:
            if one.replica_id.unique_id == name:
                self._trust(one.replica_id)
                return [[one], candidate_replicas]
        return [candidate_replicas]

    def _trust(self, id: ReplicaID) -> None:
        """Or Serve would ask a replica that had no request for 10 s how many it has, and take
        another one if it does not answer within 0.1 s. It tells with each answer anyway."""
        cache = self.replica_queue_len_cache
        if cache.get(id) is None:
            cache.update(id, 0)

    def known_loads(self) -> dict[str, int]:
        """The requests of each replica as far as this process knows. Any thread."""
        cache = self.replica_queue_len_cache
        return {id.unique_id: cache.get(id) or 0 for id in list(self.curr_replicas)}


class ServeFleet:
    """A `Fleet` over Serve's handles."""

    def __init__(self, handles: Mapping[str, DeploymentHandle]):
        self._calls = dict(handles)
        self._streams = {name: one.options(stream=True) for name, one in handles.items()}

    def replicas(self, group: str) -> Mapping[str, int]:
        router = registry.routers.get(deployment_name(group))
        return router.known_loads() if router else {}

    async def answer(self, group: str, replica: str | None, request: Forwarded) -> Batches:
        batches = by_itself(self._streams[group].answer.remote, request, replica=replica)
        with losing_replicas():
            try:
                async for batch in batches:
                    yield batch
            except BaseException:  # such as that of a generator that is closed
                batches.cancel()
                raise

    async def knows(self, group: str, replica: str, caller: str, ids: Collection[str]) -> bool:
        return await asked(self._calls[group].knows, caller, list(ids), replica=replica)

    async def leave(self, group: str, replica: str, ticket: str) -> bool:
        return await asked(self._calls[group].leave, ticket, replica=replica)


def by_itself(call: Callable[..., Any], *values: object, **named: object) -> Any:
    """Calls outside of Serve's context. In it, all calls of a request have one id, by which a
    router of our own tells them apart: of two at once, one would wait forever."""
    return contextvars.Context().run(call, *values, **named)


async def asked(method: Any, *values: object, replica: str) -> bool:
    with losing_replicas():
        return (await by_itself(method.remote, *values, replica=replica)) is True


@contextlib.contextmanager
def losing_replicas() -> Iterator[None]:
    """Turns Ray's errors for actors that are gone into ReplicaLost."""
    try:
        yield
    except (RayActorError, DeploymentUnavailableError) as error:
        raise ReplicaLost(str(error).partition("\n")[0]) from None


# --- Deployments --------------------------------------------------------------------------------


class GatewayDeployment:
    """Serve makes an ASGI ingress of it."""

    def __init__(self, config: Config, handles: Mapping[str, DeploymentHandle]):
        logs.configure(config.server.log_level, config.server.log_format)
        self._config = config
        self._fleet: Fleet = ServeFleet(handles)
        for handle in handles.values():
            with contextlib.suppress(RuntimeError):  # is initialized already
                handle._init()  # or its replicas would be known after the first call only

    def __serve_build_asgi_app__(self) -> ASGIApp:
        catalog = catalog_file.discover(self._config)
        groups = Groups(self._config.scale, catalog, self._config.path)
        holders = Holders(key_file.default_path())
        holders.read()
        app = create_gateway(self._fleet, groups, catalog, self._config.server, holders)
        return without_own_id(app)


class EngineReplica:
    """A whole application, whose models are those of its group. On Serve's loop for user code."""

    async def __init__(self, config: Config, group: str, runtime_path: str):  # type: ignore[misc]
        """Serve awaits it, and sends requests from then on: its `preload` models are loaded."""
        logs.configure(config.server.log_level, config.server.log_format)
        self._origin = origin = GroupOrigin(config, group)
        settings, catalog = await asyncio.to_thread(origin.read)
        module, _, name = runtime_path.partition(":")
        kind: type[Runtime] = getattr(importlib.import_module(module), name)
        self._runtime = runtime = kind(settings, catalog, origin)
        runtime.safeguard.supervise(give_up)
        ledger = Ledger(default_path() if settings.keep_costs else None)
        self._hosted = HostedApp(create_app(runtime, ledger, is_vouched_for=True))
        await self._hosted.start()
        for name, entry in catalog.entries.items():
            if entry.preload:
                with contextlib.suppress(ApiError):  # logged; requests get it again
                    await runtime.load(name)

    async def reconfigure(self, packed: dict[str, str]) -> None:
        """Serve calls it after the start, and when only other groups have changed."""
        if self._origin.take(unpacked(packed)):
            await self._runtime.reload()

    async def answer(self, request: Forwarded, replica: str | None = None) -> Batches:
        """`replica`: for `NamedRouter`."""
        async with contextlib.aclosing(self._hosted.answer(request)) as batches:
            async for batch in batches:
                yield batch

    async def knows(self, caller: str, ids: Collection[str], replica: str | None = None) -> bool:
        return self._hosted.knows(caller, ids)

    async def leave(self, ticket: str, replica: str | None = None) -> bool:
        return self._hosted.leave(ticket)

    async def check_health(self) -> None:
        """Serve kills and replaces a replica that does not answer this: it is stopped, or something
        holds its loop up. Broken models are no reason: the runtime loads them again by itself."""

    async def __del__(self) -> None:
        """Serve awaits it, once running answers have ended or their deadline is over."""
        await self._hosted.close()


def give_up(reason: str) -> None:
    """Ends this process, for a trouble that no thread of it can mend. Any thread. At once: requests
    whose answer has not begun are asked of another replica as soon as this one is gone, whereas
    Serve would go on for half a minute to send it more."""
    logger.error("the replica ends, and another one takes its place: %s", reason)
    logging.shutdown()
    os._exit(1)


# --- Deploying ----------------------------------------------------------------------------------


def deployment_name(group: str) -> str:
    return f"models-{group}"


def join(address: str | None) -> None:
    """Joins a cluster, or starts one on this machine: it ends with this process. The one who starts
    a cluster decides whether its ports ask for a token; who has one shows it. Raises RuntimeError
    or ConnectionError."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anyone
    os.environ.setdefault("RAY_worker_niceness", "0")  # by default, all other programs come first
    # Or a replica that answers nothing would have its GPU for as long as answers may take to end.
    os.environ.setdefault("RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS", "1")
    options: dict[str, Any] = {"log_to_driver": True, "logging_level": logging.WARNING}
    if address is None:
        options["include_dashboard"] = False
    else:
        # Ray itself does so for `auto` alone. It warns if there is none.
        authentication_token_setup.maybe_enable_token_auth_if_token_available()
    # Without an address, Ray would join any cluster that this machine has started.
    try:
        ray.init(address=address or "local", **options)
    except (RuntimeError, ConnectionError, ValueError):
        raise
    except Exception as error:  # a plain one, where its processes took longer than its 30 s
        raise RuntimeError(
            f"{error} Is this machine busy, or its memory full? What was started ends by itself."
        ) from error


def listening() -> dict[str, Any]:
    """The `[server]` settings by which Serve listens since its first start, as it can't change
    them; empty if it doesn't run yet."""
    client = context._get_global_client(raise_if_no_controller_running=False)
    if client is None:
        return {}
    found = client.http_config
    return {
        "host": found.host or "127.0.0.1",
        "port": found.port,
        "tls_cert": found.ssl_certfile,
        "tls_key": found.ssl_keyfile,
    }


def deploy(
    config: Config, runtime: str = RUNTIME, *, may_grow: bool = False, replaces_all: bool = False
) -> None:
    """Starts the deployments, or replaces those whose part of models.toml has changed, a few
    replicas at a time, while the others answer. Returns when all are ready. Raises ConfigError, and
    RuntimeError if that failed.

    `runtime`: the class of the replicas' runtime, as MODULE:NAME. `may_grow`: machines may join the
    cluster; else what none of them has is an error. `replaces_all`: also what has not changed, as
    other files may be behind the same names."""
    settings, scale = config.server, config.scale.settings
    catalog = catalog_file.discover(config)
    groups = Groups(config.scale, catalog, config.path)
    check_room(groups, may_grow=may_grow)
    quiet = LoggingConfig(log_level="WARNING", enable_access_log=False)
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    serve.start(
        http_options=http_options(settings), proxy_location="EveryNode", logging_config=quiet
    )
    config = replace(config, server=replace(settings, **listening()))  # the same at each update
    salt = os.urandom(8).hex() if replaces_all else ""
    engines = {
        group: engine(config, groups, catalog, group, runtime, salt) for group in groups.tables
    }
    ingress = serve.deployment(serve.ingress()(GatewayDeployment)).options(
        name=GATEWAY,
        num_replicas=scale.gateways,
        max_ongoing_requests=MOST_ONGOING,
        ray_actor_options={"num_cpus": 0},
        max_surge_percent=100,
        version=digest(salt, __version__, config),
        _internal=True,  # the version
        **lifecycle(config),
    )
    bound = ingress.bind(config, engines)
    serve.run(bound, name=APP, route_prefix="/", logging_config=quiet)


def check_room(groups: Groups, *, may_grow: bool) -> None:
    """Raises ConfigError if replicas would wait forever, and warns if it may be long."""
    machines = [one["Resources"] for one in ray.nodes() if one["Alive"]]
    if problem := lacking(groups.tables, machines):
        if not may_grow:
            raise ConfigError(problem)
        logger.warning("%s. Replicas wait until a machine joins the cluster.", problem)


def engine(
    config: Config, groups: Groups, catalog: Catalog, group: str, runtime: str, salt: str
) -> Any:
    table = groups.tables[group]
    own = config_of(config, table)
    scaling = AutoscalingConfig(
        min_replicas=table.min_replicas,
        initial_replicas=first_replicas(table),
        max_replicas=table.most_replicas,
        target_ongoing_requests=table.target_ongoing_requests,
        upscale_delay_s=table.upscale_delay_s,
        downscale_delay_s=table.downscale_delay_s,
    )
    takes = needs(table)
    deployment = serve.deployment(EngineReplica).options(
        name=deployment_name(group),
        autoscaling_config=scaling,
        max_ongoing_requests=MOST_ONGOING,
        ray_actor_options={"num_cpus": takes["CPU"], "num_gpus": takes["GPU"]},
        request_router_config=RequestRouterConfig(request_router_class=NamedRouter),
        max_surge_percent=100 if table.start_first else 0,
        user_config=packed(own),  # a change of it alone reaches running replicas
        version=digest(salt, version_of(own, groups, catalog, group)),
        _internal=True,  # the version
        **lifecycle(config),
    )
    return deployment.bind(own, group, runtime)


def lifecycle(config: Config) -> dict[str, float]:
    return {
        "health_check_period_s": HEALTH_PERIOD_S,
        "health_check_timeout_s": HEALTH_TIMEOUT_S,
        "graceful_shutdown_wait_loop_s": DRAIN_LOOK_S,
        "graceful_shutdown_timeout_s": config.scale.settings.drain_s + CLOSE_S,
    }


def http_options(settings: ServerSettings) -> dict[str, Any]:
    options: dict[str, Any] = {
        "host": "127.0.0.1" if settings.host == "localhost" else settings.host,
        "port": settings.port,
        "keep_alive_timeout_s": round(settings.idle_timeout_s),
    }
    if settings.tls_cert:
        options |= {
            "ssl_certfile": settings.tls_cert,
            "ssl_keyfile": settings.tls_key or settings.tls_cert,
            "ssl_keyfile_password": os.environ.get("LOCALINFRA_TLS_KEY_PASSWORD"),
        }
    return options


def statuses() -> dict[str, dict[str, int]]:
    """Deployment → state → number of replicas."""
    apps = serve.status().applications
    found = apps[APP].deployments if APP in apps else {}
    return {name: dict(one.replica_states) for name, one in found.items()}


def stop() -> bool:
    """Ends the deployments on a cluster that others may use too. Returns whether there were any."""
    applications = serve.status().applications
    if applications.keys() > {APP}:
        serve.delete(APP, _blocking=False)
    elif APP in applications:
        serve.shutdown()  # and frees the port
    ray.shutdown()
    return APP in applications


def end() -> None:
    """Ends the cluster that this process has started. Running answers may go on for 30 s, as Serve
    has it, or until this is interrupted."""
    try:
        with contextlib.suppress(KeyboardInterrupt):
            serve.shutdown()
    finally:
        ray.shutdown()
