"""Time to the optimum of one objective: the regularised solver, the proximal package, and plain numpy and scipy.

    python benchmarks/peer_solvers.py [--repeats 5]

The objective of sr/refine.py on windows of simulated events, written a second time as sparse matrices in float64:

    F(s) = ½·‖A s - b‖² + ½·‖L s‖²,    A = √(p²/v)·B,  b = y/√v,  L = √ρ·(a·D₁₁; b·D₂₂; a·b·D₁₁ D₂₂)

Every solver begins with the empty channel, s = 1 (peers solve for s - 1, from zeros), runs on one thread, and is
asked how long it takes until F, evaluated by the sparse matrices, is within 0.1 % of its minimum F*: until
(F - F*) / F* ≤ 0.001. F holds the constant ½·‖b‖²: F* is what no image explains, about half the number of samples. The
other reading, 0.1 % of the way from the first image, (F - F*) / (F₀ - F*) ≤ 0.001, is given too: it is the easier one,
since F₀ is hundreds of times F*.
Neither building matrices, nor compiling, nor choosing step sizes counts. Peers get A, Aᵀ, L, Lᵀ as CSR matrices, or
the product of the normal equations as one where they need no more; step sizes are the best of several tried.

The proximal package (PyPI, 0.1.7) is timed where it can be imported; the benchmark does not need it.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import proximal_peer
from record import write_result
from scipy import sparse
from scipy.sparse import linalg

from stretchscope.acquisition.optics import Digitiser, Instrument, LineClock, Optics
from stretchscope.acquisition.simulate import blocks
from stretchscope.data.phantoms import random_scene
from stretchscope.data.stamps import cell_stamps
from stretchscope.sr import _refine_kernels as kernels
from stretchscope.sr.background import Background
from stretchscope.sr.calibrate import Span, measure_background
from stretchscope.sr.line_clock import measure_segment_clocks
from stretchscope.sr.line_fit import LineTables, line_tables
from stretchscope.sr.reconstruct import Grid, choose_grid, registered_fits
from stretchscope.sr.refine import MOST_STEPS, TOLERANCE, Window, lay_window, reconstruct_regularised, weigh_window

WITHIN = 1e-3
SEED = 3
CELLS, LINES = 12, 4000
# Lines and samples of an event.
SHAPES = ((64, 64), (250, 40))
EVENTS_PER_SHAPE = 3
# What the pipeline chooses on this scene, see reconstruct.best_kernel.
KERNEL = (0.22, 1.7)
# No peer is waited for longer.
MOST_SECONDS = 10.0
# Products of this size gain nothing from the threads of a BLAS library, and lose by waiting for them.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "NUMEXPR_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Simulated:
    """A capture with cells, and what calibration and line clock make of it."""

    samples: np.ndarray
    background: Background
    tables: LineTables
    starts: np.ndarray
    grid: Grid
    centres: np.ndarray  # of the cells [lines, samples]


@dataclass(frozen=True)
class Event:
    """A window of a capture and the lines that it is made of; arguments of reconstruct_regularised."""

    starts: np.ndarray
    first_line: int
    rows: tuple[float, float]
    tau: tuple[float, float]


@dataclass(frozen=True)
class Objective:
    """One event's objective, as our kernels take it and as sparse matrices; pixels in order, row by row."""

    signal: np.ndarray
    power: np.ndarray
    laid: tuple[np.ndarray, ...]
    window: Window
    density: float
    a: sparse.csr_array
    b: np.ndarray  # of s - 1: y/√v - A·1
    penalty: sparse.csr_array
    least: float
    start: float
    optimum: np.ndarray

    def value(self, image: np.ndarray) -> float:
        s = image.ravel().astype(float) - 1
        return 0.5 * float(np.sum((self.a @ s - self.b) ** 2)) + 0.5 * float(np.sum((self.penalty @ s) ** 2))

    def gap(self, image: np.ndarray) -> float:
        """F - F*."""
        return self.value(image) - self.least

    @property
    def targets(self) -> dict[str, float]:
        """Gaps F - F* that count as within 0.1 %, by what they are measured in."""
        return {"of_minimum": WITHIN * self.least, "of_descent": WITHIN * (self.start - self.least)}


