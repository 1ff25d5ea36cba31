"""Comments beside the fields of structs, as documents repeat them."""

from localinfra.comments import comments_in, field_comments
from localinfra.models.entries import TextModelEntry


def test_a_field_is_described_by_the_comment_beside_or_above_it() -> None:
    source = (
        "class Settings:\n"
        "    # of all of them\n"
        "\n"
        "    beside: int = 1  # seconds\n"
        "    # in two\n"
        "    # lines\n"
        "    above: int = (\n"
        "        2  # and beside\n"
        "    )\n"
        "    silent: int = 3  # type: ignore[assignment]\n"
    )
    expected = {"beside": "seconds", "above": "in two lines and beside", "silent": ""}
    assert comments_in(source) == {"Settings": expected}


def test_fields_of_bases_are_described_too() -> None:
    assert field_comments(TextModelEntry)["aliases"] == "other names it answers to"
