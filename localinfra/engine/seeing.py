"""What a model can read of a request, checked before it is queued. Pure."""

from localinfra.engine.backend import Backend
from localinfra.engine.pictures import Picture
from localinfra.engine.request import GenerationRequest
from localinfra.errors import EngineFailed, InvalidRequest


def check_prompts(requests: list[GenerationRequest], backend: Backend) -> None:
    """Raises InvalidRequest or EngineFailed if the backend can't read the pictures in them."""
    for request in requests:
        assert 0 < len(request.prompt) <= backend.context_length
        if request.pictures and request.params.score_prompt:
            raise InvalidRequest(
                "A prompt with pictures or sounds gets no logprobs of its own: leave out echo.",
                "echo",
            )
        end = 0
        for placed in request.pictures:
            part = request.prompt[placed.at : placed.end]
            assert end <= placed.at and part == placed.picture.tokens, "each is where it says"
            end = placed.end
            _check(placed.picture, backend)


def _check(picture: Picture, backend: Backend) -> None:
    width, size = picture.rows.shape[1], picture.num_tokens
    if width != backend.row_width:
        raise EngineFailed(
            f"The model reads rows of {backend.row_width} numbers, and its projector gives "
            f"{width}: they don't belong together."
        )
    if picture.grid and not backend.has_grid_positions:
        raise EngineFailed("The projector is of a model that numbers a picture's rows otherwise.")
    if not picture.is_causal and size > backend.batch_size:
        raise InvalidRequest(
            f"A picture takes {size} tokens, and the model reads at most {backend.batch_size} of "
            "them at once. Send a smaller one, or raise batch_size for this model in models.toml.",
            "messages",
        )
