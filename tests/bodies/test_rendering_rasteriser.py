"""The rasteriser against a brute-force ray cast, closed forms, and watertightness."""

import dataclasses
import math

import numpy as np
import pytest
import torch
import trimesh
from jaxtyping import TypeCheckError
from torch.testing import assert_close

from humr.bodies import rendering
from humr.bodies.rendering import interpolate, rasterise

HEIGHT, WIDTH = 41, 52
FOCAL, CENTRE = 60.0, (24.3, 20.9)


@pytest.fixture
def soup(generator):
    """Three random triangle soups: slivers, back faces, triangles beyond the image's borders."""
    vertices = torch.randn(3, 40, 3, generator=generator, dtype=torch.float64)
    vertices = vertices * torch.tensor([1.2, 1.0, 0.5], dtype=torch.float64)
    vertices[..., 2] += 3
    return vertices, torch.randint(40, (60, 3), generator=generator)


@pytest.fixture
def sphere():
    mesh = trimesh.creation.icosphere(subdivisions=3, radius=0.8)
    vertices = torch.tensor(mesh.vertices) + torch.tensor([0.1, -0.05, 3.0], dtype=torch.float64)
    return vertices, torch.tensor(mesh.faces)


def see(vertices, faces, height=HEIGHT, width=WIDTH, focal=FOCAL, centre=CENTRE, **options):
    """Rasterise one mesh or a batch with one camera."""
    vertices = vertices if vertices.ndim == 3 else vertices[None]
    focal = vertices.new_full((len(vertices),), focal)
    centre = vertices.new_tensor(centre).expand(len(vertices), 2)
    return rasterise(vertices, faces, focal, centre, height, width, **options)


