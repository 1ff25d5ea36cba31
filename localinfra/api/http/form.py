"""multipart/form-data: request bytes → parts, or → the struct that a JSON body becomes.

The one door for forms, beside body.py and within its bounds of size and time. A page of another
site can send such a body unasked, unlike JSON: `Guard` refuses it by its origin, before any body.
"""

import base64
import logging
import re
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from localinfra.api.http.body import (
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
from localinfra.api.http.weight import MAX_VALUES, Weight
from localinfra.errors import BodyTooLarge, InvalidRequest, UnsupportedMediaType

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

T = TypeVar("T", bound=msgspec.Struct)

INLINE_BYTES = 64 * 1024  # take a millisecond: not worth another thread
MAX_PARTS = 128
MAX_HEADERS = 8  # of a part
MAX_HEADER_BYTES = 4096  # of one header
MAX_TEXT_BYTES = 4 << 20  # of all texts: with nothing but line ends, a step takes 25 ms
NESTED = re.compile(rb"\s*[\[{]")  # JSON that may hold many values

encode = msgspec.json.Encoder().encode

# It logs what is wrong with a form as well as raising it; that is the client's to know.
logging.getLogger("python_multipart").setLevel(logging.ERROR)


class Part(msgspec.Struct, frozen=True):
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


async def read_form(request: Request, limits: BodyLimits) -> list[Part]:
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


def parse_form(body: bytes, boundary: bytes) -> list[Part]:
    """Takes 20 ms for 16 MB. Raises InvalidRequest."""
    # Counted first: what begins like a boundary costs the parser a microsecond for each byte of it,
    # and a body full of that 15 s.
    if body.count(b"\r\n--" + boundary) > MAX_PARTS:
        raise InvalidRequest(f"A form can have at most {MAX_PARTS} parts.")
    found = PartCollector()
    try:
        parser = MultipartParser(
            boundary,
            found.callbacks,
            max_header_count=MAX_HEADERS,
            max_header_size=MAX_HEADER_BYTES,
        )
        parser.write(body)
    except FormParserError as error:
        raise InvalidRequest(f"The multipart body is broken: {str(error)[:200]}.") from None
    if not found.is_complete:
        raise InvalidRequest(
            "The multipart body has no closing boundary: its end is missing, or the Content-Type "
            "names another boundary."
        )
    return found.parts


class PartCollector:
    """What the parser finds in a body → parts."""

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.is_complete = False
        self._headers: dict[bytes, bytes] = {}
        self._header_name = b""
        self._data = b""

    @property
    def callbacks(self) -> "MultipartCallbacks":
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._add_header,
            "on_header_value": self._add_header_value,
            "on_part_data": self._add_data,
            "on_part_end": self._end,
            "on_end": self._complete,
        }

    def _begin(self) -> None:
        self._headers, self._data = {}, b""

    def _add_header(self, body: bytes, start: int, end: int) -> None:
        self._header_name = body[start:end].lower()

    def _add_header_value(self, body: bytes, start: int, end: int) -> None:
        self._headers[self._header_name] = body[start:end]

    def _add_data(self, body: bytes, start: int, end: int) -> None:
        self._data = body[start:end]  # the whole, since the body is parsed in one call

    def _end(self) -> None:
        self.parts.append(part_of(self._headers, self._data))

    def _complete(self) -> None:
        self.is_complete = True


def part_of(headers: dict[bytes, bytes], data: bytes) -> Part:
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
    return Part(name, data, content_type, filename)


def header(value: str | bytes | None) -> tuple[str, dict[bytes, bytes]]:
    """A header's value in lower case, and its parameters."""
    main, options = parse_options_header(value)
    return main.decode("latin-1").lower(), options


def json_of(
    parts: Sequence[Part],
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
    groups: dict[str, list[Part]] = {}
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


def field_json(part: Part, decoder: msgspec.json.Decoder[Any], may_be_file: bool) -> bytes:
    """JSON if the field takes it, or else a string if it takes that. Where it takes neither, what
    makes the clearer error."""
    if may_be_file and part.is_file:
        return encode(part.data_url)
    as_json, as_text = part.data, encode(part.text)
    for candidate in (as_json, as_text):
        if is_json(candidate, decoder):
            return candidate
    return as_json if is_json(as_json, JSON) else as_text


def item_json(part: Part, may_be_file: bool) -> bytes:
    """One of a list: a JSON string is read as such, anything else is a text."""
    if may_be_file and part.is_file:
        return encode(part.data_url)
    as_text = encode(part.text)
    return part.data if is_json(part.data, STRING) else as_text


JSON = msgspec.json.Decoder(object)
STRING = msgspec.json.Decoder(str)


def is_json(text: bytes, decoder: msgspec.json.Decoder[Any]) -> bool:
    try:
        decoder.decode(text)
    except (ValueError, RecursionError):
        return False
    return True
