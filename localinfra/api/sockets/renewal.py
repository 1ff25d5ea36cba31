"""The certificate that new connections get: read again when its files have changed."""

import asyncio
import logging

from localinfra import certificate
from localinfra.certificate import Certificate, Files
from localinfra.config.settings import ServerSettings
from localinfra.errors import ConfigError
from localinfra.executor import in_daemon_thread

log = logging.getLogger(__name__)


class Renewal:
    """Event loop only. Open connections keep the certificate that they began with."""

    def __init__(self, settings: ServerSettings) -> None:
        """Reads it at once. Raises ConfigError."""
        self.certificate: Certificate | None = None
        self._files = files_of(settings)
        # Of the files that were read last, even if in vain: a stamp taken first is never too new.
        self._seen = stamp(self._files)
        self._wanted = self._files
        self._looking: asyncio.Task[None] | None = None
        if self._files:
            self.certificate = self._taken(certificate.read(self._files))

    @property
    def is_looking(self) -> bool:
        return self._looking is not None

    def look(self, settings: ServerSettings) -> None:
        """Reads it in the background if settings or files have changed. A bad one is logged, and
        the old one stays."""
        self._wanted = files_of(settings)
        if self._looking is None and (self._wanted or self._files):
            self._looking = asyncio.create_task(self._look())

    async def _look(self) -> None:
        try:
            while True:
                files = self._wanted
                await self._take(files)
                if files == self._wanted:  # no reload has come meanwhile
                    return
        finally:
            self._looking = None

    async def _take(self, files: Files | None) -> None:
        seen = await in_daemon_thread(stamp, files, name="look at the certificate")
        if (files, seen) == (self._files, self._seen):
            return
        self._files, self._seen = files, seen
        if files is None:
            self.certificate = None
            return
        try:
            found = await in_daemon_thread(certificate.read, files, name="certificate")
        except ConfigError as error:
            log.error("the certificate stays as it was: %s", error)
        else:
            self.certificate = self._taken(found)
            log.info("new connections get the certificate that is now in %s", files.cert)

    def _taken(self, found: Certificate) -> Certificate:
        if found.fault:
            assert self._files
            log.warning("tls_cert: %s: %s", self._files.cert, found.fault)
        return found


def files_of(settings: ServerSettings) -> Files | None:
    return Files(settings.tls_cert, settings.tls_key) if settings.tls_cert else None


def stamp(files: Files | None) -> object:
    return files and files.stamp