def cast_rays(vertices, faces, *, cull):
    """Moeller-Trumbore, every pixel against every triangle: nearest face, depth, barycentrics."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    rays = np.stack([(columns - CENTRE[0]) / FOCAL, (rows - CENTRE[1]) / FOCAL, rows**0], axis=-1)
    rays = rays.reshape(-1, 1, 3)
    a, b, c = np.moveaxis(vertices.double().numpy()[faces.numpy()], 1, 0)
    p = np.cross(rays, c - a)
    with np.errstate(divide="ignore", invalid="ignore"):
        inverse = 1 / np.sum((b - a) * p, axis=-1)
        u = np.sum(-a * p, axis=-1) * inverse
        q = np.cross(-a, b - a)
        v = np.sum(rays * q, axis=-1) * inverse
        depth = np.sum((c - a) * q, axis=-1) * inverse
        inside = (u >= 0) & (v >= 0) & (u + v <= 1) & (depth > 0)
    if cull:
        inside &= np.sum(np.cross(b - a, c - a) * a, axis=-1) < 0
    depth = np.where(inside, depth, np.inf)
    nearest = depth.argmin(axis=1)
    pick = (np.arange(len(nearest)), nearest)
    covered = np.isfinite(depth[pick])
    weights = np.stack([1 - u[pick] - v[pick], u[pick], v[pick]], axis=-1)
    return (
        np.where(covered, nearest, -1).reshape(HEIGHT, WIDTH),
        depth[pick].reshape(HEIGHT, WIDTH),
        np.where(covered[:, None], weights, 0).reshape(HEIGHT, WIDTH, 3),
    )


@pytest.mark.parametrize("cull", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 2e-3)])
def test_soup_equals_ray_cast(soup, cull, dtype, tolerance, device):
    vertices, faces = soup
    vertices = vertices.to(dtype)
    raster = see(vertices.to(device), faces.to(device), cull_back_faces=cull)
    assert raster.depth.dtype == dtype
    for i in range(len(vertices)):
        ids, depth, weights = cast_rays(vertices[i], faces, cull=cull)
        found = raster.face_ids[i].cpu().numpy()
        assert 0.3 < (ids >= 0).mean() < 1
        assert (found != ids).mean() < (1e-3 if dtype == torch.float32 else 1e-12)
        same = found == ids
        np.testing.assert_allclose(raster.depth[i].cpu()[same], depth[same], atol=tolerance)
        np.testing.assert_allclose(
            raster.barycentrics[i].cpu()[same], weights[same], atol=tolerance
        )


@pytest.mark.parametrize("cull", [True, False])
def test_sphere_equals_ray_cast(sphere, cull):
    """The nearest face of a closed mesh is a front face, so culling changes nothing."""
    ids, depth, weights = cast_rays(*sphere, cull=True)
    raster = see(*sphere, cull_back_faces=cull)
    assert 0.2 < raster.mask.double().mean() < 0.9
    np.testing.assert_array_equal(raster.face_ids[0], ids)
    np.testing.assert_allclose(raster.depth[0], depth, atol=1e-12)
    np.testing.assert_allclose(raster.barycentrics[0], weights, atol=1e-9)


def grid(side, size, dtype):
    """A square of side² cells around the origin at z = 1, cut into triangles facing the camera."""
    axis = torch.linspace(-size, size, side + 1, dtype=dtype)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    vertices = torch.stack([x, y, torch.ones_like(x)], dim=-1).reshape(-1, 3)
    corner = torch.arange((side + 1) ** 2).reshape(side + 1, side + 1)
    a, b, c, d = corner[:-1, :-1], corner[:-1, 1:], corner[1:, 1:], corner[1:, :-1]
    faces = torch.cat([torch.stack(t, -1).reshape(-1, 3) for t in ((a, c, b), (a, d, c))])
    return vertices, faces


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_neighbours_share_no_pixel_and_leave_no_crack(dtype, generator, monkeypatch):
    """A jittered grid covers its square once: every pixel is hit by exactly one triangle."""
    vertices, faces = grid(30, 1.0, dtype)
    inner = (vertices[:, :2].abs() < 0.99).all(1, keepdim=True)
    vertices[:, :2] += 0.02 * inner * (torch.rand(len(vertices), 2, generator=generator) - 0.5)
    hits = []
    scatter = rendering._scatter_spans

    def count(nearest, pixel, length, *rest):
        hits.append(torch.stack(rendering._expand(length, pixel)))
        scatter(nearest, pixel, length, *rest)

    monkeypatch.setattr(rendering, "_scatter_spans", count)
    raster = see(vertices, faces, 64, 64, focal=32.0, centre=(32.0, 32.0))
    assert raster.mask.all()
    pixels = torch.cat(hits, dim=1)[1]
    assert_close(pixels.sort().values, torch.arange(64 * 64))


def test_pixel_centres_on_edges_belong_to_one_side():
    """A square whose edges pass through pixel centres covers a half-open range of them."""
    vertices, faces = grid(4, 1.0, torch.float64)
    mask = see(vertices, faces, 16, 16, focal=4.0, centre=(8.5, 8.5)).mask[0]
    expected = torch.zeros(16, 16, dtype=torch.bool)
    expected[4:12, 4:12] = True
    assert_close(mask, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_closed_surface_has_no_holes(generator, dtype):
    """Seen from anywhere, the mask of a convex body is an interval in each row."""
    mesh = trimesh.creation.icosphere(subdivisions=4)
    turns, _ = torch.linalg.qr(torch.randn(8, 3, 3, generator=generator, dtype=torch.float64))
    turns = turns * torch.linalg.det(turns)[:, None, None]
    vertices = (torch.tensor(mesh.vertices) @ turns + torch.tensor([0.0, 0, 3])).to(dtype)
    faces = torch.tensor(mesh.faces)
    mask = see(vertices, faces, 200, 180, focal=220.0, centre=(91.7, 99.2)).mask
    assert 0.3 < mask.double().mean() < 0.9
    changes = mask.int().diff(dim=-1).abs().sum(-1)
    assert changes.max() == 2


def test_batch_equals_single(soup):
    vertices, faces = soup
    batch = see(vertices, faces)
    for i in range(len(vertices)):
        single = see(vertices[i], faces)
        for field in dataclasses.fields(batch):
            assert_close(
                getattr(batch, field.name)[i], getattr(single, field.name)[0], rtol=0, atol=0
            )


def test_small_passes_equal_one_pass(soup, monkeypatch):
    vertices, faces = soup
    expected = see(vertices, faces)
    monkeypatch.setattr(rendering, "_FACES_PER_PASS", 70)
    monkeypatch.setattr(rendering, "_ROWS_PER_PASS", 37)
    monkeypatch.setattr(rendering, "_PIXELS_PER_PASS", 101)
    found = see(vertices, faces)
    for field in dataclasses.fields(expected):
        assert_close(getattr(found, field.name), getattr(expected, field.name), rtol=0, atol=0)


def test_each_image_has_its_own_camera(sphere):
    vertices, faces = sphere
    focal = torch.tensor([50.0, 70.0], dtype=torch.float64)
    centre = torch.tensor([[20.0, 22.0], [30.0, 18.0]], dtype=torch.float64)
    both = rasterise(vertices.expand(2, -1, -1), faces, focal, centre, HEIGHT, WIDTH)
    for i in range(2):
        one = see(vertices, faces, focal=float(focal[i]), centre=centre[i].tolist())
        assert_close(both.depth[i], one.depth[0], rtol=0, atol=0)


def test_depth_of_a_tilted_plane(device):
    """Plane z = 2 + x/2 + y/4 through ray (X, Y, 1) z gives z = 2 / (1 - X/2 - Y/4)."""
    xy = torch.tensor([[-4.0, -4], [4, -4], [4, 4], [-4, 4]], dtype=torch.float64)
    xy = xy * 0.4
    z = 2 + xy[:, :1] / 2 + xy[:, 1:] / 4
    faces = torch.tensor([[0, 2, 1], [0, 3, 2]])
    raster = see(
        torch.cat([xy, z], dim=1).to(device), faces.to(device), 30, 30, 40.0, (15.0, 15.0)
    )
    ray = (torch.arange(30, dtype=torch.float64, device=device) + 0.5 - 15) / 40
    expected = 2 / (1 - ray / 2 - ray[:, None] / 4)
    assert raster.mask.all()
    assert_close(raster.depth[0], expected)


def test_interpolation_is_perspective_correct(soup):
    """Interpolated positions are the pixel's ray times the depth."""
    vertices, faces = soup
    raster = see(vertices, faces)
    points = interpolate(raster, faces, vertices)
    rows, columns = torch.meshgrid(
        torch.arange(HEIGHT) + 0.5, torch.arange(WIDTH) + 0.5, indexing="ij"
    )
    ray = torch.stack(
        [(columns - CENTRE[0]) / FOCAL, (rows - CENTRE[1]) / FOCAL, torch.ones_like(rows)], dim=-1
    )
    expected = torch.where(raster.mask[..., None], ray * raster.depth[..., None], 0.0)
    assert_close(points, expected.double(), atol=1e-5, rtol=0)


