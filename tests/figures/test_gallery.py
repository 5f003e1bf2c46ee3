from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from humr.batches import OBJECT_OCCLUDED, OUTSIDE, SELF_OCCLUDED, VISIBLE
from humr.bodies.body import load_body
from humr.experiments.profiles import profile
from humr.figures import gallery
from humr.figures.gallery import Facts, Gallery, Rule
from humr.skeletons import COCO17
from humr.world import generate

CONFIG = profile("smoke").run.world
EVERYWHERE = torch.ones(6, 17, dtype=torch.bool)
SCORE = torch.arange(6 * 17.0).reshape(6, 17)


def rule(allowed=EVERYWHERE, **options):
    return Rule("1", "a score", "m", SCORE, allowed, **options)


def test_the_largest_and_the_middle_are_what_they_say():
    table = gallery.choose([rule(), rule(quantile=0.5)])
    assert (table.image[0], table.joint[0], table.value[0]) == (5, COCO17.names[16], 101)
    assert table.value[1] == SCORE[:5].median()  # image 5 is taken


def test_an_image_is_shown_once():
    table = gallery.choose([rule()] * 6)
    assert sorted(table.image) == [0, 1, 2, 3, 4, 5]


def test_only_allowed_joints_are_chosen():
    allowed = torch.zeros(6, 17, dtype=torch.bool)
    allowed[2, 4] = True
    table = gallery.choose([rule(allowed)])
    assert (table.image[0], table.joint[0]) == (2, COCO17.names[4])


def test_a_world_too_small_for_the_rules_still_gives_pictures():
    nowhere = torch.zeros(6, 17, dtype=torch.bool)
    table = gallery.choose([rule(nowhere)] * 8)
    assert len(table) == 8


def made_up_facts(generator, count=400):
    draw = torch.rand(count, 17, generator=generator)
    visibility = torch.full((count, 17), VISIBLE)
    for share, value in ((0.05, SELF_OCCLUDED), (0.1, OBJECT_OCCLUDED), (0.15, OUTSIDE)):
        visibility[(draw > share - 0.05) & (draw <= share)] = value
    visibility[:60] = VISIBLE
    values = [torch.rand(count, 17, generator=generator) for _ in range(3)]
    per_image = [torch.rand(count, generator=generator) for _ in range(2)]
    return Facts(*values, *per_image, visibility)


def test_every_figure_shows_what_its_rule_asks_for(generator):
    found = made_up_facts(generator)
    table = gallery.choose(gallery.rules(found))
    state = [
        found.visibility[i, COCO17.index(j)] for i, j in zip(table.image, table.joint, strict=True)
    ]
    for index, row in table.iterrows():
        if "hidden" in row.of and "nothing" not in row.of:
            assert state[index] in (SELF_OCCLUDED, OBJECT_OCCLUDED)
        if "behind the body" in row.of:
            assert state[index] == SELF_OCCLUDED
        if "outside the picture" in row.of:
            assert state[index] == OUTSIDE
        if "nothing hidden" in row.of:
            assert (found.visibility[row.image] == VISIBLE).all()
        if row.figure != "S3":
            assert (found.visibility[row.image] == VISIBLE).sum() >= gallery.SEEN
    assert table.image.is_unique
    assert set(", ".join(table.figure).split(", ")) == {"1", "2", "4", "5", "6", "S3", "S4", "S5",
                                                        "S6"}  # fmt: skip


def test_facts_and_projections_come_from_the_device_of_the_model(records, untrained, device):
    model, body = untrained().to(device), load_body("small")
    found = gallery.facts(model, body, records, hypotheses=3, batch=9)
    assert {value.device.type for value in vars(found).values()} == {"cpu"}
    examples = gallery.choose(gallery.rules(found))
    points = gallery.project_examples(model, body, records, examples, hypotheses=3, seed=0)
    assert points.device.type == "cpu"
    assert points.shape == (len(examples), 3, 2)


@pytest.fixture
def small():
    examples = pd.DataFrame(
        {"figure": ["1", "4, 6"], "image": [3, 5], "joint": ["left_wrist", "right_knee"],
         "value": [0.1, 0.2], "unit": ["m", "m"], "quantile": [1.0, 0.5], "of": ["a", "b"]}
    )  # fmt: skip
    points = {name: torch.rand(2, 4, 2) for name in ("prohmr", "mask")}
    return Gallery(CONFIG, examples, points, "0" * 8)


