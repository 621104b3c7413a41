"""Convolutional networks for pictures of cells, small enough for a core to classify thousands of cells per second.

Needs torch: for training only. :mod:`.export` turns a trained network into the ONNX file that :mod:`.runtime` runs.
"""

from itertools import pairwise

import torch
from torch import nn

from .pictures import LEVELS_PER_TRANSMISSION, SIDE_PX

#: Channels of each layer, after the step of the first one [pixels]. A layer of as many channels as the one before adds
#: to it; one of more halves the picture. Multiples of 16 suit the vectors of a processor.
NETWORKS: dict[str, tuple[int, tuple[int, ...]]] = {
    "accurate": (6, (32, 32, 64, 64, 96, 96)),
    "fast": (8, (32, 64, 96)),
}

#: Sides of pictures enter as log2(side / this).
SIDE_UNIT = 64.0


class Layer(nn.Module):
    """Convolution, batch normalisation, the input added where it has the shape, rectification."""

    def __init__(self, channels_in: int, channels: int, *, kernel: int = 3, step: int = 1) -> None:
        super().__init__()
        self.adds = step == 1 and channels_in == channels
        self.convolution = nn.Conv2d(channels_in, channels, kernel, step, (kernel - step + 1) // 2, bias=False)
        self.normalisation = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.normalisation(self.convolution(x))
        return torch.relu(y + x if self.adds else y)


class CellNetwork(nn.Module):
    """Classes from pictures and, if wanted, sizes.

    Parameters
    ----------
    classes : int
        Number of classes.
    network : str
        A name in ``NETWORKS``.
    sized : bool
        Whether the side of what a picture shows counts.
    """

    def __init__(self, classes: int, network: str = "accurate", *, sized: bool = True) -> None:
        super().__init__()
        step, widths = NETWORKS[network]
        self.sized = sized
        layers = [Layer(1, widths[0], kernel=step + 2, step=step)]
        for before, channels in pairwise(widths):
            layers.append(Layer(before, channels, step=1 if channels == before else 2))
        self.layers = nn.Sequential(*layers)
        self.dropout = nn.Dropout(0.1)
        self.scores = nn.Linear(2 * widths[-1] + sized, classes)

    def embed(self, darkness: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
        """What the last layer sees of each picture, float32 (N, features).

        darkness, (N, 1, side, side): 1 - transmission. size, (N, 1): log2(side / ``SIDE_UNIT``).
        """
        y = self.layers(darkness)
        pooled = [y.mean((2, 3)), y.amax((2, 3))]
        return torch.cat([part.float() for part in ([*pooled, size] if self.sized else pooled)], dim=1)

    def forward(self, darkness: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
        """Scores of the classes, (N, classes)."""
        scores: torch.Tensor = self.scores(self.dropout(self.embed(darkness, size)))
        return scores


def darkness_of(levels: torch.Tensor) -> torch.Tensor:
    """1 - transmission of pictures, float32 (N, 1, side, side), from levels (N, side, side)."""
    return 1 - levels[:, None].float() / LEVELS_PER_TRANSMISSION


def multiply_adds(network: CellNetwork) -> int:
    """Multiplications with addition that one picture takes, those of convolutions and the last layer."""
    side, total = SIDE_PX, network.scores.weight.numel()
    for layer in network.layers:
        convolution = layer.convolution
        side //= convolution.stride[0]
        total += side * side * convolution.weight.numel()
    return int(total)
