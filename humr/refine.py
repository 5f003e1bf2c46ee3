r"""Evidence at test time: hypotheses that are conditioned on the heatmaps of their own picture.

The network answers for all pictures that give the same features. The detector's heatmaps of *this*
picture say more. With the flow as prior in its noise $z$, and Gaussian priors around the shape and
the camera that the head regresses, the unknowns are whitened, $u = (z, b, w) \sim N(0, I)$:

$$\theta = f^{-1}(\tau z; c), \quad \beta = a + k \hat\beta + L_b b, \quad
  (\log s, t_x, t_y) = (\log \hat s, \hat t_x, \hat t_y) + m + L_w w.$$

Each hypothesis is an optimum of its own, *randomised maximum likelihood* (Kitanidis 1995; Oliver,
He and Reynolds 1996; "randomise, then optimise", Bardsley et al. 2014): it draws a prior point
$u_i$ and a place $y_{ij}$ for every joint from its heatmap, and minimises

$$\tfrac12 \|u - u_i\|^2 + \sum_j \tfrac{\nu + 2}{2} \log\Big(1 +
  \frac{\|\pi(J_{a(j)} + R_{a(j)} \delta_{a(j)})(u) - y_{ij}\|^2}{\nu \sigma_j^2}\Big), \quad
  \sigma_j^2 = \operatorname{var}_j + s_0^2.$$

$J + R\delta$ is the body's joint, moved in its bone's frame to where the detector sees it; $\pi$
projects into the crop; $a$ is one of four labellings, since detectors take left for right. The
draws are exact samples of the posterior where everything is linear and Gaussian; elsewhere they
are near the modes, in numbers that the prior draws decide. The mode starts at $u_i = 0$ with the
detector's key points: maximum a posteriori, as ProHMR fits its key points.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from humr.batches import Batch
from humr.bodies.body import Body
from humr.files import digest, shown, write_text
from humr.geometry import geodesic_distance, weak_to_translation
from humr.model import BETAS, DIM, WEAK, Humr, Hypotheses, Observation, People
from humr.skeletons import BODY22, COCO17

CERTAIN = 0.7  # confidence of the detector from which a joint counts as certain
FEW = 3  # certain joints below which a picture says little
FREEDOM = 4.0  # of Student's t, whose tails let a joint lie anywhere
FROM_FLOOR = 0.01  # of the heatmap's maximum: a draw below is the detector's "may be anywhere"
OUTSIDE_SIGMA = 0.15  # of [-1, 1]: at least, for joints that the detector puts outside the picture
WIDER = 0.10  # of [-1, 1], added to sigma when a labelling is chosen before anything is optimised
TURNED = 45.0  # degrees of the root, from which the flow's mode stays: 3 % of renders, +150 mm
LARGEST_SHAPE = 3.0  # of the regressed betas, which are affine in the features and may run away
LARGEST_STEP = 4.0  # deviations of shape and camera: nobody lands behind the camera

# The joint of the body whose bone carries the key point.
_BONES = {
    "nose": "head", "eye": "head", "ear": "head", "shoulder": "collar", "elbow": "shoulder",
    "wrist": "elbow", "hip": "pelvis", "knee": "hip", "ankle": "knee",
}  # fmt: skip
_SIDED = [(side, part) for side, _, part in (name.rpartition("_") for name in COCO17.names)]
BONES = BODY22.indices(
    [bone if (bone := _BONES[p]) in ("head", "pelvis") else f"{s}_{bone}" for s, p in _SIDED]
)
_LEGS = {"hip", "knee", "ankle"}
LABELLINGS = {  # what the detector may exchange
    "nothing": set(),
    "everything": set(_BONES),
    "legs": _LEGS,
    "upper body": set(_BONES) - _LEGS,
}
PERMUTATIONS = torch.tensor(
    [
        [COCO17.mirrored[j] if part in parts else j for j, (_, part) in enumerate(_SIDED)]
        for parts in LABELLINGS.values()
    ]
)


# ---- constants, from validation images


@dataclass(frozen=True, kw_only=True)
class Constants:
    """What refinement knows beside network and picture, fitted on validation images."""

    temperature: float  # tau
    noise: float  # s_0, in the crop's [-1, 1]
    rates: Float[Tensor, " 4"]  # of `LABELLINGS`
    shape_mean: Float[Tensor, " 11"]  # a
    shape_slope: Float[Tensor, " 11"]  # k
    shape_factor: Float[Tensor, "11 11"]  # L_b
    camera_mean: Float[Tensor, " 3"]  # m
    camera_factor: Float[Tensor, "3 3"]  # L_w
    offsets: Float[Tensor, "17 3"]  # delta, metres

    def __post_init__(self) -> None:
        for name in ("temperature", "noise"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive; got {getattr(self, name)}")
        if not bool((self.rates > 0).all()) or abs(float(self.rates.sum()) - 1) > 1e-3:
            raise ValueError(f"rates must be positive and sum to 1; got {self.rates.tolist()}")

    def to(self, device: torch.device | str) -> "Constants":
        """Move every tensor."""
        moved = {n: v.to(device) for n, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **moved)

    def write(self, checkpoint: Path, about: dict[str, Any]) -> Path:
        """Store them beside the weights of `checkpoint`, with the hash of these."""
        values = {
            name: v.double().round(decimals=6).tolist() if isinstance(v, Tensor) else v
            for name, v in vars(self).items()
        }
        weights = digest(checkpoint.with_suffix(".safetensors"))
        record = {**about, "checkpoint": weights, "constants": values}
        path = constants_path(checkpoint)
        write_text(path, json.dumps(record, indent=1) + "\n")
        return path

    @classmethod
    def read(cls, checkpoint: Path) -> "Constants":
        """Read the constants beside a checkpoint; refuse those of other weights."""
        path = constants_path(checkpoint)
        if not path.is_file():
            raise FileNotFoundError(
                f"no constants {shown(path)} for refinement; `python3 -m humr refine fit` makes "
                "them for the shipped checkpoint"
            )
        record = json.loads(path.read_text())
        if record["checkpoint"] != digest(checkpoint.with_suffix(".safetensors")):
            raise ValueError(
                f"{shown(path)} was fitted to other weights than {checkpoint.name}.safetensors; "
                "make it again with `python3 -m humr refine fit`"
            )
        values: dict[str, Any] = {
            name: torch.tensor(value) if isinstance(value, list) else value
            for name, value in record["constants"].items()
        }
        return cls(**values)


def constants_path(checkpoint: Path) -> Path:
    """Where the constants of a checkpoint live."""
    return checkpoint.with_name(f"{checkpoint.name}_refine.json")


# ---- hypotheses of a batch


@dataclass(frozen=True)
class Refined:
    """Hypotheses after the evidence, and what became of the mode."""

    hypotheses: Hypotheses  # the mode is the guarded one
    flow_mode: People  # (batch, ...), before
    optimum: People  # (batch, ...), maximum a posteriori, whatever the guard says
    turned: Bool[Tensor, " batch"]  # the root turned by more than `TURNED`: the flow's mode stays
    certain: Int[Tensor, " batch"]  # joints; 0: nothing was refined, all is the flow's

    @property
    def informed(self) -> Bool[Tensor, " batch"]:
        """Whether the picture had anything to say; else mode and samples are the flow's."""
        return self.certain > 0

    def remark(self, image: int) -> str:
        """Say what a reader of one image's hypotheses must know; mostly nothing."""
        count = int(self.certain[image])
        if not self.informed[image]:
            return "no joint is certain: these are the network's hypotheses, not the picture's"
        if self.turned[image]:
            return "the picture would turn the body around: the mode is the network's"
        return f"only {count} of 17 joints are certain" if count < FEW else ""


