"""What a model that reads text gets in place of other parts of a conversation."""


def note_for(kind: str) -> str:
    """`kind`: the part's type. Tells the model why it has no image, say, of which the text around
    it speaks."""
    return f"[{kind.removeprefix('input_')} left out: this model reads text only]"
