"""multipart/form-data: request bytes → parts, or → the struct that a JSON body becomes.

The one door for forms, beside body.py and within its bounds of size and time. A page of another
site can send such a body unasked, unlike JSON: `Guard` refuses it by its origin, before any body.
"""

import base64
import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any, TypeVar

import msgspec
from python_multipart.multipart import parse_options_header
from starlette.requests import Request

from localinfra.api.http.body import (
    MAX_PARSED_BYTES,
    NULL,
    BodyLimits,
    Decoded,
    check_content_encoding,
    decode,
    read_body,
    receive_body,
)
from localinfra.api.http.liberal import field_decoders
from localinfra.api.http.state import AppState
from localinfra.api.http.weight import MAX_VALUES, Weight, is_too_deep
from localinfra.errors import BodyTooLarge, InvalidRequest, UnsupportedMediaType

T = TypeVar("T", bound=msgspec.Struct)

INLINE_BYTES = 64 * 1024  # take a millisecond: not worth another thread
MAX_PARTS = 128
MAX_HEADERS = 8  # of a part
MAX_HEADER_BYTES = 4096  # of one header
MAX_HEADS_BYTES = 64 * 1024  # of all parts: reading parameters takes a microsecond for each
HEADER_NAME = re.compile(rb"[!#$%&'*+.^_`|~\w-]+")  # RFC 9110, section 5.1
MAX_TEXT_BYTES = 4 << 20  # of all texts: with nothing but line ends, a step takes 25 ms
NESTED = re.compile(rb"\s*[\[{]")  # JSON that may hold many values

encode = msgspec.json.Encoder().encode


class FormPart(msgspec.Struct, frozen=True):
    """A field's text, or a file."""

    name: str
    data: bytes
    content_type: str = ""  # in lower case, without parameters; "" where the client names none
    filename: str | None = None

    @property
    def is_file(self) -> bool:
        """Bytes rather than text. DeepInfra's client gives its files a content type and no name,
        curl both; a text in a file of its own (`-F input=@prompt.txt`) is a text."""
        if self.content_type:
            return not self.content_type.startswith(("text/", "application/json"))
        return self.filename is not None

    @property
    def text(self) -> str:
        """Raises InvalidRequest for a file and for what is not UTF-8."""
        if self.is_file:
            raise InvalidRequest(
                f"{self.name} takes text: send it as a part without a file name and content type.",
                self.name,
            )
        try:
            return self.data.decode()
        except UnicodeDecodeError:
            raise InvalidRequest(f"{self.name} is not text in UTF-8.", self.name) from None

    @property
    def data_url(self) -> str:
        """The file as JSON bodies carry it."""
        content_type = self.content_type or "application/octet-stream"
        return f"data:{content_type};base64,{base64.b64encode(self.data).decode()}"


async def read_body_or_form(
    request: Request,
    kind: type[T],
    limits: BodyLimits,
    files: Collection[str] = (),
    max_values: int = MAX_VALUES,
) -> Decoded[T]:
    """`read_body`, also for forms, where `files` names the fields that may be files: the struct
    has them as data URLs.

    A field's text is read as JSON if its type takes that, as DeepInfra's client writes all fields,
    and as it stands if not. A field that is sent more than once, or as `name[]`, is a list.
    Raises what `read_body` and `read_form` raise.
    """
    if not is_form(request):
        return await read_body(request, kind, limits, max_values)
    parts = await read_form(request, limits)
    num_bytes = sum(len(part.data) for part in parts)
    if num_bytes <= INLINE_BYTES:
        return decode(json_of(parts, kind, files, max_values), kind)
    executor = AppState.of(request.app).threads.conversions
    written = await executor.run(json_of, parts, kind, files, max_values, size=num_bytes)
    return decode(written, kind)


def is_form(request: Request) -> bool:
    return header(request.headers.get("content-type"))[0] == "multipart/form-data"


async def read_form(request: Request, limits: BodyLimits) -> list[FormPart]:
    """The parts of a multipart body, in its order.

    Raises UnsupportedMediaType for another body, BodyTooLarge, RequestTimeout, InvalidRequest for
    one that is broken or has too many parts, and ClientDisconnect.
    """
    boundary = boundary_of(request)
    check_content_encoding(request)
    return parse_form(await receive_body(request, limits), boundary)


def boundary_of(request: Request) -> bytes:
    given = request.headers.get("content-type", "")
    if not is_form(request):
        raise UnsupportedMediaType(
            f"Send the body as 'Content-Type: multipart/form-data', not {given[:100]!r}."
        )
    boundary = header(given)[1].get(b"boundary", b"")
    if not 1 <= len(boundary) <= 70:  # RFC 2046, section 5.1.1
        raise InvalidRequest(
            "The Content-Type multipart/form-data needs a boundary of 1 to 70 characters: let your "
            "HTTP library write this header, it knows the boundary it uses."
        )
    return boundary


def parse_form(body: bytes, boundary: bytes) -> list[FormPart]:
    """Takes 20 ms for 16 MB. Raises InvalidRequest."""
    return [part_of(headers_of(head), data) for head, data in sections(body, boundary)]


