from dataclasses import replace

import numpy as np
import pytest
import torch

from humr import batches, storage
from humr.batches import unpack_mask
from humr.config import World
from humr.geometry import project
from humr.skeletons import COCO17
from humr.world import generate, scenes

WORLD = World(labelled=6, points=6, unlabelled=6, validation=6, test=6, shard=6, window=160,
              backgrounds=3)  # fmt: skip


@pytest.fixture(scope="module")
def drawn():
    return scenes.draw_scenes(
        300, WORLD, generate.world_assets().body, rng=np.random.default_rng(1)
    )  # fmt: skip


@pytest.fixture(scope="module")
def views():
    return generate.views(WORLD, "test", 0, 0, 6)


def body_pixels(drawn):
    body = generate.world_assets().body
    points = body.joints(drawn.rotations, drawn.betas)[:, :22] + drawn.translation[:, None]
    return project(points, drawn.focal, drawn.image_size / 2)


def test_people_are_whole_unless_the_photograph_cuts_them(drawn):
    pixels = body_pixels(drawn)
    inside = ((pixels >= 0) & (pixels <= drawn.image_size[:, None])).all(-1).all(-1)
    assert inside[~drawn.truncated].float().mean() > 0.97
    assert inside[drawn.truncated].float().mean() < 0.3


def test_boxes_hold_the_part_inside_the_photograph(drawn):
    window = drawn.window.to_crop(body_pixels(drawn))
    inside = (body_pixels(drawn) >= 0) & (body_pixels(drawn) <= drawn.image_size[:, None])
    assert (window.abs() <= 1).all(-1)[inside.all(-1)].float().mean() > 0.99


def test_most_people_face_the_camera(drawn):
    facing = drawn.rotations[:, 0, 2, 2]  # body +z in the camera's z: -1 is towards it
    assert 0.55 < (facing < 0).float().mean() < 0.95


def test_window_camera_agrees_with_the_photographs(drawn):
    focal, centre = drawn.window_camera(WORLD.window)
    body = generate.world_assets().body
    points = body.joints(drawn.rotations, drawn.betas)[:, :22] + drawn.translation[:, None]
    direct = (drawn.window.to_crop(body_pixels(drawn)) + 1) / 2 * WORLD.window
    torch.testing.assert_close(project(points, focal, centre), direct, atol=0.02, rtol=1e-4)


def test_views_are_consistent(views):
    assert views.images.shape == (6, 160, 160, 3)
    assert views.images.std() > 20
    assert not (views.person & views.occluder).any()
    assert 0.05 < views.person.float().mean() < 0.6


def test_visible_joints_lie_on_the_person(views):
    drawn = generate.scenes(WORLD, "test", 0)
    window = (drawn.window.to_crop(views.keypoints_image) + 1) / 2 * WORLD.window
    cell = window.floor().long().clamp(0, WORLD.window - 1)
    person = views.person[torch.arange(6)[:, None], cell[..., 1], cell[..., 0]]
    torso = list(COCO17.indices(["left_shoulder", "right_shoulder", "left_hip", "right_hip"]))
    visible = views.visibility[:, torso] == batches.VISIBLE
    assert person[:, torso][visible].float().mean() > 0.95


def test_one_view_alone_is_the_same_picture(views):
    alone = generate.views(WORLD, "test", 0, 3, 4)
    assert np.array_equal(alone.images[0], views.images[3])


def test_shards_repeat_and_survive_the_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "DATA", tmp_path)
    first = generate.make_shard(WORLD, "validation", 0)
    shards = generate.store(WORLD)
    again = shards.make_and_load("validation")
    assert torch.equal(first.cells, again.cells)
    assert torch.equal(first.features, again.features)
    mask, person = unpack_mask(again.mask), unpack_mask(again.person)
    overlap = (mask & person).sum((1, 2)) / (mask | person).sum((1, 2))
    assert overlap.median() > 0.6
    assert (shards.directory / "manifest.json").exists()
    assert not list(shards.directory.glob("*.part"))


def test_splits_and_seeds_differ():
    a = generate.scenes(WORLD, "test", 0)
    b = generate.scenes(WORLD, "validation", 0)
    c = generate.scenes(replace(WORLD, seed=1), "test", 0)
    assert not torch.equal(a.rotations, b.rotations)
    assert not torch.equal(a.rotations, c.rotations)
