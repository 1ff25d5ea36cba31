"""Whether the half of an mmproj file that hears can be used, as far as its header tells. Opens no
file. `projector.py` knows the half that sees."""

from collections.abc import Iterator, Mapping
from itertools import chain

from localinfra.models.gguf.checks import AGAIN, MAX_LAYERS
from localinfra.models.gguf.header import GgufHeader, Metadatum

# Those of clip-impl.h with an encoder for sound, but for those of voices to speak with.
KINDS = frozenset(
    """ultravox voxtral meralion musicflamingo glma qwen2a qwen3a qwen2.5o gemma4a gemma4ua lfm2a
    granite_speech parakeet mimo_audio dots3note_a""".split()
)
# These read a sound in one piece, and their memory grows with the square of its length; others cut
# it into pieces of 30 or 60 seconds.
WHOLE_KINDS = frozenset(("lfm2a", "granite_speech", "parakeet", "mimo_audio"))
WHOLE_SECONDS, MOST_SECONDS = 60.0, 1800.0

# Encoders whose tensors are all known, with their shapes: of these, C checks none.
KNOWN = ("ultravox", "qwen2a", "qwen2.5o", "voxtral")
STACKING = ("ultravox", "voxtral", "meralion", "glma")  # several rows become one

NUMBERS = {  # under clip.audio: the least and the most
    "embedding_length": (1, 1 << 16),
    "feed_forward_length": (0, 1 << 16),
    "block_count": (1, MAX_LAYERS),
    "attention.head_count": (1, 1 << 10),
    "projection_dim": (0, 1 << 16),
    "num_mel_bins": (1, 1 << 10),
}
WITHOUT_LAYERS = "gemma4ua"  # reads the waveform itself
MOST_STACKED = 1500
PLACES = 1500  # of Whisper's encoder, for 30 seconds
BYTES_PER_PLACE = 4 * 6  # of activations, for each number of an encoder's widest layer


def kind_of_ears(header: GgufHeader) -> str:
    """As in clip-impl.h; "" if it has none."""
    return kind_in(header.metadata)


def kind_in(metadata: Mapping[str, Metadatum]) -> str:
    if metadata.get("clip.has_audio_encoder") is not True:
        return ""
    keys = ("clip.projector_type", "clip.audio.projector_type")
    found = (metadata.get(key) for key in keys)
    return next((kind for kind in found if isinstance(kind, str) and kind), "")


def hears(header: GgufHeader) -> bool:
    """Whether it has an encoder for sound that this server uses."""
    return kind_of_ears(header) in KINDS


def longest_seconds(header: GgufHeader) -> float:
    """Of a sound that it can be given."""
    return WHOLE_SECONDS if kind_of_ears(header) in WHOLE_KINDS else MOST_SECONDS


def working_bytes_of_ears(header: GgufHeader) -> int:
    """The buffers that it computes 30 seconds in: estimated."""
    width, ffn, heads = (
        header.number(f"audio.{name}")
        for name in ("embedding_length", "feed_forward_length", "attention.head_count")
    )
    return BYTES_PER_PLACE * 2 * PLACES * max(width, ffn) + 4 * PLACES**2 * heads


def problems_of_ears(header: GgufHeader) -> Iterator[str]:
    """In words that follow the file's name."""
    kind = kind_of_ears(header)
    for name, (least, most) in NUMBERS.items():
        number = header.metadata.get(key := f"clip.audio.{name}")
        low = 0 if kind == WITHOUT_LAYERS else least
        if type(number) is not int or not low <= number <= most:
            yield f"has {key} = {number}; {AGAIN}"
    epsilon = header.metadata.get("clip.audio.attention.layer_norm_epsilon")
    if not isinstance(epsilon, float) or epsilon < 0:
        yield f"has clip.audio.attention.layer_norm_epsilon = {epsilon}; {AGAIN}"
    stacked = header.number("audio.projector.stack_factor", 1)
    if not 1 <= stacked <= MOST_STACKED:
        yield f"has clip.audio.projector.stack_factor = {stacked}; {AGAIN}"
    if kind not in KNOWN:
        return
    width, heads = (
        header.number(f"audio.{name}") for name in ("embedding_length", "attention.head_count")
    )
    if width % heads:
        yield f"has {heads} attention heads for {width} numbers of sound; {AGAIN}"
    yield from _shapes(header)


