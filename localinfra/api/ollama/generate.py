"""POST /api/generate: Ollama's completions. A prompt is a message to the model, unless it is `raw`
or has a `suffix`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from localinfra.api.call import Call
from localinfra.api.generation.usage import UsageMeter
from localinfra.api.http.weight import MAX_TOKEN_IDS
from localinfra.api.ollama.answer import OllamaAnswer, OllamaReply, Said, Stopwatch
from localinfra.api.ollama.calls import load_or_unload, text_model
from localinfra.api.ollama.chat import Images, with_images
from localinfra.api.ollama.options import TextFields
from localinfra.api.pictures import with_pictures
from localinfra.chat.answer import Answer
from localinfra.chat.formats.pieces import Content, Piece
from localinfra.chat.messages import Message
from localinfra.engine.deltas import Deltas
from localinfra.engine.output import OutputDelta
from localinfra.errors import InvalidRequest, QueueFull
from localinfra.text.request import TextRequest
from localinfra.text.turn import TurnRequest, begin_turn

if TYPE_CHECKING:
    from localinfra.text.model import TextModel  # brings numpy, which only a loaded model needs

ROUTE = "/api/generate"


class GenerateFields(TextFields, frozen=True, kw_only=True):
    prompt: str = ""
    suffix: str = ""  # the model fills in between
    system: str = ""
    template: str = ""  # Ollama's templates are not Jinja: the model's own is used, and this named
    # of an earlier reply
    context: Annotated[list[int], Meta(max_length=MAX_TOKEN_IDS)] = msgspec.field(
        default_factory=list
    )
    raw: bool = False
    images: Images = msgspec.field(default_factory=list)

    def check(self) -> None:
        """Checks what annotations cannot express. Raises InvalidRequest."""
        given = [
            name for name in ("system", "template", "context", "images") if getattr(self, name)
        ]
        if self.is_plain and given:
            why = "raw is true" if self.raw else "there is a suffix"
            raise InvalidRequest(
                f"{given[0]} has no effect on a prompt that is sent as it is, because {why}: leave "
                "one of them out.",
                given[0],
            )

    @property
    def is_plain(self) -> bool:
        """Whether the model gets the prompt as it is, without its template."""
        return self.raw or bool(self.suffix)

    @property
    def messages(self) -> list[Message]:
        content = with_images(self.prompt, self.images) if self.images else self.prompt
        asked = Message("user", content)
        return [Message("system", self.system), asked] if self.system else [asked]


class GenerateReply(OllamaReply, frozen=True, kw_only=True):
    response: str
    thinking: str | UnsetType = UNSET


class OllamaTextAnswer(OllamaAnswer):
    """To a message."""

    def __init__(
        self,
        model: "TextModel",
        deltas: Deltas,
        meter: UsageMeter,
        watch: Stopwatch,
        prompt: Sequence[int],
    ):
        super().__init__(model, deltas, meter, watch)
        self._prompt = prompt

    def reply(self, said: Said, frame: OllamaReply) -> GenerateReply:
        return generate_reply(said, frame)

    async def context(self, content: str) -> Sequence[int] | UnsetType:
        """Without the reasoning, which later prompts don't need. None if there are pictures: ids
        don't tell of them."""
        if min(self._prompt) < 0:
            return UNSET
        try:
            return [*self._prompt, *await self.model.prompts.tokenize(content, add_bos=False)]
        except QueueFull:  # the answer is complete, and most clients don't read this
            return UNSET


class OllamaPlainAnswer(OllamaAnswer):
    """To a prompt as it is."""

    def reply(self, said: Said, frame: OllamaReply) -> GenerateReply:
        return generate_reply(said, frame)

    def pieces(self, delta: OutputDelta) -> Sequence[Piece]:
        return [Content(delta.text)]


def generate_reply(said: Said, frame: OllamaReply) -> GenerateReply:
    return GenerateReply(
        response=said.content,
        thinking=said.thinking or UNSET,
        **msgspec.structs.asdict(frame),
    )


async def create_ollama_text(request: Request) -> Response:
    """Answers a prompt or goes on with a text, in the form of Ollama's clients.

    Without a prompt or images, the model is loaded, or unloaded with `keep_alive` 0."""
    call = await Call.begin(request, GenerateFields, MAX_TOKEN_IDS, has_type=False)
    body, watch = call.body, Stopwatch(call.started_s)
    body.check()
    answer = Answer(body.answer_format)
    if not (body.prompt or body.suffix or body.images):
        return call.json(generate_reply(Said(), await load_or_unload(call, ROUTE)))
    model = await text_model(call, ROUTE)
    watch.loaded()
    begin_answer = plain_answer if body.is_plain else message_answer
    reply = await begin_answer(call, model, answer, watch)
    call.report_ignored([*body.unmet(model), *(["template"] if body.template else [])])
    if body.stream:
        return call.lines(reply.lines(), reply.deltas, reply.heartbeat)
    return call.json(await reply.whole())


async def message_answer(
    call: Call[GenerateFields], model: "TextModel", answer: Answer, watch: Stopwatch
) -> OllamaAnswer:
    body = call.body
    charge = call.charge(model)
    messages, shown = await with_pictures(call, model, body.messages)
    wanted = TurnRequest(
        messages=messages,
        shown=shown,
        answer=answer,
        template_kwargs=body.template_kwargs,
        params=body.text_params(model, call.default_seed),
    )
    turn = await begin_turn(model, wanted, call.caller, body.context)
    call.report_ignored(turn.left_out)
    meter = UsageMeter(charge, turn.deltas, [turn.num_prompt], 1, turn.num_image_tokens)
    return OllamaTextAnswer(model, turn.deltas, meter, watch, turn.prompt)


async def plain_answer(
    call: Call[GenerateFields], model: "TextModel", answer: Answer, watch: Stopwatch
) -> OllamaAnswer:
    body = call.body
    charge = call.charge(model)
    ids = await model.prompts.text(body.prompt, body.suffix or None)
    compiled = await model.grammars.compile(answer, client=call.caller)
    call.report_ignored(compiled.left_out)
    deltas = model.generate(
        TextRequest(
            prompts=[ids],
            params=body.text_params(model, call.default_seed),
            grammar=compiled.grammar,
            prompt_param="prompt",
            client=call.caller,
        )
    )
    return OllamaPlainAnswer(model, deltas, UsageMeter(charge, deltas, [len(ids)], 1), watch)
