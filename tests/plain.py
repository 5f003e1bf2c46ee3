"""HuMR computed the plain way, as its official code does: oracle and yardstick of the fast paths.

The condition is repeated for every hypothesis, bodies are skinned with all vertices and all 55
joints, points are compared with every pixel of the mask, alignment is one SVD after the other, and
nothing is streamed. Readable rather than fast; works in the precision of its inputs.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from humr.batches import Batch
from humr.bodies.body import body_path
from humr.geometry import matrix_to_sixd, sixd_to_matrix
from humr.losses import BANDWIDTHS, MASK_TOLERANCE
from humr.model import DIM, JOINTS, Humr
from humr.skeletons import ARTICULATED, COMMON14

HIPS = list(COMMON14.indices(["left_hip", "right_hip"]))


# ----------------------------------------------------------------------- flow


def generate(flow, noise: Tensor, context: Tensor) -> Tensor:
    """Noise to 6D rotations; `context` is repeated for every hypothesis."""
    count = noise.shape[1]
    x, c = noise.flatten(0, 1), context.repeat_interleave(count, 0)
    for k in reversed(range(len(flow.module_list) // 2)):
        coupling, permutation = flow.module_list[2 * k], flow.module_list[2 * k + 1]
        x = x[:, permutation.inverse]
        first, second = x.tensor_split(2, 1)
        log_scale, shift = _predict(coupling, coupling.subnet1, first, c)
        second = (second - shift) * (-log_scale).exp()
        log_scale, shift = _predict(coupling, coupling.subnet2, second, c)
        first = (first - shift) * (-log_scale).exp()
        x = torch.cat([first, second], 1)
    return (x * flow.std + flow.mean).view_as(noise)


def log_prob(flow, x: Tensor, context: Tensor) -> Tensor:
    """Log density of one pose per image."""
    x = (x - flow.mean) / flow.std
    log_det = -flow.std.log().sum()
    for k in range(len(flow.module_list) // 2):
        coupling, permutation = flow.module_list[2 * k], flow.module_list[2 * k + 1]
        first, second = x.tensor_split(2, 1)
        log_scale, shift = _predict(coupling, coupling.subnet2, second, context)
        first, log_det = first * log_scale.exp() + shift, log_det + log_scale.sum(1)
        log_scale, shift = _predict(coupling, coupling.subnet1, first, context)
        second, log_det = second * log_scale.exp() + shift, log_det + log_scale.sum(1)
        x = torch.cat([first, second], 1)[:, permutation.permutation]
    return log_det - 0.5 * (x.square().sum(1) + DIM * np.log(2 * np.pi))


def _predict(coupling, subnet, half: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
    hidden = torch.cat([half, context], 1)
    for layer in subnet:
        if isinstance(layer, torch.nn.Linear):
            hidden = functional.linear(hidden, layer.weight, layer.bias)
        elif isinstance(layer, torch.nn.ReLU):
            hidden = hidden.relu()
    log_scale, shift = hidden.chunk(2, 1)
    return coupling.clamp * coupling.f_clamp(log_scale), shift


# ----------------------------------------------------------------------- body


class Body:
    """A body of 55 joints from a file in the layout of SMPL-X, skinned vertex by vertex."""

    def __init__(
        self, name: str, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> None:
        with np.load(body_path(name)) as data:
            real = {
                k: torch.from_numpy(data[k]).to(device)
                for k in data.files
                if data[k].dtype.kind == "f"
            }
            self.parents = data["kintree_table"][0].tolist()
        self.template, self.weights = real["v_template"].to(dtype), real["weights"].to(dtype)
        self.shapes, self.poses = real["shapedirs"][..., :11].to(dtype), real["posedirs"].to(dtype)
        self.regressor = real["J_regressor"].to(dtype)
        self.keypoints = {k.removeprefix("regressor_"): v.to(dtype) for k, v in real.items()
                          if k.startswith("regressor_")}  # fmt: skip

    def __call__(self, rotations: Tensor, betas: Tensor) -> tuple[Tensor, Tensor]:
        """Vertices (bodies, V, 3) and joints (bodies, 55, 3) of rotations (bodies, 22, 3, 3)."""
        bodies = len(rotations)
        still = torch.eye(3).to(rotations).expand(bodies, 55 - JOINTS, 3, 3)
        rotations = torch.cat([rotations, still], 1)
        shaped = self.template + torch.einsum("bl,vkl->bvk", betas, self.shapes)
        rest = torch.einsum("jv,bvk->bjk", self.regressor, shaped)
        feature = (rotations[:, 1:] - torch.eye(3).to(rotations)).flatten(1)
        posed = shaped + torch.einsum("bp,vkp->bvk", feature, self.poses)
        world = self._chain(rotations, rest)
        joints = world[..., :3, 3]
        moved = (world[..., :3, :3] @ rest[..., None])[..., 0]
        world = torch.cat(
            [world[..., :3], functional.pad((joints - moved)[..., None], (0, 0, 0, 1))], -1
        )
        blended = torch.einsum("vj,bjmn->bvmn", self.weights, world)
        vertices = (blended[..., :3, :3] @ posed[..., None])[..., 0] + blended[..., :3, 3]
        return vertices, joints

    def _chain(self, rotations: Tensor, rest: Tensor) -> Tensor:
        world = []
        for joint, parent in enumerate(self.parents):
            offset = rest[:, joint] - (rest[:, parent] if joint else 0)
            local = functional.pad(
                torch.cat([rotations[:, joint], offset[..., None]], -1), (0, 0, 0, 1)
            )
            local[:, 3, 3] = 1
            world.append(world[parent] @ local if joint else local)
        return torch.stack(world, 1)

    def of(self, sixd: Tensor, betas: Tensor, translation: Tensor, name: str) -> Tensor:
        """Key points in camera space, (batch, hypotheses, K, 3), by way of all vertices."""
        batch, count = sixd.shape[:2]
        betas = betas[:, None].expand(-1, count, -1).flatten(0, 1)
        vertices, joints = self(sixd_to_matrix(sixd).flatten(0, 1), betas)
        points = joints if name == "joints" else vertices
        if name not in ("joints", "vertices"):
            points = self.keypoints[name] @ vertices
        return points.view(batch, count, -1, 3) + translation[:, None, None]


# ----------------------------------------------------------------------- training


def terms(
    model: Humr, body: Body, batch: Batch, noise: Tensor, blur: Tensor, *, samples: int,
    context: Tensor | None = None,
) -> dict[str, Tensor]:  # fmt: skip
    """All terms as the official code has them (the switches of F.H at "official").

    `noise` (batch, hypotheses, 132) holds zeros first: the mode. All images have labels.
    """
    context = model.encoder(batch) if context is None else context
    observed = model.observe(batch, context)
    sixd = generate(model.flow, noise, context).unflatten(-1, (JOINTS, 6))
    betas, place = observed.betas, observed.translation
    projected = batch.to_crop(body.of(sixd, betas, place, "coco17"))[:, 1:]
    labels = matrix_to_sixd(batch.rotations)
    truth = batch.to_crop(body.of(labels[:, None], batch.betas, batch.translation, "coco17"))[:, 0]
    joints = batch.to_crop(body.of(sixd, betas, place, "joints"))[:, 0, :JOINTS]
    wanted = batch.to_crop(body.of(labels[:, None], batch.betas, batch.translation, "joints"))
    confidence = batch.keypoints[..., 2] * batch.density[:, :samples].amax(1)
    inside = (truth.abs() <= 1).all(-1)
    density = log_prob(model.flow, labels.flatten(1) + 0.005 * blur, context)
    return {
        "nll": -density.mean() / DIM,
        "shape": (betas - batch.betas).square().sum(-1).mean(),
        "keypoints": (joints - wanted[:, 0, :JOINTS]).abs().sum((-2, -1)).mean(),
        "orthonormal_mode": _orthonormal(sixd[:, :1]),
        "orthonormal_samples": _orthonormal(sixd[:, 1:]),
        "heatmap": _mmd(projected, truth, batch.samples[:, :samples], confidence, inside),
        "mask": _mask(projected, truth, batch, batch.samples[:, :samples], confidence, inside),
        "camera": (-10 * observed.weak[:, 0]).exp().square().mean(),
    }


def _orthonormal(sixd: Tensor) -> Tensor:
    rows = sixd.unflatten(-1, (2, 3))
    return (rows @ rows.mT - torch.eye(2).to(rows)).square().mean()


def _mmd(projected: Tensor, truth: Tensor, samples: Tensor, confidence: Tensor, inside: Tensor):
    """Biased estimator over all pairs; the label is the first target, and all where sure."""
    bends = torch.zeros(17, dtype=torch.bool, device=truth.device)
    bends[list(ARTICULATED)] = True
    unsure = bends & (confidence < 0.7) & (confidence >= 0.15) & inside
    valid = inside & (bends | (confidence >= 0.5))
    targets = torch.where(unsure[:, None, :, None], samples, truth[:, None])
    targets = torch.cat([truth[:, None], targets[:, 1:]], 1)
    x, y = projected.transpose(1, 2), targets.transpose(1, 2)

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        squared = (a[..., :, None, :] - b[..., None, :, :]).square().sum(-1)
        return sum(w**2 / (w**2 + squared) for w in BANDWIDTHS).mean((-2, -1))

    value = kernel(x, x) + kernel(y, y) - 2 * kernel(x, y)
    return (value * valid).mean()


def off_mask(points: Tensor, mask: Tensor) -> Tensor:
    """Distance of points (batch, ..., 2) to the nearest mask pixel, by comparing with all pixels.

    As in the official code every image has room for every pixel; what is no person lies far away.
    """
    side = mask.shape[-1]
    ticks = torch.arange(side, dtype=points.dtype, device=points.device) + 0.5
    pixels = torch.stack(torch.meshgrid(ticks, ticks, indexing="xy"), -1).flatten(0, 1)
    pixels = torch.where(mask.flatten(1)[..., None], pixels, 1e6)
    scaled = ((points + 1) * (side / 2)).flatten(1, -2)
    distance = torch.cdist(scaled, pixels, compute_mode="donot_use_mm_for_euclid_dist")
    return distance.amin(-1).view(points.shape[:-1])


def _mask(projected: Tensor, truth: Tensor, batch: Batch, samples: Tensor,
          confidence: Tensor, inside: Tensor) -> Tensor:  # fmt: skip
    """Nearest sample on the mask, or label, of any joint."""
    with torch.no_grad():
        off = off_mask(projected, batch.mask) > MASK_TOLERANCE
        sample_off = off_mask(samples, batch.mask) > MASK_TOLERANCE
        label_off = inside & (off_mask(truth, batch.mask) > MASK_TOLERANCE)
    trusted = label_off.sum(-1) <= 0.1 * inside.sum(-1)
    invisible = ((confidence < 0.5) | ~inside) & trusted[:, None]
    punished = off & invisible[:, None] & (projected.abs() <= 1).all(-1)
    far = torch.where(sample_off[..., None], 1e6, samples)
    targets = torch.cat([far, truth[:, None]], 1).flatten(1, 2)
    distance = torch.cdist(projected.flatten(1, 2), targets, p=1).amin(-1)
    return (distance.view_as(punished) * punished).sum((1, 2)).mean() / projected.shape[1]


# ----------------------------------------------------------------------- evaluation


def evaluate(
    model: Humr, body: Body, batch: Batch, noise: Tensor, *, silhouette: Tensor, visible: Tensor,
    covered: Tensor, context: Tensor | None = None,
) -> dict[str, Tensor]:  # fmt: skip
    """Errors of all hypotheses of all images, whole meshes at once; mm and pixels of 256."""
    context = model.encoder(batch) if context is None else context
    observed = model.observe(batch, context)
    sixd = generate(model.flow, noise, context).unflatten(-1, (JOINTS, 6))
    place = observed.translation
    vertices = body.of(sixd, observed.betas, 0 * place, "vertices")
    label = matrix_to_sixd(batch.rotations)[:, None]
    true_vertices = body.of(label, batch.betas, 0 * place, "vertices")
    joints, true_joints = (body.keypoints["common14"] @ v for v in (vertices, true_vertices))
    root, true_root = (j[..., HIPS, :].mean(-2, keepdim=True) for j in (joints, true_joints))
    coco = body.keypoints["coco17"] @ vertices + place[:, None, None]
    true_coco = body.keypoints["coco17"] @ true_vertices + batch.translation[:, None, None]
    flat = batch.to_crop(coco)
    pixels = 128 * (flat - batch.to_crop(true_coco)).norm(dim=-1)
    mean = coco[:, 1:].mean(1, keepdim=True)
    distance = off_mask(flat, silhouette) * (256 / silhouette.shape[-1])
    close = distance <= MASK_TOLERANCE * 256 / silhouette.shape[-1]
    distance = torch.where(close, 0, distance)
    joints, true_joints = joints - root, true_joints - true_root
    errors = {
        "mpjpe": (joints - true_joints).norm(dim=-1).mean(-1),
        "pa_mpjpe": _aligned_error(joints, true_joints.expand_as(joints)),
        "pve": (vertices - root - true_vertices + true_root).norm(dim=-1).mean(-1),
    }
    result = {f"{name}_best": 1e3 * e.amin(1) for name, e in errors.items()}
    result |= {f"{name}_mode": 1e3 * e[:, 0] for name, e in errors.items()}
    result |= {
        "pixels_mode": _mean(pixels[:, 0], visible),
        "pixels_samples": _mean(pixels[:, 1:].mean(1), visible),
        "spread_visible": _mean(1e3 * (coco[:, 1:] - mean).norm(dim=-1).mean(1), visible),
        "percent_inside": _mean(100 * (distance == 0).to(distance).mean(1), covered),
        "mask_distance": _mean(distance.mean(1), covered),
    }
    return result


def _mean(values: Tensor, used: Tensor) -> Tensor:
    return (values * used).sum(-1) / used.sum(-1)


def _aligned_error(x: Tensor, y: Tensor) -> Tensor:
    """MPJPE after Procrustes, one pose after the other."""
    pairs = zip(x.flatten(0, 1), y.flatten(0, 1), strict=True)
    return torch.stack([_procrustes(a, b) for a, b in pairs]).view(x.shape[:2])


def _procrustes(x: Tensor, y: Tensor) -> Tensor:
    x0, y0 = x - x.mean(0), y - y.mean(0)
    u, s, vt = torch.linalg.svd(x0.T @ y0)
    z = torch.ones_like(s)
    z[-1] = torch.linalg.det(u @ vt).sign()
    scale = (s * z).sum() / x0.square().sum()
    return (scale * x0 @ (u * z) @ vt - y0).norm(dim=-1).mean()
