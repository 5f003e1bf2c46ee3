import pytest
import torch

from humr.bodies import surface
from humr.bodies.body import load_body
from humr.bodies.surface import (
    TILE,
    posed_planes,
    surface_errors,
    transferred_errors,
    vertex_areas,
    vertex_weights,
)
from humr.geometry import rotvec_to_matrix
from humr.metrics import joint_distance, pve

DOUBLE = torch.float64


@pytest.fixture(scope="module")
def body():
    return load_body("small", dtype=DOUBLE)


def poses(*shape, generator):
    return rotvec_to_matrix(0.6 * torch.randn(*shape, 22, 3, generator=generator, dtype=DOUBLE))


@pytest.mark.parametrize("corrected", [False, True])
def test_planes_equal_vertices(corrected, generator):
    body = load_body("small", dtype=DOUBLE)
    if corrected:
        shape = (*body.template.shape, 189)
        body.pose_directions = 0.01 * torch.randn(shape, generator=generator, dtype=DOUBLE)
    rotations = poses(4, generator=generator)
    betas = torch.randn(11, generator=generator, dtype=DOUBLE)
    shift = torch.randn(4, 3, generator=generator, dtype=DOUBLE)
    tiles = list(posed_planes(body, rotations, betas, shift))
    assert max(tile.shape[-1] for tile in tiles) == TILE < len(body.template)
    planes = torch.cat(tiles, -1)
    expected = body.vertices(rotations, betas) + shift[:, None]
    # weights are stored as float32, so their sums are one to 1e-7
    torch.testing.assert_close(planes.permute(1, 2, 0), expected, atol=1e-6, rtol=0)
    exact = torch.cat(list(posed_planes(body, rotations, betas, 0 * shift)), -1).permute(1, 2, 0)
    torch.testing.assert_close(exact, expected - shift[:, None], atol=1e-12, rtol=0)


def test_errors_and_sums_equal_those_of_whole_meshes(body, generator):
    rotations, betas = poses(2, 5, generator=generator), torch.zeros(2, 11, dtype=DOUBLE)
    shift = torch.randn(2, 5, 3, generator=generator, dtype=DOUBLE)
    meshes = body.vertices(rotations, betas[:, None]) + shift[..., None, :]
    target = body.vertices(poses(2, generator=generator), betas)
    errors, total = surface_errors(body, rotations, betas, shift, target, vertex_weights(body))
    area = vertex_areas(body.template, body.faces)
    distance = joint_distance(meshes, target[:, None])
    expected = [pve(meshes, target[:, None]), distance @ (area / area.sum())]
    torch.testing.assert_close(errors, torch.stack(expected, -1), atol=1e-6, rtol=0)
    torch.testing.assert_close(total, meshes.sum(1), atol=1e-5, rtol=0)


def test_weights_sum_to_one(body):
    weights = vertex_weights(body)
    torch.testing.assert_close(weights.sum(0), torch.ones(2, dtype=DOUBLE))
    assert weights[:, 0].unique().numel() == 1
    assert weights[:, 1].max() > 3 * weights[:, 1].min()


@pytest.mark.parametrize("corrected", [False, True])
def test_chosen_vertices_come_in_tiles(corrected, generator, monkeypatch):
    monkeypatch.setattr(surface, "TILE", 100)
    body = load_body("small", dtype=DOUBLE)
    if corrected:
        shape = (*body.template.shape, 189)
        body.pose_directions = 0.01 * torch.randn(shape, generator=generator, dtype=DOUBLE)
    rotations = poses(3, generator=generator)
    betas = torch.randn(11, generator=generator, dtype=DOUBLE)
    chosen = torch.randperm(len(body.template), generator=generator)[:230]
    found = torch.cat(list(surface._tiles(body, rotations, betas, chosen)))
    expected = body.vertices(rotations, betas)[:, chosen]
    torch.testing.assert_close(found.permute(2, 0, 1), expected, atol=1e-12, rtol=0)


def test_errors_on_another_mesh(body, generator):
    rotations, betas = poses(4, generator=generator), torch.zeros(11, dtype=DOUBLE)
    shift = torch.randn(4, 3, generator=generator, dtype=DOUBLE)
    target = torch.randn(9, 3, generator=generator, dtype=DOUBLE)
    chosen = torch.arange(5, 2000, 50)
    matrix = torch.rand(9, len(chosen), generator=generator, dtype=DOUBLE)
    matrix = matrix * (matrix > 0.8)  # rows do not sum to 1: the shift comes afterwards
    others = matrix @ body.vertices(rotations, betas)[:, chosen] + shift[:, None]
    errors, total = transferred_errors(
        body, matrix.to_sparse(), chosen, rotations, betas, shift, target
    )
    torch.testing.assert_close(errors, pve(others, target), atol=1e-12, rtol=0)
    torch.testing.assert_close(total, others.sum(0), atol=1e-12, rtol=0)
