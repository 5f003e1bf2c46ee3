import numpy as np
import pandas as pd
import pytest
import torch

from humr.experiments import clip, runs
from humr.geometry import rotvec_to_matrix


def camera(angle, height=1.0):
    """Look at the origin's neighbourhood from 4 metres away."""
    turn = rotvec_to_matrix(torch.tensor([0.0, angle, 0.0], dtype=torch.float64))
    down = rotvec_to_matrix(torch.tensor([torch.pi, 0.0, 0.0], dtype=torch.float64))
    rotation = down @ turn.mT
    position = turn @ torch.tensor([0.0, height, 4.0], dtype=torch.float64)
    return clip.Camera(
        name=f"at {angle}",
        focal=torch.tensor([1600.0, 1610.0], dtype=torch.float64),
        centre=torch.tensor([540.0, 950.0], dtype=torch.float64),
        distortion=torch.tensor([-0.05, 0.14, 1e-3, 5e-4], dtype=torch.float64),
        rotation=rotation,
        position=position,
    )


VIEWS = [camera(a) for a in (0.0, 0.9, 1.9, -0.8)]


@pytest.fixture
def points(generator):
    return torch.rand(3, 17, 3, generator=generator, dtype=torch.float64) + torch.tensor(
        [0, 0.5, 0]
    )


def test_people_are_in_front_and_lens_distortion_is_undone(points):
    for view in VIEWS:
        assert (view.to_camera(points)[..., 2] > 0).all()
        seen = view.to_camera(points)
        torch.testing.assert_close(
            view.rays(view.project(points)), seen[..., :2] / seen[..., 2:], atol=1e-9, rtol=0
        )


def test_triangulation_inverts_projection_and_ignores_views_without_weight(points):
    pixels = torch.stack([view.project(points) for view in VIEWS])
    weight = torch.ones(4, 3, 17)
    torch.testing.assert_close(clip.triangulate(VIEWS, pixels, weight), points)
    pixels[0] += 300
    weight[0] = 0
    torch.testing.assert_close(clip.triangulate(VIEWS, pixels, weight), points)


def test_no_image_has_a_part_in_its_own_truth(points):
    pixels = torch.stack([view.project(points) for view in VIEWS])
    pixels[0, 0] += 50
    truth = clip.truth_of(VIEWS, pixels, torch.ones(4, 3, 17))
    torch.testing.assert_close(truth.of_others[0], points)
    assert truth.disagreement[0, 0].amin() > 1
    assert truth.disagreement[0, 1:].amax() < 1e-6
    assert not torch.allclose(truth.of_others[1, 0], points[0], atol=1e-3)
    assert truth.limb_deviation().keys() == {f"{a}-{b}" for a, b in clip.LIMB_ENDS}


def test_point_errors_know_the_scale_and_not_the_place(generator):
    target = torch.randn(17, 3, generator=generator)
    errors = clip.point_errors(2 * target + 5, target)
    assert errors["pa_mpjpe"] == pytest.approx(0, abs=1e-2)
    assert errors["mpjpe"] > 100
    assert clip.point_errors(target + 5, target)["mpjpe"] == pytest.approx(0, abs=1e-2)


def test_hypotheses_around_the_truth_have_small_errors_and_cover_it(upright, body, batch):
    """The truth is one of the flow's own people, who are drawn 60 times."""
    generator, one = torch.Generator().manual_seed(1), batch[:1]
    drawn = upright.sample(one, 60, generator=generator)
    target = drawn.samples[0, 7].keypoints(body, "coco17")
    columns = clip.posterior_errors(drawn, one, target, body, torch.zeros(17, 3))
    assert columns["mpjpe_best"] == pytest.approx(0, abs=1e-3)
    assert 0 < columns["energy_score"] < columns["mpjpe_sample"]
    assert columns["mpjpe_seen_mode"] == pytest.approx(columns["mpjpe_mode"])
    cover = [columns[f"cover{level}_xy"] for level in clip.LEVELS]
    assert cover == sorted(cover)
    assert columns["cover90_z"] > 0.3


