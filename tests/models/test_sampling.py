"""What a GGUF file's authors recommend."""

from localinfra.models.sampling import SamplingSettings, recommended_in


def test_recommendations_are_read_from_a_files_metadata() -> None:
    keys = {"temp": 0.6000000238418579, "top_p": 0.949999988079071, "top_k": 20, "min_p": 0.0}
    metadata = {f"general.sampling.{key}": value for key, value in keys.items()}
    expected = SamplingSettings(temperature=0.6, top_p=0.95, top_k=20, min_p=0.0)
    assert recommended_in(metadata) == expected


def test_what_is_no_valid_value_is_left_out() -> None:
    keys = {
        "temp": float("nan"),
        "top_p": 7.0,
        "top_k": "many",
        "penalty_repeat": 1.1,
        "min_p": True,
    }
    metadata = {f"general.sampling.{key}": value for key, value in keys.items()}
    assert recommended_in(metadata) == SamplingSettings(repetition_penalty=1.1)
    assert recommended_in({}) is None