def rows_width_of_ears(header: GgufHeader) -> int:
    """Numbers in a row that a projector of a KNOWN type makes; 0 if it lacks the last weights."""
    last = "mm.a.fc.weight" if "qwen" in kind_of_ears(header) else "mm.a.mlp.2.weight"
    return next((tensor.shape[-1] for tensor in header.tensors if tensor.name == last), 0)


def _shapes(header: GgufHeader) -> Iterator[str]:
    found = {tensor.name: tensor.shape for tensor in header.tensors}
    for name, shape in chain(_encoder(header, found), _projection(header, found)):
        if found.get(name) != shape:
            yield f"has {name} in shape {found.get(name)}, not {shape}; {AGAIN}"
    for tensor in header.tensors:  # what is added; those of one dimension are checked elsewhere
        if tensor.name.startswith("a.conv1d.") and tensor.name.endswith(".bias") and tensor.type:
            yield f"stores {tensor.name} in a type other than f32; {AGAIN}"
    width = header.number("audio.embedding_length")
    places = found.get("a.position_embd.weight", ())
    if len(places) != 2 or places[0] != width or places[1] < PLACES:
        yield f"has a.position_embd.weight in shape {places}, not ({width}, {PLACES}); {AGAIN}"
    for name, shape in found.items():
        if name.startswith("a.blk.") and name.endswith(("attn_k.bias", "attn_qkv.weight")):
            yield f"has {name}, which its type has no place for; {AGAIN}"
        own = found.get(f"{name.removesuffix('.bias')}.weight")
        if name.startswith(("a.blk.", "a.post_ln")) and name.endswith(".bias"):
            if own is None or shape != own[-1:]:
                yield f"has {name} in shape {shape}; {AGAIN}"


Shapes = Iterator[tuple[str, tuple[int, ...]]]


def _encoder(header: GgufHeader, found: dict[str, tuple[int, ...]]) -> Shapes:
    """Of Whisper's encoder."""
    width, mel = header.number("audio.embedding_length"), header.number("audio.num_mel_bins")
    yield "a.conv1d.1.weight", (3, mel, width)
    yield "a.conv1d.2.weight", (3, width, width)
    for name in ("a.conv1d.1", "a.conv1d.2"):
        yield f"{name}.bias", (1, width)
    for layer in range(header.number("audio.block_count")):
        block = f"a.blk.{layer}"
        for name in ("attn_q", "attn_k", "attn_v", "attn_out"):
            yield f"{block}.{name}.weight", (width, width)
        for name in ("attn_q.bias", "attn_v.bias", *(f"ln{n}.{w}" for n in (1, 2) for w in BOTH)):
            yield f"{block}.{name}", (width,)
        ffn = found.get(f"{block}.ffn_up.weight", (width, 0))[-1]
        yield f"{block}.ffn_up.weight", (width, ffn)
        yield f"{block}.ffn_down.weight", (ffn, width)
    if "a.post_ln.weight" in found:
        yield "a.post_ln.weight", (width,)


BOTH = ("weight", "bias")


def _projection(header: GgufHeader, found: dict[str, tuple[int, ...]]) -> Shapes:
    width, makes = header.number("audio.embedding_length"), rows_width_of_ears(header)
    kind = kind_of_ears(header)
    if "qwen" in kind:
        yield "mm.a.fc.weight", (width, makes)
        yield "mm.a.fc.bias", (makes,)
        return
    stacked = width * header.number("audio.projector.stack_factor", 1)
    hidden = found.get("mm.a.mlp.1.weight", (stacked, 0))[-1]
    yield "mm.a.mlp.1.weight", (stacked, hidden)
    if kind == "voxtral":
        yield "mm.a.mlp.2.weight", (hidden, makes)
        return
    yield "mm.a.norm_pre.weight", (stacked,)
    yield "mm.a.norm_mid.weight", (hidden // 2,)
    yield "mm.a.mlp.2.weight", (hidden // 2, makes)
