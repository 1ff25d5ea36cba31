"""Who reads an endless answer byte by byte holds no sequence for long, with TLS or without."""

import contextlib
import json
import socket
from pathlib import Path

import pytest
from echo import CATALOGUE, ECHO, EchoServer
from serving import WITH_TLS
from waiting import wait_for

BODY = {
    "model": "echo",
    "messages": [{"role": "user", "content": "Count to a thousand."}],
    "n": 128,
    "logprobs": True,
    "top_logprobs": 20,
    "max_tokens": 1000,
    "logit_bias": {"258": -100},  # never ends by itself
    "stream": True,
}
TLS = f'tls_cert = "{WITH_TLS.tls_cert}"\ntls_key = "{WITH_TLS.tls_key}"'


@pytest.mark.parametrize("table", ["", TLS], ids=["plain", "tls"])
def test_a_reader_of_single_bytes_is_cut_off_and_its_choices_end(
    tmp_path: Path, table: str, caplog: pytest.LogCaptureFixture
) -> None:
    server = EchoServer(tmp_path, f"[server]\nwrite_timeout_s = 1.0\n{table}\n{CATALOGUE}")
    content = json.dumps(BODY).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: \
application/json\r\ncontent-length: {len(content)}\r\n\r\n"
    with contextlib.closing(server.connect()) as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.sendall(head.encode() + content)
        assert slow.recv(1)
        wait_for(lambda: server.stats.num_running > 0)

        def reads_on() -> bool:
            with contextlib.suppress(OSError):
                slow.recv(1)
            return "did not read its answer" in caplog.text

        wait_for(reads_on)
        server.wait_until_idle()
        model = server.runtime.loaded_text_models()[ECHO]
        wait_for(lambda: not model.is_busy)
    server.close()
