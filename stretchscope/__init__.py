"""stretchscope: from the ADC samples of a time-stretch microscope to super-resolved, measured cells.

The short public interface. Each name is imported when it is first used, so that ``import stretchscope`` costs nothing.

==================  ==================================================================================
`open_capture`      read a capture file of any known layout
`CaptureWriter`     write one, block by block
`CaptureMetadata`   what a capture says about itself
`CaptureError`      what is raised when a capture cannot be read or written
`simulate`          write a simulated capture of random cells, with the truth beside the samples
`process_capture`   capture in, table of cells and images out
`Settings`          what defines the result of `process_capture`
`read_settings`     the same from a TOML file
==================  ==================================================================================

The rooms below it (``stretchscope.acquisition``, ``.sr``, ``.classify``, ``.data``, ``.pipeline``) hold the rest.
"""

import importlib
import os
import sys
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .acquisition import CaptureError, CaptureMetadata, CaptureWriter, open_capture
    from .acquisition.simulate import simulate
    from .pipeline.batch import process_capture
    from .pipeline.settings import Settings, read_settings

__version__ = "0.1.0"

__all__ = [
    "CaptureError",
    "CaptureMetadata",
    "CaptureWriter",
    "Settings",
    "__version__",
    "open_capture",
    "process_capture",
    "read_settings",
    "simulate",
]

_HOMES = {
    "CaptureError": "acquisition",
    "CaptureMetadata": "acquisition",
    "CaptureWriter": "acquisition",
    "Settings": "pipeline.settings",
    "open_capture": "acquisition",
    "process_capture": "pipeline.batch",
    "read_settings": "pipeline.settings",
    "simulate": "acquisition.simulate",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _can_write_below(folder: str) -> bool:
    """Whether files can be made in a folder, or the folder itself where it is missing."""
    while not os.path.lexists(folder) and os.path.dirname(folder) != folder:
        folder = os.path.dirname(folder)
    return os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK)


def _give_numba_a_cache() -> None:
    """Where compiled kernels can be kept nowhere, keep them in a temporary folder until the process ends.

    Numba keeps them beside the source or in the user's cache folder, and refuses to import a cached kernel where it
    can write to neither (a read-only installation and no home). NUMBA_CACHE_DIR goes before both.
    """
    if os.environ.get("NUMBA_CACHE_DIR"):
        return
    home = os.path.expanduser("~")
    user_cache = {
        "win32": os.environ.get("LOCALAPPDATA", home),
        "darwin": os.path.join(home, "Library", "Caches"),
    }.get(sys.platform, os.environ.get("XDG_CACHE_HOME", os.path.join(home, ".cache")))
    beside_source = os.path.join(os.path.dirname(os.path.abspath(__file__)), "__pycache__")
    if _can_write_below(beside_source) or _can_write_below(os.path.join(user_cache, "numba")):
        return
    import atexit
    import shutil
    import tempfile

    # a folder of its own, not one that others could have filled: the cache holds machine code
    folder = tempfile.mkdtemp(prefix="stretchscope-kernels-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["NUMBA_CACHE_DIR"] = folder  # worker processes find it there too
    if "numba" in sys.modules:
        sys.modules["numba"].config.CACHE_DIR = folder
    warnings.warn(
        "no place to keep compiled kernels (the installation is read-only, and so is the home folder): they are "
        "compiled anew in every run; name a writable folder in NUMBA_CACHE_DIR",
        RuntimeWarning,
        stacklevel=3,
    )


_give_numba_a_cache()
