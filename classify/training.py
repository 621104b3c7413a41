"""Train a network on pictures of cells.

Needs torch. After :mod:`.pictures` and :mod:`.networks`; :mod:`.export` makes a model file of what comes out.
"""

import copy
import hashlib
import io
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812

from .networks import SIDE_UNIT, CellNetwork, darkness_of
from .scores import balanced_accuracy

# Share of each step that the averaged weights take, once training is under way.
_AVERAGING = 0.002
_PICTURES_AT_ONCE = 256
_FEWEST_STEPS, _SMALLEST_BATCH = 16, 8


@dataclass(frozen=True)
class TrainingSettings:
    """How a network is trained.

    Attributes
    ----------
    network : str
        A name in ``networks.NETWORKS``.
    epochs : int
        Passes over the pictures, at most.
    patience : int
        Passes without a better balanced accuracy on the validation pictures after which it ends.
    batch : int
        Pictures per step; fewer where a pass would have less than ``_FEWEST_STEPS``.
    rate, decay : float
        Largest learning rate and weight decay (AdamW).
    smoothing : float
        Share of a label spread over all classes.
    balance : float
        How far the classes count alike: 0, each picture does; 1, each class.
    turn : bool
        Whether pictures are turned by any angle: right where cells lie as they please and the picture is as sharp along
        the flow as across it.
    sized : bool
        Whether the size of a cell counts.
    seed : int
        The same seed gives the same network, on one machine with as many threads.
    """

    network: str = "accurate"
    epochs: int = 60
    patience: int = 25
    batch: int = 64
    rate: float = 4e-3
    decay: float = 0.05
    smoothing: float = 0.05
    balance: float = 0.75
    turn: bool = True
    sized: bool = True
    seed: int = 0


@dataclass(frozen=True)
class Epoch:
    """One pass over the pictures, for progress and the training record."""

    number: int
    loss: float
    accuracy: float
    balanced_accuracy: float


@dataclass
class TrainedNetwork:
    """A network's best weights, and how they came about."""

    settings: TrainingSettings
    classes: int
    form: CellNetwork
    weights: dict[str, np.ndarray]
    epochs: list[Epoch] = field(default_factory=list)

    def module(self) -> CellNetwork:
        """The network itself, to be evaluated."""
        network = copy.deepcopy(self.form)
        network.load_state_dict(_as_tensors(self.weights))
        return network.eval()


