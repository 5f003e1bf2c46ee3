import numpy as np
import pytest
import torch
from scipy.cluster.vq import kmeans

from humr.lifting import evaluation


def randn(*shape, generator):
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def test_as_many_clusters_as_hypotheses_are_the_hypotheses(generator):
    poses = randn(3, 8, 17, 3, generator=generator)
    centres = evaluation.cluster_centres(poses, 8, generator=generator, restarts=2)
    for image in range(3):
        found = centres[image, centres[image, :, 0, 0].argsort()]
        torch.testing.assert_close(found, poses[image, poses[image, :, 0, 0].argsort()])


def test_one_cluster_is_the_mean(generator):
    poses = randn(2, 9, 17, 3, generator=generator)
    centres = evaluation.cluster_centres(poses, 1, generator=generator)
    torch.testing.assert_close(centres[:, 0], poses.mean(1))


def test_same_starts_end_where_scipys_do(generator):
    for points in 100 * randn(4, 60, 6, generator=generator):
        starts = points[:10].unflatten(0, (2, 5))
        centres = evaluation.lloyd(points, starts)
        tight = evaluation.distortion(points, centres)
        for start in range(2):
            expected, spread = kmeans(points.numpy(), starts[start].numpy(), thresh=0)
            np.testing.assert_allclose(centres[start], expected)
            assert tight[start].item() == pytest.approx(spread)


def test_tight_clusters_are_found_in_single_precision(generator):
    far = 10 + 0.02 * torch.randn(5, 1, 4, 17, 3, generator=generator)
    poses = (far + 0.0005 * torch.randn(5, 10, 4, 17, 3, generator=generator)).flatten(1, 2)
    centres = evaluation.cluster_centres(poses, 4, generator=generator)
    distance = (far[:, 0, :, None] - centres[:, None]).norm(dim=-1).mean(-1)
    assert distance.amin(2).max() < 0.001


def test_more_starts_are_at_least_as_tight(generator):
    poses = randn(6, 40, 17, 3, generator=generator)

    def spread(restarts):
        seeded = torch.Generator().manual_seed(3)
        centres = evaluation.cluster_centres(poses, 5, generator=seeded, restarts=restarts)
        pairs = zip(poses.flatten(2), centres.flatten(2), strict=True)
        return torch.cat([evaluation.distortion(one, found[None]) for one, found in pairs])

    assert torch.equal(spread(3), spread(3))
    assert spread(20).mean() < spread(1).mean()


def test_a_centre_without_points_stays():
    points = torch.tensor([[0.0], [1.0], [2.0]])
    centres = evaluation.lloyd(points, torch.tensor([[[1.0], [50.0]]]))
    assert centres.flatten().tolist() == [1, 50]


@pytest.mark.parametrize("clusters", [0, 5])
def test_impossible_numbers_of_clusters_are_refused(clusters, generator):
    with pytest.raises(ValueError, match=rf"clusters must lie in 1..4, .*; got {clusters}"):
        evaluation.cluster_centres(torch.zeros(1, 4, 17, 3), clusters, generator=generator)


def test_equal_hypotheses_have_equal_centres(generator):
    poses = torch.randn(2, 1, 17, 3, generator=generator).expand(-1, 6, -1, -1)
    centres = evaluation.cluster_centres(poses, 3, generator=generator)
    torch.testing.assert_close(centres, poses[:, :3])
