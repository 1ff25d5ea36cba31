"""Graphs that OpenVINO runs."""

import subprocess
import sys
from pathlib import Path

PROGRAM = """
from pathlib import Path
from localinfra.embed.graph_encoders import OpenVinoEncoder

try:
    OpenVinoEncoder(Path("graph"), None, threads=1)
except NotImplementedError:
    print("imported")
"""
FAKES = {
    "openvino.py": """
try:
    import openvino_telemetry
except ImportError:
    def Core():
        raise NotImplementedError
""",
    "openvino_telemetry.py": "",
}


def test_openvino_tells_nobody_that_it_is_used(tmp_path: Path) -> None:
    for name, text in FAKES.items():
        (tmp_path / name).write_text(text)
    path = f"import sys; sys.path[:0] = {[str(tmp_path), *sys.path]!r}\n"
    command = [sys.executable, "-c", path + PROGRAM]
    assert subprocess.run(command, capture_output=True, text=True).stdout == "imported\n"
