"""Tests of humr.licensed.features on a tiny folder of licensed files."""

from itertools import chain, islice

import numpy as np
import pytest
import torch
from formats import person, write_annotations, write_mask
from licensed_world import SETS, figure, picture, size_of, write_set, write_world
from PIL import Image
from torch import nn

from humr.batches import unpack_mask
from humr.licensed.datasets import SETS as EVERY
from humr.licensed.datasets import Licensed
from humr.licensed.evaluation import evaluation_masks
from humr.licensed.features import (
    AS_ANNOTATED,
    ImageStream,
    LicensedImages,
    features,
    loaded,
    os,
    people,
    store_of_test,
    surroundings,
    workers,
)
from humr.licensed.images import changed, crop, photograph, resample_window, varied
from humr.licensed.people import read_annotations

NO_MASKS = Licensed(masks=False)
CONFIG = Licensed(train=SETS, heatmap_samples=20, validation=4, mask_side=56)


class Colours(nn.Module):
    """In place of a backbone: the mean of every channel."""

    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.ones(()))

    def forward(self, images):
        return self.factor * images.mean((2, 3))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("licensed")
    write_world(folder)
    for name in ("emdb-p1-occl", "3dpw-test-cam"):
        write_set(folder, name, 3)
    return folder


@pytest.fixture(scope="module")
def parts(root):
    return people(CONFIG, root)


@pytest.fixture(scope="module")
def images(parts, root):
    return LicensedImages(parts[0], CONFIG, root=root)


def test_the_end_of_every_set_is_held_out(parts):
    shown, held = parts
    assert [each.name for each in shown] == [each.name for each in held] == list(SETS)
    assert [each.row.tolist() for each in shown] == [[0, 1, 2, 3]] * 4
    assert [each.row.tolist() for each in held] == [[4]] * 4


def test_fewer_are_validated_on_evenly_spread(root):
    config = Licensed(train=SETS[:3], held_out=0.4, validation=3)
    shown, held = people(config, root)
    assert [len(each) for each in shown] == [3, 3, 3]
    found = [(each.name, row) for each in held for row in each.row.tolist()]
    # of the rows 3, 4 of three sets the first, the middle (of 0..5: 2), the last
    assert found == [(SETS[0], 3), (SETS[1], 3), (SETS[2], 4)]


def test_badly_detected_people_are_left_out(tmp_path):
    arrays = write_set(tmp_path, "static-gym")
    arrays["vitpose"][1, :, :2] += 400
    write_annotations(tmp_path, "static-gym", vitpose=arrays["vitpose"])
    shown, _ = people(Licensed(train=("static-gym",)), tmp_path)
    assert shown[0].row.tolist() == [0, 2, 3]
    arrays["vitpose"][1:, :, 2] = 0.1
    write_annotations(tmp_path, "static-gym", vitpose=arrays["vitpose"])
    people.cache_clear()
    with pytest.raises(ValueError, match="static-gym has 1 well detected people"):
        people(Licensed(train=("static-gym",)), tmp_path)


def test_a_number_finds_its_person(images):
    assert len(images) == 16
    names = [(images.person(i).name, int(images.person(i).row)) for i in range(16)]
    assert names == [(name, row) for name in SETS for row in range(4)]
    with pytest.raises(IndexError, match="there are 16 people; got number 16"):
        images.person(16)


@pytest.mark.parametrize("index", [1, 6, 10, 15])
def test_the_annotated_crop_shows_the_person_of_its_set(images, index):
    row = images.person(index)
    found = images.crops(index, AS_ANNOTATED)
    photo = picture(row.name, int(row.row))
    expected = crop(photo, row.box[0])
    assert torch.equal(found.box, row.box)
    assert found.image_size[0].tolist() == list(size_of(row.name))
    assert (found.image[0] - expected).abs().mean() < 0.05  # JPEG
    assert (found.image[0] - expected.flip(2)).abs().mean() > 0.1


