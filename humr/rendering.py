"""Make pictures of meshes: normals, shading, overlays on photographs, side views, spread colours.

Images are RGB; inside, floats in [0, 1] with axes (batch, height, width, channels); photographs
and finished figures are uint8 (height, width, 3). Camera and pixel conventions as in `rasters`.
"""

import math

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from humr.rasters import Raster, check_mesh, interpolate, rasterise

__all__ = [
    "Raster",
    "composite",
    "draw",
    "fit_camera",
    "interpolate",
    "normals",
    "overlay",
    "rasterise",
    "shade",
    "side_view",
    "spread_colours",
    "vertex_normals",
]

CLAY = (0.60, 0.70, 0.88)
KEY_LIGHT = (-0.34, -0.45, -0.56)  # towards the light (left, above, camera side) x strength
FILL_LIGHT = (0.28, -0.04, -0.16)
AMBIENT = 0.30
SPREAD_COLORMAP = "turbo"
SIDE_DISTANCE = 4.0  # camera of the side view, in radii of the body: little perspective


def vertex_normals(
    vertices: Float[Tensor, "*batch vertices 3"], faces: Int[Tensor, "faces 3"]
) -> Float[Tensor, "*batch vertices 3"]:
    """Average the normals of each vertex's faces, weighted by area; unit length, outward.

    A vertex without faces gets 0.
    """
    check_mesh(vertices, faces)
    a, b, c = (vertices.index_select(-2, faces[:, i]) for i in range(3))
    crosses = torch.linalg.cross(b - a, c - a)
    total = torch.zeros_like(vertices)
    for i in range(3):
        total = total.index_add(-2, faces[:, i], crosses)
    return _unit(total)


def _unit(vectors: Tensor) -> Tensor:
    """Vectors of length one, 0 where there was none; written out since it is 3x faster so."""
    x, y, z = vectors.unbind(-1)
    inverse = (x * x + y * y + z * z).clamp_min(1e-36).rsqrt()
    return vectors * inverse[..., None]


def normals(
    raster: Raster,
    faces: Int[Tensor, "faces 3"],
    vertices_camera: Float[Tensor, "batch vertices 3"],
) -> Float[Tensor, "batch height width 3"]:
    """Smooth unit normals per pixel, camera axes (z < 0 faces the camera); 0 in the background."""
    image = interpolate(raster, faces, vertex_normals(vertices_camera, faces))
    return _unit(image)


def shade(
    normals_camera: Float[Tensor, "batch height width 3"],
    albedo: Float[Tensor, "#batch #height #width 3"],
    *,
    lights: Float[Tensor, "#batch lights 3"] | None = None,
    ambient: float = AMBIENT,
) -> Float[Tensor, "batch height width 3"]:
    """Light a matt surface: rgb = albedo (ambient + Σ_l max(0, n · l)), clamped to [0, 1].

    Args:
        normals_camera: unit normals per pixel.
        albedo: RGB in [0, 1], per pixel or broadcast.
        lights: vectors towards the lights, camera axes, length = strength; by default a key
            light and a weak fill light.
        ambient: light that comes from everywhere.
    """
    if lights is None:
        lights = normals_camera.new_tensor([[KEY_LIGHT, FILL_LIGHT]])
    received = torch.einsum(
        "bhwc,blc->bhwl", normals_camera, lights.expand(len(normals_camera), -1, -1)
    )
    return (albedo * (ambient + received.clamp_min(0).sum(-1, keepdim=True))).clamp(0, 1)


def composite(
    photo: Float[Tensor, "*#batch height width 3"],
    rgb: Float[Tensor, "*#batch height width 3"],
    alpha: Float[Tensor, "*#batch height width"],
) -> Float[Tensor, "*batch height width 3"]:
    """Lay `rgb` over `photo`: alpha rgb + (1 - alpha) photo."""
    return photo + alpha[..., None] * (rgb - photo)


def draw(
    vertices_camera: Float[Tensor, "batch vertices 3"],
    faces: Int[Tensor, "faces 3"],
    focal: Float[Tensor, " batch"],
    centre: Float[Tensor, "batch 2"],
    height: int,
    width: int,
    *,
    colours: Float[Tensor, "#batch vertices 3"] | None = None,
    supersampling: int = 2,
) -> tuple[Float[Tensor, "batch height width 3"], Float[Tensor, "batch height width"]]:
    """Draw shaded meshes, with smooth outlines: RGB and alpha, for `composite`.

    Each pixel is the mean of `supersampling`² samples; alpha is the covered share of them.
    """
    if supersampling < 1:
        raise ValueError(f"supersampling must be at least 1; got {supersampling}")
    scale = supersampling
    raster = rasterise(
        vertices_camera, faces, focal * scale, centre * scale, height * scale, width * scale
    )
    albedo = vertices_camera.new_tensor(CLAY)[None, None, None]
    if colours is not None:
        albedo = interpolate(raster, faces, colours.expand(len(focal), -1, -1))
    covered = raster.mask[..., None].to(focal.dtype)
    rgb = shade(normals(raster, faces, vertices_camera), albedo) * covered
    samples = torch.cat([rgb, covered], dim=-1).movedim(-1, 1)
    mean = torch.nn.functional.avg_pool2d(samples, scale).movedim(1, -1)
    alpha = mean[..., 3]
    return mean[..., :3] / alpha[..., None].clamp_min(0.5 / scale**2), alpha


