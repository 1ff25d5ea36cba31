"""A request's `response_format` → `chat.answer.AnswerFormat`."""

from typing import Any

import msgspec

from localinfra.api.http.body import missing
from localinfra.chat.answer import ANY_OBJECT, AnswerFormat
from localinfra.chat.messages import TypeName
from localinfra.errors import UnsupportedParameter


class JsonSchemaFormat(msgspec.Struct, frozen=True, rename={"schema_": "schema"}):
    name: str | None = None
    schema_: dict[str, Any] | None = None
    strict: bool | None = None  # no effect: always strict
    description: str | None = None


class ResponseFormat(msgspec.Struct, frozen=True, rename={"schema_": "schema"}):
    """OpenAI's formats, and DeepInfra's `regex` and `grammar`."""

    type: TypeName
    json_schema: JsonSchemaFormat | None = None
    schema_: dict[str, Any] | None = None  # with json_object, as in llama.cpp's server
    regex: str | None = None
    pattern: str | None = None
    grammar: str | None = None

    def answer_format(self) -> AnswerFormat | None:
        """None if any text will do. Raises InvalidRequest or UnsupportedParameter."""
        param = "response_format"
        if self.type in ("", "text"):
            return None
        if self.type in ("json", "json_object"):
            if self.schema_ is None:
                return AnswerFormat("json", param, ANY_OBJECT)
            return AnswerFormat("json", f"{param}.schema", self.schema_)
        if self.type == "json_schema":
            if self.json_schema is not None and self.json_schema.schema_ is not None:
                return AnswerFormat("json", f"{param}.json_schema.schema", self.json_schema.schema_)
            raise missing(f"{param}.json_schema.schema", "the JSON Schema")
        if self.type == "regex":
            regex = self.pattern if self.regex is None else self.regex
            if regex is None:
                raise missing(f"{param}.regex", "the regular expression")
            return AnswerFormat("regex", f"{param}.regex", text=regex)
        if self.type == "grammar":
            if self.grammar is None:
                raise missing(f"{param}.grammar", "a grammar in Lark or GBNF")
            return AnswerFormat("lark", f"{param}.grammar", text=self.grammar)
        raise UnsupportedParameter(
            f"response_format can't be {self.type!r}: use text, json_object, json_schema, regex or "
            "grammar.",
            f"{param}.type",
        )
