import pytest
import torch

from humr import geometry
from humr.geometry import Crop


@pytest.fixture
def scene(generator):
    def uniform(low, high, *shape):
        draw = torch.rand(*shape, dtype=torch.float64, generator=generator)
        return low + (high - low) * draw

    return {
        "centre": uniform(100, 500, 6, 2),
        "side": uniform(50, 400, 6),
        "focal": uniform(500, 2000, 6),
        "image_size": uniform(500, 900, 6, 2),
    }


def test_project_by_hand():
    points = torch.tensor([[[1.0, -2.0, 4.0], [0.0, 0.0, 2.0]]])
    pixels = geometry.project(points, torch.tensor([100.0]), torch.tensor([[320.0, 240.0]]))
    torch.testing.assert_close(pixels, torch.tensor([[[345.0, 190.0], [320.0, 240.0]]]))


def test_project_behind_the_camera_is_finite():
    points = torch.tensor([[[1.0, 1.0, -3.0]]], requires_grad=True)
    pixels = geometry.project(points, torch.tensor([100.0]), torch.tensor([[0.0, 0.0]]))
    pixels.sum().backward()
    assert pixels.isfinite().all()
    assert points.grad is not None
    assert points.grad.isfinite().all()


def test_default_focal_is_the_diagonal():
    assert geometry.default_focal(torch.tensor([300.0, 400.0])).item() == 500


def test_box_info_by_hand():
    info = geometry.box_info(
        torch.tensor([420.0, 140.0]), torch.tensor(200.0), torch.tensor(1000.0),
        torch.tensor([640.0, 480.0]),
    )  # fmt: skip
    torch.testing.assert_close(info, torch.tensor([0.1, -0.1, 0.2]))


def test_weak_camera_round_trip(scene, generator):
    weak = torch.rand(6, 3, dtype=torch.float64, generator=generator) + 0.2
    translation = geometry.weak_to_translation(weak, **scene)
    torch.testing.assert_close(geometry.translation_to_weak(translation, **scene), weak)


def test_weak_camera_centres_the_body_in_the_box(scene):
    weak = torch.tensor([0.9, 0.0, 0.0], dtype=torch.float64).expand(6, 3)
    translation = geometry.weak_to_translation(weak, **scene)
    pixel = geometry.project(translation[:, None], scene["focal"], scene["image_size"] / 2)
    torch.testing.assert_close(pixel[:, 0], scene["centre"])


def test_crop_round_trip_and_corners(scene, generator):
    roll = torch.rand(6, dtype=torch.float64, generator=generator)
    crop = Crop(scene["centre"], scene["side"], roll)
    points = torch.rand(6, 9, 2, dtype=torch.float64, generator=generator)
    torch.testing.assert_close(crop.to_crop(crop.to_image(points)), points)
    upright = Crop.upright(torch.tensor([10.0, 20.0]), torch.tensor(4.0))
    corner = upright.to_image(torch.tensor([[-1.0, 1.0]]))
    torch.testing.assert_close(corner, torch.tensor([[8.0, 22.0]]))


def test_crop_turn_is_clockwise_in_the_image():
    crop = Crop(torch.zeros(2), torch.tensor(2.0), torch.tensor(torch.pi / 2))
    torch.testing.assert_close(
        crop.to_image(torch.tensor([[1.0, 0.0]])), torch.tensor([[0.0, 1.0]]), atol=1e-6, rtol=0
    )


def test_relative_to_itself_is_the_identity(scene):
    crop = Crop(scene["centre"], scene["side"], scene["side"] / 100)
    expected = torch.tensor([0, 0, 0, 1, 0], dtype=torch.float64).expand(6, 5)
    torch.testing.assert_close(crop.relative_to(crop), expected)
