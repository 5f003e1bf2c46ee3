r"""DiffPose's embedding of heatmap samples: the detector's uncertainty as a condition.

From Holmquist and Wandt, "DiffPose" (ICCV 2023), which HuMR compares its heatmap supervision
with. Samples $u_{jn}$ of the heatmap of joint $j$, and its values $p_{jn}$ there, become

$$e_j = W \sum_n p_{jn}\, [\phi(u^x_{jn}), \phi(u^y_{jn})] + v_j$$

with a learned $v_j$ for every joint, pass a Transformer over the joints and one linear layer. A
sum does not know the order of the samples.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

JOINTS = 17
REACH = 1.25  # of the code, beyond the box's edge at 1: the detector's window is larger


class ChannelCode(nn.Module):
    r"""A number as heights of overlapping bumps $\phi_k(u) = \cos^2(\pi (u - c_k) / 4 \Delta)$.

    The centres $c_k$ are evenly spaced by $\Delta$ and a bump ends $2\Delta$ from its centre, so
    that four bumps overlap and their heights sum to 2. One centre lies beyond each end of the
    range, which makes this hold throughout; numbers outside count as the nearest end.
    """

    def __init__(self, channels: int, *, reach: float = REACH) -> None:
        super().__init__()
        if channels < 4:
            raise ValueError(f"four bumps overlap, so channels must be at least 4; got {channels}")
        self.channels = channels
        self.reach = reach
        self.spacing = 2 * reach / (channels - 3)

    def forward(self, u: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch channels"]:
        """Return the heights of all bumps; only the four that are not 0 are computed."""
        place = (u.clamp(-self.reach, self.reach) + self.reach)[..., None] / self.spacing + 1
        first = (place.floor() - 1).clamp(0, self.channels - 4)
        near = first + torch.arange(4, device=u.device, dtype=u.dtype)
        heights = ((place - near) * math.pi / 4).cos().square()
        return heights.new_zeros(*u.shape, self.channels).scatter(-1, near.long(), heights)


class HeatmapEmbedding(nn.Module):
    """Heatmap samples of 17 joints to one vector per image.

    Defaults are DiffPose's sizes. DiffPose has 16 joints and keeps all 16 x 128 outputs; how HuMR
    shortened them is not published, here it is a linear layer to `outputs`. DiffPose's
    first sample is the argmax; here all are random.

    Args:
        outputs: width of the result.
        samples: heatmap samples that are read, the first so many of each image.
        width: of the tokens, half for each coordinate.
        layers: of the Transformer.
        heads: of its attention.
        feedforward: hidden width of its layers.
        dropout: probability inside the Transformer, and of leaving out a whole joint.
    """

    def __init__(
        self,
        outputs: int,
        *,
        samples: int = 32,
        width: int = 128,
        layers: int = 4,
        heads: int = 4,
        feedforward: int = 512,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if samples < 1:
            raise ValueError(f"samples must be at least 1; got {samples}")
        if width % 2 or width % heads:
            raise ValueError(f"width must be even and a multiple of {heads} heads; got {width}")
        self.samples = samples
        self.code = ChannelCode(width // 2)
        self.project = nn.Linear(width, width)
        self.joints = nn.Embedding(JOINTS, width)
        self.drop = nn.Dropout(dropout)
        layer = nn.TransformerEncoderLayer(width, heads, feedforward, dropout, batch_first=True)
        self.transformer = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.out = nn.Linear(JOINTS * width, outputs)

    def forward(
        self,
        points: Float[Tensor, "batch samples 17 2"],
        density: Float[Tensor, "batch samples 17"],
    ) -> Float[Tensor, "batch outputs"]:
        """Embed samples in the crop, [-1, 1], with the heatmap's value at each of them, 0 to 1."""
        if points.shape[1] < self.samples:
            raise ValueError(
                f"the embedding reads {self.samples} heatmap samples per joint; the batch holds "
                f"{points.shape[1]}: draw it with samples={self.samples} or more"
            )
        points, density = points[:, : self.samples], density[:, : self.samples]
        codes = self.code(points).flatten(-2)
        tokens = self.project(torch.einsum("bsj,bsjc->bjc", density, codes))
        kept = self.drop(torch.ones_like(density[:, 0]))[..., None]
        return self.out(self.transformer(tokens * kept + self.joints.weight).flatten(1))
