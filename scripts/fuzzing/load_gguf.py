"""Run as a program: loads each GGUF named on stdin as the server would, and asks it a little, by
the chat template of the file or one given as the program's argument.

Each line is a word and a path: "wholly", or "briefly" without a chat, and without flash attention
since a load with it looks how the model rounds, which takes longer than all the rest.

Prints a line for each: `loaded`, `refused` for an error that clients are told, `failed` where a
step could not be computed (weights that are no numbers), or `wrong` with any other error. A crash
ends the process before its line, which the one that started it sees.
"""

import asyncio
import contextlib
import sys
from pathlib import Path

from localinfra.chat.answer import ANY_OBJECT, Answer, AnswerFormat
from localinfra.chat.messages import Message
from localinfra.engine.request import SamplingParams
from localinfra.errors import ApiError, EngineFailed
from localinfra.models.entries import TextModelEntry
from localinfra.models.sources import parse_source
from localinfra.text.loading import load_text_model
from localinfra.text.model import TextModel
from localinfra.text.request import TextParams, TextRequest
from localinfra.text.turn import TurnRequest, begin_turn, pieces_of

TEXTS = ("The thing\n in Ünïcode \U0001f600 \x01 <s> \t 漢字 012 </s>", "<|im_start|>user\nHi")
PARAMS = TextParams(SamplingParams(temperature=0.0), max_tokens=3)


async def use_briefly(model: TextModel) -> None:
    for text in TEXTS:
        model.text(await model.prompts.tokenize(text, add_bos=True))
    for token in sorted({0, 1, 2, model.vocabulary.num_vocab // 2, model.vocabulary.num_vocab - 1}):
        model.is_special(token)
        model.vocabulary.token_text(token)
    prompt = await model.prompts.tokenize(TEXTS[-1], add_bos=True)
    raw = TextRequest(prompts=[prompt], params=PARAMS, prompt_param="prompt")
    async with contextlib.aclosing(model.generate(raw)) as deltas:
        async for _ in deltas:
            pass


async def use_wholly(model: TextModel) -> None:
    await use_briefly(model)
    for form in (None, AnswerFormat("json", "response_format", ANY_OBJECT)):
        wanted = TurnRequest(
            messages=[Message("user", "Hi")],
            answer=Answer(form),
            template_kwargs={},
            params=PARAMS,
        )
        turn = await begin_turn(model, wanted, "")
        async for _ in pieces_of(turn):
            pass


def load(path: str, template: str | None, *, is_brief: bool) -> str:
    entry = TextModelEntry(
        source=parse_source(path, Path()),
        context_length=128,
        sequences=1,
        threads=1,  # others load beside it
        chat_template=template,
        flash_attention=False if is_brief else "auto",
    )
    try:
        model = load_text_model("damaged", entry, 4)
    except ApiError:
        return "refused"
    try:
        asyncio.run(use_briefly(model) if is_brief else use_wholly(model))
        return "loaded"
    except EngineFailed:
        return "failed"
    except ApiError:
        return "refused"
    finally:
        model.close()


def main() -> None:
    template = Path(sys.argv[1]).read_text() if sys.argv[1:] else None
    for line in sys.stdin:
        how, _, path = line.strip().partition(" ")
        try:
            print(load(path, template, is_brief=how == "briefly"), flush=True)
        except Exception as error:  # what clients would get as a 500
            print(f"wrong: {type(error).__name__}: {error}"[:300].replace("\n", " "), flush=True)


if __name__ == "__main__":
    main()
