"""What is refused of any sound, whoever reads its file."""

CHANNELS = range(1, 9)
RATES = range(4_000, 192_001)  # samples per second


class BadSound(Exception):
    """The file can't be read; the message says why and what to do, in words that follow the name
    of a field."""


def check_shape(num_channels: int, rate: int) -> None:
    """Raises BadSound."""
    if num_channels not in CHANNELS:
        raise BadSound(
            f"has {num_channels} channels; from {CHANNELS[0]} to {CHANNELS[-1]} are read. Mix them "
            "into one"
        )
    if rate not in RATES:
        raise BadSound(
            f"has {rate:,} samples per second; from {RATES[0]:,} to {RATES[-1]:,} are read. Send "
            "it with 16,000"
        )


def check_length(num_samples: int, rate: int, max_seconds: float) -> None:
    """Raises BadSound."""
    if not num_samples:
        raise BadSound("has no samples; send a sound that is longer")
    if num_samples > max_seconds * rate:
        raise BadSound(
            f"is {num_samples / rate:,.1f} seconds long; at most {max_seconds:,.0f} are read. Send "
            "it in parts"
        )
