"""pytest's fixtures over `testing.server`, found by pytest where localinfra is installed.

Every run of pytest imports this: nothing heavy before a fixture is used.
"""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import openai

    from localinfra.testing import BaseURL

INI = "localinfra_config"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("localinfra").addoption(
        "--localinfra-config",
        metavar="FILE",
        help="settings (models.toml) of the server behind the localinfra fixtures; "
        "default: the chat model that comes with localinfra",
    )
    parser.addini(INI, "the same, from the folder of the ini file", type="string", default="")


def _config_file(config: pytest.Config) -> Path | None:
    asked: str | None = config.getoption("--localinfra-config")
    noted: str = config.getini(INI)
    if asked:
        return config.invocation_params.dir / asked
    return (config.inipath or config.rootpath / "-").parent / noted if noted else None


@contextlib.contextmanager
def _plain_imports(config: pytest.Config) -> Iterator[None]:
    """pytest compiles every module of a distribution that brings a plugin again, for the sake of
    its asserts. Of localinfra's that takes a second, in each job that begins with installing it.
    """
    hook: Any = config.pluginmanager.rewrite_hook
    if hook not in sys.meta_path:  # --assert=plain
        yield
        return
    sys.meta_path.remove(hook)
    try:
        yield
    finally:
        sys.meta_path.insert(0, hook)


@pytest.fixture(scope="session")
def localinfra_url(pytestconfig: pytest.Config) -> "Iterator[BaseURL]":
    """The base URL of a server that runs for the whole session; `localinfra_url.model` is the
    name of its model."""
    with contextlib.ExitStack() as stack:
        with _plain_imports(pytestconfig):
            from localinfra.errors import ApiError, ConfigError
            from localinfra.testing import server

            try:
                url = stack.enter_context(server(_config_file(pytestconfig)))
            except (ApiError, ConfigError) as error:
                pytest.fail(f"localinfra can't start: {error}", pytrace=False)
        yield url


@pytest.fixture(scope="session")
def localinfra_client(localinfra_url: "BaseURL") -> "Iterator[openai.OpenAI]":
    """OpenAI's client of that server."""
    from localinfra.install import pip

    try:
        from openai import OpenAI
    except ImportError:
        how = pip("openai")
        pytest.fail(f"localinfra_client is OpenAI's client; install it: {how}", pytrace=False)
    with OpenAI(base_url=localinfra_url, api_key=localinfra_url.api_key, max_retries=0) as client:
        yield client
