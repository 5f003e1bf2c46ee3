r"""Conditional normalizing flows: invertible networks that carry an exact density.

A flow maps data $x$ to noise $z = f(x; c)$ and back, so that

$$\log p(x \mid c) = \log \mathcal{N}(z; 0, I) + \log |\det \partial z / \partial x|.$$

`normalize` goes from data to noise, `generate` from noise to data. The couplings are FrEIA's;
what is ours is that the condition enters each of them *once per image*: the first linear layer of
every subnet acts on `[half, context]`, which is `W_half half + (W_context context + b)`, and the
bracket does not depend on the hypothesis. `project` computes it for all subnets, once.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain, islice, pairwise

import torch
from FrEIA.modules import GLOWCouplingBlock, InvertibleModule, NICECouplingBlock
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

Condition = Tensor  # (batch, subnets, hidden): opaque outside this module
Subnet = Callable[[int, int], nn.Module]
Context = Float[Tensor, "batch context"]  # one vector per image
Samples = Float[Tensor, "batch hypotheses dim"]
PerSample = Float[Tensor, "batch hypotheses"]
Projections = Float[Tensor, "batch projections hidden"]


def official_clamp(u: Tensor, limit: float) -> Tensor:
    r"""Log-scale $0.636\,\alpha \arctan u$ of FrEIA 0.2, the version that HuMR was run with.

    Slope $0.636\,\alpha$ at 0, range just under $\pm\alpha$.
    """
    return limit * 0.636 * torch.atan(u)


def paper_clamp(u: Tensor, limit: float) -> Tensor:
    r"""Log-scale $(2\alpha/\pi) \arctan(u/\alpha)$ as printed in the paper.

    Slope $2/\pi$ at 0, whatever the limit. Not the function of `official_clamp`: a network
    trained with one does not work with the other.
    """
    return limit * 2 / math.pi * torch.atan(u / limit)


class ConditionedSubnet(nn.Sequential):
    """Linear layers (three or so) that predict one half's scale and shift from the other half.

    The first weight acts on `[half, context]` and is stored as one matrix, like in the
    concatenating form; only the order of the additions differs.
    """

    def __init__(
        self, inputs: int, outputs: int, *, context: int, hidden: int, dropout: float, layers: int
    ) -> None:
        widths = [inputs] + [hidden] * (layers - 1)
        steps = (
            (nn.Linear(*p), nn.ReLU(inplace=True), nn.Dropout(dropout)) for p in pairwise(widths)
        )
        super().__init__(*chain.from_iterable(steps), nn.Linear(hidden, outputs))
        self.passive = inputs - context  # width of the half that is read

    def _linear(self, index: int) -> nn.Linear:
        layer = self[index]
        assert isinstance(layer, nn.Linear)
        return layer

    def project(self, context: Context) -> Float[Tensor, "batch hidden"]:
        """Apply the context's columns and the bias of the first layer."""
        first = self._linear(0)
        return functional.linear(context, first.weight[:, self.passive :], first.bias)

    def zero_last(self) -> None:
        """Set the last layer to 0: scale 1 and shift 0 whatever the input."""
        nn.init.zeros_(self._linear(-1).weight)
        nn.init.zeros_(self._linear(-1).bias)

    def forward(self, input: tuple[Tensor, Tensor]) -> Tensor:
        """Map `(half (batch*hypotheses, half), projected (batch, hidden))` to the outputs."""
        half, projected = input
        hidden = functional.linear(half, self._linear(0).weight[:, : self.passive])
        images = len(projected)  # hypotheses of one image lie together
        hidden = hidden.unflatten(0, (images, len(half) // max(images, 1)))
        # activate before flattening: backward of an in-place change of a view copies twice
        hidden = self[1](hidden + projected[:, None]).flatten(0, 1)
        for layer in islice(self, 2, None):
            hidden = layer(hidden)
        return hidden.to(half.dtype)  # under autocast: scales and log-determinants in float32


def _couple(
    block: GLOWCouplingBlock | NICECouplingBlock,
    x: Tensor,
    condition: Sequence[Tensor],
    *,
    rev: bool,
) -> tuple[tuple[Tensor], Tensor]:
    """FrEIA's coupling with `(half, projection)` where FrEIA concatenates half and condition."""
    first, second = x.split([block.split_len1, block.split_len2], dim=1)
    from_first, from_second = condition
    if rev:
        second, log_det2 = block._coupling2(second, (first, from_first), rev=True)
        first, log_det1 = block._coupling1(first, (second, from_second), rev=True)
    else:
        first, log_det1 = block._coupling1(first, (second, from_second))
        second, log_det2 = block._coupling2(second, (first, from_first))
    return (torch.cat((first, second), 1),), x.new_zeros(len(x)) + log_det1 + log_det2


class AffineCoupling(GLOWCouplingBlock):
    r"""Both halves in turn: $x_1 e^{s(x_2, c)} + t(x_2, c)$, then with the roles exchanged."""

    def forward(self, x, c=(), rev=False, jac=True):  # noqa: ANN001, ANN201, FBT002
        """Follow `FrEIA.modules.InvertibleModule.forward`; `c` holds both projections."""
        return _couple(self, x[0], c, rev=rev)


class AdditiveCoupling(NICECouplingBlock):
    """Shifts only: the log-determinant is 0 for every sample and every image (NICE)."""

    def forward(self, x, c=(), rev=False, jac=True):  # noqa: ANN001, ANN201, FBT002
        """Follow `FrEIA.modules.InvertibleModule.forward`; `c` holds both projections."""
        return _couple(self, x[0], c, rev=rev)


CLAMPS = {"affine": official_clamp, "affine_paper_clamp": paper_clamp}
COUPLINGS = (*CLAMPS, "additive")


def _coupling(name: str, dim: int, subnet: Subnet, limit: float) -> InvertibleModule:
    if name == "additive":  # no scale, nothing to clamp
        return AdditiveCoupling([(dim,)], subnet_constructor=subnet)
    log_scale = partial(CLAMPS[name], limit=limit)
    return AffineCoupling(
        [(dim,)], subnet_constructor=subnet, clamp=1.0, clamp_activation=log_scale
    )


class FixedPermutation(InvertibleModule):
    """A permutation of the coordinates, drawn once and kept in the state dict.

    FrEIA's `PermuteRandom` re-seeds NumPy's global generator and does not save what it drew.
    """

    permutation: Tensor
    inverse: Tensor

    def __init__(self, dim: int, *, generator: torch.Generator) -> None:
        super().__init__([(dim,)])
        permutation = torch.randperm(dim, generator=generator)
        self.register_buffer("permutation", permutation)
        self.register_buffer("inverse", permutation.argsort())
        self.register_load_state_dict_post_hook(_check_permutation)

    def forward(self, x_or_z, c=(), rev=False, jac=True):  # noqa: ANN001, ANN201, FBT002
        """Follow `FrEIA.modules.InvertibleModule.forward`."""
        (x,) = x_or_z
        order = self.inverse if rev else self.permutation
        return (x.index_select(1, order),), x.new_zeros(())


def _check_permutation(module: FixedPermutation, _: object) -> None:
    """Refuse loaded numbers that are no permutation and its inverse."""
    order, inverse = module.permutation, module.inverse
    if not (order.argsort().equal(inverse) and inverse.argsort().equal(order)):
        raise ValueError("a flow's permutation and its inverse do not fit each other")


def standard_normal_log_prob(z: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch"]:
    r"""Log density of independent standard normals, $-\frac12 \|z\|^2 - \frac D2 \log 2\pi$."""
    return -0.5 * (z.square().sum(-1) + z.shape[-1] * math.log(2 * math.pi))


def check_sizes(**sizes: int) -> None:
    """Refuse sizes that no flow can have."""
    for name, size in sizes.items():
        smallest = {"dim": 2, "layers": 2, "context": 0}.get(name, 1)
        if size < smallest:
            raise ValueError(f"{name} must be at least {smallest}; got {size}")


class Flow(nn.Module):
    """What every conditional flow has: standardised data, a condition per image, a density.

    A subclass says how many `projections` its condition has for one image and implements
    `_project` and `_transform` (of standardised data to noise; `rev`: of noise to data).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, dim: int, context: int, *, projections: int) -> None:
        super().__init__()
        self.dim, self.context, self.projections = dim, context, projections
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))

    def _project(self, context: Tensor) -> Condition:
        raise NotImplementedError

    def _transform(self, x: Tensor, condition: Condition, *, rev: bool) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    @torch.no_grad()
    def standardize(self, data: Float[Tensor, "samples dim"], *, smallest: float = 1e-2) -> None:
        """Let the couplings see data of mean 0 and standard deviation 1, coordinate by coordinate.

        The change of variables is part of the density. `smallest` bounds the standard deviation
        of coordinates that (almost) never change.
        """
        if data.shape[-1] != self.dim:
            raise ValueError(f"data must have {self.dim} columns; got {data.shape[-1]}")
        if not data.isfinite().all() or len(data) < 2:
            raise ValueError("data must be finite and hold at least two rows")
        self.mean.copy_(data.mean(0))
        self.std.copy_(data.std(0).clamp(min=smallest))

    def project(self, context: Context) -> Condition:
        """Apply everything that reads the context, once per image; to be passed to the others.

        The result has the images along its first axis: `condition[i : i + 1]` is that of image i.
        """
        if context.ndim != 2 or context.shape[1] != self.context:
            shape = tuple(context.shape)
            raise ValueError(f"context must have shape (batch, {self.context}); got {shape}")
        return self._project(context)

    def normalize(self, x: Samples, condition: Condition) -> tuple[Samples, PerSample]:
        r"""Data to noise, and $\log|\det \partial z / \partial x|$."""
        self._check(x, condition)
        z, log_det = self._transform((x - self.mean) / self.std, condition, rev=False)
        return z, log_det - self.std.log().sum()

    def generate(self, z: Samples, condition: Condition) -> tuple[Samples, PerSample]:
        r"""Noise to data, and $\log|\det \partial x / \partial z|$."""
        self._check(z, condition)
        z = z.to(torch.promote_types(z.dtype, self.mean.dtype))
        x, log_det = self._transform(z, condition, rev=True)
        return x * self.std + self.mean, log_det + self.std.log().sum()

    def log_prob(self, x: Samples, condition: Condition) -> PerSample:
        r"""Exact log density of the data, $-\frac{D}{2}\log 2\pi$ included."""
        z, log_det = self.normalize(x, condition)
        return standard_normal_log_prob(z) + log_det

    def sample(
        self, condition: Condition, count: int, *, generator: torch.Generator | None = None
    ) -> Samples:
        """Draw `count` hypotheses per image; noise comes from `generator`, on its own device."""
        device = condition.device if generator is None else generator.device
        shape = (len(condition), count, self.dim)
        z = torch.randn(shape, generator=generator, device=device, dtype=self.mean.dtype)
        return self.generate(z.to(self.mean.device), condition)[0]

    def mode(self, condition: Condition) -> Float[Tensor, "batch dim"]:
        """Image of $z = 0$: what the papers call the mode (exact only for constant volume)."""
        return self.generate(self.mean.new_zeros(len(condition), 1, self.dim), condition)[0][:, 0]

    def _check(self, x: Tensor, condition: Condition) -> None:
        if x.ndim != 3 or x.shape[-1] != self.dim:
            shape = tuple(x.shape)
            raise ValueError(f"expected shape (batch, hypotheses, {self.dim}); got {shape}")
        expected = (len(x), self.projections)
        if condition.ndim != 3 or condition.shape[:2] != expected:
            raise ValueError(
                f"condition must come from project() of the same {len(x)} images; "
                f"expected shape {(*expected, 'hidden')}, got {tuple(condition.shape)}"
            )


class ConditionalFlow(Flow):
    """Blocks of [coupling, fixed random permutation] between data and standard normal noise.

    Defaults are HuMR's sizes. Parameter names equal those of FrEIA's `SequenceINN` over
    `GLOWCouplingBlock`s: `module_list.{2k}.subnet{1,2}.{0,3,6}.{weight,bias}` for three layers.

    Args:
        dim: data dimensions, 22 joints x 6 in HuMR.
        context: width of the context; 0 for none.
        blocks: number of couplings; each changes both halves.
        hidden: width of the subnets.
        clamp: largest absolute log-scale per coordinate and coupling (alpha in the paper).
        coupling: one of `COUPLINGS`.
        dropout: probability in the subnets.
        zero_init: start as the identity (up to permutations): last layers are 0.
        layers: linear layers of every subnet, at least 2.
        seed: of the permutations; weights come from torch's global generator like in any module.
    """

    def __init__(
        self,
        dim: int = 132,
        context: int = 979,
        *,
        blocks: int = 8,
        hidden: int = 1024,
        clamp: float = 2.0,
        coupling: str = "affine",
        dropout: float = 0.0,
        zero_init: bool = False,
        layers: int = 3,
        seed: int = 0,
    ) -> None:
        check_sizes(dim=dim, context=context, blocks=blocks, hidden=hidden, layers=layers)
        super().__init__(dim, context, projections=2 * blocks)
        if coupling not in COUPLINGS:
            raise ValueError(f"coupling must be one of {sorted(COUPLINGS)}; got {coupling!r}")
        generator = torch.Generator().manual_seed(seed)
        options = {"context": context, "hidden": hidden, "dropout": dropout, "layers": layers}

        def subnet(half: int, outputs: int) -> ConditionedSubnet:
            return ConditionedSubnet(half + context, outputs, **options)

        self.module_list = nn.ModuleList()
        for _ in range(blocks):
            self.module_list.append(_coupling(coupling, dim, subnet, clamp))
            self.module_list.append(FixedPermutation(dim, generator=generator))
        if zero_init:
            for net in self._subnets():
                net.zero_last()

    def _subnets(self) -> list[ConditionedSubnet]:
        """Subnets that read the first and the second half, coupling after coupling."""
        names = {AffineCoupling: ("subnet1", "subnet2"), AdditiveCoupling: ("G", "F")}
        nets = [m.get_submodule(n) for m in self.module_list[::2] for n in names[type(m)]]
        return [net for net in nets if isinstance(net, ConditionedSubnet)]

    def _project(self, context: Tensor) -> Condition:
        return torch.stack([net.project(context) for net in self._subnets()], 1)

    def _transform(self, x: Tensor, condition: Condition, *, rev: bool) -> tuple[Tensor, Tensor]:
        modules = list(enumerate(self.module_list))
        projections = condition.unbind(1)
        flat = x.flatten(0, 1)
        log_det = flat.new_zeros(len(flat))
        for index, module in reversed(modules) if rev else modules:
            # module 2k is coupling k, which owns projections 2k and 2k + 1; the others permute
            own = () if index % 2 else projections[index : index + 2]
            (flat,), change = module((flat,), c=own, rev=rev)
            log_det = log_det + change
        return flat.view_as(x), log_det.view(x.shape[:2])


# ------------------------------------------------------------------------ ProHMR's flow


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

    def project(self, context: Context) -> Float[Tensor, "batch hidden"]:
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

    def project(self, context: Context) -> Projections:
        """Apply everything that reads the context: part of the first layer, and the gates."""
        first = functional.linear(context, self.first.weight[:, self.inputs :], self.first.bias)
        return torch.stack([first, *(block.project(context) for block in self._blocks())], 1)

    def forward(
        self, x: Float[Tensor, "batch hypotheses inputs"], projected: Projections
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

    def forward(self, x: Samples, projected: Projections) -> Samples:
        """Map towards noise."""
        x = self.linear(x)
        return x + self._shift(x, projected)

    def inverse(self, z: Samples, projected: Projections) -> Samples:
        """Map towards data."""
        return self.linear.inverse(z - self._shift(z, projected))


class ConstantVolumeFlow(Flow):
    r"""The flow of ProHMR: additive couplings, one volume for every image and sample.

    Each of the layers is [ActNorm, linear map $LU$, additive coupling] (Glow without scales):

    $$\log |\det \partial z / \partial x| = \sum_l \sum_d (\log s_{ld} + \log U_{l,dd})$$

    depends neither on the sample nor on the image. Hence the entropy of $p(x \mid c)$ is the same
    for an image that shows everything and for one that shows nothing, and within an image the
    density ranks samples by $\|z\|$ alone. `ConditionalFlow` has no such bound.

    ProHMR's coupling networks have batch normalisation. These have none (nor has the RealNVP that
    they are compared with): statistics of a batch let its images see each other, and in training
    `generate` would not invert `normalize`, which runs on other samples. ActNorm starts from data
    by `standardize` alone (the layers start at the identity or near it, so that later ones need no
    start of their own): the first batch that passes changes no state.

    Args:
        dim: data dimensions, 22 joints x 6 in HuMR.
        context: width of the context.
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
