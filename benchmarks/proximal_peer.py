"""The proximal package's solvers on the objectives of these benchmarks; None of this where it cannot be imported.

    pip install proximal==0.1.7 opencv-python-headless

Only the pure Python and numpy parts are used: the package's Halide kernels need a compiler and a download.
"""

import contextlib
import sys
import time
import types
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import sparse


def load() -> Any | None:
    """The package, on one thread; None where it cannot be imported.

    Version 0.1.7 imports an example image that SciPy no longer has, and does not use it.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import scipy.misc as misc
        except ImportError:
            misc = sys.modules.setdefault("scipy.misc", types.ModuleType("scipy.misc"))
        if not hasattr(misc, "ascent"):
            misc.ascent = None
        try:
            import numexpr
            import proximal
        except ImportError:
            return None
    numexpr.set_num_threads(1)
    return proximal


class _EnoughError(Exception):
    """Enough was seen of a solver."""


class Watch:
    """A convergence log, as the solvers call it: adds up the time of iterations, and looks at the image between them.

    ``look`` gets seconds and image after each iteration, and returns whether to go on.
    """

    def __init__(self, variable: Any, look: Callable[[float, np.ndarray], bool]) -> None:
        self.variable, self.look, self.spent, self.begin = variable, look, 0.0, 0.0

    def tic(self) -> None:
        self.begin = time.process_time()

    def toc(self) -> None:
        self.spent += time.process_time() - self.begin

    def record_timing(self, _: float) -> None:
        pass

    def record_objective(self, _: float) -> None:
        if not self.look(self.spent, self.variable.value):
            raise _EnoughError


def operator(package: Any, matrix: sparse.csr_array, variable: Any, bound: float | None = None) -> Any:
    """A matrix as the package's linear operator on a variable; its transpose is kept as CSR too."""
    transpose = sparse.csr_array(matrix.T)
    shape = variable.shape

    def forward(image: np.ndarray, out: np.ndarray) -> None:
        out[:] = (matrix @ image.ravel()).reshape(out.shape)

    def adjoint(values: np.ndarray, out: np.ndarray) -> None:
        out[:] = (transpose @ values.ravel()).reshape(out.shape)

    return package.LinOpFactory(shape, (matrix.shape[0],), forward, adjoint, bound)(variable)


def watch(package: Any, term: Any, solver: str, watch: Watch, **options: Any) -> None:
    """Run one of the package's solvers on one term until its watch has seen enough.

    The solvers' modules are called as Problem.solve calls them, which scales the variable in between and hands to half
    quadratic splitting an argument that it does not take.
    """
    modules = {
        "ladmm": package.algorithms.linearized_admm,
        "pc": package.algorithms.pock_chambolle,
        "admm": package.algorithms.admm,
        "hqs": package.algorithms.half_quadratic_splitting,
    }
    never = {"eps_abs": 0.0, "eps_rel": 0.0, "max_iters": 1_000_000}  # the watch ends it
    with contextlib.suppress(_EnoughError):
        modules[solver].solve([term], [], convlog=watch, **never, **options)


class LeastSquares:
    """The conjugate gradients that the package's solvers use within, called directly on ‖K x - b‖²."""

    def __init__(self, package: Any, matrix: sparse.csr_array, known: np.ndarray, variable: Any) -> None:
        from proximal.prox_fns.sum_squares import cg_options, least_squares

        self.options = cg_options
        self.known = known
        self.term = least_squares(operator(package, matrix, variable), known)

    def solve(self, steps: int) -> np.ndarray:
        options = self.options(tol=0.0, num_iters=steps)
        return np.asarray(self.term.solve(self.known, lin_solver="cg", options=options))
