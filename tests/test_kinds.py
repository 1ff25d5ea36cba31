"""Each kind of model has its rows: what models.toml may say, who loads it, how it is asked."""

from localinfra import kinds
from localinfra.api.deepinfra.inference import HANDLERS
from localinfra.cli.serve import EXAMPLES
from localinfra.models import entries


def test_every_kind_of_entry_can_be_loaded_and_asked_natively() -> None:
    described = set(entries.KINDS.values())
    assert described == set(kinds.BY_ENTRY) == set(HANDLERS) == set(EXAMPLES)
