"""HRNet-W48 as HuMR's image backbone: a 224 x 224 crop to 720 numbers.

Four branches at strides 4, 8, 16 and 32 work side by side and exchange what they found (Sun et al.
2019, *Deep High-Resolution Representation Learning*). At the end, strided convolutions bring the
three finer branches down to the coarsest; side by side they have 48 + 96 + 192 + 384 channels,
whose means over the image are the feature (BEDLAM-CLIFF, HuMR).

Names of parameters are those of the official weights. The backbone is frozen: nothing in it needs
a gradient, and it stays in evaluation mode whatever is asked of it.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

MODULES = (1, 4, 3)  # of stages 2, 3 and 4, which have as many branches as their number
STEM, WIDE = 64, 256  # channels before and after stage 1
JOINTS = 24  # of the layer that estimated heatmaps once
STRIDE = 32  # of the coarsest branch
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, RGB


def standardise(
    images: Float[Tensor, "batch 3 height width"],
) -> Float[Tensor, "batch 3 height width"]:
    """Give RGB images in 0..1 the mean and deviation of ImageNet's, as the backbone expects."""
    mean, std = images.new_tensor(MEAN), images.new_tensor(STD)
    return (images - mean[:, None, None]) / std[:, None, None]


def _conv(inputs: int, outputs: int, size: int = 3, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)


def _halving(inputs: int, outputs: int, *, relu: bool = True) -> nn.Sequential:
    """Half the resolution."""
    layers = [_conv(inputs, outputs, stride=2), nn.BatchNorm2d(outputs)]
    return nn.Sequential(*layers, *[nn.ReLU()] * relu)


