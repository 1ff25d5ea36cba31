"""How many tokens the answers of a request may have, and whether they are too many together. Pure.

The one place for all routes: here the prompts' lengths are known, and nothing is queued yet.
"""

from localinfra.errors import ContextLengthExceeded, InvalidRequest
from localinfra.models.entries import TextModelEntry
from localinfra.text.request import TextRequest


def answer_lengths(
    request: TextRequest, entry: TextModelEntry, context_length: int, max_request_tokens: int | None
) -> list[int]:
    """The most tokens of each choice, by prompt: as requested, within the entry's cap and the
    context. Where the request sets no limit, also within `max_request_tokens`, which all prompts
    and choices share.

    Raises ContextLengthExceeded, and InvalidRequest if the request asks for more than that.
    """
    params = request.params
    lengths = [_length(request, len(prompt), entry, context_length) for prompt in request.prompts]
    num_prompt = sum(map(len, request.prompts))
    num_answer = params.num_choices * sum(lengths)
    if max_request_tokens is None or num_prompt + num_answer <= max_request_tokens:
        return lengths
    left = (max_request_tokens - num_prompt) // (params.num_choices * len(lengths))
    if left >= 1 and not params.sets_limit:
        return [min(length, left) for length in lengths]
    raise _too_large(request, max(lengths), max_request_tokens, fits=left >= 1)


def _length(
    request: TextRequest, num_prompt: int, entry: TextModelEntry, context_length: int
) -> int:
    """Of the answers to one prompt."""
    if not num_prompt:
        raise InvalidRequest(
            "The prompt is empty and this model has no BOS token to start from; send at least "
            "one character.",
            request.prompt_param,
        )
    room = context_length - num_prompt
    params = request.params
    choices = (params.max_tokens, entry.default_max_tokens, params.default_max_tokens)
    wanted = next((limit for limit in choices if limit is not None), max(room, 1))
    if entry.max_output_tokens is not None:
        wanted = min(wanted, entry.max_output_tokens)
    if room < min(wanted, 1):
        raise ContextLengthExceeded(num_prompt, context_length, request.prompt_param)
    return min(wanted, room)


def _too_large(request: TextRequest, length: int, most: int, *, fits: bool) -> InvalidRequest:
    """`length`: of the longest answer. `fits`: whether answers of one token would."""
    params, num_prompts = request.params, len(request.prompts)
    num_prompt, num_choices = sum(map(len, request.prompts)), num_prompts * params.num_choices
    limit = params.max_tokens_param
    ways = {
        f"lower {limit}": fits,
        "ask for fewer choices": params.num_choices > 1,
        "send fewer prompts": num_prompts > 1,
        "shorten the prompt": not fits,
    }
    return InvalidRequest(
        f"The request may take up to {num_prompt + num_choices * length} tokens: {num_prompt} of "
        f"prompts, and {num_choices} x {length} of answers. At most {most} are allowed: "
        f"{', '.join(way for way, helps in ways.items() if helps)}, or raise max_request_tokens "
        "under [server] of models.toml.",
        limit if fits else request.prompt_param,
    )