def train_network(
    pictures: np.ndarray,
    labels: np.ndarray,
    validation: tuple[np.ndarray, np.ndarray],
    classes: int,
    settings: TrainingSettings,
    *,
    form: CellNetwork | None = None,
    progress: Callable[[Epoch], None] | None = None,
    checkpoint: Path | None = None,
) -> TrainedNetwork:
    """Train a network, and keep the weights that did best on the validation pictures.

    Parameters
    ----------
    pictures : ndarray of shape (N,), PICTURE_DTYPE
    labels : ndarray of shape (N,), int
        Class of each, 0 … classes - 1; each class is there.
    validation : pair of ndarray
        Pictures and labels to stop by; not trained on.
    classes : int
    settings : TrainingSettings
    form : CellNetwork, optional
        A network to train in place of the one that the settings name, of the same methods.
    progress : callable, optional
        Called after each pass.
    checkpoint : Path, optional
        Where to keep the state after each pass, so that a training broken off goes on from there. One of other settings
        or pictures is begun anew. It is not removed.

    Notes
    -----
    The loss is the cross entropy of scores to which the logarithm of the classes' shares is added, so that rare classes
    count (Menon et al., ICLR 2021). Weights are averaged over the last steps (Polyak and Juditsky, SIAM J. Control
    Optim. 30, 838 (1992)).
    """
    torch.manual_seed(settings.seed)
    form = CellNetwork(classes, settings.network, sized=settings.sized) if form is None else form
    network = copy.deepcopy(form).to(memory_format=torch.channels_last)
    averaged = {name: values.clone() for name, values in network.state_dict().items()}
    optimiser = torch.optim.AdamW(network.parameters(), settings.rate, weight_decay=settings.decay)
    trained = TrainedNetwork(settings, classes, form, _as_arrays(averaged))
    state = _State(network, averaged, optimiser, trained)
    recipe = f"{asdict(settings)} {classes} {len(pictures)} {hash_of(pictures, labels)}"
    if checkpoint is not None:
        state.load(checkpoint, recipe)
    shares = np.bincount(labels, minlength=classes) / len(labels)
    prior = settings.balance * torch.from_numpy(np.log(shares)).float()
    batch = min(settings.batch, max(len(pictures) // _FEWEST_STEPS, _SMALLEST_BATCH))
    steps = math.ceil(len(pictures) / batch)
    levels, sides, targets = torch.from_numpy(pictures["levels"].copy()), _log_sides(pictures), torch.from_numpy(labels)
    while len(trained.epochs) < settings.epochs and not state.exhausted:
        number = len(trained.epochs)
        # of its own for each pass: a training that goes on draws what it would have drawn
        random = torch.manual_seed((settings.seed << 20) + number + 1)
        network.train()
        order, total = torch.randperm(len(pictures), generator=random), 0.0
        for step in range(steps):
            chosen = order[step * batch : (step + 1) * batch]
            if len(chosen) == 1:
                continue  # batch normalisation takes two
            for group in optimiser.param_groups:
                group["lr"] = settings.rate * _pace((number + (step + 1) / steps) / settings.epochs)
            darkness, size = augment(darkness_of(levels[chosen]), sides[chosen], settings.turn, random)
            with torch.autocast("cpu", torch.bfloat16, enabled=_fast_in_half_precision()):
                scores = network(darkness.contiguous(memory_format=torch.channels_last), size)
            loss = F.cross_entropy(scores.float() + prior, targets[chosen], label_smoothing=settings.smoothing)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            state.average(number * steps + step)
            total += loss.item() * len(chosen)
        state.evaluate(total / len(pictures), *validation)
        if checkpoint is not None:
            state.save(checkpoint, recipe)
        if progress is not None:
            progress(trained.epochs[-1])
    return trained


def score_pictures(network: CellNetwork, pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores (N, classes) and embeddings (N, features) of pictures, float32."""
    scores, embeddings = [], []
    with torch.no_grad():
        for first in range(0, len(pictures), _PICTURES_AT_ONCE):
            part = pictures[first : first + _PICTURES_AT_ONCE]
            embedded = network.embed(darkness_of(torch.from_numpy(part["levels"].copy())), _log_sides(part))
            embeddings.append(embedded.numpy())
            scores.append(network.scores(embedded).numpy())
    return np.concatenate(scores), np.concatenate(embeddings)


def augment(
    darkness: torch.Tensor, size: torch.Tensor, turn: bool, random: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures as the same cells might have given them.

    Flips; another flow speed (stretched by up to a tenth along the flow); another size, place and contrast; noise; and,
    where wanted, another angle. darkness, (N, 1, side, side); size, (N, 1), log2, follows the stretching.
    """
    count = len(darkness)

    def spread(width: float, *shape: int) -> torch.Tensor:
        return (2 * torch.rand(count, *shape, generator=random) - 1) * width

    angle = spread(math.pi) if turn else torch.zeros(count)
    across = torch.exp(spread(0.15))
    along = across * torch.exp(spread(0.1))
    flips = torch.sign(spread(1.0, 2))
    warp = torch.zeros(count, 2, 3)
    warp[:, 0, 0], warp[:, 0, 1] = torch.cos(angle) * across * flips[:, 0], -torch.sin(angle) * along * flips[:, 1]
    warp[:, 1, 0], warp[:, 1, 1] = torch.sin(angle) * across * flips[:, 0], torch.cos(angle) * along * flips[:, 1]
    warp[:, :, 2] = spread(0.08, 2)
    grid = F.affine_grid(warp, list(darkness.shape), align_corners=False)
    moved = F.grid_sample(darkness, grid, padding_mode="zeros", align_corners=False)
    noise = torch.randn(moved.shape, generator=random) * torch.rand(count, 1, 1, 1, generator=random)
    return moved * torch.exp(spread(0.2, 1, 1, 1)) + 0.02 * noise, size - torch.log2(across)[:, None]


class _State:
    """What changes while a network is trained."""

    def __init__(
        self,
        network: CellNetwork,
        averaged: dict[str, torch.Tensor],
        optimiser: torch.optim.Optimizer,
        trained: TrainedNetwork,
    ) -> None:
        self.network, self.averaged, self.optimiser, self.trained = network, averaged, optimiser, trained

    @property
    def exhausted(self) -> bool:
        """Whether nothing has become better for too long."""
        seen = [epoch.balanced_accuracy for epoch in self.trained.epochs]
        return bool(seen) and len(seen) - int(np.argmax(seen)) > self.trained.settings.patience

    def average(self, steps: int) -> None:
        """Move the averaged weights towards the present ones."""
        share = max(_AVERAGING, 9 / (10 + steps))
        with torch.no_grad():
            for name, values in self.network.state_dict().items():
                if values.dtype.is_floating_point:
                    self.averaged[name].lerp_(values, share)

    def evaluate(self, loss: float, pictures: np.ndarray, labels: np.ndarray) -> None:
        """See how the averaged weights do, and keep them if they do best."""
        trained = self.trained
        now = replace(trained, weights=_as_arrays(self.averaged))
        found = score_pictures(now.module(), pictures)[0].argmax(axis=1)
        epoch = Epoch(len(trained.epochs) + 1, loss, float((found == labels).mean()), balanced_accuracy(labels, found))
        if epoch.balanced_accuracy > max((e.balanced_accuracy for e in trained.epochs), default=-1.0):
            trained.weights = now.weights
        trained.epochs.append(epoch)

    def save(self, path: Path, recipe: str) -> None:
        """Keep everything, atomically and without a pickle."""
        arrays: dict[str, np.ndarray] = {"recipe": np.array(recipe)}
        for prefix, some in (("network", self.network.state_dict()), ("averaged", self.averaged)):
            arrays |= {f"{prefix}/{name}": values.numpy() for name, values in some.items()}
        arrays |= {f"best/{name}": values for name, values in self.trained.weights.items()}
        for number, moments in self.optimiser.state_dict()["state"].items():
            arrays |= {f"optimiser/{number}/{name}": values.numpy() for name, values in moments.items()}
        arrays["epochs"] = np.array([list(asdict(epoch).values()) for epoch in self.trained.epochs])
        content = io.BytesIO()
        np.savez(content, **arrays)  # type: ignore[arg-type]
        part = path.with_name(path.name + ".part")
        part.write_bytes(content.getvalue())
        os.replace(part, path)

    def load(self, path: Path, recipe: str) -> None:
        """Go on where a training of the same recipe was broken off."""
        try:
            with np.load(path, allow_pickle=False) as arrays:
                if str(arrays["recipe"]) != recipe:
                    return
                held = {name: arrays[name] for name in arrays.files}
        except (OSError, ValueError, KeyError):
            return
        self.network.load_state_dict(_as_tensors(_below(held, "network/")))
        self.averaged.update(_as_tensors(_below(held, "averaged/")))
        self.trained.weights = _below(held, "best/")
        state: dict[int, dict[str, torch.Tensor]] = {}
        for name, values in _below(held, "optimiser/").items():
            number, moment = name.split("/")
            state.setdefault(int(number), {})[moment] = torch.from_numpy(values)
        self.optimiser.load_state_dict(self.optimiser.state_dict() | {"state": state})
        self.trained.epochs[:] = [Epoch(int(row[0]), *map(float, row[1:])) for row in held["epochs"]]


def hash_of(pictures: np.ndarray, labels: np.ndarray) -> str:
    """A short name of these pictures with these labels."""
    return hashlib.sha256(pictures.tobytes() + np.asarray(labels, np.int64).tobytes()).hexdigest()[:16]


def _pace(done: float) -> float:
    """Learning rate over its largest: up along a line for a tenth of the way, down along a cosine."""
    return done / 0.1 if done < 0.1 else 0.5 + 0.5 * math.cos(math.pi * (done - 0.1) / 0.9)


def _log_sides(pictures: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.log2(pictures["side"] / np.float32(SIDE_UNIT))[:, None])


def _fast_in_half_precision() -> bool:
    """Whether this processor multiplies bfloat16 in hardware."""
    return bool(getattr(torch.cpu, "_is_avx512_bf16_supported", bool)())


def _as_arrays(tensors: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {name: values.detach().numpy().copy() for name, values in tensors.items()}


def _as_tensors(arrays: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(values) for name, values in arrays.items()}


def _below(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): values for name, values in arrays.items() if name.startswith(prefix)}
