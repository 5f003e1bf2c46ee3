r"""The flow of ProHMR: additive couplings, and therefore one volume for every image and sample.

Each of the layers is [ActNorm, linear map $LU$, additive coupling] (Glow without scales):

$$\log |\det \partial z / \partial x| = \sum_l \sum_d (\log s_{ld} + \log U_{l,dd})$$

depends neither on the sample nor on the image. Hence the entropy of $p(x \mid c)$ is the same for
an image that shows everything and for one that shows nothing, and within an image the density
ranks samples by $\|z\|$ alone. `flows.ConditionalFlow` is the same interface without this bound.

ProHMR's coupling networks have batch normalisation. These have none (the RealNVP they are
compared with has none either): statistics of a batch let the images of a batch see each other,
and in training `generate` would not invert `normalize`, which runs on other samples.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from humr.flows import Condition, Flow, check_sizes


class GatedBlock(nn.Module):
    r"""Residual block $h + g(c) \odot W_2\,\mathrm{relu}(W_1\,\mathrm{relu}(h))$.

    The gates $g(c) = \sigma(W_g c)$ (a gated linear unit) depend on the image only.
    """

    def __init__(self, hidden: int, *, context: int, dropout: float) -> None:
        super().__init__()
        self.linear1 = nn.Linear(hidden, hidden)
        self.linear2 = nn.Linear(hidden, hidden)
        self.gate = nn.Linear(context, hidden)
        self.dropout = nn.Dropout(dropout)

    def project(self, context: Float[Tensor, "batch context"]) -> Float[Tensor, "batch hidden"]:
        """Return the gates of every image."""
        return self.gate(context).sigmoid()

    def forward(
        self,
        hidden: Float[Tensor, "batch hypotheses hidden"],
        gates: Float[Tensor, "batch hidden"],
    ) -> Float[Tensor, "batch hypotheses hidden"]:
        """Add the gated change to every hypothesis."""
        change = functional.relu(self.linear1(hidden.relu()), inplace=True)
        return hidden + self.linear2(self.dropout(change)) * gates[:, None]


class GatedResidualNet(nn.Module):
    """Residual network that predicts the shift of some coordinates from the others.

    The context enters the first layer, which acts on `[coordinates, context]`, and the gates.
    """

    def __init__(
        self, inputs: int, outputs: int, *, context: int, hidden: int, depth: int, dropout: float
    ) -> None:
        super().__init__()
        self.inputs = inputs
        self.first = nn.Linear(inputs + context, hidden)
        self.blocks = nn.ModuleList(
            GatedBlock(hidden, context=context, dropout=dropout) for _ in range(depth)
        )
        self.last = nn.Linear(hidden, outputs)

    def _blocks(self) -> list[GatedBlock]:
        return [block for block in self.blocks if isinstance(block, GatedBlock)]

    def project(
        self, context: Float[Tensor, "batch context"]
    ) -> Float[Tensor, "batch projections hidden"]:
        """Apply everything that reads the context: part of the first layer, and the gates."""
        first = functional.linear(context, self.first.weight[:, self.inputs :], self.first.bias)
        return torch.stack([first, *(block.project(context) for block in self._blocks())], 1)

    def forward(
        self,
        x: Float[Tensor, "batch hypotheses inputs"],
        projected: Float[Tensor, "batch projections hidden"],
    ) -> Float[Tensor, "batch hypotheses outputs"]:
        """Return the shifts, in the precision of `x` also under autocast."""
        first, *gates = projected.unbind(1)
        hidden = functional.linear(x, self.first.weight[:, : self.inputs]) + first[:, None]
        for block, own in zip(self.blocks, gates, strict=True):
            hidden = block(hidden, own)
        return self.last(hidden).to(x.dtype)


class LinearLU(nn.Module):
    r"""Invertible map $s \odot (x + a) \mapsto LU(\cdot) + b$: ActNorm and a linear map.

    `factors` packs both triangles as LAPACK does: below its diagonal $L$ (whose diagonal is 1),
    above it $U$, and on it the logarithms of the diagonal of $U$. All zeros is the identity.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(dim))
        self.log_scale = nn.Parameter(torch.zeros(dim))
        self.factors = nn.Parameter(torch.zeros(dim, dim))
        self.bias = nn.Parameter(torch.zeros(dim))

    def _triangles(self) -> tuple[Tensor, Tensor]:
        one = torch.ones_like(self.bias).diag()
        upper = self.factors.triu(1) + self.factors.diagonal().exp().diag()
        return self.factors.tril(-1) + one, upper

    def log_det(self) -> Float[Tensor, ""]:
        """Logarithm of the volume change of `forward`: one number."""
        return self.log_scale.sum() + self.factors.diagonal().sum()

    def forward(self, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Map towards noise."""
        lower, upper = self._triangles()
        with torch.autocast(x.device.type, enabled=False):
            weight = lower @ (upper * self.log_scale.exp())
            return functional.linear(x + self.shift, weight, self.bias)

    def inverse(self, z: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Map towards data: two triangular solves give the inverse, whatever the batch."""
        lower, upper = self._triangles()
        one = torch.ones_like(self.bias).diag()
        with torch.autocast(z.device.type, enabled=False):
            half = torch.linalg.solve_triangular(lower, one, upper=False, unitriangular=True)
            weight = torch.linalg.solve_triangular(upper * self.log_scale.exp(), half, upper=True)
            return functional.linear(z - self.bias, weight) - self.shift


class GlowLayer(nn.Module):
    """`LinearLU`, then a shift of every other coordinate that depends on the rest (NICE)."""

    def __init__(self, dim: int, net: GatedResidualNet, *, start: int) -> None:
        super().__init__()
        self.linear = LinearLU(dim)
        self.net = net
        self.read = slice(start, None, 2)
        self.moved = slice(1 - start, None, 2)

    def _shift(self, x: Tensor, projected: Tensor) -> Tensor:
        shift = torch.zeros_like(x)
        shift[..., self.moved] = self.net(x[..., self.read], projected)
        return shift

    def forward(
        self,
        x: Float[Tensor, "batch hypotheses dim"],
        projected: Float[Tensor, "batch projections hidden"],
    ) -> Float[Tensor, "batch hypotheses dim"]:
        """Map towards noise."""
        x = self.linear(x)
        return x + self._shift(x, projected)

    def inverse(
        self,
        z: Float[Tensor, "batch hypotheses dim"],
        projected: Float[Tensor, "batch projections hidden"],
    ) -> Float[Tensor, "batch hypotheses dim"]:
        """Map towards data."""
        return self.linear.inverse(z - self._shift(z, projected))


class ConstantVolumeFlow(Flow):
    """ProHMR's flow; the interface is that of `flows.ConditionalFlow`.

    Defaults are ProHMR's sizes for 22 joints. ActNorm takes its start from data by
    `standardize` (mean and standard deviation of the first layer's input; the layers start as
    the identity or near it, so that later ones need no start of their own) and by nothing else:
    the first batch that passes changes no state.

    Args:
        dim: data dimensions, 22 joints x 6 in HuMR.
        context: width of the context vector, one vector per image.
        blocks: number of layers; each moves every other coordinate.
        hidden: width of the coupling networks.
        depth: residual blocks per coupling network.
        dropout: probability in the coupling networks (ProHMR: 0.5).
        zero_init: start as the identity: last layers are 0.
    """

    def __init__(
        self,
        dim: int = 132,
        context: int = 720,
        *,
        blocks: int = 4,
        hidden: int = 1024,
        depth: int = 2,
        dropout: float = 0.0,
        zero_init: bool = False,
    ) -> None:
        check_sizes(dim=dim, context=context, blocks=blocks, hidden=hidden, depth=depth)
        super().__init__(dim, context, projections=blocks * (1 + depth))
        self.layers = nn.ModuleList()
        for index in range(blocks):
            start = index % 2  # which coordinates are read: even ones, odd ones, ...
            moved = (dim + start) // 2
            net = GatedResidualNet(
                dim - moved, moved, context=context, hidden=hidden, depth=depth, dropout=dropout
            )
            if zero_init:
                nn.init.zeros_(net.last.weight)
                nn.init.zeros_(net.last.bias)
            self.layers.append(GlowLayer(dim, net, start=start))

    def _layers(self) -> list[GlowLayer]:
        return [layer for layer in self.layers if isinstance(layer, GlowLayer)]

    def log_det(self) -> Float[Tensor, ""]:
        r"""$\log|\det \partial z / \partial x|$ of every sample of every image."""
        return self._layers_log_det() - self.std.log().sum()

    def _layers_log_det(self) -> Tensor:
        return torch.stack([layer.linear.log_det() for layer in self._layers()]).sum()

    def _project(self, context: Tensor) -> Condition:
        return torch.cat([layer.net.project(context) for layer in self._layers()], 1)

    def _transform(self, x: Tensor, condition: Condition, *, rev: bool) -> tuple[Tensor, Tensor]:
        layers = self._layers()
        pairs = list(zip(layers, condition.chunk(len(layers), 1), strict=True))
        for layer, own in reversed(pairs) if rev else pairs:
            x = layer.inverse(x, own) if rev else layer(x, own)
        log_det = self._layers_log_det()
        return x, (-log_det if rev else log_det).expand(x.shape[:2])
