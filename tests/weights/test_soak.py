"""A short run of `scripts/soak` with models of each kind, whatever time it takes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from benchlib import ROOT
from soakload import SHARES


@pytest.mark.timeout(1800)
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_text_vectors_ranks_and_images_beside_a_control_stream_all_end_well(
    tmp_path: Path,
) -> None:
    options = ["--rounds", "1", "--clients", "3", "--json", str(tmp_path / "soak.json")]
    command = [sys.executable, str(ROOT / "scripts" / "soak"), *options]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "soak.json").read_text())
    kinds = {kind.__name__ for kind in SHARES}
    assert {"embeddings", "reranking", "painting"} < kinds
    requests = found["requests"]
    assert {name: requests[name] for name in kinds} == dict.fromkeys(kinds, 1)
    assert requests["control"] > 1 and found["failed"] == 0
    assert requests["sample"] == len(found["samples"]) > 1  # of /health and /metrics