def test_cameras_are_averaged_before_frames_are_compared():
    rows = pd.DataFrame(
        {
            "variant": ["a"] * 4,
            "seed": 0,
            "image": [0, 0, 10, 10],
            "camera": [0, 1, 0, 1],
            "key": "k",
            "mpjpe_mode": [1.0, 3.0, 5.0, 7.0],
        }
    )
    assert clip.by_frame(rows).mpjpe_mode.tolist() == [2, 6]


def test_an_absent_clip_is_one_line(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"6 of 6 files .* data fetch clip"):
        clip.check(tmp_path)
    (tmp_path / "cam01.mp4").write_bytes(b"not a video")
    assert set(clip.missing(tmp_path)) == set(clip.MEMBERS)


def test_a_changed_archive_is_refused(tmp_path, monkeypatch):
    wheel = tmp_path / "pose2sim.whl"
    wheel.write_bytes(b"changed")
    monkeypatch.setattr(clip, "_download", lambda *_: wheel)
    with pytest.raises(ValueError, match="wrong SHA-256"):
        clip.fetch(tmp_path / "clip")
    assert not (tmp_path / "clip").exists()


def test_a_failed_download_says_so(tmp_path):
    with pytest.raises(RuntimeError, match="could not download it"):
        clip._download(["-c", "raise SystemExit('no network')"], tmp_path, "*.whl", "it")


def test_calibration_of_one_camera_is_read(tmp_path):
    (tmp_path / "Calib.qca.txt").write_text(
        "<calibration><cameras><camera serial='cam01'>"
        "<transform r11='1' r12='0' r13='0' r21='0' r22='1' r23='0' r31='0' r32='0' r33='1' "
        "x='0' y='0' z='3000'/><intrinsic centerPointU='6400' centerPointV='3200' "
        "focalLengthU='64000' focalLengthV='64000' radialDistortion1='0' radialDistortion2='0' "
        "tangentalDistortion1='0' tangentalDistortion2='0'/></camera></cameras></calibration>"
    )
    (view,) = clip.cameras(tmp_path)
    pixel = view.project(torch.tensor([0.3, 0.6, 0.0], dtype=torch.float64))
    np.testing.assert_allclose(pixel, [100 + 100, 50 - 200])  # 3 m below the camera, y up


@pytest.mark.skipif(bool(clip.missing()), reason=f"no real clip; {clip.COMMAND}")
def test_frames_of_the_clip_are_photographs():
    first, later = clip.frames("cam01", (0, 90))
    assert first.shape == later.shape == (1920, 1080, 3)
    assert np.abs(first.astype(int) - later).mean() > 1


def test_the_committed_rows_are_of_every_tenth_frame_and_all_cameras():
    rows = runs.read_results("clip", "laptop")
    assert set(rows.image) == set(clip.FRAMES)
    assert rows.groupby("variant").size().eq(40).all()
    about = runs.read_record("clip", "laptop")
    assert about["median distance of three to four cameras, mm"] < 25
    assert {"landmarks_full", "landmarks_heavy", "flow", "refined"} <= set(rows.variant)


def test_the_table_compares_points_and_distributions(capsys):
    assert clip.main(["table"]) == 0
    shown = capsys.readouterr().out
    assert "landmarks_full" in shown
    assert "calibration error" in shown


def test_calibration_error_is_of_joints_not_of_columns():
    row = {"variant": "a"}
    row |= {f"cover{level}_{axes}": level / 100 for level in clip.LEVELS for axes in ("xy", "z")}
    assert clip.calibration_error(pd.DataFrame([row]))["a"] == pytest.approx(0)
    row |= {f"cover{level}_z": level / 100 + 0.03 for level in clip.LEVELS}
    assert clip.calibration_error(pd.DataFrame([row]))["a"] == pytest.approx(0.01)
