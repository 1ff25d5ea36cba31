"""What handlers find in the application: the runtime and the limits taken from its settings."""

from typing import cast

from starlette.requests import Request

from localinfra.api.body import BodyLimits, UnfinishedBodies
from localinfra.runtime import Runtime


def runtime(request: Request) -> Runtime:
    return cast(Runtime, request.app.state.runtime)


def limits(request: Request) -> BodyLimits:
    settings = runtime(request).settings
    unfinished: UnfinishedBodies = request.app.state.unfinished_bodies
    return BodyLimits(settings.max_body_bytes, settings.body_timeout_s, unfinished)
