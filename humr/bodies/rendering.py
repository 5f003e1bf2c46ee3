"""Pictures of meshes: overlays on photographs, side views, spread colours, and the rasteriser.

Images are RGB; inside, floats in [0, 1] with axes (batch, height, width, channels); photographs
and finished figures are uint8 (height, width, 3). Camera: OpenCV axes (x right, y down, z
forward), metres; focal length and principal point (x, y) in pixels; pixel (row, column) has its
centre at (row + 0.5, column + 0.5). Colours of bodies are RGB in [0, 1] per vertex, clay by
default; `supersampling` are samples per pixel side. Nothing here is differentiable.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

CLAY = (0.60, 0.70, 0.88)
KEY_LIGHT = (-0.34, -0.45, -0.56)  # towards the light (left, above, camera side) x strength
FILL_LIGHT = (0.28, -0.04, -0.16)
AMBIENT = 0.30
SPREAD_COLORMAP = "turbo"
SIDE_DISTANCE = 4.0  # camera of the side view, in radii of the body: little perspective
NEAR_M = 0.01
# Bounds on the temporaries of one pass: faces, rows of faces, pixels. About 200 MB in float32.
_FACES_PER_PASS = 2**18
_ROWS_PER_PASS = 2**20
_PIXELS_PER_PASS = 2**21
_FACE_BITS = 32


@dataclass(frozen=True)
class Raster:
    """What is seen at each pixel centre; background: face -1, depth inf, barycentrics 0.

    `barycentrics` are perspective-correct: weights of the corners in space, not on the screen.
    """

    face_ids: Int[Tensor, "batch height width"]
    depth: Float[Tensor, "batch height width"]
    barycentrics: Float[Tensor, "batch height width 3"]

    @property
    def mask(self) -> Bool[Tensor, "batch height width"]:
        """True where a face is seen."""
        return self.face_ids >= 0


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
    """Lay one shaded body over a photograph, `opacity` in [0, 1]."""
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

    `angle` turns it about the camera's vertical axis through the body's centre; pi shows the back.
    Points `fit_to` (camera axes) choose the view instead of the body itself, so that several
    pictures share one; for example all hypotheses' vertices.
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


def fit_camera(
    points_camera: Float[Tensor, "points 3"], height: int, width: int, *, margin: float = 0.06
) -> tuple[Float[Tensor, ""], Float[Tensor, "2"]]:
    """Choose focal length and principal point so that points just fill an image.

    `margin` is the share of each side that is left empty.
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


def _to_uint8(image: Tensor) -> np.ndarray:
    return (image * 255).round().clamp(0, 255).to(torch.uint8).cpu().numpy()


# ------------------------------------------------------------------------------- shading


