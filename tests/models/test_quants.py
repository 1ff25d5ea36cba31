"""Which files of a repository are the model, as llama.cpp chooses them."""

import pytest

from localinfra.models import quants

REPOSITORY = [
    "README.md",
    "imatrix.gguf",
    "m-BF16-00001-of-00002.gguf",
    "m-BF16-00002-of-00002.gguf",
    "m-F16.gguf",
    "m-IQ2_XXS.gguf",
    "m-Q4_K_M.gguf",
    "m-Q8_0.gguf",
    "m-UD-Q4_K_XL.gguf",
    "mmproj-m-F16.gguf",
    "mmproj-m-Q8_0.gguf",
    "mtp-m-Q4_K_M.gguf",
]


@pytest.mark.parametrize(
    ("quant", "expected"),
    [
        (None, "m-Q4_K_M.gguf"),
        ("Q8_0", "m-Q8_0.gguf"),
        ("q4_k_m", "m-Q4_K_M.gguf"),
        ("iq2_xxs", "m-IQ2_XXS.gguf"),
        ("Q4_K_XL", "m-UD-Q4_K_XL.gguf"),
        ("UD-Q4_K_XL", "m-UD-Q4_K_XL.gguf"),
        ("F16", "m-F16.gguf"),
        ("BF16", "m-BF16-00001-of-00002.gguf"),
        ("Q5_K_M", None),
        ("Q4", None),
        (".*", None),
    ],
)
def test_a_quant_names_a_model(quant: str | None, expected: str | None) -> None:
    assert quants.choose(REPOSITORY, quant) == expected


def test_a_file_is_no_part_of_nothing() -> None:
    assert quants.parts("m-00001-of-00000.gguf") == ["m-00001-of-00000.gguf"]


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["b.Q2_K.gguf", "a.Q8_0.gguf"], "a.Q8_0.gguf"),
        (["b.Q2_K.gguf", "a.Q3_K.gguf"], "a.Q3_K.gguf"),
        (["Q5/m-Q5_K_M-00001-of-00003.gguf"], "Q5/m-Q5_K_M-00001-of-00003.gguf"),
        (["mmproj-F16.gguf", "imatrix.gguf", "eagle3-m.gguf", "dflash-m.gguf", "a.bin"], None),
        ([], None),
    ],
)
def test_without_a_quant_the_usual_ones_are_tried(paths: list[str], expected: str | None) -> None:
    assert quants.choose(paths, None) == expected


def test_a_model_in_parts_has_them_all() -> None:
    found = quants.parts("a/m-BF16-00001-of-00003.gguf")
    assert found == [f"a/m-BF16-0000{at}-of-00003.gguf" for at in (1, 2, 3)]
    assert quants.parts("m.gguf") == ["m.gguf"]


@pytest.mark.parametrize(
    ("model", "projectors", "expected"),
    [
        ("m-Q8_0.gguf", ["mmproj-F16.gguf", "mmproj-Q8_0.gguf"], "mmproj-Q8_0.gguf"),
        ("m-Q4_K_M.gguf", ["mmproj-F16.gguf", "mmproj-Q8_0.gguf"], "mmproj-Q8_0.gguf"),
        ("a/m-Q8_0.gguf", ["mmproj-Q8_0.gguf", "a/mmproj-F16.gguf"], "a/mmproj-F16.gguf"),
        ("a/m-Q8_0.gguf", ["b/mmproj-Q8_0.gguf"], None),
        ("m-Q8_0.gguf", ["m-F16.gguf", "README.md"], None),
    ],
)
def test_the_nearest_projector_belongs_to_a_model(
    model: str, projectors: list[str], expected: str | None
) -> None:
    assert quants.projector([model, *projectors], model) == expected


def test_the_choices_are_listed_once_each() -> None:
    known = ["BF16", "F16", "IQ2_XXS", "Q4_K_M", "Q8_0", "Q4_K_XL"]
    assert quants.known(REPOSITORY) == known
