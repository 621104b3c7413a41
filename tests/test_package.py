"""The package as a whole: public names, quick import, version, a home for compiled kernels."""

import ast
import importlib.util
import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import stretchscope


def run_python(code: str, *, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter."""
    variables = {k: v for k, v in os.environ.items() if k not in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME")} | environment
    return subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, env=variables, capture_output=True, text=True, check=False
    )


def test_version_is_that_of_the_distribution() -> None:
    assert metadata.version("stretchscope") == stretchscope.__version__


@pytest.mark.parametrize("name", stretchscope.__all__)
def test_public_names_exist_and_are_documented(name: str) -> None:
    value = getattr(stretchscope, name)
    assert name in dir(stretchscope)
    if name != "__version__":
        assert value.__doc__
        assert f"`{name}`" in (stretchscope.__doc__ or "")


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'simulte'"):
        _ = stretchscope.simulte


def test_import_is_lazy(tmp_path: Path) -> None:
    """The command line must start at once: nothing heavy, none of the rooms."""
    done = run_python("import sys, stretchscope; print(*sys.modules)", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    heavy = {"numpy", "numba", "scipy", "h5py", "dask", "matplotlib", "pyarrow", "stretchscope.acquisition"}
    assert not heavy & set(done.stdout.split())


@pytest.fixture
def read_only_package(tmp_path: Path) -> Path:
    """A copy of the package where no __pycache__ can be made, not even by root: a file has the name."""
    for name in ("stretchscope", "acquisition", "sr", "classify", "data", "pipeline"):
        spec = importlib.util.find_spec("stretchscope" if name == "stretchscope" else f"stretchscope.{name}")
        assert spec is not None
        assert spec.submodule_search_locations
        target = tmp_path / "site" / "stretchscope" / ("" if name == "stretchscope" else name)
        source = next(iter(spec.submodule_search_locations))
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
        (target / "__pycache__").touch()
    return tmp_path / "site"


USE_A_KERNEL = """
import os, warnings
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    import stretchscope
    import stretchscope.data.phantoms
assert stretchscope.__file__.startswith(os.environ["PYTHONPATH"]), stretchscope.__file__
print(os.environ.get("NUMBA_CACHE_DIR", ""))
print(*[w.message for w in seen], sep="\\n")
"""


def test_kernels_without_a_writable_place_are_kept_in_a_temporary_folder(read_only_package: Path) -> None:
    nowhere = read_only_package / "file"
    nowhere.touch()
    done = run_python(USE_A_KERNEL, cwd=read_only_package, PYTHONPATH=str(read_only_package), HOME=str(nowhere))
    assert done.returncode == 0, done.stderr
    folder, *warnings = done.stdout.strip().splitlines()
    assert len(warnings) == 1
    assert "NUMBA_CACHE_DIR" in warnings[0]
    assert folder
    assert not Path(folder).exists()  # gone with the process


@pytest.mark.parametrize("place", ["HOME", "NUMBA_CACHE_DIR"])
def test_a_writable_place_is_used_in_silence(read_only_package: Path, tmp_path: Path, place: str) -> None:
    nowhere = read_only_package / "file"
    nowhere.touch()
    (tmp_path / "writable").mkdir()
    variables = {"HOME": str(nowhere)} | {place: str(tmp_path / "writable")}
    done = run_python(USE_A_KERNEL, cwd=read_only_package, PYTHONPATH=str(read_only_package), **variables)
    assert done.returncode == 0, done.stderr
    expected = variables.get("NUMBA_CACHE_DIR", "")
    assert done.stdout.strip() == expected


def test_folder_without_permission_is_not_writable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)  # permissions do not bind root
    assert not stretchscope._can_write_below(str(tmp_path / "numba"))
    (tmp_path / "numba").mkdir()
    assert stretchscope._can_write_below(str(tmp_path / "numba"))


def test_missing_folder_is_judged_by_its_parents(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert stretchscope._can_write_below(str(tmp_path / "a" / "b"))
    assert not stretchscope._can_write_below(str(tmp_path / "file" / "b"))


def test_kernels_that_reorder_sums_are_inlined_where_kernels_call_them() -> None:
    """A called kernel may exist twice in machine code, and its sums then round otherwise fresh than from the cache."""
    spec = importlib.util.find_spec("stretchscope.classify")
    assert spec is not None
    assert spec.submodule_search_locations
    rooms = Path(next(iter(spec.submodule_search_locations))).parent
    trees = [ast.parse(path.read_text()) for path in rooms.glob("*/_*kernels.py")]
    kernels = {
        node.name: ast.unparse(node.decorator_list[0])
        for tree in trees
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.decorator_list
    }
    called = {
        call.func.id
        for tree in trees
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name)
    }
    reordering = {name for name in called & kernels.keys() if "reassoc" in kernels[name]}
    assert reordering
    assert [name for name in sorted(reordering) if "forceinline=True" not in kernels[name]] == []