def test_interpolate_shares_attributes_over_the_batch(soup):
    vertices, faces = soup
    raster = see(vertices, faces)
    shared = torch.linspace(0, 1, 80, dtype=torch.float64).reshape(40, 2)
    expected = interpolate(raster, faces, shared.expand(3, -1, -1))
    assert_close(interpolate(raster, faces, shared), expected, rtol=0, atol=0)


def test_barycentrics_are_a_partition_of_unity(soup):
    raster = see(soup[0].float(), soup[1])
    total = raster.barycentrics.sum(-1)
    assert_close(total, raster.mask.float(), atol=1e-6, rtol=0)
    assert raster.barycentrics.min() >= 0


def test_back_faces_are_seen_on_request():
    vertices, faces = grid(2, 1.0, torch.float64)
    assert not see(vertices, faces.flip(1)).mask.any()
    assert see(vertices, faces.flip(1), cull_back_faces=False).mask.any()


def test_behind_the_camera_nothing_is_seen(sphere):
    vertices, faces = sphere
    assert not see(-vertices, faces, cull_back_faces=False).mask.any()
    assert see(vertices, faces, near=2.5).mask.sum() < see(vertices, faces).mask.sum()
    assert not see(vertices, faces, near=10.0).mask.any()


def test_lower_index_wins_at_equal_depth():
    vertices, faces = grid(1, 1.0, torch.float64)
    ids = see(vertices, torch.cat([faces, faces])).face_ids
    assert set(ids.unique().tolist()) == {0, 1}


def test_no_faces_no_mask():
    raster = see(torch.zeros(4, 3), torch.zeros(0, 3, dtype=torch.int64))
    assert not raster.mask.any()
    assert math.isinf(raster.depth.min())


def test_far_off_screen_corners_do_no_harm():
    """A huge triangle right in front of the camera fills the image with exact depths."""
    vertices = torch.tensor([[-1e4, -1e4, 0.02], [0.0, 2e4, 0.02], [1e4, -1e4, 0.02]])
    raster = see(vertices, torch.tensor([[0, 1, 2]]))
    assert raster.mask.all()
    assert_close(raster.depth, torch.full_like(raster.depth, 0.02))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vertices_camera": torch.full((1, 4, 3), torch.nan)}, "finite"),
        ({"vertices_camera": torch.zeros(1, 4, 2)}, "vertices_camera"),
        ({"vertices_camera": torch.zeros(1, 4, 3, dtype=torch.float16)}, "float32 or float64"),
        ({"faces": torch.tensor([[0, 1, 4]])}, "index the 4 vertices"),
        ({"faces": torch.tensor([[0, -1, 2]])}, "index the 4 vertices"),
        ({"faces": torch.tensor([[0, 1, 2]], dtype=torch.int32)}, "int64"),
        ({"focal": torch.tensor([0.0])}, "focal must be positive"),
        ({"focal": torch.tensor([1.0, 1.0])}, "focal"),
        ({"centre": torch.tensor([[math.nan, 1.0]])}, "centre finite"),
        ({"height": 0}, "height and width must be positive"),
        ({"near": 0.0}, "near must be positive"),
    ],
)
def test_bad_input(change, message):
    good = {
        "vertices_camera": torch.ones(1, 4, 3),
        "faces": torch.tensor([[0, 1, 2]]),
        "focal": torch.tensor([1.0]),
        "centre": torch.zeros(1, 2),
        "height": 4,
        "width": 4,
    }
    with pytest.raises((ValueError, TypeCheckError), match=message):
        rasterise(**(good | change))


def test_interpolate_refuses_another_batch(soup):
    vertices, faces = soup
    with pytest.raises(ValueError, match="attributes are for 2 images"):
        interpolate(see(vertices, faces), faces, vertices[:2])