@torch.no_grad()
def refine(
    model: Humr,
    body: Body,
    batch: Batch,
    constants: Constants,
    count: int,
    *,
    generator: torch.Generator,
    steps: int = 40,
    rate: float = 0.2,
) -> Refined:
    """Draw mode and `count` hypotheses of every image, given its heatmaps (`batch.samples`).

    All images and hypotheses descend at once: about a second for one image and 60 hypotheses on
    one CPU core. Images without any certain joint keep the flow's answer.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1 hypothesis; got {count}")
    known = constants.to(batch.box.device)
    observation = model.observe(batch)
    unknowns = Unknowns(model, observation, batch, known)
    shape = (len(batch), count, DIM + BETAS + WEAK)
    draws = torch.randn(shape, generator=generator, device=generator.device).to(batch.box)
    anchor = torch.cat([torch.zeros_like(draws[:, :1]), draws], 1)
    told = drawn(batch, known.noise, count, generator=generator)
    told = Evidence.join([best_guess(batch, known.noise), told])
    told = told.likeliest(unknowns.points(anchor, body), known.rates)

    def energy(u: Tensor) -> Tensor:
        near = 0.5 * (u - anchor).square().sum(-1)
        return near + told.misfit(unknowns.points(u, body))

    u = descend(energy, anchor, steps=steps, rate=rate)
    found = unknowns.people(u)
    flow = model.people(observation, known.temperature * anchor[..., :DIM])
    sure = certain(batch)
    found = _where(sure > 0, found, flow)
    turn = geodesic_distance(found.rotations[:, 0, 0], flow.rotations[:, 0, 0])
    turned = turn.rad2deg() > TURNED
    mode = _where(~turned, found[:, 0], flow[:, 0])
    return Refined(Hypotheses(mode, found[:, 1:]), flow[:, 0], found[:, 0], turned, sure)


def _where(chosen: Bool[Tensor, " batch"], one: People, other: People) -> People:
    """Take images where `chosen` from one, the rest from the other."""

    def pick(a: Tensor, b: Tensor) -> Tensor:
        return torch.where(chosen.reshape(-1, *(1,) * (a.ndim - 1)), a, b)

    return People(*(pick(getattr(one, f.name), getattr(other, f.name)) for f in fields(People)))


# ---- what each hypothesis is told


@dataclass(frozen=True)
class Evidence:
    """Where each hypothesis is told that the joints are, in the crop."""

    points: Float[Tensor, "batch hypotheses 17 2"]
    sigma: Float[Tensor, "batch hypotheses 17"]
    weight: Float[Tensor, "batch hypotheses 17"]  # 0 for joints that it is told nothing about

    def misfit(
        self,
        predicted: Float[Tensor, "batch hypotheses 17 2"],
        *,
        freedom: float = FREEDOM,
        wider: float = 0.0,
    ) -> Float[Tensor, "batch hypotheses"]:
        """Negative log likelihood without its constant; Gaussian for infinite `freedom`."""
        distance = (predicted - self.points).square().sum(-1)
        scaled = distance / (self.sigma.square() + wider**2)
        if freedom == torch.inf:
            return 0.5 * (self.weight * scaled).sum(-1)
        return (freedom + 2) / 2 * (self.weight * (scaled / freedom).log1p()).sum(-1)

    def relabelled(self, order: Int[Tensor, "batch hypotheses 17"]) -> "Evidence":
        """Tell joint j what was said of joint order[j]."""
        points = self.points.gather(2, order[..., None].expand(-1, -1, -1, 2))
        return Evidence(points, self.sigma.gather(2, order), self.weight.gather(2, order))

    def likeliest(
        self, predicted: Float[Tensor, "batch hypotheses 17 2"], rates: Float[Tensor, " 4"]
    ) -> "Evidence":
        """Relabel each hypothesis by what suits its start best, with the labellings' rates."""
        orders = PERMUTATIONS.to(predicted.device)
        batch = self.weight.shape[:2]
        cost = [self.relabelled(order.expand(*batch, -1)) for order in orders]
        cost = torch.stack([e.misfit(predicted, wider=WIDER) for e in cost], -1) - rates.log()
        return self.relabelled(orders[cost.argmin(-1)])

    @classmethod
    def join(cls, parts: "list[Evidence]") -> "Evidence":
        """Put the hypotheses of several one after another."""
        return cls(*(torch.cat([getattr(p, f.name) for p in parts], 1) for f in fields(cls)))