def overlay(
    photo: UInt8[np.ndarray, "height width 3"],
    vertices_camera: Float[Tensor, "vertices 3"],
    faces: Int[Tensor, "faces 3"],
    focal: Float[Tensor, ""],
    centre: Float[Tensor, "2"],
    colours: Float[Tensor, "vertices 3"] | None = None,
    *,
    opacity: float = 1.0,
    supersampling: int = 2,
) -> UInt8[np.ndarray, "height width 3"]:
    """Lay one shaded body over a photograph.

    Args:
        photo: RGB.
        vertices_camera: metres.
        faces: corner indices.
        focal: pixels of the photograph.
        centre: principal point (x, y), pixels of the photograph.
        colours: RGB in [0, 1] per vertex, for example from `spread_colours`; clay by default.
        opacity: of the body, in [0, 1].
        supersampling: samples per pixel side.
    """
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity must lie in [0, 1]; got {opacity}")
    if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3:
        raise ValueError(
            f"photo must be uint8 (height, width, 3), RGB; got {photo.dtype} {photo.shape}"
        )
    height, width = photo.shape[:2]
    colours = None if colours is None else colours[None]
    rgb, alpha = draw(
        vertices_camera[None],
        faces,
        focal[None],
        centre[None],
        height,
        width,
        colours=colours,
        supersampling=supersampling,
    )
    below = torch.tensor(photo).to(rgb) / 255
    return _to_uint8(composite(below, rgb[0], opacity * alpha[0]))


def _to_uint8(image: Tensor) -> np.ndarray:
    return (image * 255).round().clamp(0, 255).to(torch.uint8).cpu().numpy()


def fit_camera(
    points_camera: Float[Tensor, "points 3"], height: int, width: int, *, margin: float = 0.06
) -> tuple[Float[Tensor, ""], Float[Tensor, "2"]]:
    """Choose focal length and principal point (pixels) so that points just fill an image.

    Args:
        points_camera: in front of the camera (z > 0).
        height: rows of the image.
        width: columns of the image.
        margin: share of each side left empty.
    """
    if not 0 <= margin < 0.5:
        raise ValueError(f"margin must lie in [0, 0.5); got {margin}")
    if not (points_camera[:, 2] > 0).all():
        raise ValueError("points must lie in front of the camera (z > 0)")
    rays = points_camera[:, :2] / points_camera[:, 2:]
    low, high = rays.amin(0), rays.amax(0)
    size = rays.new_tensor([width, height])
    focal = ((1 - 2 * margin) * size / (high - low).clamp_min(1e-9)).amin()
    return focal, size / 2 - focal * (low + high) / 2


def side_view(
    vertices_camera: Float[Tensor, "vertices 3"],
    faces: Int[Tensor, "faces 3"],
    colours: Float[Tensor, "vertices 3"] | None = None,
    *,
    height: int = 512,
    width: int = 384,
    angle: float = math.pi / 2,
    fit_to: Float[Tensor, "points 3"] | None = None,
    supersampling: int = 2,
) -> UInt8[np.ndarray, "height width 3"]:
    """Draw one body from the side, on white; the camera that took the photograph is on the left.

    Args:
        vertices_camera: metres, axes of the photograph's camera.
        faces: corner indices.
        colours: RGB in [0, 1] per vertex; clay by default.
        height: rows of the picture.
        width: columns of the picture.
        angle: turn about the camera's vertical axis through the body's centre; pi shows the back.
        fit_to: points that choose the view instead of the body itself (camera axes), so that
            several pictures share one; for example all hypotheses' vertices.
        supersampling: samples per pixel side.
    """
    check_mesh(vertices_camera, faces)
    reference = vertices_camera if fit_to is None else fit_to
    turned, target = _turn((vertices_camera, reference), angle)
    focal, centre = fit_camera(target, height, width)
    rgb, alpha = draw(
        turned[None],
        faces,
        focal[None],
        centre[None],
        height,
        width,
        colours=None if colours is None else colours[None],
        supersampling=supersampling,
    )
    return _to_uint8(composite(torch.ones_like(rgb[0]), rgb[0], alpha[0]))


def _turn(clouds: tuple[Tensor, Tensor], angle: float) -> tuple[Tensor, Tensor]:
    """Turn both clouds about the vertical through the second's centre; set it before a camera."""
    reference = clouds[1]
    middle = (reference.amin(0) + reference.amax(0)) / 2
    radius = (reference - middle).norm(dim=-1).amax().clamp_min(1e-6)
    cos, sin = math.cos(angle), math.sin(angle)
    rotation = reference.new_tensor([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])
    ahead = torch.stack([radius * 0, radius * 0, SIDE_DISTANCE * radius])
    first, second = ((cloud - middle) @ rotation.T + ahead for cloud in clouds)
    return first, second


def spread_colours(
    spread_m: Float[Tensor, " vertices"], *, vmax_mm: float = 150.0
) -> Float[Tensor, "vertices 3"]:
    """Colour a spread in metres: `SPREAD_COLORMAP` from 0 to `vmax_mm` millimetres, then flat.

    The default covers what the depth of an unseen wrist or ankle spreads by. A colour bar for it:
    `ScalarMappable(Normalize(0, vmax_mm), SPREAD_COLORMAP)`.
    """
    from matplotlib import colormaps

    if not vmax_mm > 0:
        raise ValueError(f"vmax_mm must be positive; got {vmax_mm}")
    if not (spread_m >= 0).all():
        raise ValueError("spread must be finite and not negative, in metres")
    table = spread_m.new_tensor(colormaps[SPREAD_COLORMAP](np.linspace(0, 1, 256))[:, :3])
    share = (spread_m * (1000 / vmax_mm)).clamp(0, 1)
    return table[(share * 255).round().long()]