def test_masks_are_cut_widened_and_made_coarse(images):
    index = 4  # of static-gym, nothing in front of the person
    row = images.person(index)
    mask = unpack_mask(images.crops(index, AS_ANNOTATED).mask)[0]
    fine = resample_window(figure("static-gym"), row.box[0], outside=1.0) > 0.5
    expected = np.zeros((56, 56), bool)
    for y, x in zip(*np.nonzero(fine), strict=True):  # three times by 3 x 3 px: 3 px all around
        low, high = np.maximum([y - 3, x - 3], 0) // 4, np.minimum([y + 3, x + 3], 223) // 4
        expected[low[0] : high[0] + 1, low[1] : high[1] + 1] = True
    assert 0.05 < expected.mean() < 0.95
    assert mask.tolist() == expected.tolist()
    hidden = unpack_mask(images.crops(5, AS_ANNOTATED).mask)  # an object is in front
    assert hidden.all()
    assert unpack_mask(images.crops(13, AS_ANNOTATED).mask).all()  # 3DPW


def crops_of(root, name):
    """People of a set, and what shows one of them as training or the test does."""
    annotations = read_annotations(name, root=root)
    if EVERY[name].split == "test":

        def show(index):
            evaluation_masks(annotations[slice(index, index + 1)], root=root)
            return LicensedImages([annotations], NO_MASKS, root=root).crops(index, AS_ANNOTATED)

        return annotations, show
    images = LicensedImages([annotations], CONFIG, root=root)
    return annotations, lambda index: images.crops(index, AS_ANNOTATED)


SIZED = [("static-gym", 0, "1280, 720"), ("closeup-gym", 0, "720, 1280"),
         ("emdb-p1-occl", 1, "1440, 1920")]  # fmt: skip


@pytest.mark.parametrize(("name", "row", "size"), SIZED)
def test_masks_of_another_size_are_refused(tmp_path, name, row, size):
    write_set(tmp_path, name, 2)
    annotations, show = crops_of(tmp_path, name)
    path = write_mask(tmp_path, name, str(annotations.image[row]), person(640, 360))
    with pytest.raises(ValueError, match=rf"{path.name} must have the \({size}\) .*\(360, 640\)"):
        show(row)


@pytest.mark.parametrize("name", ["3dpw-train-smplx", "3dpw-test-cam", "emdb-p1"])
def test_photographs_of_another_size_are_refused(tmp_path, name):
    write_set(tmp_path, name, 2)
    annotations, show = crops_of(tmp_path, name)
    path = tmp_path / EVERY[name].images / str(annotations.image[1])
    Image.fromarray(picture("static-gym", 0)).save(path)
    with pytest.raises(ValueError, match=rf"{path.name}: .*{name} must have .*\(1280, 720\)\."):
        show(1)
    show(0)


def test_without_masks_none_is_read(tmp_path):
    write_set(tmp_path, "static-gym", 3)
    config = Licensed(train=("static-gym",), masks=False)
    annotations = read_annotations("static-gym", root=tmp_path)
    path = tmp_path / "env_masks"
    path.rename(tmp_path / "away")
    found = LicensedImages([annotations], config, root=tmp_path).crops(0, AS_ANNOTATED)
    assert unpack_mask(found.mask).shape == (1, 224, 224)
    assert unpack_mask(found.mask).all()
    with pytest.raises(FileNotFoundError, match=r"_env\.png"):
        LicensedImages([annotations], Licensed(train=("static-gym",)), root=tmp_path).crops(0, 0)


def test_a_variant_is_one_crop_whoever_makes_it(images, root, parts):
    again = LicensedImages(parts[0], CONFIG, root=root)
    found = [images.crops(3, variant) for variant in range(5)]
    for variant, one in enumerate(found):
        other = again.crops(3, variant)
        assert torch.equal(one.image, other.image)
        assert torch.equal(one.box, other.box)
    assert len({tuple(one.box[0].tolist()) for one in found}) > 3
    assert len({tuple(images.crops(i, 0).box[0, 2:].tolist()) for i in range(4)}) > 2


def test_a_variant_draws_the_box_first_and_then_the_colours(images):
    row, variant = images.person(9), 11
    place = list(EVERY).index("closeup-gym")
    rng = np.random.default_rng([0, place, int(row.row), variant, 1])
    box = varied(row.box[0], torch.tensor([720.0, 1280.0]), rng=rng)
    found = images.crops(9, variant)
    assert torch.equal(found.box[0], box)
    name, image = row.name, str(row.image[0])
    photo = photograph(name, image, root=images.root)
    x, y, side = box.tolist()
    left, top = max(0, int(x - side / 2) - 16), max(0, int(y - side / 2) - 16)
    right, bottom = int(x + side / 2) + 16, int(y + side / 2) + 16
    moved = box - torch.tensor([left, top, 0.0])
    part = changed(photo[top:bottom, left:right], rng=rng)
    assert torch.equal(found.image[0], crop(part, moved))


