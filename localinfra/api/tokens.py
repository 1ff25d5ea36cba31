"""POST /tokenize and /detokenize, also below /v1, and GET /tokenizer_info, in vLLM's shapes.

Text models only: these are the token ids of their prompts.
https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html
"""

from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from localinfra.api.call import Call
from localinfra.api.generation.params import TemplateKwargs, kwarg_paths
from localinfra.api.generation.tools import SentTools, Tools, read_tools, tool_use
from localinfra.api.http.errors import json_response
from localinfra.api.http.state import RequestState
from localinfra.api.http.weight import MAX_TOKEN_IDS
from localinfra.api.pictures import senses
from localinfra.chat.messages import MAX_MESSAGES, Message, left_out
from localinfra.chat.template import check_kwargs, ends_in_answer
from localinfra.errors import InvalidRequest, UnsupportedParameter
from localinfra.models.catalog import Catalog
from localinfra.models.entries import TextModelEntry
from localinfra.text.showing import links

if TYPE_CHECKING:
    from localinfra.text.model import TextModel  # brings numpy, which only a loaded model needs

# A thread tokenizes this much in 2 s, even the worst case (a million letters).
MAX_CHARACTERS = 1_000_000
MAX_TOKENS = 1_000_000


class TokenizeRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Takes either `prompt` or `messages`."""

    model: str | None = None
    prompt: Annotated[str, Meta(max_length=MAX_CHARACTERS)] | UnsetType = UNSET
    messages: Annotated[list[Message], Meta(min_length=1, max_length=MAX_MESSAGES)] | None = None
    # add BOS to a prompt; that of messages comes from the template
    add_special_tokens: bool = True
    return_token_strs: bool = False
    add_generation_prompt: bool | None = None  # this and the fields below are for messages
    continue_final_message: bool = False
    tools: SentTools = []
    chat_template: str | None = None  # refused
    chat_template_kwargs: TemplateKwargs = {}

    def check(self) -> None:
        """Checks what annotations cannot express. Raises InvalidRequest or
        UnsupportedParameter."""
        if (self.prompt is UNSET) is (self.messages is None):
            raise InvalidRequest("Send either prompt or messages.", "prompt")
        if self.chat_template is not None:
            raise UnsupportedParameter(
                "A request can't set chat_template: set it for the model in models.toml.",
                "chat_template",
            )
        check_kwargs(self.chat_template_kwargs)
        if self.continue_final_message and self.add_generation_prompt:
            raise InvalidRequest(
                "add_generation_prompt and continue_final_message exclude each other: leave out "
                "one of them.",
                "continue_final_message",
            )
        if self.continue_final_message and not ends_in_answer(self.messages or []):
            raise InvalidRequest(
                "continue_final_message needs an assistant message without tool calls at the end.",
                "continue_final_message",
            )

    @property
    def asks(self) -> bool:
        """Whether the prompt ends where the assistant's answer begins: the default, as in chat
        completions."""
        return self.continue_final_message or self.add_generation_prompt is not False


class Tokenized(msgspec.Struct, frozen=True):
    count: int
    max_model_len: int  # tokens
    tokens: list[int]
    token_strs: list[str] | None


class DetokenizeRequest(msgspec.Struct, frozen=True, kw_only=True):
    model: str | None = None
    tokens: Annotated[list[int], Meta(max_length=MAX_TOKENS)]


class Detokenized(msgspec.Struct, frozen=True):
    prompt: str


class TokenizerDescription(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of tokenizer_config.json that clients read. A null: the model has no such
    token."""

    tokenizer_class: str
    bos_token: str | None
    eos_token: str | None
    add_bos_token: bool
    model_max_length: int  # tokens
    chat_template: str | None
    model: str


async def create_tokens(request: Request) -> Response:
    """Turns a text, or a conversation, into token ids: those of the model's prompt."""
    call = await Call.begin(request, TokenizeRequest)
    body = call.body
    body.check()
    model = await named_model(request, body.model)
    tools = await call.convert(lambda: read_tools(body.tools))
    call.report_ignored([*tools.left_out, *left_out(body.messages or ())], tools.unknown)
    call.report_ignored(model.prompts.unread(kwarg_paths(body.chat_template_kwargs)))
    if body.prompt is not UNSET:
        ids = await model.prompts.tokenize(body.prompt, add_bos=body.add_special_tokens)
    else:
        ids = await chat_tokens(model, body, tools)
    strings = await model.prompts.spellings(ids) if body.return_token_strs else None
    return call.json(Tokenized(len(ids), model.context_length, ids, strings))


async def chat_tokens(model: "TextModel", body: TokenizeRequest, tools: Tools) -> list[int]:
    can = senses(model)
    if found := [link for link in links(body.messages or []) if link.sense in can]:
        raise UnsupportedParameter(
            "Token ids don't tell of pictures and sounds: leave this part out, or count the "
            "prompt's tokens by /v1/responses/input_tokens or /v1/messages/count_tokens.",
            found[0].path,
        )
    use = tool_use(tools, None, is_parallel=True)
    prompt = await model.prompts.chat(
        body.messages or [],
        body.chat_template_kwargs,
        use.tools,
        asks=body.asks,
        is_counted=True,
    )
    return prompt.ids


async def join_tokens(request: Request) -> Response:
    """Turns token ids into text."""
    call = await Call.begin(request, DetokenizeRequest, MAX_TOKEN_IDS)
    model = await named_model(request, call.body.model)
    return call.json(Detokenized(await model.prompts.detokenize(call.body.tokens, "tokens")))


async def describe_tokenizer(request: Request) -> Response:
    """Describes a model's tokenizer, as its tokenizer_config.json would."""
    model = await named_model(request, request.query_params.get("model") or None)
    tokenizer = model.prompts.tokenizer
    return json_response(
        TokenizerDescription(
            tokenizer_class=tokenizer.kind,
            bos_token=tokenizer.bos or None,
            eos_token=tokenizer.eos or None,
            add_bos_token=tokenizer.adds_bos,
            model_max_length=model.context_length,
            chat_template=tokenizer.chat_template,
            model=model.name,
        )
    )


async def named_model(request: Request, name: str | None) -> "TextModel":
    if name is None:
        name = only_text_model(RequestState.of(request.scope).models.catalog)
    return await RequestState.of(request.scope).models.text(name, request.scope["path"])


def only_text_model(catalog: Catalog) -> str:
    """The only text model, for clients that name none, such as lm-eval. Raises InvalidRequest if
    there are several: another model's ids would be silently wrong."""
    names = [name for name, e in catalog.entries.items() if isinstance(e, TextModelEntry)]
    if len(names) != 1:
        raise InvalidRequest(
            f"`model` is required: this server has {len(names)} text models. If your client can't "
            "send it, leave a single text model in models.toml.",
            "model",
        )
    return names[0]
