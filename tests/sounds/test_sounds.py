"""Sound files become samples, and hostile ones an error that says what to do."""

import struct
import tracemalloc

import numpy as np
import pytest
from numpy.typing import NDArray
from sound_files import RATE, chunk, compressed, noise, stored, tone, wav

from localinfra.errors import InvalidRequest
from localinfra.sounds import decoding, resampling
from localinfra.sounds.resampling import Resampler, resampled
from localinfra.sounds.samples import MAX_BYTES, is_sound, read_samples
from localinfra.sounds.wav import companded


def read(data: bytes, max_seconds: float = 60) -> NDArray[np.float32]:
    return read_samples(data, "messages", RATE, max_seconds).data


def refused(data: bytes, max_seconds: float = 60) -> str:
    with pytest.raises(InvalidRequest) as error:
        read(data, max_seconds)
    assert error.value.param == "messages" and str(error.value).startswith("messages ")
    return str(error.value)


def likeness(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """The cosine of two sounds."""
    size = min(len(one), len(other))
    one, other = one[:size], other[:size]
    return float(one @ other / np.sqrt((one @ one) * (other @ other)))


@pytest.mark.parametrize(("tag", "bits"), [(1, 8), (1, 16), (1, 24), (1, 32), (3, 32), (3, 64)])
def test_every_way_to_store_samples(tag: int, bits: int) -> None:
    sound = noise()
    step = 2.0 ** (2 - min(bits, 24))
    assert abs(read(wav(sound, tag=tag, bits=bits)) - sound).max() <= step


def test_telephone_samples() -> None:
    """The ends of G.711's table, and its silence."""
    mu, a = companded(7) * 32768, companded(6) * 32768
    assert (mu[0x80], mu[0x00], mu[0xFF], mu[0x7F]) == (32124, -32124, 0, 0)
    assert (a[0xAA], a[0x2A], a[0xD5], a[0x55]) == (32256, -32256, 8, -8)
    data = wav(np.zeros(800, np.float32), tag=7, bits=8)
    assert len(read(data)) == 800


def test_channels_are_mixed_and_samples_beyond_one_are_cut() -> None:
    left, right = tone(hertz=300), tone(hertz=700)
    both = read(wav(np.stack([left, right], 1), bits=24))
    assert abs(both - (left + right) / 2).max() < 1e-5
    assert abs(read(wav(4 * tone(), tag=3, bits=32))).max() == 1


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 24_000, 44_100, 48_000, 192_000])
def test_rates_are_converted_without_new_tones(rate: int) -> None:
    found = read(wav(tone(0.5, 1000, rate), rate, bits=24))
    assert len(found) == pytest.approx(0.5 * RATE, abs=1)
    inner = slice(200, -200)
    assert abs(found[inner] - tone(0.5, 1000)[: len(found)][inner]).max() < 2e-4


