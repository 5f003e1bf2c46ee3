"""The page decodes back to the mesh, refers to nothing outside itself, stays small."""

import base64
import html
import json
import math
import re
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import trimesh
from jaxtyping import TypeCheckError

from humr.bodies import rendering, viewer


@pytest.fixture
def sphere():
    mesh = trimesh.creation.icosphere(subdivisions=4, radius=0.8)
    vertices = torch.tensor(mesh.vertices) + torch.tensor([0.3, -0.1, 4.0], dtype=torch.float64)
    return vertices, torch.tensor(mesh.faces)


def decode(page):
    """Read the data of a page: faces (F, 3), positions (M, V, 3), colours (M, V, 3), labels."""
    text = re.search(r'<script id="data" type="application/json">(.*?)</script>', page, re.DOTALL)
    data = json.loads(text.group(1))

    def read(text, dtype):
        return np.frombuffer(base64.b64decode(text), dtype).reshape(-1, 3)

    meshes = data["meshes"]
    return (
        read(data["faces"], "<u2"),
        np.stack([read(m["positions"], "<i2") for m in meshes]),
        np.stack([read(m["colours"], "<u1") for m in meshes]),
        [m["label"] for m in meshes],
    )


def test_page_decodes_to_the_meshes(sphere, generator):
    """Up to one shift and scale, axes turned to y up and z towards the viewer."""
    vertices, faces = sphere
    noise = torch.rand(3, 1, 3, generator=generator, dtype=torch.float64)
    meshes = vertices * (0.7 + 0.3 * noise)
    colours = torch.rand(3, len(vertices), 3, generator=generator, dtype=torch.float64)
    page = viewer.viewer_page(meshes, faces, colours, labels=["mode", "1", "2"])
    found_faces, positions, found_colours, labels = decode(page)
    np.testing.assert_array_equal(found_faces, faces)
    assert labels == ["mode", "1", "2"]
    np.testing.assert_allclose(found_colours / 255, colours, atol=0.5 / 255 + 1e-9)
    points = (meshes * torch.tensor([1.0, -1, -1])).reshape(-1, 3).numpy()
    low, high = points.min(0), points.max(0)
    unit = (high - low).max() / 2 / 32767
    restored = positions.reshape(-1, 3) * unit + (low + high) / 2
    np.testing.assert_allclose(restored, points, atol=0.51 * unit)
    assert abs(positions.astype(int)).max() == 32767


def test_one_colour_set_serves_all_meshes(sphere):
    vertices, faces = sphere
    meshes = vertices.expand(2, -1, -1)
    shared = torch.full((1, len(vertices), 3), 0.25, dtype=torch.float64)
    assert (decode(viewer.viewer_page(meshes, faces, shared))[2] == 64).all()
    clay = decode(viewer.viewer_page(meshes, faces))[2]
    np.testing.assert_allclose(clay / 255, np.broadcast_to(rendering.CLAY, clay.shape), atol=0.003)


def test_page_is_self_contained_and_small(sphere):
    vertices, faces = sphere
    page = viewer.viewer_page(vertices[None], faces, spread_mm=100.0)
    assert len(vertices) > 2000
    code = re.sub(r'"[A-Za-z0-9+/=]{999,}"', '""', page)  # without the base64
    assert len(code) < 10_000
    assert not re.search(r"https?:|//\S|\bsrc=|href=|import|fetch|url\(", code)
    assert len(page) < 70_000 * len(vertices) / 2000
    assert "spread 0 to 100 mm" in page
    assert not re.search(r"@[A-Z]+@", page)


def test_frame_holds_the_page(sphere):
    vertices, faces = sphere
    frame = viewer.viewer_html(vertices[None], faces, labels=['a "<b>'], title="a & b", height=300)
    inner = re.fullmatch(r'<div><iframe [^>]*srcdoc="([^"]*)"></iframe></div>', frame).group(1)
    assert html.unescape(inner) == viewer.viewer_page(
        vertices[None], faces, labels=['a "<b>'], title="a & b"
    )
    assert "height:300px" in frame
    assert 'sandbox="allow-scripts"' in frame


def test_labels_cannot_close_the_script(sphere):
    vertices, faces = sphere
    page = viewer.viewer_page(vertices[None], faces, labels=["</script><b>"])
    assert decode(page)[3] == ["</script><b>"]
    assert page.count("</script>") == 2


@dataclass(frozen=True)
class Balls:
    """Spheres with the interface of bodies."""

    meshes: torch.Tensor

    def __getitem__(self, index):
        return Balls(self.meshes[index])

    def vertices(self, body):
        return self.meshes


@dataclass(frozen=True)
class BallPosterior:
    mode: Balls
    samples: Balls


def test_posterior_view_shows_mode_with_spread_and_hypotheses(sphere):
    """Hypotheses that differ by a shift spread equally everywhere: one colour on the mode."""
    vertices, faces = sphere
    shifts = torch.tensor([-0.05, 0.05, -0.05, 0.05, -0.05, 0.05], dtype=torch.float64)
    posterior = BallPosterior(Balls(vertices), Balls(vertices + shifts[:, None, None]))
    body = type("Ball", (), {"faces": faces})()
    frame = viewer.posterior_view(posterior, body, count=2, spread_mm=200.0)
    _, positions, colours, labels = decode(html.unescape(frame))
    assert labels == ["mode", "hypothesis 1", "hypothesis 2"]
    assert positions.shape == (3, len(vertices), 3)
    spread = torch.tensor([0.05 * math.sqrt(3)], dtype=torch.float64)
    expected = 255 * rendering.spread_colours(spread, vmax_mm=200.0).numpy()
    np.testing.assert_allclose(colours[0], np.broadcast_to(expected, colours[0].shape), atol=1)
    with pytest.raises(ValueError, match=r"count must lie in 0\.\.6"):
        viewer.posterior_view(posterior, body, count=7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"meshes_camera": torch.zeros(1, 65_536, 3)}, "at most 65535 vertices"),
        ({"meshes_camera": torch.zeros(0, 4, 3)}, "at least one mesh"),
        ({"meshes_camera": torch.full((1, 4, 3), torch.nan)}, "finite"),
        ({"meshes_camera": torch.zeros(4, 3)}, "meshes_camera"),
        ({"faces": torch.tensor([[0, 1, 4]])}, "index the 4 vertices"),
        ({"colours": torch.full((1, 4, 3), 255.0)}, r"lie in \[0, 1\]"),
        ({"colours": torch.full((1, 4, 3), torch.nan)}, r"lie in \[0, 1\]"),
        ({"colours": torch.zeros(1, 5, 3)}, "colours"),
        ({"labels": ["a", "b"]}, "one label per mesh"),
        ({"spread_mm": 0.0}, "spread_mm must be positive"),
    ],
)
def test_bad_input(change, message):
    good = {"meshes_camera": torch.zeros(1, 4, 3), "faces": torch.tensor([[0, 1, 2]])}
    with pytest.raises((ValueError, TypeCheckError), match=message):
        viewer.viewer_page(**(good | change))


def test_largest_mesh_is_accepted():
    vertices = torch.zeros(1, 65_535, 3)
    page = viewer.viewer_page(vertices, torch.tensor([[0, 1, 65_534]]))
    assert decode(page)[0].max() == 65_534


def test_frame_needs_a_height():
    with pytest.raises(ValueError, match="height must be positive"):
        viewer.viewer_html(torch.zeros(1, 4, 3), torch.tensor([[0, 1, 2]]), height=0)
