"""multipart/form-data: request bytes → parts, or → the same struct as from a JSON body.

All forms are read here, within body.py's limits of size and time. Unlike JSON, another site's page
can send a form without a preflight: `Guard` has refused it by its origin before any body is read.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any, TypeVar

import msgspec
from python_multipart.multipart import parse_options_header
from starlette.requests import Request

from localinfra.api.http.bodies import BodyLimits
from localinfra.api.http.body import (
    MAX_PARSED_BYTES,
    NULL,
    Decoded,
    check_content_encoding,
    decode,
    hold,
    read_body,
    receive,
    struct_of,
)
from localinfra.api.http.encoded import encode_base64
from localinfra.api.http.liberal import field_decoders
from localinfra.api.http.state import AppState
from localinfra.api.http.weight import MAX_VALUES, WIDEST, Weight, is_too_deep
from localinfra.chat.decoding import Body
from localinfra.errors import BodyTooLarge, InvalidRequest, UnsupportedMediaType
from localinfra.executor import in_turns
from localinfra.long_text import decoded, join_bytes
from localinfra.steps import Steps, done

T = TypeVar("T", bound=msgspec.Struct)

FORM = "multipart/form-data"
INLINE_BYTES = 64 * 1024  # take 1 ms: not worth a thread
MAX_PARTS = 128
MAX_HEADERS = 8  # of a part
MAX_HEADER_BYTES = 4096  # of one header
MAX_HEADS_BYTES = 64 * 1024  # of all parts: parsing takes 1 µs per parameter
LINE_ENDS = re.compile(rb"[\r\n]*+")
SEARCHED_BYTES = 1 << 20  # for a boundary, in 3 ms at most
HEADER_NAME = re.compile(rb"[!#$%&'*+.^_`|~\w-]+")  # RFC 9110, section 5.1
MAX_TEXT_BYTES = 4 << 20  # of all texts: if all line ends, one step takes 25 ms
NESTED = re.compile(rb"\s*[\[{]")  # JSON that may hold many values

encode = msgspec.json.Encoder().encode


class FormPart(msgspec.Struct, frozen=True):
    """A field's text, or a file."""

    name: str
    data: bytes
    content_type: str = ""  # lower case, without parameters; "" if the client sent none
    filename: str | None = None

    @property
    def is_file(self) -> bool:
        """Bytes rather than text. DeepInfra's client sends files with a content type but no name,
        curl with both; a text file (`-F input=@prompt.txt`) counts as text."""
        if self.content_type:
            return not self.content_type.startswith(("text/", "application/json"))
        return self.filename is not None

    @property
    def text(self) -> str:
        """Raises InvalidRequest for a file, or if the bytes are not UTF-8."""
        if self.is_file:
            raise InvalidRequest(
                f"{self.name} takes text, not a file: send it without file name and content type.",
                self.name,
            )
        try:
            return done(decoded(self.data))
        except UnicodeDecodeError:
            raise InvalidRequest(f"{self.name} is not valid UTF-8 text.", self.name) from None

    @property
    def url_json(self) -> bytes:
        """The file as a JSON body would carry it: a data URL, quoted."""
        url = f"data:{self.content_type or 'application/octet-stream'};base64,"
        return join_bytes([encode(url)[:-1], encode_base64(self.data), b'"'])


async def read_body_or_form(
    request: Request,
    kind: type[T],
    limits: BodyLimits,
    files: Collection[str] = (),
    max_values: int = MAX_VALUES,
) -> Decoded[T]:
    """`read_body` for JSON and forms. `files` names the fields that may be files in a form: the
    struct gets them as data URLs.

    A field's text is read as JSON if the field's type takes that (DeepInfra's client sends all
    fields so), else as plain text. A field sent more than once, or as `name[]`, becomes a list.
    Raises the errors of `read_body` and `read_form`.
    """
    if not is_form(request):
        return await read_body(request, kind, limits, max_values)
    parts = await read_form(request, limits)
    num_bytes = sum(len(part.data) for part in parts)
    if num_bytes <= INLINE_BYTES:
        return decode(json_of(parts, kind, files, max_values), kind)
    num_text = sum(len(part.data) for part in parts if not part.is_file)
    hold(request, limits, WIDEST * num_text + 2 * (num_bytes - num_text))  # files become base64
    executor = AppState.of(request.app).threads.conversions
    written = await executor.run(json_of, parts, kind, files, max_values, size=num_bytes)
    return await in_turns(struct_of(written, kind))


def is_form(request: Request) -> bool:
    return header(request.headers.get("content-type"))[0] == FORM


async def read_form(request: Request, limits: BodyLimits) -> list[FormPart]:
    """The parts of a multipart body, in order.

    Raises UnsupportedMediaType for any other body, InvalidRequest if it is broken or has too many
    parts, BodyTooLarge, RequestTimeout, or ClientDisconnect.
    """
    boundary = boundary_of(request)
    check_content_encoding(request)
    return await in_turns(form_in_steps(await receive(request, limits), boundary))


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
            "HTTP library set this header."
        )
    return boundary


def parse_form(body: Body, boundary: bytes) -> list[FormPart]:
    """Raises InvalidRequest."""
    return done(form_in_steps(body, boundary))


