"""Positions of pictures with M-RoPE, as llama.cpp's mtmd gives them."""

from hypothesis import given
from hypothesis import strategies as st
from models.tiny_seeing import random_picture

from localinfra.engine.pictures import PictureRows
from localinfra.llama.places import Area, Places, are_sound, areas_of, packed, parts_of, position

AREAS = [Area(3, 12, 4), Area(15, 6, 3), Area(25, 2, 2)]


def test_rows_of_a_picture_share_a_position_and_texts_go_on_after_its_grid() -> None:
    expected = [
        0, 1, 2, *[3] * 12,  # 3 to 6 are the picture's
        *[7] * 6, 10, 11, 12, 13,
        14, 14, 16, 17,
    ]  # fmt: skip
    assert [position(AREAS, index) for index in range(len(expected))] == expected


def test_positions_of_rows_have_their_height_and_width() -> None:
    picture = random_picture(1, 6, grid=(2, 3))
    rows = parts_of(PictureRows(picture, 0, 6), [9] * 6, 4)
    assert rows.tolist() == [[9] * 6, [9, 9, 9, 10, 10, 10], [9, 10, 11, 9, 10, 11], [0] * 6]
    later = parts_of(PictureRows(picture, 4, 6), [9, 9, 0], 4)  # and a row that fills the step up
    assert later.tolist() == [[9, 9, 0], [10, 10, 0], [10, 11, 0], [0, 0, 0]]
    plain = parts_of(PictureRows(random_picture(1, 2), 0, 2), [4, 5], 1)
    assert plain.tolist() == [[4, 5]]
    sound = parts_of(PictureRows(random_picture(1, 2), 0, 2), [4, 5], 4)
    assert sound.tolist() == [[4, 5]] * 4, "as in mtmd_image_tokens_get_decoder_pos"


def filled() -> Places:
    places = Places()
    for area in AREAS:
        places.add(1, area)
        places.add(1, area)  # its second chunk
    return places


def test_a_slot_gets_the_areas_of_what_it_shares() -> None:
    places = filled()
    places.copy(1, 2, 15)
    assert places.areas(2) == AREAS[:1]
    places.copy(1, 2, 27)
    assert places.areas(2) == AREAS
    places.copy(1, 2, 21)  # the same tokens from elsewhere: what comes after them stays
    assert places.areas(2) == AREAS
    places.drop(2, 15)
    assert places.areas(2) == AREAS[:1] and places.areas(1) == AREAS
    assert places.after(2, 15) == 4 and places.at(2, 15) == 7  # cells end before tokens go on
    places.drop(2, 0)
    assert places.of([1, 2, 1], [15, 15, 21]) == [7, 15, 10]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 9), st.integers(1, 9)), max_size=5))
def test_positions_never_fall_and_areas_survive_bytes(parts: list[tuple[int, int, int]]) -> None:
    areas, at = [], 0
    for gap, rows, positions in parts:
        areas.append(Area(at + gap, rows, min(rows, positions)))
        at = areas[-1].end
    assert are_sound(areas)
    numbers = [position(areas, index) for index in range(at + 3)]
    assert numbers == sorted(numbers) and numbers[0] == 0
    texts = [n for n in range(at + 3) if not any(a.start < n < a.end for a in areas)]
    assert len({numbers[n] for n in texts}) == len(texts), "each but rows of pictures has its own"
    data = packed(areas).view("u1")
    assert areas_of(data, data.nbytes) == (areas, 0)


def test_areas_that_no_slot_has_are_seen() -> None:
    for bad in ([Area(-1, 2, 1)], [Area(0, 2, 3)], [Area(0, 2, 0)], [Area(0, 3, 1), Area(2, 3, 1)]):
        assert not are_sound(bad)
    data = packed(AREAS).view("u1")
    assert areas_of(data[4:], data.nbytes - 4) == ([], -1), "too few bytes"
    assert areas_of(data[:0], 0) == ([], -1)
    assert areas_of(packed([])[:0].view("u1"), 0)[1] < 0
    negative = packed(AREAS)
    negative[-1] = -3
    assert areas_of(negative.view("u1"), negative.nbytes) == ([], -1)