def run_on_one_thread() -> None:
    """Begin again with libraries kept to one thread, which they ask when they are loaded."""
    if not ONE_THREAD.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | ONE_THREAD)


def cpu_seconds(work: Callable[[], object], repeats: int) -> float:
    """Least CPU time of a few runs: wall time on one thread, without what others do on the machine."""
    times = []
    for _ in range(repeats):
        begin = time.process_time()
        work()
        times.append(time.process_time() - begin)
    return min(times)


def simulated() -> Simulated:
    """The scene of the decimation figures at 5 GSa/s: pulses of 24 ns over 48 µm, 20 lines per µm."""
    rate = 11.614e6
    optics = Optics(line_rate_hz=rate, pulse_duration_s=24e-9, field_of_view_um=48.0, flow_speed_m_per_s=0.05e-6 * rate)
    instrument = Instrument(optics=optics, clock=LineClock(), digitiser=Digitiser())
    length = LINES * optics.um_per_line
    scene = random_scene(
        cell_stamps(SEED), field_of_view_um=optics.field_of_view_um, per_mm=1000 * CELLS / length, length_um=length,
        seed=SEED,
    )  # fmt: skip
    samples = np.concatenate(list(blocks(scene, instrument, seed=SEED, lines=LINES)))
    background = measure_background([Span(0, samples)])
    tables = line_tables(background)
    (clock,) = measure_segment_clocks(lambda first, stop: samples[first:stop], 0, samples.size, background, tables)
    objects = scene.objects(0.0, length)
    centres = np.column_stack([objects["y_um"] / optics.um_per_line, objects["x_um"] / instrument.um_per_sample])
    lines_per_sample = instrument.um_per_sample / optics.um_per_line
    grid = choose_grid(KERNEL, lines_per_sample)
    starts = clock.line_start(np.arange(clock.lines))
    return Simulated(samples, background, tables, starts, grid, centres)


def events_of(capture: Simulated, lines: int, width: int) -> Iterator[Event]:
    """Windows around the cells that leave room for them; with the lines that reach into the window."""
    beyond = int(np.ceil(3 * capture.grid.sigma_lines)) + 2
    lit = capture.background.lit_samples
    for line, tau in capture.centres:
        first = round(line - lines / 2)
        if beyond <= first and first + lines + beyond <= capture.starts.size:
            left = float(np.clip(tau - width / 2, 0, lit - width))
            own = capture.starts[first - beyond : first + lines + beyond]
            yield Event(own, first - beyond, (float(first), float(first + lines - 1)), (left, left + width - 1))


def objective_of(capture: Simulated, event: Event) -> Objective:
    window = lay_window(capture.grid, event.rows, event.tau, capture.background.lit_samples)
    fits = registered_fits(capture.samples, 0, event.starts, capture.background, capture.tables)
    signal, power, laid = weigh_window(
        capture.samples, 0, event.starts, event.first_line, capture.background, capture.tables, window, fits, 0.0
    )
    sample = np.arange(power.shape[1])
    power = np.where((laid[2][:, :1] <= sample) & (sample < laid[2][:, 1:]), power, np.float32(0.0))  # falls inside
    root = np.sqrt(power.ravel().astype(float))
    a = sparse.csr_array(sparse.diags_array(root) @ seen_pixels(window, laid, power.shape))
    b = np.divide(signal.ravel(), root, out=np.zeros(root.size), where=root > 0) - a.sum(axis=1)
    density = window.density(capture.tables.image)
    penalty = roughness(window, density)
    factor = linalg.splu(sparse.csc_array(a.T @ a + penalty.T @ penalty))
    optimum = factor.solve(a.T @ b)
    least = 0.5 * float(np.sum((a @ optimum - b) ** 2) + np.sum((penalty @ optimum) ** 2))
    return Objective(
        signal, power, laid, window, density, a, b, penalty, least, 0.5 * float(np.sum(b**2)), 1 + optimum
    )  # fmt: skip


