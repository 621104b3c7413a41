"""Check that a wheel holds every file of every room, the licence and py.typed, and nothing else.

    python .ci/check_wheel.py dist/stretchscope-*.whl

A room missing from pyproject.toml, or a data file that is not package data, vanishes from the wheel in silence.
"""

import sys
import tomllib
import zipfile
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parents[1]
NOT_ROOMS = {"tests", "docs", "benchmarks"}
NOT_SHIPPED = {".md"}


def expected_files() -> set[str]:
    """Names in the wheel of all files of the tree's rooms, whether or not pyproject.toml knows the room."""
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    place_of = {folder: package.replace(".", "/") for package, folder in setuptools["package-dir"].items()}
    files = set()
    for folder in sorted(ROOT.iterdir()):
        if folder.name in NOT_ROOMS or not (folder / "__init__.py").exists():
            continue
        place = PurePosixPath(place_of.get(folder.name, f"stretchscope/{folder.name}"))
        files |= {
            str(place / path.relative_to(folder).as_posix())
            for path in folder.rglob("*")
            if path.is_file() and "__pycache__" not in path.parts and path.suffix not in NOT_SHIPPED
        }
    return files


def main() -> None:
    """Compare, and end with status 1 where they differ."""
    wheel = Path(sys.argv[1])
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    information = {name for name in names if name.split("/")[0].endswith(".dist-info")}
    expected = expected_files()
    faults = [f"missing: {name}" for name in sorted(expected - names)]
    faults += [f"not in the tree: {name}" for name in sorted(names - information - expected)]
    if "stretchscope/py.typed" not in names:
        faults.append("missing: py.typed")
    faults += [f"missing: {end}" for end in ("licenses/LICENSE", "entry_points.txt") if not _any_ends(information, end)]
    for fault in faults:
        print(f"{wheel.name}: {fault}", file=sys.stderr)
    if faults:
        sys.exit(1)
    print(f"{wheel.name}: all {len(expected)} files of the tree, and nothing else")


def _any_ends(names: set[str], end: str) -> bool:
    return any(name.endswith(end) for name in names)


if __name__ == "__main__":
    main()
