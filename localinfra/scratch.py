"""Files without a name, for what processes share or one reads back at once: in memory, so that a
full or read-only disk holds nobody up and nothing that clients sent is written to one.

Standard library only, as the supervisor imports it.
"""

import os
import tempfile
from typing import IO


def memory_file() -> IO[bytes]:
    """An empty file for reading and writing, gone once no process has it open. Where the system has
    none in memory (Linux alone does), a temporary one."""
    try:
        return os.fdopen(os.memfd_create("localinfra"), "w+b")
    except (AttributeError, OSError):  # forbidden in some sandboxes
        return tempfile.TemporaryFile()