def seen_pixels(window: Window, laid: tuple[np.ndarray, ...], shape: tuple[int, int]) -> sparse.csr_array:
    """B: what every sample sees of the pixels, as laid by lay_lines."""
    row, first, span, upper, taps = laid
    rows, columns = window.shape
    line, sample, tap = (index.ravel() for index in np.indices((*shape, taps.shape[1])))
    inside = (span[line, 0] <= sample) & (sample < span[line, 1])
    line, sample, tap = line[inside], sample[inside], tap[inside]
    top = np.minimum(row[line].astype(int), rows - 2)
    column = first[line] + sample * window.phases + tap
    at = line * shape[1] + sample
    parts = [
        sparse.coo_array(
            (taps[line, tap].astype(float) * upper[line, below], (at, (top + below) * columns + column)),
            shape=(shape[0] * shape[1], rows * columns),
        )
        for below in (0, 1)
    ]
    return sparse.csr_array(parts[0] + parts[1])


def roughness(window: Window, density: float) -> sparse.csr_array:
    """L, with ‖L s‖² = ρ·sᵀ(S₁⊗S₂ - 1)s."""
    rows, columns = window.shape
    along, across = (
        np.sqrt(stiffness) * sparse.diags_array([1.0, -2.0, 1.0], offsets=[0, 1, 2], shape=(n - 2, n))
        for n, stiffness in zip((rows, columns), window.stiffness, strict=True)
    )
    parts = [
        sparse.kron(along, sparse.eye_array(columns)),
        sparse.kron(sparse.eye_array(rows), across),
        sparse.kron(along, across),
    ]
    return sparse.csr_array(np.sqrt(density) * sparse.vstack(parts))


def solve_ours(problem: Objective, factors: tuple[np.ndarray, np.ndarray], tolerance: float) -> tuple[np.ndarray, int]:
    image, support = np.empty(problem.window.shape, np.float32), np.empty(problem.window.shape, np.float32)
    steps = kernels.solve(
        problem.signal, problem.power, problem.laid, problem.window.phases, problem.density, factors, tolerance,
        MOST_STEPS, image, support,
    )  # fmt: skip
    return image, steps


