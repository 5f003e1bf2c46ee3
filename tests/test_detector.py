"""Decoding on synthetic outputs; the networks on the astronaut that scikit-image ships."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from skimage.data import astronaut

from humr import files, heatmaps
from humr.detector import (
    SURE,
    Detection,
    Detector,
    PersonNotFoundError,
    anchors,
    bounds,
    decode_people,
    resample_window,
    square,
    window_at,
)
from humr.geometry import Crop
from humr.skeletons import COCO17, COCO17_FROM_BLAZEPOSE


@pytest.fixture(scope="module")
def detector():
    return Detector.load()


@pytest.fixture(scope="module")
def photo():
    return astronaut()


@pytest.fixture(scope="module")
def detection(detector, photo):
    return detector.detect(photo)


def outputs(cells, *, peak=0.9, flag=0.8):
    """Outputs of the pose network with one round bump of each COCO joint at `cells` (17, 2)."""
    y, x = np.mgrid[0:64, 0:64]
    logits = np.full((64, 64, 39), -12.0, np.float32)
    for joint, (column, row) in zip(COCO17_FROM_BLAZEPOSE, cells, strict=True):
        bump = peak * np.exp(-((x - column) ** 2 + (y - row) ** 2) / 2 / 1.2**2) + 1e-6
        logits[..., joint] = np.log(bump / (1 - bump))
    mask = np.full((256, 256, 1), -5.0, np.float32)
    mask[64:192, 96:160] = 5
    return {
        (64, 64, 39): logits,
        (256, 256, 1): mask,
        (1,): np.array([flag], np.float32),
        (117,): np.arange(117, dtype=np.float32),
        (2, 2, 288): np.arange(1152, dtype=np.float32).reshape(2, 2, 288),
        (8, 8, 864): np.ones((8, 8, 864), np.float32),
    }


def stub(**keywords):
    """A detector whose pose network always gives the same outputs."""
    return Detector(lambda _: {}, lambda _: outputs(**keywords))  # pyright: ignore


def person(hips, tip, *, score=0.9, at=1000):
    """Raw outputs of the person network: one row set, all others silent; points in [0, 1]."""
    raw, logits = np.zeros((2254, 12), np.float32), np.full(2254, -20.0, np.float32)
    anchor = anchors()[at]
    raw[at, 2:4] = 40
    raw[at, 4:6], raw[at, 6:8] = (np.array(hips) - anchor) * 224, (np.array(tip) - anchor) * 224
    logits[at] = math.log(score / (1 - score))
    return raw, logits


# ---------------------------------------------------------------- decoding, by hand


@pytest.mark.parametrize("roll", [0.0, 0.5, math.pi / 2, -3.0])
def test_look_maps_known_peaks_back_to_the_image(roll, rng, photo):
    cells = rng.uniform(5, 58, (17, 2))
    window = window_at(300.0, 200.0, 320.0, roll)
    found = stub(cells=cells).look(photo, window)
    # Cell i means pixel 4 i of 256; then turn and scale, written out.
    u, v = (cells * 4 / 128 - 1).T * 160
    expected = np.stack(
        [
            300 + math.cos(roll) * u - math.sin(roll) * v,
            200 + math.sin(roll) * u + math.cos(roll) * v,
        ],
        -1,
    )
    np.testing.assert_allclose(found.keypoints_image, expected, atol=0.25 * 320 / 64)
    np.testing.assert_allclose(
        (found.keypoints_image.numpy() - expected).mean(0), [0, 0], atol=0.2
    )


def test_look_reads_confidence_flag_features_and_mask(photo):
    cells = np.full((17, 2), 30.0)
    found = stub(cells=cells, peak=0.475).look(photo, window_at(100.0, 100.0, 256.0))
    np.testing.assert_allclose(found.peak, 0.475, atol=1e-4)
    assert found.confidence[0] == pytest.approx(0.5, abs=1e-4)  # the nose usually peaks at .95
    assert found.flag == pytest.approx(0.8)
    assert found.score == pytest.approx(0.8 * 0.475, abs=1e-4)
    assert found.features.tolist() == list(range(1152))
    assert found.features_mid.tolist() == [1] * 864
    assert found.mask.sum() == 128 * 64
    sure = stub(cells=cells, peak=0.999).look(photo, window_at(100.0, 100.0, 256.0))
    assert (sure.confidence == 1).all()


def test_look_turns_world_landmarks_upright(photo):
    cells = np.full((17, 2), 30.0)
    flat, turned = (
        stub(cells=cells).look(photo, window_at(100.0, 100.0, 256.0, roll)).world_landmarks
        for roll in (0.0, math.pi / 2)
    )
    np.testing.assert_allclose(flat, np.arange(99.0).reshape(33, 3))
    np.testing.assert_allclose(turned[:, 0], -flat[:, 1], atol=1e-4)  # right of the window is down
    np.testing.assert_allclose(turned[:, 1], flat[:, 0], atol=1e-4)
    np.testing.assert_allclose(turned[:, 2], flat[:, 2])


@pytest.mark.parametrize("angle", [0.0, 0.6, -1.2, math.pi / 2])
def test_decode_people_by_hand(angle):
    """Hips in the middle of the right half, body circle of a fifth of the window."""
    hips = np.array([0.75, 0.5])
    tip = hips + 0.2 * np.array([math.sin(angle), -math.cos(angle)])
    found = decode_people(*person(hips, tip), window_at(500.0, 300.0, 1000.0))
    assert len(found) == 1
    np.testing.assert_allclose(found[0].window.centre, [750, 300], atol=1e-2)
    assert found[0].window.side.item() == pytest.approx(1.25 * 400, abs=1e-2)
    assert found[0].window.roll.item() == pytest.approx(angle, abs=1e-4)
    np.testing.assert_allclose(found[0].box, [550, 100, 950, 500], atol=1e-2)
    assert found[0].score == pytest.approx(0.9, abs=1e-5)


def test_decode_people_drops_doubles_and_the_unsure():
    raw, logits = person([0.2, 0.5], [0.2, 0.4], score=0.95, at=0)  # small
    for at, score in ((1, 0.9), (2253, 0.7), (2252, 0.4)):
        more, sure = person([0.6, 0.5], [0.6, 0.1], score=score, at=at)
        raw, logits = raw + more, np.maximum(logits, sure)
    found = decode_people(raw, logits, window_at(50.0, 50.0, 100.0))
    assert [round(p.score, 3) for p in found] == [0.95, 0.7]  # anchors 0 and 1 share a head box


def test_anchors():
    centres = anchors()
    assert centres.shape == (2254, 2)
    np.testing.assert_allclose(
        centres[[0, 1, 2]], np.array([[0.5, 0.5], [0.5, 0.5], [1.5, 0.5]]) / 28
    )
    np.testing.assert_allclose(centres[28 * 28 * 2], np.array([0.5, 0.5]) / 14)
    np.testing.assert_allclose(centres[-1], np.array([6.5, 6.5]) / 7)


def test_bounds_of_the_mask(photo):
    """The mask covers columns 96 to 160 and rows 64 to 192 of the window."""
    cells = np.stack([np.linspace(24, 40, 17), np.linspace(16, 48, 17)], -1)
    found = stub(cells=cells).look(photo, window_at(256.0, 256.0, 256.0))
    box = bounds(found, photo)
    np.testing.assert_allclose(box, [128 + 96, 128 + 64, 128 + 160, 128 + 192], atol=1.1)
    corner = stub(cells=cells).look(photo, window_at(0.0, 512.0, 256.0))
    np.testing.assert_allclose(bounds(corner, photo), [0, 448, 32, 512], atol=1.1)


def test_bounds_leave_out_what_is_far_from_the_keypoints(photo):
    cells = np.stack([np.linspace(24, 26, 17), np.linspace(16, 20, 17)], -1)  # 8 x 16 px
    found = stub(cells=cells).look(photo, window_at(256.0, 256.0, 256.0))
    box = bounds(found, photo)
    np.testing.assert_allclose(box, [128 + 96, 128 + 64, 128 + 108, 128 + 84], atol=2.6)
    far = replace(found, keypoints_image=found.keypoints_image + 400)
    assert bounds(far, photo) is None


def test_mask_in_another_window(photo):
    found = stub(cells=np.full((17, 2), 30.0)).look(photo, window_at(256.0, 256.0, 256.0))
    assert torch.equal(found.mask_in(found.crop, resolution=256), found.mask)
    shifted = found.mask_in(
        Crop.upright(torch.tensor([320.0, 256.0]), torch.tensor(256.0)), resolution=128
    )
    rows, columns = shifted.nonzero(as_tuple=True)
    assert (columns.min(), columns.max() + 1, rows.min(), rows.max() + 1) == (16, 48, 32, 96)
    turned = stub(cells=np.full((17, 2), 30.0)).look(
        photo, window_at(256.0, 256.0, 256.0, math.pi / 2)
    )
    rows, columns = turned.mask_in(found.crop, resolution=128).nonzero(as_tuple=True)
    assert columns.max() - columns.min() == 63  # the tall mask lies down
    assert rows.max() - rows.min() == 31


def test_samples_are_spread_around_the_peaks(photo, rng, generator):
    cells = rng.uniform(10, 50, (17, 2))
    found = stub(cells=cells, peak=0.6).look(photo, window_at(300.0, 200.0, 640.0, 0.3))
    samples = found.sample(4000, generator=generator)
    assert samples.shape == (4000, 17, 2)
    expected = found.crop.to_image(heatmaps.GRID.to_crop(torch.from_numpy(cells).float()))
    torch.testing.assert_close(samples.median(0).values, expected, atol=1.0, rtol=0)
    exact = found.sample_cells(30, generator=generator)
    assert exact.shape == (30, 17)
    assert exact.min() >= 0
    assert exact.max() < 64 * 64


# ---------------------------------------------------------------- the networks


def test_inner_layer_is_the_input_of_the_pose_heads(detector, photo, detection):
    """World landmarks are a linear map of the features: this pins the layer, not its number."""
    interpreter = detector.pose_network._interpreter
    weights = next(
        interpreter.get_tensor(tensor["index"]).astype(np.float64).reshape(117, -1)
        for tensor in interpreter.get_tensor_details()
        if tuple(tensor["shape"]) == (117, 2, 2, 288) and tensor["dtype"] == np.float16
    )
    looks = [detector.look(photo, window_at(220.0, 250.0, float(s))) for s in (400, 500, 600)]
    world = [d.world_landmarks.flatten().numpy() for d in looks]
    linear = [weights[:99] @ d.features.numpy() for d in looks]
    for i in (1, 2):  # differences, so that the bias drops out
        np.testing.assert_allclose(world[i] - world[0], linear[i] - linear[0], atol=1e-4)
        assert np.abs(world[i] - world[0]).max() > 0.01


def test_features_are_sparse_and_positive(detection):
    assert detection.features.min() >= 0
    assert (detection.features == 0).float().mean() > 0.5
    assert detection.features_mid.shape == (864,)


def test_astronaut_keypoints(detection):
    """Read off the photograph by eye, within 25 of 512 px."""
    by_eye = {
        "nose": (222, 132), "left_eye": (246, 115), "right_eye": (201, 112),
        "left_shoulder": (322, 265), "right_shoulder": (100, 255),
    }  # fmt: skip
    for name, point in by_eye.items():
        found = detection.keypoints_image[COCO17.index(name)]
        np.testing.assert_allclose(found, point, atol=25, err_msg=name)
        assert detection.confidence[COCO17.index(name)] > 0.7
    for name in ("left_knee", "right_knee", "left_ankle", "right_ankle"):  # not in the picture
        assert detection.confidence[COCO17.index(name)] < 0.7
    assert detection.flag > 0.9


def test_astronaut_mask_and_box(detection, photo):
    whole = Crop.upright(torch.tensor([256.0, 256.0]), torch.tensor(512.0))
    mask = detection.mask_in(whole, resolution=128)
    assert mask[30, 55]  # face
    assert mask[100, 40]  # suit
    assert not mask[20, 5]  # flag
    assert not mask[40, 110]  # shuttle
    x0, y0, x1, y1 = detection.box.tolist()
    assert 0 <= x0 < 40
    assert 0 <= y0 < 40
    assert 300 < x1 <= 420
    assert y1 == pytest.approx(512, abs=8)


def test_a_sure_look_is_enough_and_else_the_best_window_wins(detector, detection, photo):
    box = tuple(detection.box.tolist())
    first = detector.find_people(photo)[0]
    windows = [square(box, margin=m) for m in (1.25, 1.6)]
    windows += [square(first.box, margin=1.25), first.window]
    scores = [detector.look(photo, window).score for window in windows]
    given = detector.detect(photo, box)
    assert detection.score >= given.score
    assert given.score >= min(scores[0], SURE)
    assert detection.score >= min(max(scores), SURE) - 1e-4


@pytest.mark.parametrize(("low", "sides"), [(0.5, [125, 160]), (0.8, [125])])
def test_an_unsure_look_gets_a_wider_window(low, sides, photo):
    """A person whose peaks are low in the first look and high in a window of 1.6 boxes."""
    asked = []

    class Spy(Detector):
        def look(self, image, window):
            asked.append(round(float(window.side), 3))
            peak = 0.9 if float(window.side) > 150 else low
            return stub(cells=np.full((17, 2), 30.0), peak=peak, flag=0.99).look(image, window)

    silent = {(2254, 12): np.zeros((2254, 12)), (2254, 1): np.full((2254, 1), -20.0)}
    found = Spy(lambda _: silent, None).detect(photo, (200, 200, 300, 280))  # pyright: ignore
    assert asked == sides
    assert float(found.crop.side) == pytest.approx(sides[-1])


def test_the_largest_of_two_people_is_taken(detector, photo):
    small = resample_window(photo, window_at(256.0, 256.0, 512.0), 360)[:, :270]
    both = np.full((512, 654, 3), 128, np.uint8)
    both[:, :384] = photo[:, :384]
    both[152:, 384:] = small
    found = detector.detect(both)
    assert len(found.people) == 2
    assert 300 < found.box[2] < 512
    np.testing.assert_allclose(found.people[0].box, found.box)
    assert found.people[1].box[0] > 340
    other = detector.detect(both, (384, 160, 640, 512))
    nose = other.keypoints_image[0]
    np.testing.assert_allclose(nose, [384 + 222 / 512 * 360, 152 + 132 / 512 * 360], atol=20)
    assert other.box.tolist() == [384, 160, 640, 512]


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_turned_photo_gives_turned_keypoints(turns, detector, detection, photo):
    turned = np.ascontiguousarray(np.rot90(photo, turns))
    found = detector.detect(turned)
    points = found.keypoints_image[:5].clone()
    for _ in range(turns):  # undo rot90: it sends (x, y) to (y, 512 - x)
        points = torch.stack([512 - points[:, 1], points[:, 0]], -1)
    torch.testing.assert_close(points, detection.keypoints_image[:5], atol=12, rtol=0)


def test_detection_repeats_exactly(detector, detection, photo):
    again = detector.detect(photo)
    assert torch.equal(again.heatmaps, detection.heatmaps)
    assert torch.equal(again.features, detection.features)


# ---------------------------------------------------------------- bad input


def test_nobody_found_is_said(detector, rng):
    noise = rng.integers(0, 256, (200, 300, 3), dtype=np.uint8)
    assert detector.find_people(noise) == []
    with pytest.raises(PersonNotFoundError, match="found no person in the image"):
        detector.detect(noise)
    assert issubclass(PersonNotFoundError, ValueError)


def test_a_box_without_a_person_is_looked_at_all_the_same(detector, rng):
    noise = rng.integers(0, 256, (200, 300, 3), dtype=np.uint8)
    found = detector.detect(noise, (50, 20, 150, 180))
    assert isinstance(found, Detection)
    assert found.people == ()
    assert found.flag < 0.5
    assert found.heatmaps.isfinite().all()


@pytest.mark.parametrize(
    ("image", "box", "message"),
    [
        (np.zeros((20, 20, 3), np.uint8), None, "at least 32 px"),
        (np.zeros((64, 64), np.uint8), None, "in RGB"),
        (np.zeros((64, 64, 3)), None, "must be uint8"),
        (np.zeros((64, 64, 3), np.uint8), (70, 0, 90, 60), "outside the image"),
        (np.zeros((64, 64, 3), np.uint8), (0, 0, 10), "four finite numbers"),
    ],
)
def test_bad_images_and_boxes(image, box, message, detector):
    with pytest.raises(ValueError, match=message):
        detector.detect(image, box)


def test_load_without_files_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="python3 -m humr data fetch"):
        Detector.load(folder=tmp_path)


def test_load_is_quiet(capfd):
    Detector.load()
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_calibrated_heatmaps_of_the_photo(detection):
    total = detection.probabilities.sum((-2, -1))
    torch.testing.assert_close(total, torch.ones(17))
    width = heatmaps.covariance(detection.probabilities).diagonal(dim1=-2, dim2=-1).sum(-1)
    knee, nose = COCO17.index("left_knee"), COCO17.index("nose")
    assert width[knee] > 2 * width[nose]
    assert files.detector_file("pose_landmark").is_file()
