"""Run as a program: loads each GGUF named on stdin as the server would, and asks it a little, by
the chat template of the file or one given as the program's argument.

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


async def use(model: TextModel) -> None:
    for text in TEXTS:
        model.text(await model.prompts.tokenize(text, add_bos=True))
    for token in sorted({0, 1, 2, model.vocabulary.num_vocab // 2, model.vocabulary.num_vocab - 1}):
        model.is_special(token)
        model.vocabulary.token_text(token)
    params = TextParams(SamplingParams(temperature=0.0), max_tokens=3)
    prompt = await model.prompts.tokenize(TEXTS[-1], add_bos=True)
    raw = TextRequest(prompts=[prompt], params=params, prompt_param="prompt")
    async with contextlib.aclosing(model.generate(raw)) as deltas:
        async for _ in deltas:
            pass
    for form in (None, AnswerFormat("json", "response_format", ANY_OBJECT)):
        wanted = TurnRequest(
            messages=[Message("user", "Hi")],
            answer=Answer(form),
            template_kwargs={},
            params=params,
        )
        turn = await begin_turn(model, wanted, "")
        async for _ in pieces_of(turn):
            pass


def load(path: str, template: str | None) -> str:
    entry = TextModelEntry(
        source=parse_source(path, Path()),
        context_length=128,
        sequences=1,
        threads=1,  # others load beside it
        chat_template=template,
    )
    try:
        model = load_text_model("damaged", entry, 4)
    except ApiError:
        return "refused"
    try:
        asyncio.run(use(model))
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
        try:
            print(load(line.strip(), template), flush=True)
        except Exception as error:  # what clients would get as a 500
            print(f"wrong: {type(error).__name__}: {error}"[:300].replace("\n", " "), flush=True)


if __name__ == "__main__":
    main()
