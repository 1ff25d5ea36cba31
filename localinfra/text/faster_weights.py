"""Looks for faster weights of a server's models while no request runs, and changes over to them.

A measurement starts when the machine is idle, and its process is stopped while requests run, so
that neither disturbs the other. `optimize/` measures and keeps the weights; the pool replaces the
model. Event loop only.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

import msgspec

from localinfra.errors import ApiError, ModelUnavailable
from localinfra.executor import in_daemon_thread
from localinfra.models.entries import ModelEntry, TextModelEntry
from localinfra.optimize import store
from localinfra.text.quiet import CHECK_S, FOR_OTHERS, FOR_REQUESTS, Quiet

if TYPE_CHECKING:  # they import llama.cpp, which only a measurement needs
    from localinfra.optimize.job import OptimizeJob, Progress, Report
    from localinfra.optimize.run import Control

logger = logging.getLogger(__name__)

BUSY_CHECKS = 600  # that found other programs busy, until the log says so

# Between tries that other programs have disturbed. The weights are not written again.
FIRST_RETRY_S, MAX_RETRY_S = 15.0, 600.0


class Search(msgspec.Struct):
    """The search for one model's weights."""

    entry: TextModelEntry
    state: str = FOR_REQUESTS
    due_at: float = 0.0  # of the next try, by time.monotonic()
    num_disturbed: int = 0  # tries, by other programs


def optimized(entries: Mapping[str, ModelEntry]) -> dict[str, TextModelEntry]:
    """The models that may be served with other weights than their files'."""
    return {
        name: entry
        for name, entry in entries.items()
        if isinstance(entry, TextModelEntry) and entry.optimize == "lossless"
    }


def decision(entry: TextModelEntry) -> store.Decision | None:
    """What was decided for the entry's file on this machine. Takes milliseconds."""
    path = entry.source.find()
    return store.find(path) if path else None


def unchanged(entries: Mapping[str, TextModelEntry]) -> tuple[str, ...]:
    """The models for which no other weights than the file's have been chosen."""
    known = {name: decision(entry) for name, entry in entries.items()}
    return tuple(name for name, found in known.items() if not found or not found.path)


