"""What a model that reads text gets in place of other parts of a conversation."""


def note_for(kind: str) -> str:
    """`kind`: the part's type. Tells the model why it has no image, say, of which the text around
    it speaks."""
    name = kind.removeprefix("input_").removesuffix("_url")
    return f"[{name} left out: this model reads text only]"