def form_in_steps(body: Body, boundary: bytes) -> Steps[list[FormPart]]:
    parts: list[FormPart] = []
    for section in sections(body, boundary):
        yield
        if section:
            head, data = section
            parts.append(part_of(headers_of(head), data))
    return parts


def sections(body: Body, boundary: bytes) -> Iterator[tuple[bytes, bytes] | None]:
    """Each part's head and data; None while one is looked for.

    Takes a few searches, whatever the bytes are. Parsers that go byte by byte hang for seconds on
    16 MB of blanks after a boundary, which are allowed there.
    """
    view = memoryview(body)
    edge = LINE_ENDS.match(body).end()  # type: ignore[union-attr]  # it matches anything
    line = re.compile(rb"--%b(?:(?P<last>--)|(?P<next>[ \t]*+\r\n)|)" % re.escape(boundary))
    found, delimiter = line.match(body, edge), b"\r\n--%b" % boundary
    head = data = 0  # where the part's head and data start
    num_head_bytes = 0
    for _ in range(MAX_PARTS + 1):
        if not found or (data == 0 and not found.lastgroup):
            break
        if data > 0 and found.lastgroup:
            yield bytes(view[head : data - 4]), bytes(view[data:edge])
        if found["last"]:
            return
        at = found.end()
        if found["next"]:
            head, data = at, body.find(b"\r\n\r\n", at, at + MAX_HEADS_BYTES) + 4
            num_head_bytes += data - head
            if data < head:
                break
            if num_head_bytes > MAX_HEADS_BYTES:
                raise broken(f"the headers of all parts exceed {MAX_HEADS_BYTES} bytes")
            at = data
        edge = -1
        while edge < 0 and at < len(body):
            edge = body.find(delimiter, at, at + SEARCHED_BYTES + len(delimiter))
            at += SEARCHED_BYTES
            yield None
        found = line.match(body, edge + 2) if edge >= 0 else None
    else:
        raise InvalidRequest(f"A form can have at most {MAX_PARTS} parts.")
    raise broken(
        "the closing boundary or the end of a part's headers is missing. The boundary given in "
        f"Content-Type is {boundary.decode('latin-1')}"
    )


def headers_of(head: bytes) -> dict[bytes, bytes]:
    """A part's headers by lower-case name."""
    headers: dict[bytes, bytes] = {}
    lines = head.split(b"\r\n")
    if len(lines) > MAX_HEADERS:
        raise broken(f"a part has more than {MAX_HEADERS} headers")
    for line in lines:
        if len(line) > MAX_HEADER_BYTES:
            raise broken(f"a part's header is longer than {MAX_HEADER_BYTES} bytes")
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
            "A part of the form has no name: start each with 'Content-Disposition: form-data; "
            'name="..."\'.'
        )
    encoding, _ = header(headers.get(b"content-transfer-encoding"))
    if encoding not in ("", "7bit", "8bit", "binary"):
        raise InvalidRequest(f"{name} is encoded as {encoding[:50]!r}: send the plain bytes.")
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
    """The equivalent JSON object. Raises InvalidRequest, or BodyTooLarge if the texts are too long
    or hold too many values."""
    texts = [part.data for part in parts if not part.is_file]
    if sum(map(len, texts)) > MAX_TEXT_BYTES:
        raise BodyTooLarge(
            f"The texts of a form can have at most {MAX_TEXT_BYTES} bytes in total: send longer "
            "ones as JSON."
        )
    weight = Weight(max_values)
    for text in texts:
        if NESTED.match(text):
            weight.add(text)
            weight.finish()
    groups: dict[str, list[FormPart]] = {}
    for part in parts:
        if part.data or part.filename != "":  # browsers send an empty one if no file was chosen
            groups.setdefault(part.name, []).append(part)
    decoders = field_decoders(kind)
    fields: dict[str, msgspec.Raw] = {}
    for sent_name, group in groups.items():
        name = sent_name.removesuffix("[]")
        if name not in decoders:
            fields[sent_name] = NULL  # `decode` reports it as ignored
        elif len(group) > 1 or name != sent_name:
            items = [item_json(part, name in files) for part in group]
            fields[name] = msgspec.Raw(b"[%b]" % b",".join(items))
        else:
            fields[name] = msgspec.Raw(field_json(group[0], decoders[name], name in files))
    return encode(fields)


def field_json(part: FormPart, decoder: msgspec.json.Decoder[Any], may_be_file: bool) -> bytes:
    """The part as JSON if the field takes that, else as a string; if it takes neither, whichever
    gives the clearer error. A file is the only one of a field that takes a list."""
    if may_be_file and part.is_file:
        url = part.url_json
        return url if is_json(b'"data:,"', decoder) else b"[%b]" % url
    as_json, as_text = part.data, encode(part.text)
    for candidate in (as_json, as_text):
        if is_json(candidate, decoder):
            return candidate
    return as_json if is_json(as_json, JSON) else as_text


def item_json(part: FormPart, may_be_file: bool) -> bytes:
    """An item of a list: a JSON string is read as such, anything else as plain text."""
    if may_be_file and part.is_file:
        return part.url_json
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
