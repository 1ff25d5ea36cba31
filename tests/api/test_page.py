"""The page at / and its files: what browsers get of them, how, and with which rights."""

import gzip
import re
from pathlib import Path

import pytest
from asgi import Header, Reply, call, scope_of
from starlette.applications import Starlette

from localinfra.api.app import create_app
from localinfra.api.page import FOLDER, INDEX, read_page
from localinfra.config.settings import ServerSettings
from localinfra.models.catalog import Catalog
from localinfra.runtime import Runtime

HOST = ("host", "localhost:8000")
BROWSER = ("accept", "text/html,application/xhtml+xml,*/*;q=0.8")
GZIP = ("accept-encoding", "gzip, deflate, br")
FIRST_LOAD_BYTES = 80_000  # with gzip
# Fetched when their panel is opened, or the page of the docs.
LAZY = ("panels/", "draw/chart.js", "draw/geometry.js", "docs/")
IMPORT = re.compile(r'^(?:import|export)\b.*?from "(.+?)";$|\bimport\("(.+?)"\)', re.M)
SCRIPTS = sorted(path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*.js"))


@pytest.fixture(scope="module")
def app() -> Starlette:
    return create_app(Runtime(ServerSettings(), Catalog({})))


def get(app: Starlette, path: str, *headers: Header) -> Reply:
    return call(app, scope_of("GET", path, [HOST, *headers]))


def file_path(name: str) -> str:
    return f"/web/{read_page().version}/{name}"


def test_browsers_get_the_page_and_other_clients_a_word(app: Starlette) -> None:
    page = get(app, "/", BROWSER)
    assert page.status == 200 and page.body.startswith(b"<!doctype html>")
    assert page.header("content-type") == "text/html; charset=utf-8"
    probe = get(app, "/", ("accept", "*/*"))
    assert probe.header("content-type") == "text/plain; charset=utf-8"
    assert page.header("vary") == "Accept, Accept-Encoding" and probe.header("vary") == "Accept"


def test_the_page_may_run_its_own_scripts_only_and_ask_no_other_host(app: Starlette) -> None:
    policy = get(app, "/", BROWSER).header("content-security-policy") or ""
    allowed = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert allowed["default-src"] == "'none'" and allowed["frame-ancestors"] == "'none'"
    assert allowed["script-src"] == allowed["style-src"] == allowed["connect-src"] == "'self'"
    assert allowed["require-trusted-types-for"] == "'script'"
    assert "unsafe" not in policy and "http" not in policy


def test_the_page_has_no_script_and_no_style_of_its_own(app: Starlette) -> None:
    page = get(app, "/", BROWSER).body.decode()
    assert re.findall(r"<script(?![^>]*\ssrc=)", page) == []
    assert "<style" not in page and " style=" not in page and " onclick" not in page


def test_every_file_that_is_named_exists(app: Starlette) -> None:
    page = get(app, "/", BROWSER).body.decode()
    named = re.findall(r'(?:href|src)="(/[^"]+)"', page)
    assert named and "{web}" not in page
    for path in named:
        assert get(app, path).status == 200, path


@pytest.mark.parametrize("name", SCRIPTS)
def test_imports_are_relative_and_lead_to_files(name: str) -> None:
    script = FOLDER / name
    for target in map("".join, IMPORT.findall(script.read_text(encoding="utf-8"))):
        assert target.startswith("."), target
        assert (script.parent / target).resolve().is_file(), target


def test_the_browser_is_told_of_all_scripts_of_the_first_load_at_once(app: Starlette) -> None:
    found, new = set(), ["main.js"]
    while new:
        name = new.pop()
        found.add(name)
        for target, _ in IMPORT.findall((FOLDER / name).read_text(encoding="utf-8")):
            if target:  # not when a panel is opened
                path = (FOLDER / name).parent / target
                new += {path.resolve().relative_to(FOLDER).as_posix()} - found
    page = get(app, "/", BROWSER).body.decode()
    told = re.findall(r'rel="modulepreload" href="/web/\w+/(.+?)"', page)
    assert sorted(told) == sorted(found - {"main.js"})


@pytest.mark.parametrize("name", SCRIPTS)
def test_text_never_becomes_markup(name: str) -> None:
    script = (FOLDER / name).read_text(encoding="utf-8")
    sinks = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function"
    assert not re.search(rf"{sinks}|srcdoc|createContextualFragment|DOMParser", script)


def test_files_stay_small_enough_to_read() -> None:
    long = {name: (FOLDER / name).read_text().count("\n") for name in SCRIPTS}
    assert {name: lines for name, lines in long.items() if lines > 400} == {}


def test_the_first_load_is_small() -> None:
    first = {name: file for name, file in read_page().files.items() if not name.startswith(LAZY)}
    assert INDEX in first and "chat/panel.js" in first
    assert sum(len(file.gzipped) for file in first.values()) < FIRST_LOAD_BYTES


def test_files_are_compressed_for_those_who_read_it(app: Starlette) -> None:
    plain, packed = get(app, file_path("main.js")), get(app, file_path("main.js"), GZIP)
    assert plain.header("content-encoding") is None
    assert packed.header("content-encoding") == "gzip"
    assert gzip.decompress(packed.body) == plain.body == (FOLDER / "main.js").read_bytes()
    assert plain.header("content-type") == "text/javascript; charset=utf-8"
    assert packed.header("x-content-type-options") == "nosniff"


def test_files_are_kept_for_good_and_the_page_is_asked_for_anew(app: Starlette) -> None:
    assert get(app, file_path("main.js")).header("cache-control") == (
        "public, max-age=31536000, immutable"
    )
    page = get(app, "/", BROWSER)
    assert page.header("cache-control") == "no-cache"
    again = get(app, "/", BROWSER, ("if-none-match", page.header("etag") or ""))
    assert (again.status, again.body) == (304, b"")


@pytest.mark.parametrize(
    "path", ["/web/0123456789abcdef/main.js", file_path("none.js"), file_path("../api/app.py")]
)
def test_other_versions_and_other_files_are_not_found(app: Starlette, path: str) -> None:
    reply = get(app, path)
    assert reply.status == 404 and "reload" in reply.error["message"]


def test_a_change_in_any_file_gives_all_of_them_new_urls(tmp_path: Path) -> None:
    versions = []
    for number, text in enumerate(("a", "b")):
        folder = tmp_path / str(number)
        (folder / "lib").mkdir(parents=True)
        (folder / INDEX).write_text("<!doctype html>{web}/main.js")
        (folder / "lib" / "x.js").write_text(text)
        page = read_page(folder)
        assert page.files[INDEX].data == b"<!doctype html>/web/%b/main.js" % page.version.encode()
        versions.append(page.version)
    assert versions[0] != versions[1]


def test_the_page_comes_without_a_key_and_asks_for_it() -> None:
    locked = create_app(Runtime(ServerSettings(api_keys=("secret",)), Catalog({})))
    assert get(locked, "/", BROWSER).status == 200
    assert get(locked, file_path("main.js")).status == 200
    assert get(locked, "/v1/models").status == get(locked, "/metrics").status == 401


def test_another_sites_page_can_neither_frame_it_nor_take_its_scripts(app: Starlette) -> None:
    foreign = [("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors")]
    assert get(app, file_path("main.js"), *foreign).status == 403
    link = [BROWSER, ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")]
    assert get(app, "/", *link).status == 200