class Residual(nn.Module):
    r"""Convolutions around which the input is added, $\mathrm{relu}(f(x) + P x)$.

    $P$ is the identity, or a 1 x 1 convolution where the number of channels changes.
    """

    def __init__(self, inputs: int, widths: Sequence[int], sizes: Sequence[int]) -> None:
        super().__init__()
        self.depth = len(widths)
        steps = zip(pairwise([inputs, *widths]), sizes, strict=True)
        for number, ((before, after), size) in enumerate(steps, 1):
            self.add_module(f"conv{number}", _conv(before, after, size))
            self.add_module(f"bn{number}", nn.BatchNorm2d(after))
        outputs = widths[-1]
        self.downsample = nn.Identity() if inputs == outputs else nn.Sequential(
            _conv(inputs, outputs, 1), nn.BatchNorm2d(outputs)
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        change = x
        for number in range(1, self.depth + 1):
            change = functional.relu(change) if number > 1 else change
            change = self.get_submodule(f"conv{number}")(change)
            change = self.get_submodule(f"bn{number}")(change)
        return functional.relu(change + self.downsample(x))


def _basic(width: int) -> Residual:
    return Residual(width, (width, width), (3, 3))


def _bottleneck(inputs: int) -> Residual:
    return Residual(inputs, (STEM, STEM, WIDE), (1, 3, 1))


class Exchange(nn.Module):
    """Four basic blocks per branch; then every branch receives the sum of all, resampled."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(*(_basic(width) for _ in range(4))) for width in widths
        )
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(_resampling(widths, source, target) for source in range(len(widths)))
            for target in range(len(widths))
        )

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Refine the maps of all branches."""
        maps = [branch(x) for branch, x in zip(self.branches, maps, strict=True)]
        fused = []
        for row in self.fuse_layers:
            assert isinstance(row, nn.ModuleList)
            total = sum(layer(x) for layer, x in zip(row, maps, strict=True))
            fused.append(functional.relu(torch.as_tensor(total)))
        return fused


def _resampling(widths: Sequence[int], source: int, target: int) -> nn.Module:
    """From one branch's channels and resolution to another's."""
    inputs, outputs, steps = widths[source], widths[target], target - source
    if steps == 0:
        return nn.Identity()
    if steps < 0:
        layers = [_conv(inputs, outputs, 1), nn.BatchNorm2d(outputs)]
        return nn.Sequential(*layers, nn.Upsample(scale_factor=2**-steps))
    middle = [_halving(inputs, inputs) for _ in range(steps - 1)]
    return nn.Sequential(*middle, _halving(inputs, outputs, relu=False))


def _stage(widths: Sequence[int], modules: int) -> nn.Sequential:
    return nn.Sequential(*(Exchange(widths) for _ in range(modules)))


def _transition(before: Sequence[int], after: Sequence[int]) -> nn.ModuleList:
    """Layers before a stage; the last one opens a branch of half the resolution."""
    old = [
        nn.Identity() if i == o else nn.Sequential(_conv(i, o), nn.BatchNorm2d(o), nn.ReLU())
        for i, o in zip(before, after[:-1], strict=True)
    ]
    return nn.ModuleList([*old, nn.Sequential(_halving(before[-1], after[-1]))])


def _down(width: int, steps: int) -> nn.Sequential:
    """Some halvings in one flat sequence."""
    return nn.Sequential(*(layer for _ in range(steps) for layer in _halving(width, width)))


class HRNet(nn.Module):
    """The backbone; random weights until official ones are loaded (`official.read_humr`).

    `final_layer` belongs to the weights and is not used.

    Args:
        width: channels of the finest branch; each coarser one has twice as many. 48 in HuMR.
    """

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"width must be positive; got {width}")
        widths = [width * 2**branch for branch in range(4)]
        self.conv1, self.bn1 = _conv(3, STEM, stride=2), nn.BatchNorm2d(STEM)
        self.conv2, self.bn2 = _conv(STEM, STEM, stride=2), nn.BatchNorm2d(STEM)
        self.layer1 = nn.Sequential(_bottleneck(STEM), *(_bottleneck(WIDE) for _ in range(3)))
        self.transition1 = _transition([WIDE], widths[:2])
        self.stage2 = _stage(widths[:2], MODULES[0])
        self.transition2 = _transition(widths[:2], widths[:3])
        self.stage3 = _stage(widths[:3], MODULES[1])
        self.transition3 = _transition(widths[:3], widths)
        self.stage4 = _stage(widths, MODULES[2])
        self.downsample_stage_1 = _down(widths[0], 3)
        self.downsample_stage_2 = _down(widths[1], 2)
        self.downsample_stage_3 = _down(widths[2], 1)
        self.final_layer = nn.Conv2d(width, JOINTS, 1)
        self.features = sum(widths)
        self.requires_grad_(requires_grad=False).eval()

    def train(self, mode: bool = True) -> "HRNet":  # noqa: FBT001, FBT002
        """Stay in evaluation mode: the statistics of the batch norms are part of the weights."""
        del mode
        return super().train(mode=False)

    def branches(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> list[Float[Tensor, "batch channels rows columns"]]:
        """Maps of the four branches, of strides 4, 8, 16 and 32, finest first."""
        if images.shape[-1] % STRIDE or images.shape[-2] % STRIDE:
            size = tuple(images.shape[-2:])
            raise ValueError(f"height and width must be multiples of {STRIDE} px; got {size}")
        x = functional.relu(self.bn1(self.conv1(images)))
        x = functional.relu(self.bn2(self.conv2(x)))
        maps = [self.layer1(x)]
        for transition, stage in (
            (self.transition1, self.stage2),
            (self.transition2, self.stage3),
            (self.transition3, self.stage4),
        ):
            sources = [*maps, maps[-1]]  # the new branch starts from the coarsest
            maps = stage([layer(m) for layer, m in zip(transition, sources, strict=True)])
        return maps

    def forward(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch features"]:
        """Features of RGB crops that went through `standardise`, 224 x 224 pixels in HuMR."""
        fine, middle, coarse, coarsest = self.branches(images)
        parts = [
            self.downsample_stage_1(fine),
            self.downsample_stage_2(middle),
            self.downsample_stage_3(coarse),
            coarsest,
        ]
        return torch.cat(parts, 1).mean((2, 3))
