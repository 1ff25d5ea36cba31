"""POST /v1/inference/{model}: DeepInfra's native API; the body depends on the model's kind."""

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response

from localinfra.api.deepinfra.encoders import infer_embeddings, infer_ranking
from localinfra.api.deepinfra.images import infer_images
from localinfra.api.deepinfra.status import ROUTE
from localinfra.api.deepinfra.text import infer_text
from localinfra.api.http.state import RequestState
from localinfra.models.catalog import DEPLOY_ID, misplaced
from localinfra.models.entries import (
    EmbeddingModelEntry,
    ImageModelEntry,
    ModelEntry,
    RerankModelEntry,
    TextModelEntry,
)

HANDLERS: dict[type[ModelEntry], Callable[[Request, str], Awaitable[Response]]] = {
    TextModelEntry: infer_text,
    EmbeddingModelEntry: infer_embeddings,
    RerankModelEntry: infer_ranking,
    ImageModelEntry: infer_images,
}


async def infer(request: Request) -> Response:
    """Runs a model of any kind in DeepInfra's native form.

    Body and answer depend on the model's kind. A deployment is named `deploy/ID`."""
    name = model_name(request.path_params["id"])
    models = RequestState.of(request.scope).models
    await models.seek(name)
    found, entry = models.catalog.resolve(name)
    if type(entry) not in HANDLERS:
        raise misplaced(found, entry, ROUTE)
    return await HANDLERS[type(entry)](request, name)


def model_name(path: str) -> str:
    """The model's name in a path, which is `deploy/ID` for a deployment."""
    first, _, deploy_id = path.partition("/")
    return f"{DEPLOY_ID}{deploy_id}" if first == "deploy" else path