def in_order(image: np.ndarray, phases: int) -> np.ndarray:
    rows, columns = image.shape
    return image.reshape(rows, phases, columns // phases).transpose(0, 2, 1).reshape(rows, columns)


def time_ours(capture: Simulated, event: Event, problem: Objective, repeats: int) -> dict[str, Any]:
    """Seconds to each target, with the tolerance cut until it is just met; and at the default tolerance."""
    factors = problem.window.factors()
    fits = registered_fits(capture.samples, 0, event.starts, capture.background, capture.tables)

    def gap(tolerance: float) -> tuple[float, int]:
        image, steps = solve_ours(problem, factors, tolerance)
        return problem.gap(in_order(image, problem.window.phases)), steps

    def whole(tolerance: float, own_fits: np.ndarray | None) -> None:
        reconstruct_regularised(
            capture.samples, 0, event.starts, event.first_line, capture.background, capture.tables, capture.grid,
            rows=event.rows, tau=event.tau, fits=own_fits, tolerance=tolerance,
        )  # fmt: skip

    result: dict[str, Any] = {}
    for name, target in problem.targets.items():
        tolerance = next(t for t in 10.0 ** -np.arange(0.0, 6.0, 0.125) if gap(t)[0] <= target)
        result[name] = {
            "solver_s": cpu_seconds(lambda t=tolerance: solve_ours(problem, factors, t), repeats),
            "laying_weighing_and_solver_s": cpu_seconds(lambda t=tolerance: whole(t, fits), repeats),
            "steps": gap(tolerance)[1],
            "tolerance": float(tolerance),
        }
    reached, steps = gap(TOLERANCE)
    result["default"] = {
        "solver_s": cpu_seconds(lambda: solve_ours(problem, factors, TOLERANCE), repeats),
        "whole_s": cpu_seconds(lambda: whole(TOLERANCE, None), repeats),
        "steps": steps,
        "gap_of_minimum": reached / problem.least,
        "gap_of_descent": reached / (problem.start - problem.least),
    }
    return result


def normal_equations(problem: Objective) -> tuple[sparse.csr_array, np.ndarray]:
    return sparse.csr_array(problem.a.T @ problem.a + problem.penalty.T @ problem.penalty), problem.a.T @ problem.b


def timed_iterates(problem: Objective, images: Iterator[np.ndarray]) -> dict[str, float]:
    """Seconds of an iteration until each target is met; judging the image does not count. inf where it takes too long.

    ``images`` gives the first image, with all that it needs ready, then that after each step.
    """
    left, result, spent = dict(problem.targets), {}, 0.0
    next(images)
    while left and spent < MOST_SECONDS:
        begin = time.process_time()
        image = next(images)
        spent += time.process_time() - begin
        reached = problem.gap(1 + image)
        for name in [name for name, target in left.items() if reached <= target]:
            result[name] = spent
            del left[name]
    return result | dict.fromkeys(left, float("inf"))


def chambolle_pock(problem: Objective, ratio: float) -> Iterator[np.ndarray]:
    """Primal-dual hybrid gradients on K = (A; L), with the diagonal steps of Pock and Chambolle, primal over dual.

    Source: T. Pock and A. Chambolle, ICCV 2011, doi:10.1109/ICCV.2011.6126441.
    """
    k = sparse.csr_array(sparse.vstack([problem.a, problem.penalty]))
    k_t = sparse.csr_array(k.T)
    sizes = abs(k)
    tau = ratio / np.maximum(sizes.sum(axis=0), 1e-12)
    sigma = 1 / ratio / np.maximum(sizes.sum(axis=1), 1e-12)
    target = np.concatenate([problem.b, np.zeros(problem.penalty.shape[0])])
    shrink = 1 / (1 + sigma)
    x, y = np.zeros(k.shape[1]), np.zeros(k.shape[0])
    ahead = x
    yield x
    while True:
        y = (y + sigma * (k @ ahead - target)) * shrink
        new = x - tau * (k_t @ y)
        ahead = 2 * new - x
        x = new
        yield x


def fewest(problem: Objective, target: float, solve: Callable[[int], np.ndarray]) -> int | None:
    """Least number of steps, to 5 %, that meets the target; None where 20 000 do not."""
    high = 1
    while problem.gap(1 + solve(high)) > target:
        high *= 2
        if high > 20_000:
            return None
    low = high // 2
    while high - low > max(1, high // 20):
        middle = (low + high) // 2
        low, high = (low, middle) if problem.gap(1 + solve(middle)) <= target else (middle, high)
    return high


def time_steps(problem: Objective, solve: Callable[[int], np.ndarray], repeats: int) -> dict[str, float]:
    """Seconds that a solver takes with the fewest steps that meet each target."""
    result = {}
    for name, target in problem.targets.items():
        steps = fewest(problem, target, solve)
        result[name] = float("inf") if steps is None else cpu_seconds(lambda n=steps: solve(n), repeats)
    return result


def best(results: list[dict[str, float]]) -> dict[str, float]:
    return {name: min(result[name] for result in results) for name in results[0]}


def time_peers(problem: Objective, repeats: int) -> dict[str, dict[str, float]]:
    """Seconds to each target, by peer."""
    normal, right = normal_equations(problem)
    stacked = sparse.csr_array(sparse.vstack([problem.a, problem.penalty]))
    known = np.concatenate([problem.b, np.zeros(problem.penalty.shape[0])])
    diagonal = 1 / normal.diagonal()
    jacobi = linalg.LinearOperator(normal.shape, lambda r: diagonal * r)
    return {
        "pdhg": best([timed_iterates(problem, chambolle_pock(problem, r)) for r in (0.1, 0.3, 1.0, 3.0)]),
        "scipy cg": time_steps(
            problem, lambda n: linalg.cg(normal, right, rtol=0.0, atol=0.0, maxiter=n)[0], repeats
        ),
        "scipy cg, Jacobi": time_steps(
            problem,
            lambda n: linalg.cg(
                normal, right, rtol=0.0, atol=0.0, maxiter=n, M=jacobi
            )[0],
            repeats,
        ),
        "scipy lsqr": time_steps(
            problem, lambda n: linalg.lsqr(stacked, known, atol=0, btol=0, conlim=0, iter_lim=n)[0], repeats
        ),
        "scipy lsmr": time_steps(
            problem, lambda n: linalg.lsmr(stacked, known, atol=0, btol=0, conlim=0, maxiter=n)[0], repeats
        ),
        "scipy splu": dict.fromkeys(
            problem.targets, cpu_seconds(lambda: linalg.splu(sparse.csc_array(normal)).solve(right), 1)
        ),
    }  # fmt: skip


def time_proximal(package: Any, problem: Objective, repeats: int) -> dict[str, dict[str, float]]:
    """Seconds to each target of the package's solvers, each with the best of several step sizes.

    All terms are stacked into one operator, which is faster than one operator for each, and scaled to norm 1.
    """
    stacked = sparse.csr_array(sparse.vstack([problem.a, problem.penalty]))
    known = np.concatenate([problem.b, np.zeros(problem.penalty.shape[0])])
    norm = float(linalg.svds(stacked, k=1, return_singular_vectors=False)[0])

    def run(solver: str, scale: float, **options: Any) -> dict[str, float]:
        variable = package.Variable(problem.window.shape)
        term = package.sum_squares(proximal_peer.operator(package, stacked * scale, variable), b=known * scale)
        left, result = dict(problem.targets), {}

        def look(spent: float, image: np.ndarray) -> bool:
            reached = problem.gap(1 + image)
            for name in [name for name, target in left.items() if reached <= target]:
                result[name] = spent
                del left[name]
            return bool(left) and spent < MOST_SECONDS

        proximal_peer.watch(package, term, solver, proximal_peer.Watch(variable, look), **options)
        return result | dict.fromkeys(left, float("inf"))

    variable = package.Variable(problem.window.shape)
    least_squares = proximal_peer.LeastSquares(package, stacked, known, variable)

    def inner(steps: int) -> Any:
        return least_squares.options(num_iters=steps)

    return {
        "proximal ladmm": best([run("ladmm", 1 / norm, lmb=r, mu=0.99 * r) for r in (3.0, 10.0)]),
        "proximal pc": best([run("pc", 1 / norm, tau=0.99 * r, sigma=1 / r, theta=1.0) for r in (3.0, 10.0)]),
        "proximal admm": best(
            [run("admm", 1.0, rho=rho, lin_solver_options=inner(n)) for rho in (0.5, 2.0) for n in (10, 20, 50)]
        ),
        "proximal hqs": best(
            [run("hqs", 1.0, rho_0=rho, lin_solver_options=inner(n)) for rho in (0.1, 1.0) for n in (10, 20, 50)]
        ),
        "proximal's inner cg": time_steps(problem, least_squares.solve, repeats),
    }


def events_per_second(capture: Simulated, shape: tuple[int, int], repeats: int) -> dict[str, float]:
    """Events of one shape per second on one core: reconstruct_regularised with its line fits, and its parts."""
    events = list(events_of(capture, *shape))
    problems = [objective_of(capture, event) for event in events]
    factors = problems[0].window.factors()
    known = capture.samples, 0
    of = capture.background, capture.tables

    spent = dict.fromkeys(("whole", "without_line_fits", "solver", "line_fits"), 0.0)
    for event, problem in zip(events, problems, strict=True):

        def whole(fits: np.ndarray | None, event: Event = event) -> None:
            reconstruct_regularised(
                *known, event.starts, event.first_line, *of, capture.grid, rows=event.rows, tau=event.tau, fits=fits
            )

        fits = registered_fits(*known, event.starts, *of)
        parts: dict[str, Callable[[], object]] = {
            "whole": partial(whole, None),
            "without_line_fits": partial(whole, fits),
            "solver": partial(solve_ours, problem, factors, TOLERANCE),
            "line_fits": partial(registered_fits, *known, event.starts, *of),
        }
        for name, part in parts.items():
            spent[name] += cpu_seconds(part, repeats)
    return {name: len(events) / total for name, total in spent.items()}


def compare(capture: Simulated, event: Event, package: Any | None, repeats: int) -> dict[str, Any]:
    """Times of every solver on one event."""
    problem = objective_of(capture, event)
    peers = time_peers(problem, repeats)
    if package is not None:
        peers |= time_proximal(package, problem, repeats)
    return {
        "pixels": problem.optimum.size,
        "samples": int((problem.power > 0).sum()),
        "minimum": problem.least,
        "start": problem.start,
        "ours": time_ours(capture, event, problem, repeats),
        "peers_s": peers,
    }


def median_of(results: list[dict[str, Any]], target: str) -> dict[str, float]:
    """Median over events of seconds to a target, ours first."""
    ours = {
        "ours": [r["ours"][target]["solver_s"] for r in results],
        "ours, laying and weighing samples too": [r["ours"][target]["laying_weighing_and_solver_s"] for r in results],
    }
    peers = {name: [r["peers_s"][name][target] for r in results] for name in results[0]["peers_s"]}
    return {name: float(np.median(times)) for name, times in (ours | peers).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5, help="runs of which the fastest counts")
    repeats = parser.parse_args().repeats
    package = proximal_peer.load()
    version = getattr(package, "__version__", None)
    print(f"proximal {version}" if package is not None else "proximal cannot be imported: left out")
    capture = simulated()
    result: dict[str, Any] = {"proximal": version, "within": WITHIN, "shapes": {}}
    for shape in SHAPES:
        events = list(events_of(capture, *shape))
        chosen = events[:: max(1, len(events) // EVENTS_PER_SHAPE)][:EVENTS_PER_SHAPE]
        results = [compare(capture, event, package, repeats) for event in chosen]
        rates = events_per_second(capture, shape, repeats)
        times = {target: median_of(results, target) for target in results[0]["ours"] if target != "default"}
        name = f"{shape[0]} lines x {shape[1]} samples"
        result["shapes"][name] = {"events_per_s": rates, "median_s": times, "events": results}
        print(f"\n{name}, {results[0]['pixels']} pixels, median of {len(results)} events")
        print("  events per second and core: " + ", ".join(f"{part} {rate:.0f}" for part, rate in rates.items()))
        print(f"  {'seconds to within 0.1 %':40} {'of F*':>9} {'ratio':>8} {'of descent':>11} {'ratio':>8}")
        for solver in times["of_minimum"]:
            cells = [(times[target][solver], times[target][solver] / times[target]["ours"]) for target in times]
            print(f"  {solver:40} {cells[0][0]:9.5f} {cells[0][1]:8.1f} {cells[1][0]:11.5f} {cells[1][1]:8.1f}")
    write_result("peer_solvers", result)


if __name__ == "__main__":
    run_on_one_thread()
    main()
