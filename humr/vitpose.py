r"""ViTPose: a plain vision transformer and two transposed convolutions, an image to 17 heatmaps.

Xu et al. (2022), *ViTPose: Simple Vision Transformer Baselines for Human Pose Estimation*, with
its simple decoder. Names of parameters are those of the official weights, which `read_vitpose`
takes strictly; sizes are those of ViTPose-H, which HuMR uses. The network is frozen and stays in
evaluation mode.

Heatmaps are plain outputs, no probabilities: trained against Gaussians of height 1, a little above
1 or below 0 here and there.
"""

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from humr.skeletons import COCO17
from humr.strict_weights import check, label, load

PATCH, PADDING = 16, 2  # px: patches do not overlap, and the outermost reach over the border
EPSILON = 1e-6  # of layer norms
WIDER = 4  # hidden units of a block's perceptron, in widths
KNOWN = {"state_dict", "meta", "optimizer"}  # top level of a checkpoint of mmpose


@dataclass(frozen=True)
class Sizes:
    """Sizes of the network; those of ViTPose-H are the defaults."""

    width: int = 1280
    depth: int = 32
    heads: int = 16
    filters: int = 256  # of the decoder
    height: int = 256  # px of the image
    breadth: int = 192

    def __post_init__(self) -> None:
        if self.width < 1 or self.heads < 1 or self.width % self.heads:
            raise ValueError(
                f"width must be a multiple of heads, both positive; got {self.width}, {self.heads}"
            )
        if min(self.height, self.breadth) < PATCH or self.height % PATCH or self.breadth % PATCH:
            raise ValueError(
                f"height and breadth must be multiples of {PATCH} px; got {self.height} and "
                f"{self.breadth}"
            )

    @property
    def tokens(self) -> int:
        """Patches of an image."""
        return (self.height // PATCH) * (self.breadth // PATCH)


class Attention(nn.Module):
    r"""Self-attention, $\mathrm{softmax}(q k^\top / \sqrt{d})\,v$ in each of several heads."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Mix tokens (batch, tokens, width)."""
        parts = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(*parts.unbind(0))
        return self.proj(mixed.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and a perceptron, each behind a layer norm and added to its input."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(width, eps=EPSILON) for _ in range(2))
        self.attn = Attention(width, heads)
        first, second = nn.Linear(width, WIDER * width), nn.Linear(WIDER * width, width)
        self.mlp = nn.Sequential(OrderedDict(fc1=first, gelu=nn.GELU(), fc2=second))

    def forward(self, x: Tensor) -> Tensor:
        """Change tokens (batch, tokens, width)."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Backbone(nn.Module):
    """The transformer: an image to features of its patches."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        proj = nn.Conv2d(3, sizes.width, PATCH, PATCH, PADDING)
        self.patch_embed = nn.Sequential(OrderedDict(proj=proj))
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, sizes.tokens + 1, sizes.width))
        self.blocks = nn.Sequential(*(Block(sizes.width, sizes.heads) for _ in range(sizes.depth)))
        self.last_norm = nn.LayerNorm(sizes.width, eps=EPSILON)

    def forward(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch channels rows columns"]:
        """Features at a sixteenth of the resolution.

        The first position belongs to a class token of the pretraining, which is not there any
        more; it is added to all.
        """
        patches = self.patch_embed(images)
        tokens = patches.flatten(2).transpose(1, 2)
        tokens = tokens + self.pos_embed[:, 1:] + self.pos_embed[:, :1]
        tokens = self.last_norm(self.blocks(tokens))
        return tokens.transpose(1, 2).unflatten(2, patches.shape[2:])


class Head(nn.Module):
    """The simple decoder: twice the resolution, twice, then one heatmap per joint."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs in (sizes.width, sizes.filters):
            layers += [
                nn.ConvTranspose2d(inputs, sizes.filters, 4, 2, 1, bias=False),
                nn.BatchNorm2d(sizes.filters),
                nn.ReLU(),
            ]
        self.deconv_layers = nn.Sequential(*layers)
        self.final_layer = nn.Conv2d(sizes.filters, len(COCO17), 1)

    def forward(self, features: Tensor) -> Tensor:
        """Heatmaps at a quarter of the image's resolution."""
        return self.final_layer(self.deconv_layers(features))


class ViTPose(nn.Module):
    """The network; random weights until official ones are read."""

    def __init__(self, sizes: Sizes | None = None) -> None:
        super().__init__()
        self.sizes = sizes or Sizes()
        self.backbone = Backbone(self.sizes)
        self.keypoint_head = Head(self.sizes)
        self.requires_grad_(requires_grad=False).eval()

    def train(self, mode: bool = True) -> "ViTPose":  # noqa: FBT001, FBT002
        """Stay in evaluation mode: the statistics of the batch norms are part of the weights."""
        del mode
        return super().train(mode=False)

    def forward(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch 17 rows columns"]:
        """Heatmaps of RGB images that were standardised with ImageNet's statistics."""
        expected = self.sizes.height, self.sizes.breadth
        if tuple(images.shape[-2:]) != expected:
            raise ValueError(
                f"images must have {expected} px (height, width); got {tuple(images.shape[-2:])}. "
                "Usual cause: the square crop, whose left and right 32 px are not cut off yet"
            )
        return self.keypoint_head(self.backbone(images))

    def with_mirrored(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch 17 rows columns"]:
        """Mean of an image's heatmaps and those of its mirror image, turned back (flip test)."""
        mirrored = self(images.flip(-1)).flip(-1)[:, list(COCO17.mirrored)]
        return (self(images) + mirrored) / 2


def read_vitpose(path: Path, sizes: Sizes | None = None) -> ViTPose:
    """Read official weights: a checkpoint of mmpose, or the state dict alone.

    Args:
        path: `vitpose-h-multi-coco.pth` or another with the simple decoder and COCO's 17 joints.
        sizes: other than those of ViTPose-H.
    """
    state = load(path, "state_dict", KNOWN, bare=True)["state_dict"]
    with torch.device("meta"):
        model = ViTPose(sizes)
    check(label(path), state, model.state_dict())
    model.load_state_dict(state, strict=True, assign=True)  # the file's tensors, not copies
    return model.requires_grad_(requires_grad=False).float()
