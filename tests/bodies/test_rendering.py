"""Pictures: normals of a sphere, shading and blending by hand, views that fit, honest colours."""

import math

import numpy as np
import pytest
import torch
import trimesh
from jaxtyping import TypeCheckError
from torch.testing import assert_close

from humr.bodies import rendering
from humr.bodies.rendering import rasterise


@pytest.fixture
def sphere(device):
    mesh = trimesh.creation.icosphere(subdivisions=4, radius=0.8)
    offset = torch.tensor([0.1, -0.05, 3.0], dtype=torch.float64)
    return (torch.tensor(mesh.vertices) + offset).to(device), torch.tensor(mesh.faces).to(device)


@pytest.fixture
def camera(device):
    return torch.tensor(100.0, dtype=torch.float64, device=device), torch.tensor(
        [32.0, 30.0], dtype=torch.float64, device=device
    )


def test_vertex_normals_of_a_sphere_are_radial(sphere):
    vertices, faces = sphere
    radial = (vertices - vertices.mean(0)) / 0.8
    assert_close(rendering.vertex_normals(vertices, faces), radial, atol=8e-3, rtol=0)


def test_vertex_normals_turn_with_the_mesh(sphere, generator):
    vertices, faces = sphere
    vertices = vertices[None] * (0.5 + torch.rand(2, 1, 3, generator=generator)).to(vertices)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))[0]
    turn = (turn * torch.linalg.det(turn)).to(vertices)
    expected = rendering.vertex_normals(vertices, faces) @ turn
    assert_close(rendering.vertex_normals(vertices @ turn, faces), expected)
    assert_close(expected.norm(dim=-1), torch.ones_like(expected[..., 0]))


def test_vertex_without_faces_has_no_normal():
    vertices = torch.eye(4, 3)
    result = rendering.vertex_normals(vertices, torch.tensor([[0, 1, 2]]))
    assert_close(result[3], torch.zeros(3))


def test_normals_of_a_sphere_per_pixel(sphere, camera):
    vertices, faces = sphere
    focal, centre = camera
    raster = rasterise(vertices[None], faces, focal[None], centre[None], 60, 64)
    image = rendering.normals(raster, faces, vertices[None])
    points = rendering.interpolate(raster, faces, vertices)
    radial = torch.nn.functional.normalize(points - vertices.mean(0), dim=-1)
    assert_close(image[raster.mask], radial[raster.mask], atol=8e-3, rtol=0)
    assert image[~raster.mask].abs().max() == 0
    ray = points[raster.mask]
    assert (image[raster.mask] * ray).sum(-1).max() < 0.2  # facing us, up to the outline


def test_shade_by_hand():
    normals = torch.tensor([[[[0.0, 0, -1], [0, -1, 0], [0, 0, 1], [1, 0, 0]]]])
    lights = torch.tensor([[[0, 0, -0.5], [0.0, -0.25, 0]]])
    albedo = torch.tensor([0.2, 0.4, 0.8])[None, None, None]
    image = rendering.shade(normals, albedo, lights=lights, ambient=0.1)
    expected = torch.tensor([0.6, 0.35, 0.1, 0.1])[:, None] * albedo[0, 0]
    assert_close(image[0, 0], expected)
    bright = rendering.shade(normals, albedo, lights=20 * lights)
    assert_close(bright[0, 0, 0], torch.ones(3))


def test_each_image_may_have_its_own_lights(generator):
    normals = torch.nn.functional.normalize(torch.randn(2, 3, 4, 3, generator=generator), dim=-1)
    lights = torch.randn(2, 2, 3, generator=generator)
    albedo = torch.rand(2, 3, 4, 3, generator=generator)
    both = rendering.shade(normals, albedo, lights=lights)
    for i in range(2):
        part = slice(i, i + 1)
        one = rendering.shade(normals[part], albedo[part], lights=lights[part])
        assert_close(both[part], one)


def test_composite_limits(generator):
    photo, rgb = torch.rand(2, 2, 5, 4, 3, generator=generator)
    ones = torch.ones(2, 5, 4)
    assert_close(rendering.composite(photo, rgb, ones), rgb)
    assert_close(rendering.composite(photo, rgb, 0 * ones), photo)
    assert_close(rendering.composite(photo, rgb, 0.5 * ones), (photo + rgb) / 2)


@pytest.mark.parametrize("supersampling", [1, 2, 3])
def test_draw_alpha_is_the_covered_share(sphere, camera, supersampling):
    """The sum of alpha tends to the sphere's silhouette area; full inside, none outside."""
    vertices, faces = sphere
    focal, centre = camera
    rgb, alpha = rendering.draw(
        vertices[None], faces, focal[None], centre[None], 60, 64, supersampling=supersampling
    )
    levels = alpha * supersampling**2
    assert_close(levels, levels.round())
    distance = vertices.mean(0).norm()
    # solid angle to first order: an ellipse on the screen, close to a circle here
    area = math.pi * (100 * 0.8 / (distance**2 - 0.8**2).sqrt()) ** 2
    assert alpha.sum() == pytest.approx(float(area), rel=0.02)
    assert rgb[alpha == 0].abs().max() == 0
    assert rgb[alpha == 1].min() > 0.1


