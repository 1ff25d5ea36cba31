"""Whether and how long a model should think, as requests say it: variables for its template."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from localinfra.chat.messages import Json


class Thinking(msgspec.Struct, frozen=True):
    type: Literal["enabled", "disabled", "adaptive", "auto"]  # the last two: as it sees fit
    budget_tokens: Annotated[int, Meta(ge=1)] | None = None
    display: Literal["summarized", "omitted"] | None = None

    @property
    def thinks(self) -> bool:
        return self.type != "disabled"

    @property
    def template_kwargs(self) -> dict[str, Json]:
        budget = {"thinking_budget": self.budget_tokens} if self.budget_tokens else {}
        return {**thinking_kwargs(self.thinks), **(budget if self.thinks else {})}

    @property
    def kwarg_paths(self) -> dict[str, str]:
        """Template variables → their paths in the request. "disabled" also holds if the template
        does not know thinking."""
        if not self.thinks:
            return {}
        names = dict.fromkeys(self.template_kwargs, "thinking")
        return names | ({"thinking_budget": "thinking.budget_tokens"} if self.budget_tokens else {})


def as_thinking(given: Thinking | bool | None) -> Thinking | None:
    """Some clients send only whether."""
    if isinstance(given, bool):
        return Thinking("enabled" if given else "disabled")
    return given


def thinking_kwargs(thinks: bool) -> dict[str, Json]:
    """Template variables under all names that the templates of different model families use."""
    return {"enable_thinking": thinks, "thinking": thinks}