def test_what_the_new_rate_cannot_hold_is_gone() -> None:
    found = resampled(tone(0.5, 10_000, 48_000), 48_000, RATE)
    assert abs(found[400:-400]).max() < 1e-3
    odd = resampled(tone(0.1, 500, 44_101), 44_101, RATE)
    assert abs(odd[200:-200] - tone(0.1, 500)[: len(odd)][200:-200]).max() < 2e-4


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100, 44_101, 192_000])
def test_a_sound_in_blocks_becomes_the_same_bits(
    rate: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = noise(1.3, rate=rate)
    at_once = resampled(sound, rate, RATE)
    monkeypatch.setattr(resampling, "PIECE", 5_000)
    found = []
    for size in (len(sound), 77_777, 10_000, 4_097):
        resampler = Resampler(rate, RATE)
        for first in range(0, len(sound), size):
            resampler.push(sound[first : first + size])
        resampler.finish()
        found.append(np.concatenate(resampler.pieces))
    assert len(found[0]) == len(at_once) and abs(found[0] - at_once).max() < 1e-6
    assert all(np.array_equal(one, found[0]) for one in found)


def test_memory_follows_what_a_sound_becomes_and_not_its_rate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """192,000 samples per second become 16,000."""
    monkeypatch.setattr(resampling, "PIECE", 1 << 14)
    block = noise(0.1, rate=192_000)
    tracemalloc.start()
    try:
        resampler = Resampler(192_000, RATE)
        for _ in range(100):
            resampler.push(block)
        resampler.finish()
        size = sum(piece.nbytes for piece in resampler.pieces)
        assert size == 4 * 10 * RATE
        assert tracemalloc.get_traced_memory()[1] < size + 20 * (4 << 14), "whole: 7,680,000"
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("form", ["MP3", "FLAC", "OGG"])
def test_compressed_files(form: str) -> None:
    sound = np.stack([tone(1.0, 440, 44_100)] * 2, 1)
    data = compressed(sound, form, 44_100)
    assert is_sound(data)
    found = read(data)
    assert len(found) == pytest.approx(RATE, abs=1500) and likeness(found, tone(1.0)) > 0.98


def test_opus_as_browsers_record_it() -> None:
    found = read(compressed(tone(1.0, rate=48_000), "OGG", 48_000, subtype="OPUS"))
    assert likeness(found, tone(1.0)) > 0.98


def test_equal_sounds_have_equal_digests() -> None:
    one, other = (read_samples(wav(tone(), bits=bits), "m", RATE) for bits in (16, 16))
    assert one.digest == other.digest and len(one.digest) == 32 and one.seconds == 0.5
    assert read_samples(wav(noise()), "m", RATE).digest != one.digest


def test_a_stream_whose_writer_did_not_know_its_length() -> None:
    for claimed in (0xFFFF_FFFF, 0x7FFF_F000):
        assert len(read(wav(tone(), claimed=claimed))) == 8000
    assert len(read(wav(tone(), claimed=0xFFFF_FFFF)[:-1])) == 7999  # and it was cut


def test_chunks_of_other_programs_are_passed_over() -> None:
    data = wav(tone())
    extra = data[:12] + chunk(b"LIST", b"odd") + data[12:] + chunk(b"id3 ", b"xyz")
    assert np.array_equal(read(extra), read(data))


HEAD = struct.pack("<HHIIHH", 1, 1, RATE, 2 * RATE, 2, 16)


def riff(*chunks: bytes) -> bytes:
    return b"RIFF\0\0\0\0WAVE" + b"".join(chunks)


def head(
    tag: int = 1, channels: int = 1, rate: int = RATE, frame: int = 2, bits: int = 16
) -> bytes:
    form = struct.pack("<HHIIHH", tag, channels, rate, 0, frame, bits)
    return riff(chunk(b"fmt ", form), chunk(b"data", stored(tone())))


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "can't be read as a sound: send a complete file in WAV, MP3, FLAC or OGG"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "can't be read as a sound"),
        (wav(tone(), claimed=999_999), "claims 999,999 bytes of samples and holds 16,000"),
        (wav(tone(0)), "has no samples"),
        (riff(), "has no samples (a data chunk)"),
        (riff(chunk(b"data", b"1234")), "does not say how its samples are stored"),
        (riff(chunk(b"fmt ", HEAD[:8])), "has a format of 8 bytes, of which 16 are needed"),
        (head(tag=2), "(format 2, 16 bits)"),
        (head(bits=12), "(format 1, 12 bits)"),
        (head(channels=0), "has 0 channels; from 1 to 8 are read"),
        (head(channels=9, frame=18), "has 9 channels"),
        (head(rate=0), "has 0 samples per second; from 4,000 to 192,000 are read"),
        (head(rate=0xFFFF_FFFF), "has 4,294,967,295 samples per second"),
        (head(frame=1), "claims 1 bytes for 1 channels of 16 bits, which take 2"),
        (wav(np.full(800, np.nan, np.float32), tag=3, bits=32), "that are no numbers"),
        (wav(np.full(800, 1e300), tag=3, bits=64), "that are no numbers"),
        (b"RIFF\0\0\0\0WAVE" + b"JUNK\0\0\0\0" * 5000, "has no samples (a data chunk)"),
    ],
)
def test_damaged_files_are_refused_by_what_is_wrong(data: bytes, problem: str) -> None:
    assert problem in refused(data)


def test_too_long_and_too_large_sounds_are_refused_with_both_numbers() -> None:
    assert "is 1.0 seconds long; at most 0 are read" in refused(wav(tone(1)), max_seconds=0.4)
    assert f"at most {MAX_BYTES:,}" in refused(bytes(MAX_BYTES + 1))
    long = compressed(tone(3), "MP3")
    assert "seconds long; at most 1 are read" in refused(long, max_seconds=1)


@pytest.mark.parametrize("form", ["MP3", "FLAC", "OGG"])
def test_a_file_cut_in_half_is_refused(form: str) -> None:
    data = compressed(noise(2), form)
    assert "send" in refused(data[: len(data) // 2])
    assert "send" in refused(data[:40])


def test_bytes_flipped_anywhere_end_in_samples_or_an_error() -> None:
    data = compressed(noise(0.5), "FLAC")
    random = np.random.default_rng(1)
    for _ in range(4):
        broken = bytearray(data)
        for at in random.integers(4, len(data), 20):
            broken[at] ^= 1 << int(random.integers(8))
        try:
            assert np.isfinite(read(bytes(broken))).all()
        except InvalidRequest as error:
            assert "send" in str(error)


def test_a_decoder_that_dies_is_an_error_of_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    dies = ["sh", "-c", "kill -SEGV $$"]
    monkeypatch.setattr(decoding, "COMMAND", dies)
    assert "its decoder ended with -11" in refused(compressed(tone(), "FLAC"))
    monkeypatch.setattr(decoding, "COMMAND", ["sh", "-c", "exec sleep 1000"])
    monkeypatch.setattr(decoding, "LIMIT_S", 0.0)
    assert "takes too long" in refused(compressed(tone(), "FLAC"))  # and it is ended