def test_outline_keeps_the_colour_of_the_body(sphere, camera):
    """Half-covered pixels average over their covered samples only: no dark seam."""
    vertices, faces = sphere
    focal, centre = camera
    red = torch.tensor([0.9, 0.0, 0.0]).to(vertices).expand(1, len(vertices), 3)
    rgb, alpha = rendering.draw(
        vertices[None], faces, focal[None], centre[None], 60, 64, colours=red
    )
    edge = (alpha > 0) & (alpha < 1)
    assert edge.any()
    assert rgb[edge][:, 0].min() > 0.9 * rendering.AMBIENT * 0.99
    assert rgb[..., 1:].abs().max() < 1e-6


def test_overlay_changes_only_the_body(sphere, camera, rng):
    vertices, faces = sphere
    photo = rng.integers(0, 256, (60, 64, 3), dtype=np.uint8)
    before = photo.copy()
    picture = rendering.overlay(photo, vertices, faces, *camera)
    np.testing.assert_array_equal(photo, before)
    _, alpha = rendering.draw(vertices[None], faces, camera[0][None], camera[1][None], 60, 64)
    background = (alpha[0] == 0).cpu().numpy()
    np.testing.assert_array_equal(picture[background], photo[background])
    assert (picture[~background] != photo[~background]).mean() > 0.9
    unchanged = rendering.overlay(photo, vertices, faces, *camera, opacity=0.0)
    np.testing.assert_array_equal(unchanged, photo)


def test_fit_camera_fills_the_image(generator):
    points = torch.randn(50, 3, generator=generator, dtype=torch.float64)
    points[:, 2] = points[:, 2].abs() + 1
    focal, centre = rendering.fit_camera(points, 300, 200, margin=0.1)
    pixels = focal * points[:, :2] / points[:, 2:] + centre
    low, high = pixels.amin(0), pixels.amax(0)
    assert_close((low + high) / 2, torch.tensor([100.0, 150.0], dtype=torch.float64))
    size = torch.tensor([200.0, 300.0], dtype=torch.float64)
    assert ((high - low) / size).max() == pytest.approx(0.8)


def test_side_view_shows_the_side_and_fits(sphere):
    """A flat disc is a line from the side; the sphere is not cut at the borders."""
    vertices, faces = sphere
    middle = vertices.mean(0)
    disc = (vertices - middle) * vertices.new_tensor([1, 1, 0.05]) + middle
    picture = rendering.side_view(disc, faces, height=80, width=80)
    body = (picture < 250).any(-1)
    assert body.any(1).sum() >= 68
    assert body.any(0).sum() <= 8
    ball = (rendering.side_view(vertices, faces, height=80, width=60) < 250).any(-1)
    assert not ball[[0, -1]].any()
    assert not ball[:, [0, -1]].any()
    assert 0.3 < ball.mean() < 0.8


def test_side_view_has_the_first_camera_on_its_left(sphere):
    """What was near in the photograph is left in the side view, and what was up stays up."""
    vertices, faces = sphere
    middle = vertices.mean(0)
    near = (vertices[:, 2] < middle[2])[:, None]
    up = (vertices[:, 1] < middle[1])[:, None]
    red = torch.cat([near, up, ~near], dim=1).to(vertices)
    picture = rendering.side_view(vertices, faces, red, height=80, width=80).astype(float)
    assert picture[40, 25, 0] > picture[40, 25, 2]
    assert picture[40, 55, 0] < picture[40, 55, 2]
    assert picture[25, 40, 1] > picture[55, 40, 1]


def test_side_views_share_a_camera_on_request(sphere):
    vertices, faces = sphere
    wide = torch.cat([vertices, vertices.mean(0) + 2 * (vertices - vertices.mean(0))])
    alone = (rendering.side_view(vertices, faces, height=90, width=90) < 250).any(-1).sum()
    shared = rendering.side_view(vertices, faces, height=90, width=90, fit_to=wide)
    assert (shared < 250).any(-1).sum() == pytest.approx(alone / 4, rel=0.1)


def test_spread_colours_are_monotone_in_the_map_and_saturate():
    from matplotlib import colormaps

    spread = torch.tensor([0.0, 0.05, 0.1, 0.2], dtype=torch.float64)
    colours = rendering.spread_colours(spread, vmax_mm=100.0)
    expected = colormaps["turbo"]([0.0, 0.5, 1.0, 1.0])[:, :3]
    assert_close(colours, torch.tensor(expected), atol=0.02, rtol=0)


def test_bad_input(sphere, camera):
    vertices, faces = sphere
    focal, centre = camera
    photo = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(ValueError, match="opacity"):
        rendering.overlay(photo, vertices, faces, focal, centre, opacity=1.5)
    with pytest.raises((ValueError, TypeCheckError), match="photo"):
        rendering.overlay(photo.astype(float), vertices, faces, focal, centre)
    with pytest.raises(ValueError, match="finite"):
        rendering.overlay(photo, vertices * math.nan, faces, focal, centre)
    with pytest.raises(ValueError, match="finite"):
        rendering.side_view(vertices * math.nan, faces)
    with pytest.raises(ValueError, match="supersampling"):
        rendering.overlay(photo, vertices, faces, focal, centre, supersampling=0)
    with pytest.raises(ValueError, match="in front"):
        rendering.fit_camera(-vertices, 4, 4)
    with pytest.raises(ValueError, match="margin"):
        rendering.fit_camera(vertices, 4, 4, margin=0.5)
    with pytest.raises(ValueError, match="vmax_mm"):
        rendering.spread_colours(torch.ones(3), vmax_mm=0.0)
    for wrong in (-1.0, math.nan):
        with pytest.raises(ValueError, match="spread must"):
            rendering.spread_colours(torch.tensor([1.0, wrong]))
