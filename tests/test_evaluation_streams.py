import pytest
import torch

from humr import evaluation


@pytest.fixture
def seeded():
    return lambda: torch.Generator().manual_seed(2)


def test_pieces_have_the_moments_of_the_whole(generator):
    points = 1e3 + torch.randn(100, 4, 3, generator=generator).double()  # far from the origin
    running = evaluation.Running()
    for piece in points.split([1, 40, 2, 57]):
        running.add(piece)
    assert running.count == 100
    assert torch.allclose(running.mean, points.mean(0), rtol=1e-14)
    for joint in range(4):
        expected = points[:, joint].T.cov()
        assert torch.allclose(running.covariance[joint], expected, atol=1e-10)
    spread = (points - points.mean(0)).square().sum((0, 2)) / 99
    assert torch.allclose(running.deviation, spread.sqrt())


def test_one_sample_has_no_covariance():
    running = evaluation.Running()
    running.add(torch.zeros(1, 2, 3))
    with pytest.raises(ValueError, match="two or more samples; got 1"):
        running.covariance  # noqa: B018


def test_joints_and_statistics_come_in_pieces_and_are_of_the_same_hypotheses(
    upright, body, batch, seeded, monkeypatch
):
    monkeypatch.setattr(evaluation, "STREAMED", 8)
    pieces = list(evaluation.joints(upright, body, batch[:1], 20, generator=seeded()))
    assert [len(piece) for piece in pieces] == [8, 8, 4]
    generator = seeded()
    noise = torch.cat([upright.noise(1, size, generator) for size in (8, 8, 4)], 1)
    with torch.no_grad():
        people = upright.people(upright.observe(batch[:1]), noise)
    torch.testing.assert_close(torch.cat(pieces), people[0].joints(body))
    found = evaluation.statistics(upright, body, batch[:1], 20, generator=seeded())
    torch.testing.assert_close(found.mean, torch.cat(pieces).double().mean(0))


def test_bad_input(upright, body, batch, seeded):
    with pytest.raises(ValueError, match="batch of one image; got 2"):
        evaluation.statistics(upright, body, batch[:2], 5, generator=seeded())
    with pytest.raises(ValueError, match="at least 1 hypothesis; got 0"):
        evaluation.statistics(upright, body, batch[:1], 0, generator=seeded())