def sections(body: bytes, boundary: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Each part's headers and its data.

    A few searches, whatever the bytes are. Parsers that go from byte to byte stand for seconds
    where somebody sends 16 MB of blanks after a boundary, which are allowed there.
    """
    body = b"\r\n" + body.lstrip(b"\r\n")
    line = re.compile(rb"\r\n--%b(?:(?P<last>--)|(?P<next>[ \t]*+\r\n)|)" % re.escape(boundary))
    at = head = data = 0  # where the search goes on; where the part's headers and data begin
    num_head_bytes = 0
    for _ in range(MAX_PARTS + 1):
        found = line.search(body, at)
        if not found or (data == 0 and found.start() > 0):
            break
        if data > 0 and found.lastgroup:
            yield body[head : data - 4], body[data : found.start()]
        if found["last"]:
            return
        at = found.end()
        if found["next"]:
            head, data = at, body.find(b"\r\n\r\n", at, at + MAX_HEADS_BYTES) + 4
            num_head_bytes += data - head
            if data < head:
                break
            if num_head_bytes > MAX_HEADS_BYTES:
                raise broken("Maximum header size exceeded by all parts together")
            at = data
    else:
        raise InvalidRequest(f"A form can have at most {MAX_PARTS} parts.")
    raise broken(
        "it has no closing boundary, or a part's headers have no end. Expected boundary, as the "
        f"Content-Type names it: {boundary.decode('latin-1')}"
    )


def headers_of(head: bytes) -> dict[bytes, bytes]:
    """By their names in lower case."""
    headers: dict[bytes, bytes] = {}
    lines = head.split(b"\r\n")
    if len(lines) > MAX_HEADERS:
        raise broken("Maximum header count exceeded")
    for line in lines:
        if len(line) > MAX_HEADER_BYTES:
            raise broken("Maximum header size exceeded")
        name, _, value = line.partition(b":")
        if not HEADER_NAME.fullmatch(name):
            raise broken(f"invalid character in a header's name, {name[:100]!r}")
        headers[name.lower()] = value
    return headers


def broken(why: str) -> InvalidRequest:
    return InvalidRequest(
        f"The multipart body is broken: {why}.", fault="The multipart body is broken."
    )


def part_of(headers: dict[bytes, bytes], data: bytes) -> FormPart:
    disposition, options = header(headers.get(b"content-disposition"))
    name = options.get(b"name", b"").decode("utf-8", "replace")
    if disposition != "form-data" or not name:
        raise InvalidRequest(
            "A part of the form has no name: each begins with 'Content-Disposition: form-data; "
            'name="..."\'.'
        )
    encoding, _ = header(headers.get(b"content-transfer-encoding"))
    if encoding not in ("", "7bit", "8bit", "binary"):
        raise InvalidRequest(f"{name} is sent in {encoding[:50]!r}: send its bytes as they are.")
    content_type, _ = header(headers.get(b"content-type"))
    filename = options[b"filename"].decode("utf-8", "replace") if b"filename" in options else None
    return FormPart(name, data, content_type, filename)


def header(value: str | bytes | None) -> tuple[str, dict[bytes, bytes]]:
    """A header's value in lower case, and its parameters."""
    main, options = parse_options_header(value[:MAX_PARSED_BYTES] if value else None)
    return main.decode("latin-1").lower(), options


def json_of(
    parts: Sequence[FormPart],
    kind: type[msgspec.Struct],
    files: Collection[str],
    max_values: int = MAX_VALUES,
) -> bytes:
    """The JSON object that would have said the same. Raises InvalidRequest, and BodyTooLarge where
    that holds too many values."""
    texts = [part.data for part in parts if not part.is_file]
    if sum(map(len, texts)) > MAX_TEXT_BYTES:
        raise BodyTooLarge(
            f"The texts of a form can have {MAX_TEXT_BYTES} bytes together: send longer ones in "
            "JSON."
        )
    weight = Weight(max_values)
    for text in texts:
        if NESTED.match(text):
            weight.add(text)
            weight.finish()
    groups: dict[str, list[FormPart]] = {}
    for part in parts:
        if part.data or part.filename != "":  # what browsers send where no file was chosen
            groups.setdefault(part.name, []).append(part)
    decoders = field_decoders(kind)
    fields: dict[str, msgspec.Raw] = {}
    for sent_name, group in groups.items():
        name = sent_name.removesuffix("[]")
        if name not in decoders:
            fields[sent_name] = NULL  # `decode` tells the client that it was ignored
        elif len(group) > 1 or name != sent_name:
            items = [item_json(part, name in files) for part in group]
            fields[name] = msgspec.Raw(b"[%b]" % b",".join(items))
        else:
            fields[name] = msgspec.Raw(field_json(group[0], decoders[name], name in files))
    return encode(fields)


def field_json(part: FormPart, decoder: msgspec.json.Decoder[Any], may_be_file: bool) -> bytes:
    """JSON if the field takes it, or else a string if it takes that. Where it takes neither, what
    makes the clearer error."""
    if may_be_file and part.is_file:
        return encode(part.data_url)
    as_json, as_text = part.data, encode(part.text)
    for candidate in (as_json, as_text):
        if is_json(candidate, decoder):
            return candidate
    return as_json if is_json(as_json, JSON) else as_text


def item_json(part: FormPart, may_be_file: bool) -> bytes:
    """One of a list: a JSON string is read as such, anything else is a text."""
    if may_be_file and part.is_file:
        return encode(part.data_url)
    as_text = encode(part.text)
    return part.data if is_json(part.data, STRING) else as_text


JSON = msgspec.json.Decoder(object)
STRING = msgspec.json.Decoder(str)


def is_json(text: bytes, decoder: msgspec.json.Decoder[Any]) -> bool:
    if NESTED.match(text) and is_too_deep(text):
        return False
    try:
        decoder.decode(text)
    except (ValueError, RecursionError):
        return False
    return True
