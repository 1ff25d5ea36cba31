"""A model's chat templates: the one for most requests, and another for requests with tools."""

from collections.abc import Sequence

import msgspec

from localinfra.chat.template import ChatTemplate, TemplateError
from localinfra.text.vocabulary import Vocabulary


class ModelTemplates(msgspec.Struct, frozen=True):
    default: ChatTemplate | None
    with_tools: ChatTemplate | None  # the same unless the model has one for them
    errors: Sequence[str]  # why it lacks one

    @property
    def all(self) -> list[ChatTemplate]:
        both = [self.default, self.with_tools]
        return [template for template in both if template is not None]


def compile_templates(
    default: str | None, with_tools: str | None, vocabulary: Vocabulary
) -> ModelTemplates:
    """The sources as templates; one that can't be used is replaced by the other."""
    found: list[ChatTemplate | None] = []
    errors: list[str] = [] if default or with_tools else ["the file has none"]
    for source in (default, with_tools):
        try:
            found.append(_compiled(source, vocabulary) if source else None)
        except TemplateError as error:
            found.append(None)
            errors.append(str(error))
    first, second = found
    return ModelTemplates(first or second, second or first, errors)


def _compiled(source: str, vocabulary: Vocabulary) -> ChatTemplate:
    return ChatTemplate(
        source,
        bos_token=vocabulary.bos_text,
        eos_token=vocabulary.eos_text,
        special_tokens=vocabulary.control_tokens,
    )
