"""An unpacked package → a wheel that pip and uv install: what was tried in a folder gets into an
environment as it is, not fetched or compiled again.

Pure but for the files. The form is the Binary distribution format of packaging.python.org.
"""

import csv
import io
import re
import zipfile
from pathlib import Path

INSTALLERS_OWN = ("INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json")


def packed(folder: Path, package: str, to: Path) -> Path:
    """Writes the wheel into the folder `to`. Raises FileNotFoundError if `folder` lacks the package
    or one of its files."""
    info = next(folder.glob(f"{package}-*.dist-info"), None)
    if info is None:
        raise FileNotFoundError(f"{folder} has no {package}")
    record = f"{info.name}/RECORD"
    rows = [
        row
        for row in csv.reader((folder / record).read_text(encoding="utf-8").splitlines())
        if not row[0].endswith(".pyc") and Path(row[0]).name not in INSTALLERS_OWN
    ]
    wheel = to / f"{info.stem}-{tag(info)}.whl"
    with zipfile.ZipFile(wheel, "w") as archive:  # stored: it is unpacked at once
        for name, *_ in rows:
            if name != record:
                archive.write(folder / name, name)
        lines = io.StringIO()
        csv.writer(lines, lineterminator="\n").writerows(rows)
        archive.writestr(record, lines.getvalue())
    return wheel


def tag(info: Path) -> str:
    """For which Python and system it is, from a package's metadata."""
    tags = re.findall(r"^Tag: *(\S+)-(\S+)-(\S+)$", (info / "WHEEL").read_text("utf-8"), re.M)
    parts = zip(*tags, strict=True)  # a package's name has all of each: py2.py3-none-any
    return "-".join(".".join(dict.fromkeys(part)) for part in parts)