BOXES = [(400.2, 300.7, 250.3), (100.0, 650.0, 400.9), (-60.4, -20.6, 300.5), (1290.0, 5.0, 90.0)]


@pytest.mark.parametrize("box", BOXES)
def test_the_surroundings_hold_all_that_the_crop_shows(box):
    photo, where = picture("static-gym", 3), torch.tensor(box)
    part, inside = surroundings(photo, where)
    assert part.size < photo.size / 2
    assert torch.equal(crop(part, inside), crop(photo, where))


def test_examples_are_joined_in_the_order_of_their_keys(images):
    keys = [[(2, 0), (9, 1)], [(2, AS_ANNOTATED)]]
    (persons, crops), (_, last) = loaded(images, keys, 0)
    assert crops.image.shape == (2, 3, 224, 224)
    assert torch.equal(persons.box[1], images.person(9).box[0])
    assert torch.equal(last.box, images.person(2).box)


def test_other_processes_give_the_same(images):
    keys = [[(1, 0)], [(6, 3)], [(11, 2)]]
    here, there = list(loaded(images, keys, 0)), list(loaded(images, keys, 1))
    for (persons, crops), (same, shown) in zip(here, there, strict=True):
        assert torch.equal(crops.image, shown.image)
        assert torch.equal(persons.points, same.points)


def stream_of(images, rank=0):
    return ImageStream(images, Colours(), batch=3, samples=5, rank=rank)


def test_a_stream_goes_on_from_any_step(images):
    straight, resumed = stream_of(images), stream_of(images)
    generator = torch.Generator().manual_seed(0)
    batches = [straight(generator) for _ in range(3)]
    resumed.start(2)
    other = resumed(torch.Generator().manual_seed(0))
    assert torch.equal(batches[2].box, other.box)
    assert torch.equal(batches[2].features, other.features)
    assert not torch.equal(batches[1].box, other.box)
    assert batches[0].features.shape == (3, 3)
    assert batches[0].samples.shape == (3, 5, 17, 2)


def test_processes_see_other_people(images):
    keys = [stream_of(images, rank).keys(0) for rank in range(3)]
    assert len(set(map(tuple, keys))) == 3
    assert all(0 <= i < 16 and variant >= 0 for i, variant in chain(*keys))
    chosen = {i for step in range(40) for i, _ in stream_of(images).keys(step)}
    assert chosen == set(range(16))


def test_features_in_bfloat16_are_close(generator):
    torch.manual_seed(0)
    network = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 4))
    crops = torch.randn(2, 3, 224, 224, generator=generator)
    full, half = (features(network, crops, precision=p) for p in ("float32", "bfloat16"))
    assert half.dtype == full.dtype == torch.float32
    assert not full.requires_grad
    assert not torch.equal(full, half)
    torch.testing.assert_close(full, half, atol=1e-2, rtol=0)


def test_a_stream_leaves_the_global_random_numbers_alone(images):
    """They are dropout's: a run that goes on has restored them before its stream starts."""
    before = torch.get_rng_state()
    stream = stream_of(images)
    stream.start(2)
    stream(torch.Generator())
    assert torch.equal(torch.get_rng_state(), before)


def test_training_sets_are_no_test_sets(root):
    with pytest.raises(ValueError, match="static-gym is for training; expected a test set"):
        store_of_test("static-gym", root)


@pytest.mark.parametrize(
    ("cores", "chosen", "expected"), [(8, "", 7), (64, "", 16), (1, "", 0), (8, "3", 3)]
)
def test_as_many_processes_as_cores_unless_told(monkeypatch, cores, chosen, expected):
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    monkeypatch.setenv("HUMR_WORKERS", chosen)
    assert workers() == expected


def test_keys_of_steps_are_endless(images):
    stream = stream_of(images)
    stream.start(5)
    generator = torch.Generator()
    assert len(list(islice(iter(lambda: stream(generator), None), 2))) == 2
