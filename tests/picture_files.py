"""Picture files for tests: whole ones, and ones made to hurt."""

import io
import struct
import zlib
from typing import Any

from PIL import Image


def file(picture: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def plain(width: int = 128, height: int = 64, color: Any = (200, 30, 60)) -> Image.Image:
    return Image.new("RGB", (width, height), color)


def png_header(width: int, height: int) -> bytes:
    """A file with a size in its header, and no pixels."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"x")


def chunk(kind: bytes, body: bytes) -> bytes:
    checksum = zlib.crc32(kind + body)
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)


def scan_bomb() -> bytes:
    """A progressive JPEG that repeats its last scan 100 times."""
    whole = file(plain(256, 256), "JPEG", progressive=True)
    at = whole.rindex(b"\xff\xda")
    return whole[:at] + whole[at:-2] * 100 + whole[-2:]


def text_bomb() -> bytes:
    """64 MB of zeros in a text chunk of 64 kB."""
    bomb = chunk(b"zTXt", b"note\0\0" + zlib.compress(bytes(64 << 20), 9))
    whole = file(plain())
    return whole[:33] + bomb + whole[33:]


def webp_of_size(width: int, height: int) -> bytes:
    """An extended WebP file whose canvas has this size, with pictures of another."""
    whole = file(plain(), "WEBP", save_all=True, append_images=[plain(color=0)])
    assert whole[12:16] == b"VP8X"
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return whole[:24] + size + whole[30:]