def certain(batch: Batch) -> Int[Tensor, " batch"]:
    """Count the joints that the detector is certain of."""
    return (batch.keypoints[..., 2] >= CERTAIN).sum(-1)


def sigma_of(batch: Batch, noise: float) -> Float[Tensor, "batch 17"]:
    r"""Return $\sigma_j$: deviation of the heatmap per axis, without its floor, and noise."""
    _check(batch)
    kept = (batch.density >= FROM_FLOOR)[..., None].to(batch.samples.dtype)
    count = kept.sum(1).clamp_min(1)
    mean = (kept * batch.samples).sum(1) / count
    centred = (batch.samples - mean[:, None]).square() * kept
    variance = (centred.sum(1) / count).mean(-1)
    sigma = (variance + noise**2).sqrt()
    pixels = batch.crop.to_image(batch.keypoints[..., :2])
    outside = ((pixels < 0) | (pixels > batch.image_size[:, None])).any(-1)
    return torch.where(outside, sigma.clamp_min(OUTSIDE_SIGMA), sigma)


def _check(batch: Batch) -> None:
    found = batch.density.amax(1)
    if not bool(batch.samples.isfinite().all() & (found > 0).all() & found.isfinite().all()):
        raise ValueError(
            "heatmap samples must be finite and of positive density; got NaN or zeros. "
            "Usual cause: heatmaps that are all zero, or a batch without samples of heatmaps"
        )