def shade(
    normals_camera: Float[Tensor, "batch height width 3"],
    albedo: Float[Tensor, "#batch #height #width 3"],
    *,
    lights: Float[Tensor, "#batch lights 3"] | None = None,
    ambient: float = AMBIENT,
) -> Float[Tensor, "batch height width 3"]:
    """Light a matt surface: rgb = albedo (ambient + Σ_l max(0, n · l)), clamped to [0, 1].

    Lights are vectors towards them in camera axes, their length the strength; by default a key
    light and a weak fill light.
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


def interpolate(
    raster: Raster,
    faces: Int[Tensor, "faces 3"],
    attributes: Float[Tensor, "batch vertices channels"] | Float[Tensor, "vertices channels"],
) -> Float[Tensor, "batch height width channels"]:
    """Carry values from the vertices to the pixels, perspective-correct; 0 in the background."""
    batch, height, width = raster.face_ids.shape
    if attributes.ndim == 3 and len(attributes) != batch:
        raise ValueError(f"attributes are for {len(attributes)} images; the raster has {batch}")
    vertices, channels = attributes.shape[-2:]
    flat_ids = raster.face_ids.reshape(-1)
    (hit,) = (flat_ids >= 0).nonzero(as_tuple=True)
    corners = faces.index_select(0, flat_ids.index_select(0, hit))
    if attributes.ndim == 3:
        corners = corners + (hit // (height * width) * vertices)[:, None]
    flat = attributes.reshape(-1, channels)
    weights = raster.barycentrics.reshape(-1, 3).index_select(0, hit).to(flat.dtype)
    taken = flat.index_select(0, corners.reshape(-1)).view(-1, 3, channels)
    values = weights[:, 0, None] * taken[:, 0]
    for i in (1, 2):
        values = values.addcmul(weights[:, i, None], taken[:, i])
    image = flat.new_zeros(batch * height * width, channels).index_copy(0, hit, values)
    return image.view(batch, height, width, channels)


# ---------------------------------------------------------------------------- rasteriser


@torch.no_grad()
def rasterise(
    vertices_camera: Float[Tensor, "batch vertices 3"],
    faces: Int[Tensor, "faces 3"],
    focal: Float[Tensor, " batch"],
    centre: Float[Tensor, "batch 2"],
    height: int,
    width: int,
    *,
    cull_back_faces: bool = True,
    near: float = NEAR_M,
) -> Raster:
    """Find the nearest face at every pixel centre, with its depth and barycentric coordinates.

    Classical scan conversion, a batched z-buffer in plain torch without a display. Vertices are
    projected; every face is cut into the pixel rows whose centres it covers, every row into the
    half-open span of pixel centres between its two edges; spans become pixels; a scatter of
    packed (inverse depth, face) keys keeps the nearest face. Where an edge crosses a row is
    computed from the edge's upper end, whichever face asks, so two faces that share an edge share
    it to the last bit: a pixel centre belongs to exactly one of them, without cracks and without
    double hits.

    Faces with a corner at depth z <= near are dropped, not clipped. Of two faces at one depth (to
    float32 precision) the lower index wins. Front faces run counter-clockwise for who looks at
    them; turn `cull_back_faces` off for open meshes.
    """
    check_mesh(vertices_camera, faces)
    _check_camera(vertices_camera, focal, centre, height, width, near)
    batch, pixels = len(vertices_camera), height * width
    face_ids = torch.full((batch * pixels,), -1, dtype=torch.int64, device=faces.device)
    depth = vertices_camera.new_full((batch * pixels,), math.inf)
    barycentrics = vertices_camera.new_zeros(batch * pixels, 3)
    step = max(1, _FACES_PER_PASS // max(1, len(faces)))
    for start in range(0, batch, step):
        part = slice(start, start + step)
        screen = _project(vertices_camera[part], focal[part], centre[part], near)
        triangles = _visible_triangles(
            screen, faces, height, width, cull_back_faces=cull_back_faces
        )
        nearest = _z_buffer(triangles, screen.shape[1], height, width)
        hit, found = _resolve(triangles, nearest, height, width)
        hit += start * pixels
        for image, values in zip((face_ids, depth, barycentrics), found, strict=True):
            image.index_copy_(0, hit, values)
    shape = (batch, height, width)
    return Raster(face_ids.view(shape), depth.view(shape), barycentrics.view(*shape, 3))


@dataclass(frozen=True)
class _Triangles:
    """Faces that may cover a pixel centre, corners in the mesh's order."""

    corners: Tensor  # (xyw, corner, n): screen x, y, inverse depth
    face_ids: Tensor  # (n,)
    image: Tensor  # (n,) index within the pass
    top: Tensor  # (n,) first row
    bottom: Tensor  # (n,) one past the last row


def _project(vertices: Tensor, focal: Tensor, centre: Tensor, near: float) -> Tensor:
    """Screen x, y and inverse depth as (3, batch, vertices); NaN at or behind the near plane."""
    x, y, z = vertices.unbind(-1)
    inverse = torch.where(z > near, z, math.nan).reciprocal()
    scale = inverse * focal[:, None]
    return torch.stack([x * scale + centre[:, :1], y * scale + centre[:, 1:], inverse])


def _first_centre(position: Tensor, limit: int) -> Tensor:
    """Index of the first pixel whose centre is at or after `position`, clamped to 0..limit."""
    return (position - 0.5).ceil_().clamp_(0, limit)


