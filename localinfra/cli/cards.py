"""Which of a server's chat models a command uses, from what `/v1/models` says of them."""

from urllib.parse import quote

import msgspec

from localinfra.cli.client import Client, ServerRefused
from localinfra.config.tables import close_matches
from localinfra.errors import ApiError
from localinfra.models.catalog import hint

NO_TEXT_MODEL = (
    "no chat model is ready: `localinfra list` shows the models in models.toml and how to get "
    "their files"
)


class Card(msgspec.Struct):
    id: str
    kind: str = "text"
    state: str = "present"  # loaded, loading, failed, or the state of its files
    aliases: list[str] = []
    remedy: str | None = None  # what to do if its files are missing
    recommended: dict[str, float] = {}  # sampling parameters to send

    @property
    def is_ready(self) -> bool:
        return self.state in ("loaded", "loading", "present")


class Cards(msgspec.Struct):
    data: list[Card]


def find_model(client: Client, name: str) -> Card:
    """The card of the model with this name or alias. Raises ApiError with similar names if there is
    none."""
    cards = client.get("/v1/models", Cards).data
    card = next((card for card in cards if name in (card.id, *card.aliases)), None)
    if card is None:  # a deployment, a model whose files are missing, or the fallback
        try:
            card = client.get(f"/v1/models/{quote(name, safe='')}", Card)
        except ServerRefused as error:
            if error.status != 404:
                raise
            known = [card.id for card in cards if card.kind == "text"]
            ours = f"The model {name!r} does not exist. {hint(close_matches(name, known), known)}"
            message = error.message if "model" in error.message else ours
            more = ' To ask once: localinfra chat MODEL "PROMPT".' if " " in name else ""
            raise ApiError(message + more) from None
    refuse_other_kinds(card.id, card.kind)
    if card.remedy:
        raise ApiError(f"The files of {card.id} are missing: {card.remedy}")
    return card


def refuse_other_kinds(name: str, kind: str) -> None:
    if kind != "text":
        raise ApiError(f"{name} is not a chat model (its kind is {kind}).")


def text_models(client: Client) -> list[Card]:
    """The chat models served, ready ones first. Raises ApiError if there are none."""
    cards = [card for card in client.get("/v1/models", Cards).data if card.kind == "text"]
    if not cards:
        raise ApiError(f"{client.url}: {NO_TEXT_MODEL}")
    return sorted(cards, key=lambda card: not card.is_ready)
