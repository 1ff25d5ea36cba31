"""GGUF files at any address."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
from fetch.pulling import QUICK, pulled, remote
from fetch.site import Fault, Site

from localinfra.errors import ModelNotFound, PullFailed, PullRefused
from localinfra.models.fetch.pull import plan

START = b"GGUF\3\0\0\0" + b"\1" + bytes(7) + b"\1" + bytes(7)  # one tensor, one key
DATA = START + bytes(500_000)
OTHER = START + b"x" * 500_000


def test_a_file_comes_under_its_own_name(cdn: Site) -> None:
    url = cdn.put("/a/m.gguf", DATA)
    path = pulled(url)
    assert (path.name, path.read_bytes()) == ("m.gguf", DATA)
    assert remote(url).find() == path
    sent = cdn.sent_bytes
    assert pulled(url) == path
    assert cdn.sent_bytes <= sent + len(START), "it is here"


def test_its_hash_is_checked_if_one_is_given(cdn: Site) -> None:
    url = cdn.put("/m.gguf", DATA)
    assert pulled(f"{url}#sha256={hashlib.sha256(DATA).hexdigest()}").read_bytes() == DATA
    with pytest.raises(PullFailed, match="has not the hash"):
        pulled(f"{url}#sha256={'0' * 64}")


def test_what_is_no_gguf_gets_no_name(cdn: Site, tmp_path: Path) -> None:
    with pytest.raises(PullFailed, match=r"m.gguf is a web page, not a model"):
        pulled(cdn.put("/m.gguf", b"<html>" + bytes(1000)))
    assert not list(tmp_path.rglob("*.part"))


def test_a_file_that_changed_at_its_server_is_begun_anew(cdn: Site, tmp_path: Path) -> None:
    url = cdn.put("/m.gguf", DATA)
    cdn.faults = [Fault(), Fault(), Fault(cut_after=50_000), *[Fault(status=503)] * 99]
    with pytest.raises(PullFailed):
        pulled(url)
    cdn.faults = []
    cdn.put("/m.gguf", OTHER)
    assert pulled(url).read_bytes() == OTHER
    assert not list(tmp_path.rglob("*.part*")), "of the old one nothing is left"


def test_a_file_that_changes_while_it_comes_is_begun_anew(cdn: Site) -> None:
    url = cdn.put("/m.gguf", DATA)

    def change(size: int) -> bool:
        if cdn.sent_bytes > 200_000:
            cdn.before_chunk = lambda size: True
            cdn.put("/m.gguf", OTHER)
        return True

    cdn.before_chunk = change
    assert pulled(url, replace(QUICK, connections=1)).read_bytes() == OTHER


def test_without_an_etag_a_file_comes_whole_and_is_never_resumed(cdn: Site) -> None:
    url = cdn.put("/m.gguf", DATA)
    cdn.files["/m.gguf"].etag = None
    cdn.faults = [Fault(), Fault(cut_after=300_000), *[Fault(status=503)] * 99]
    with pytest.raises(PullFailed):
        pulled(url)
    cdn.files["/m.gguf"].data, cdn.faults = OTHER, []
    assert pulled(url).read_bytes() == OTHER


def test_a_model_in_parts_comes_with_all_of_them(cdn: Site) -> None:
    cdn.put("/m-00001-of-00002.gguf", DATA)
    cdn.put("/m-00002-of-00002.gguf", OTHER)
    path = pulled(f"{cdn.url}/m-00001-of-00002.gguf#sha256={hashlib.sha256(DATA).hexdigest()}")
    assert path.read_bytes() == DATA
    assert path.with_name("m-00002-of-00002.gguf").read_bytes() == OTHER


def test_refusals_and_absent_files_are_told(cdn: Site) -> None:
    with pytest.raises(ModelNotFound, match=r"has nothing at /m\.gguf"):
        plan(remote(f"{cdn.url}/m.gguf"), pace=QUICK)
    cdn.token = "secret"
    with pytest.raises(PullRefused):
        plan(remote(cdn.put("/m.gguf", DATA)), pace=QUICK)


def test_a_name_with_strange_characters_is_made_plain(cdn: Site) -> None:
    path = pulled(cdn.put("/..%2F..%2Fm%1b[2J.gguf", DATA))
    assert path.name == "m__2J.gguf"
    assert path.read_bytes() == DATA