def _visible_triangles(
    screen: Tensor, faces: Tensor, height: int, width: int, *, cull_back_faces: bool
) -> _Triangles:
    """Drop faces that face away or are degenerate, outside, or between pixel centres."""
    batch, vertices = screen.shape[1:]
    offset = torch.arange(batch, device=faces.device) * vertices
    corner = (faces.T[:, None] + offset[:, None]).reshape(3, -1)
    flat = screen.reshape(3, -1)
    x, y = _take(flat[0], corner), _take(flat[1], corner)
    area = (x[1] - x[0]) * (y[2] - y[0]) - (x[2] - x[0]) * (y[1] - y[0])
    facing = area < 0 if cull_back_faces else (area < 0) | (area > 0)  # y is down; NaN is neither
    (kept,) = facing.nonzero(as_tuple=True)
    x, y = _take(x, kept), _take(y, kept)
    top, bottom = (_first_centre(f(y, 0), height) for f in (torch.amin, torch.amax))
    left, right = (_first_centre(f(x, 0), width) for f in (torch.amin, torch.amax))
    (covering,) = ((bottom > top) & (right > left)).nonzero(as_tuple=True)
    kept = kept[covering]
    corners = _take(flat, _take(corner, kept))
    face, image = kept % len(faces), kept // len(faces)
    return _Triangles(corners, face, image, top[covering].long(), bottom[covering].long())


