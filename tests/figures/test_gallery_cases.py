from dataclasses import replace

import numpy as np
import pytest
import torch

from humr.experiments.profiles import profile
from humr.figures import gallery
from humr.world import generate

CONFIG = profile("smoke").run.world


def test_the_truth_in_3d_projects_onto_the_true_keypoints(case, body):
    points = case.people.keypoints(body, "coco17")[None]
    torch.testing.assert_close(case.posterior.pixels(points)[0], case.truth, atol=1e-2, rtol=0)


def test_the_box_is_the_worlds_not_the_detections(case):
    scene = generate.scenes(CONFIG, "test", 0)[3:4]
    assert torch.equal(case.posterior.batch.box, scene.box)


def test_the_detection_moves_with_its_window(case):
    scene = generate.scenes(CONFIG, "test", 0)[3:4]
    seen = generate.views(CONFIG, "test", 0, 3, 4)
    (found,) = generate.detect(scene, seen.images)
    inside = case.window.to_crop(case.posterior.detection.keypoints_image)
    torch.testing.assert_close(
        (inside + 1) / 2 * CONFIG.window, found.keypoints_image, atol=1e-2, rtol=0
    )


def test_the_window_lies_where_it_was_cut_from(case):
    picture = np.full((CONFIG.window, CONFIG.window, 3), 10, np.uint8)
    pasted = gallery.paste(picture, generate.scenes(CONFIG, "test", 0)[3:4])
    height, width = pasted.shape[:2]
    assert [width, height] == case.posterior.batch.image_size[0].tolist()
    rows, columns = np.mgrid[:height, :width]
    pixels = torch.tensor(np.stack([columns, rows], -1) + 0.5).float().flatten(0, 1)
    inside = case.window.to_crop(pixels).abs().amax(-1).reshape(height, width).numpy()
    assert (pasted[inside < 0.98] == 10).all()
    assert (pasted[inside > 1.02] == gallery.GREY).all()


def test_possible_is_on_the_silhouette_or_outside_the_picture(case):
    size = case.silhouette.shape[0]
    lone = torch.zeros_like(case.silhouette)
    lone[size // 2, size // 2] = True
    pixel = ((torch.tensor([size // 2, size // 2]) + 0.5) / size * 2 - 1)[None]
    on = case.window.to_image(pixel)
    beside = on + 5 / size * case.window.side
    outside = torch.tensor([[-3.0, 5.0]])
    one = replace(case, silhouette=lone)
    assert one.possible(torch.cat([on, beside, outside])).tolist() == [True, False, True]


def test_judging_the_truth_costs_nothing_and_distance_is_the_score_of_a_point(case):
    exact = case.judge(case.target.expand(4, 2))
    assert exact["energy"] == pytest.approx(0, abs=1e-3)
    assert exact["spread"] == pytest.approx(0, abs=1e-3)
    step = case.posterior.batch.box[0, 2] / 2 * torch.tensor([[1.0, 0.0]])
    away = case.judge((case.target + step).expand(4, 2))
    assert away["energy"] == pytest.approx(128, rel=1e-3)
    both = gallery.score(
        [(case, case.target.expand(4, 2)), (case, (case.target + step).expand(4, 2))]
    )
    assert both["energy"] == pytest.approx(64, rel=1e-2)


def test_without_noise_every_hypothesis_is_the_mode(case, upright, body):
    generator = torch.Generator().manual_seed(0)
    points = case.tempered(upright, body, 3, noise=0.0, generator=generator)
    mode = case.posterior.pixels(case.posterior.mode.keypoints(body, "coco17")[None])[0]
    torch.testing.assert_close(points, mode[case.joint].expand(3, 2), atol=1e-2, rtol=0)


def test_points_drawn_from_a_heatmap_lie_in_its_regions_as_often_as_they_say(case):
    generator = torch.Generator().manual_seed(0)
    drawn = case.posterior.detection.sample(1500, generator=generator)[:, case.joint].float()
    assert case.inside_heatmap(drawn, level=0.8) == pytest.approx(0.8, abs=0.05)