class FasterWeights:
    """The search for all models of a server, one after the other."""

    def __init__(
        self,
        entries: Mapping[str, TextModelEntry],
        quiet: Quiet,
        renew: Callable[[str], Awaitable[bool]] | None,
    ):
        """`renew` loads a model again and returns whether it did; None: better weights are served
        from the next start."""
        self._quiet = quiet
        self._renew = renew
        self._searches = {name: Search(entry) for name, entry in entries.items()}
        self._control: Control | None = None  # of the measurement that runs
        self._measured = ""  # the name of its model

    def states(self) -> dict[str, str]:
        """Model → what was decided for it, or how far the search is."""
        states = {name: search.state for name, search in self._searches.items()}
        if self._control and self._control.is_paused:
            states[self._measured] += " (paused while requests run)"
        return states

    def make_way(self) -> None:
        """Stops the measurement: a request has come."""
        self._quiet.end()
        if self._control:
            self._control.pause()

    async def run(self) -> None:
        """Ends once every model is decided. Cancel it to end a running measurement."""
        waiting = await in_daemon_thread(self._undecided, name="faster weights")
        for name in waiting:
            if self._searches[name].due_at:
                continue  # it failed before
            logger.info(
                "%s: looking for faster weights for this CPU while no request runs; "
                'optimize = "off" in models.toml skips it',
                name,
            )
        while waiting:
            name = min(waiting, key=lambda name: self._searches[name].due_at)
            search = self._searches[name]
            await asyncio.sleep(max(0.0, search.due_at - time.monotonic()))
            try:
                is_decided = await self._try(name, search)
            except Exception as error:  # this model's only; the next start tries again
                logger.exception("%s: the search for faster weights failed", name)
                search.state, is_decided = f"failed: {error}", True
            if is_decided:
                waiting.remove(name)

    def _undecided(self) -> list[str]:
        waiting = []
        for name, search in self._searches.items():
            known = decision(search.entry)
            if known:
                search.state = f"failed: {known.reason}" if known.is_put_off else known.reason
                if known.retry_at is None:
                    continue
                wait_s = known.retry_at - time.time()  # absurd if the clock was set meanwhile
                search.due_at = time.monotonic() + min(wait_s, store.RETRY_AFTER_S)
            elif search.entry.source.find() is None:
                search.state = "its file is missing"
                continue
            waiting.append(name)
        return waiting

    async def _try(self, name: str, search: Search) -> bool:
        """Returns whether it is decided; else `search` says when to try again."""
        await self._wait(name, search)
        try:
            job = await in_daemon_thread(
                background_job, name, search.entry, name=f"optimize {name}"
            )
        except ApiError as error:  # on a GPU; or missing or damaged, which loading reports too
            logger.info("%s: not looking for faster weights: %s", name, error)
            search.state = str(error)
            return True
        from localinfra.optimize.run import (
            Control,
            OptimizeFailed,
        )  # light, now that there is a job

        control = Control()
        try:
            report = await self._measure(name, search, job, control)
        except OptimizeFailed as error:
            return await self._put_off(name, search, str(error), is_final=error.is_final)
        if not report.is_steady and not report.kept:
            self._retry(name, search, was_paused=control.num_pauses > 0)
            return False
        search.state = report.reason
        if report.kept:
            await self._change_over(name, search)
        else:
            logger.info("%s: %s, so the original stays", name, report.reason)
        return True

    async def _wait(self, name: str, search: Search) -> None:
        num_busy = 0

        def show(obstacle: str) -> None:
            nonlocal num_busy
            search.state = obstacle
            num_busy += obstacle == FOR_OTHERS
            if obstacle == FOR_OTHERS and num_busy == BUSY_CHECKS:  # once
                logger.info("%s: faster weights: %s", name, obstacle)

        await self._quiet.wait(show)

    async def _measure(
        self, name: str, search: Search, job: "OptimizeJob", control: "Control"
    ) -> "Report":
        """Raises OptimizeFailed."""
        from localinfra.optimize.run import run

        def note(progress: "Progress") -> None:
            logger.debug("%s: %s", name, progress.text)
            search.state = progress.text

        self._control, self._measured = control, name
        work = asyncio.ensure_future(
            in_daemon_thread(run, job, note, control, name=f"optimize {name}")
        )
        try:
            while not work.done():
                if self._quiet.is_here:
                    control.resume()
                else:
                    control.pause()
                await asyncio.wait((work,), timeout=CHECK_S)
            return work.result()
        finally:
            self._control = None
            control.end()

    def _retry(self, name: str, search: Search, *, was_paused: bool) -> None:
        """After a disturbed measurement. One that requests disturbed goes on after them."""
        if was_paused:
            search.state = FOR_REQUESTS
            return
        wait_s = min(FIRST_RETRY_S * 2**search.num_disturbed, MAX_RETRY_S)
        logger.log(
            logging.DEBUG if search.num_disturbed else logging.INFO,
            "%s: other programs kept the machine too busy to measure faster weights; "
            "trying again in %.0f s, then less and less often",
            name,
            wait_s,
        )
        search.state = FOR_OTHERS
        search.due_at = time.monotonic() + wait_s
        search.num_disturbed += 1

    async def _put_off(self, name: str, search: Search, reason: str, *, is_final: bool) -> bool:
        """Records a failure, so that not every start repeats it. Returns `is_final`."""
        again = "" if is_final else f"; trying again in {store.RETRY_AFTER_S // 60} minutes"
        logger.warning("%s: faster weights could not be measured: %s%s", name, reason, again)
        search.due_at = time.monotonic() + store.RETRY_AFTER_S
        if path := search.entry.source.find():
            try:
                await in_daemon_thread(
                    store.put_off, path, reason, is_final, name=f"optimize {name}"
                )
            except (store.CacheUnusable, OSError):
                pass  # it was the reason, or the next start finds it again
        search.state = f"failed: {reason}"
        return is_final

    async def _change_over(self, name: str, search: Search) -> None:
        reason = search.state
        if self._renew is None:
            since = "from the next start, as default_seed promises the same texts until then"
        else:
            try:
                is_served = await self._renew(name)
            except Exception as error:
                await self._put_off(name, search, f"they can't be loaded: {error}", is_final=True)
                return
            since = "from now on" if is_served else "when it is loaded next"
        logger.info("%s: %s; served %s", name, reason, since)


def background_job(name: str, entry: TextModelEntry) -> "OptimizeJob":
    """Imports llama.cpp. Raises ModelUnavailable."""
    from localinfra.optimize.run import CAN_PAUSE
    from localinfra.text.loading import optimize_job

    if not CAN_PAUSE:
        raise ModelUnavailable(
            "a measurement can't be paused while requests run on this system; without a server, "
            f"`localinfra optimize {name} --apply` does it"
        )
    job = optimize_job(name, entry, lossless_only=True, keep=True)
    return msgspec.structs.replace(job, is_background=True)