def test_a_gallery_survives_its_file(small, tmp_path):
    small.write(tmp_path / "g.safetensors")
    read = Gallery.read(tmp_path / "g.safetensors")
    pd.testing.assert_frame_equal(read.examples, small.examples)
    assert list(read.projections) == ["prohmr", "mask"]
    torch.testing.assert_close(read.projections["mask"], small.projections["mask"], atol=1e-3,
                               rtol=1e-3)  # fmt: skip
    assert (read.world, read.shipped) == (small.world, small.shipped)


def test_a_gallery_of_other_images_is_refused(small, tmp_path, monkeypatch):
    small.write(tmp_path / "g.safetensors")
    monkeypatch.setattr(generate, "DATA_VERSION", generate.DATA_VERSION + 1)
    with pytest.raises(ValueError, match="make it again"):
        Gallery.read(tmp_path / "g.safetensors")
    with pytest.raises(FileNotFoundError, match=r"python -m humr\.figures\.gallery"):
        Gallery.read(tmp_path / "absent.safetensors")


def test_examples_belong_to_the_figures_that_share_them(small):
    assert small.rows("1") == [0]
    assert small.rows("4") == small.rows("6") == [1]
    assert replace(small).rows("S6") == []


def test_the_committed_gallery_is_complete():
    kept = Gallery.read(gallery.COMMITTED)
    assert kept.current, "the shipped checkpoint is newer: python -m humr.figures.gallery laptop"
    assert set(kept.projections) == set(gallery.MODELS)
    assert all(p.isfinite().all() for p in kept.projections.values())
    assert {len(p) for p in kept.projections.values()} == {len(kept.examples)}
    assert kept.examples.image.between(0, kept.world.test - 1).all()


# One image, shown again


def test_the_truth_in_3d_projects_onto_the_true_keypoints(example, body):
    points = example.people.keypoints(body, "coco17")[None]
    torch.testing.assert_close(
        example.posterior.pixels(points)[0], example.truth, atol=1e-2, rtol=0
    )


def test_the_box_is_the_worlds_not_the_detections(example):
    scene = generate.scenes(CONFIG, "test", 0)[3:4]
    assert torch.equal(example.posterior.batch.box, scene.box)


def test_the_detection_moves_with_its_window(example):
    scene = generate.scenes(CONFIG, "test", 0)[3:4]
    seen = generate.views(CONFIG, "test", 0, 3, 4)
    (found,) = generate.detect(scene, seen.images)
    inside = example.window.to_crop(example.posterior.detection.keypoints_image)
    torch.testing.assert_close(
        (inside + 1) / 2 * CONFIG.window, found.keypoints_image, atol=1e-2, rtol=0
    )


def test_the_window_lies_where_it_was_cut_from(example):
    picture = np.full((CONFIG.window, CONFIG.window, 3), 10, np.uint8)
    pasted = gallery.paste(picture, generate.scenes(CONFIG, "test", 0)[3:4])
    height, width = pasted.shape[:2]
    assert [width, height] == example.posterior.batch.image_size[0].tolist()
    rows, columns = np.mgrid[:height, :width]
    pixels = torch.tensor(np.stack([columns, rows], -1) + 0.5).float().flatten(0, 1)
    inside = example.window.to_crop(pixels).abs().amax(-1).reshape(height, width).numpy()
    assert (pasted[inside < 0.98] == 10).all()
    assert (pasted[inside > 1.02] == gallery.GREY).all()


def test_possible_is_on_the_silhouette_or_outside_the_picture(example):
    size = example.silhouette.shape[0]
    lone = torch.zeros_like(example.silhouette)
    lone[size // 2, size // 2] = True
    pixel = ((torch.tensor([size // 2, size // 2]) + 0.5) / size * 2 - 1)[None]
    on = example.window.to_image(pixel)
    beside = on + 5 / size * example.window.side
    outside = torch.tensor([[-3.0, 5.0]])
    one = replace(example, silhouette=lone)
    assert one.possible(torch.cat([on, beside, outside])).tolist() == [True, False, True]


def test_scoring_the_truth_costs_nothing_and_distance_is_the_score_of_a_point(example):
    exact = example.score(example.target.expand(4, 2))
    assert exact["energy"] == pytest.approx(0, abs=1e-3)
    assert exact["spread"] == pytest.approx(0, abs=1e-3)
    step = example.posterior.batch.box[0, 2] / 2 * torch.tensor([[1.0, 0.0]])
    away = example.score((example.target + step).expand(4, 2))
    assert away["energy"] == pytest.approx(128, rel=1e-3)
    both = gallery.score(
        [(example, example.target.expand(4, 2)), (example, (example.target + step).expand(4, 2))]
    )
    assert both["energy"] == pytest.approx(64, rel=1e-2)
