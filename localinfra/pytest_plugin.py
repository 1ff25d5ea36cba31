"""pytest fixtures for `testing.server`, registered where localinfra is installed.

Every pytest run imports this, so heavy imports wait until a fixture is used.
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
        help="settings file (models.toml) for the localinfra fixtures' server; "
        "default: the chat model that comes with localinfra",
    )
    parser.addini(INI, "the same, relative to the ini file", type="string", default="")


def _config_file(config: pytest.Config) -> Path | None:
    asked: str | None = config.getoption("--localinfra-config")
    noted: str = config.getini(INI)
    if asked:
        return config.invocation_params.dir / asked
    return (config.inipath or config.rootpath / "-").parent / noted if noted else None


@contextlib.contextmanager
def _plain_imports(config: pytest.Config) -> Iterator[None]:
    """Imports without pytest's assert rewriting. It would recompile every localinfra module, as it
    does for any plugin's package: a second in each CI job that has just installed localinfra."""
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
    """The base URL of a server that runs for the whole session; `localinfra_url.model` names its
    model."""
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
    """An OpenAI client of that server."""
    from localinfra.install import pip

    try:
        from openai import OpenAI
    except ImportError:
        how = pip("openai")
        pytest.fail(f"localinfra_client needs OpenAI's client: {how}", pytrace=False)
    with OpenAI(base_url=localinfra_url, api_key=localinfra_url.api_key, max_retries=0) as client:
        yield client