def drawn(batch: Batch, noise: float, count: int, *, generator: torch.Generator) -> Evidence:
    """Draw a place for each joint of `count` hypotheses from the heatmaps' stored samples."""
    images, stored = batch.density.shape[:2]
    shape = (images, count, batch.density.shape[2])
    where = generator.device
    chosen = torch.randint(stored, shape, generator=generator, device=where)
    chosen = chosen.to(batch.samples.device)
    points = batch.samples.gather(1, chosen[..., None].expand(-1, -1, -1, 2))
    jitter = torch.randn(points.shape, generator=generator, device=where).to(points)
    sigma = sigma_of(batch, noise)[:, None].expand(-1, count, -1)
    weight = (batch.density.gather(1, chosen) >= FROM_FLOOR).to(points)
    return Evidence(points + noise * jitter, sigma, weight)


def best_guess(batch: Batch, noise: float) -> Evidence:
    """Take the detector's key points, for the mode."""
    sigma = sigma_of(batch, noise)[:, None]
    return Evidence(batch.keypoints[:, None, :, :2], sigma, torch.ones_like(sigma))


# ---- what is unknown, and how it is found


@dataclass(frozen=True)
class Unknowns:
    """The map from whitened unknowns to bodies, of a batch of images."""

    model: Humr
    observation: Observation
    batch: Batch
    constants: Constants

    def people(self, u: Float[Tensor, "batch hypotheses 146"]) -> People:
        """Bodies of the unknowns (z, b, w); each hypothesis has its own shape and camera."""
        z, b, w = u.split([DIM, BETAS, WEAK], -1)
        known, seen, count = self.constants, self.observation, u.shape[1]
        noise = known.temperature * z
        sixd = self.model.flow.generate(noise, seen.condition)[0].to(u.dtype)
        guess = seen.betas.clamp(-LARGEST_SHAPE, LARGEST_SHAPE)
        guess = known.shape_mean + known.shape_slope * guess
        betas = guess[:, None] + _bounded(b) @ known.shape_factor.mT
        change = known.camera_mean + _bounded(w) @ known.camera_factor.mT
        scale = seen.weak[:, None, :1].clamp_min(0.05) * change[..., :1].exp()
        weak = torch.cat([scale, seen.weak[:, None, 1:] + change[..., 1:]], -1)
        box, focal, size = self.batch.box, self.batch.focal, self.batch.image_size
        translation = weak_to_translation(
            weak,
            box[:, None, :2].expand(-1, count, -1),
            box[:, None, 2].expand(-1, count),
            focal[:, None].expand(-1, count),
            size[:, None].expand(-1, count, -1),
        )
        return People(sixd.unflatten(-1, (len(BODY22), 6)), betas, translation)

    def points(self, u: Float[Tensor, "batch hypotheses 146"], body: Body) -> Tensor:
        """Where the detector should see the joints, in the crop."""
        return self.batch.to_crop(detected(self.people(u), body, self.constants.offsets))


def _bounded(x: Tensor) -> Tensor:
    """Keep within `LARGEST_STEP`, smoothly: nearly the identity up to 2."""
    return LARGEST_STEP * (x / LARGEST_STEP).tanh()


def detected(
    people: People, body: Body, offsets: Float[Tensor, "17 3"]
) -> Float[Tensor, "*batch 17 3"]:
    """Return the joints as the detector sees them, camera space: moved in their bones' frames."""
    joints = people.keypoints(body, "coco17")
    turned = body.skinning_transforms(people.rotations, people.betas)[0]
    return joints + (turned[..., list(BONES), :, :] @ offsets[..., None])[..., 0]


def descend(
    energy: Callable[[Tensor], Tensor], start: Tensor, *, steps: int, rate: float
) -> Tensor:
    """Minimise an energy of every row by itself: Adam with a cosine rate, all rows at once.

    A gradient that is not finite counts as zero, so that one row cannot spoil the others.
    """
    u = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([u], lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(energy(u).sum(), u)
        u.grad = gradient.nan_to_num(0.0, 0.0, 0.0)
        optimizer.step()
        schedule.step()
    return u.detach()