def _sort_corners(corners: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Corners (xyw, n) from top to bottom, by a three-step sorting network."""
    a, b, c = corners.unbind(1)

    def ordered(p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
        swap = p[1] > q[1]
        return torch.where(swap, q, p), torch.where(swap, p, q)

    a, b = ordered(a, b)
    b, c = ordered(b, c)
    a, b = ordered(a, b)
    return a, b, c


def _edge(start: Tensor, end: Tensor) -> Tensor:
    """(x, y, w, dx/dy, dw/dy) of an edge from its upper end."""
    change = end - start
    return torch.cat([start, change[::2] / change[1]])


def _z_buffer(triangles: _Triangles, batch: int, height: int, width: int) -> Tensor:
    """Packed key of the nearest triangle per pixel, -1 where there is none.

    key = bits(float32 inverse depth) << 32 | (n - 1 - triangle); positive floats order like their
    bits.
    """
    n = len(triangles.face_ids)
    nearest = torch.full(
        (batch * height * width,), -1, dtype=torch.int64, device=triangles.top.device
    )
    upper, middle, lower = _sort_corners(triangles.corners)
    long_edge = _edge(upper, lower)
    short_edges = torch.cat([_edge(upper, middle), _edge(middle, lower)], dim=1)
    bend = _first_centre(middle[1], height).long()
    rows = triangles.bottom - triangles.top
    for part in _pieces(rows, _ROWS_PER_PASS):
        triangle, row = _expand(rows[part], triangles.top[part])
        triangle += part.start
        y = row.to(long_edge.dtype).add_(0.5)
        short = triangle + n * (row >= _take(bend, triangle))
        x_a, w_a = _cross(_take(long_edge, triangle), y)
        x_b, w_b = _cross(_take(short_edges, short), y)
        left = _first_centre(torch.minimum(x_a, x_b), width)
        right = _first_centre(torch.maximum(x_a, x_b), width)
        slope = (w_b - w_a) / (x_b - x_a)  # 0/0 only where the span is empty
        w_left = w_a + (left + 0.5 - x_a) * slope
        pixel = (_take(triangles.image, triangle) * height + row) * width + left.long()
        spans = (pixel, (right - left).long(), w_left, slope, n - 1 - triangle)
        _scatter_spans(nearest, *spans)
    return nearest


def _cross(edge: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Give x and inverse depth where an edge crosses a row; both are linear on the screen."""
    x0, y0, w0, dx, dw = edge
    down = y - y0
    return x0 + down * dx, w0 + down * dw


def _scatter_spans(
    nearest: Tensor, pixel: Tensor, length: Tensor, w_left: Tensor, slope: Tensor, tag: Tensor
) -> None:
    """Keep the largest key per pixel of all spans, in `nearest`."""
    for part in _pieces(length, _PIXELS_PER_PASS):
        span, step = _expand(length[part], torch.zeros_like(length[part]))
        inverse = step.to(slope.dtype).mul_(_take(slope[part], span))
        inverse = inverse.add_(_take(w_left[part], span)).float().clamp_min_(1e-30)
        key = inverse.view(torch.int32).long()
        key = key.bitwise_left_shift_(_FACE_BITS).bitwise_or_(_take(tag[part], span))
        nearest.scatter_reduce_(0, step.add_(_take(pixel[part], span)), key, "amax")


def _pieces(counts: Tensor, budget: int) -> Iterator[slice]:
    """Slices of `counts` whose sums stay near `budget`."""
    ends = counts.cumsum(0)
    total = int(ends[-1]) if len(ends) else 0
    cuts = budget * torch.arange(1, 1 + total // budget, device=counts.device)
    bounds = {0, *(torch.searchsorted(ends, cuts) + 1).tolist(), len(counts)}
    for start, end in itertools.pairwise(sorted(bounds)):
        yield slice(start, end)


def _take(values: Tensor, index: Tensor) -> Tensor:
    """values[..., index]; several times faster on a CPU."""
    taken = values.index_select(-1, index.reshape(-1))
    return taken.reshape(*values.shape[:-1], *index.shape)


def _expand(counts: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
    """Element i repeated counts[i] times, beside first[i], first[i] + 1, ..."""
    element = torch.repeat_interleave(counts)
    shift = first - (counts.cumsum(0) - counts)
    return element, torch.arange(len(element), device=counts.device) + _take(shift, element)


def _resolve(
    triangles: _Triangles, nearest: Tensor, height: int, width: int
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """Covered pixels, and their face, depth and perspective-correct barycentrics.

    With screen barycentrics λ, inverse depths w: depth = 1 / Σ λ_i w_i, weight_i = λ_i w_i depth.
    """
    (hit,) = (nearest >= 0).nonzero(as_tuple=True)
    triangle = len(triangles.face_ids) - 1 - (_take(nearest, hit) & (2**_FACE_BITS - 1))
    x, y, w = triangles.corners
    to_1, to_2 = (torch.stack([x[i] - x[0], y[i] - y[0]]) for i in (1, 2))
    area = to_1[0] * to_2[1] - to_2[0] * to_1[1]
    table = torch.cat([x[:1], y[:1], to_1 / area, to_2 / area, w])
    x0, y0, x1, y1, x2, y2, w0, w1, w2 = _take(table, triangle)
    line = hit // width  # of all images of the pass
    right = (hit - line * width).to(x.dtype).add_(0.5).sub_(x0)
    down = (line - height * _take(triangles.image, triangle)).to(x.dtype).add_(0.5).sub_(y0)
    first = (right * y2 - down * x2).clamp_(0, 1)
    second = (down * x1 - right * y1).clamp_min_(0).minimum(1 - first)
    weights = [(1 - first - second).mul_(w0), first * w1, second * w2]
    depth = (weights[0] + weights[1] + weights[2]).reciprocal_()
    barycentrics = torch.stack([weight.mul_(depth) for weight in weights], dim=1)
    return hit, (_take(triangles.face_ids, triangle), depth, barycentrics)


def check_mesh(vertices: Tensor, faces: Tensor) -> None:
    """Raise ValueError unless vertices are finite (..., n, 3) and faces index them."""
    if vertices.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"vertices must be float32 or float64; got {vertices.dtype}")
    if vertices.ndim < 2 or vertices.shape[-1] != 3:
        raise ValueError(f"vertices must be (..., vertices, 3); got {tuple(vertices.shape)}")
    if faces.ndim != 2 or faces.shape[1] != 3 or faces.dtype != torch.int64:
        raise ValueError(
            f"faces must be (faces, 3) of int64; got {tuple(faces.shape)} of {faces.dtype}"
        )
    if faces.numel() and not (faces.min() >= 0 and faces.max() < vertices.shape[-2]):
        raise ValueError(
            f"faces must index the {vertices.shape[-2]} vertices; got {int(faces.min())}.."
            f"{int(faces.max())}: faces of another mesh?"
        )
    if not torch.isfinite(vertices).all():
        raise ValueError("vertices must be finite; got NaN or inf, usually from a failed pose")


def _check_camera(
    vertices: Tensor, focal: Tensor, centre: Tensor, height: int, width: int, near: float
) -> None:
    batch = len(vertices)
    if vertices.ndim != 3 or focal.shape != (batch,) or centre.shape != (batch, 2):
        raise ValueError(
            "expected vertices_camera (batch, vertices, 3), focal (batch,), centre (batch, 2);"
            f" got {tuple(vertices.shape)}, {tuple(focal.shape)}, {tuple(centre.shape)}"
        )
    if height < 1 or width < 1:
        raise ValueError(f"height and width must be positive; got {height} x {width}")
    if not (torch.isfinite(focal) & (focal > 0)).all() or not torch.isfinite(centre).all():
        raise ValueError("focal must be positive and centre finite, both in pixels")
    if not near > 0:
        raise ValueError(f"near must be positive (metres); got {near}")
