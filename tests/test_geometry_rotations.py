import pytest
import torch
from scipy.spatial.transform import Rotation

from humr import geometry


@pytest.fixture
def rotvec(generator):
    scale = torch.tensor([1e-9, 1e-3, 0.5, 1.0, 2.0, 3.1], dtype=torch.float64)
    vectors = torch.randn(6, 7, 3, dtype=torch.float64, generator=generator)
    return scale[:, None, None] * torch.nn.functional.normalize(vectors, dim=-1)


def test_matrix_agrees_with_scipy(rotvec):
    expected = Rotation.from_rotvec(rotvec.reshape(-1, 3).numpy()).as_matrix()
    actual = geometry.rotvec_to_matrix(rotvec).reshape(-1, 3, 3)
    torch.testing.assert_close(actual, torch.from_numpy(expected), atol=1e-12, rtol=0)


def test_rotvec_round_trip(rotvec):
    torch.testing.assert_close(
        geometry.matrix_to_rotvec(geometry.rotvec_to_matrix(rotvec)), rotvec, atol=1e-9, rtol=0
    )


def test_sixd_is_the_first_two_rows_and_round_trips(rotvec):
    matrix = geometry.rotvec_to_matrix(rotvec)
    sixd = geometry.matrix_to_sixd(matrix)
    torch.testing.assert_close(sixd[..., :3], matrix[..., 0, :])
    torch.testing.assert_close(sixd[..., 3:], matrix[..., 1, :])
    torch.testing.assert_close(geometry.sixd_to_matrix(sixd), matrix)


def test_sixd_of_anything_is_a_rotation(generator):
    matrix = geometry.sixd_to_matrix(torch.randn(50, 6, dtype=torch.float64, generator=generator))
    eye = torch.eye(3, dtype=torch.float64).expand(50, 3, 3)
    torch.testing.assert_close(matrix @ matrix.mT, eye)
    torch.testing.assert_close(torch.linalg.det(matrix), torch.ones(50, dtype=torch.float64))


@pytest.mark.parametrize("angle", [0.0, 1e-7, 1.0, 3.1415])
def test_geodesic_distance_is_the_angle(angle):
    vector = torch.tensor([0.0, angle, 0.0], dtype=torch.float64)
    distance = geometry.geodesic_distance(
        geometry.rotvec_to_matrix(vector), torch.eye(3, dtype=torch.float64)
    )
    assert distance.item() == pytest.approx(angle, abs=1e-12)


def test_geodesic_distance_is_bi_invariant(generator):
    a, b, c = geometry.rotvec_to_matrix(
        torch.randn(3, 5, 3, dtype=torch.float64, generator=generator)
    )
    expected = geometry.geodesic_distance(a, b)
    torch.testing.assert_close(geometry.geodesic_distance(c @ a, c @ b), expected)
    torch.testing.assert_close(geometry.geodesic_distance(a @ c, b @ c), expected)


def test_gradients(generator):
    vectors = torch.randn(4, 3, dtype=torch.float64, generator=generator)
    vectors[0] = 0  # the series
    assert torch.autograd.gradcheck(geometry.rotvec_to_matrix, vectors.requires_grad_())
    sixd = torch.randn(4, 6, dtype=torch.float64, generator=generator, requires_grad=True)
    assert torch.autograd.gradcheck(geometry.sixd_to_matrix, sixd)


def test_similarity_align_undoes_a_similarity(generator):
    x = torch.randn(8, 14, 3, dtype=torch.float64, generator=generator)
    rotation = geometry.rotvec_to_matrix(
        torch.randn(8, 3, dtype=torch.float64, generator=generator)
    )
    moved = 1.7 * x @ rotation.mT + 3.0
    torch.testing.assert_close(geometry.similarity_align(moved, x), x)


def test_similarity_align_never_reflects(generator):
    x = torch.randn(14, 3, dtype=torch.float64, generator=generator)
    mirrored = x * x.new_tensor([-1, 1, 1])
    error = (geometry.similarity_align(mirrored, x) - x).norm(dim=-1).mean()
    assert error > 0.3


def test_similarity_align_of_coinciding_points_is_the_target_mean():
    target = torch.arange(12.0).reshape(4, 3)
    aligned = geometry.similarity_align(torch.ones(4, 3), target)
    torch.testing.assert_close(aligned, target.mean(0).expand(4, 3))


def schmidt(sixd):
    """Orthonormalise as the official code does, which fails at the limits."""
    normalize = torch.nn.functional.normalize
    row1 = normalize(sixd[..., :3], dim=-1)
    rest = sixd[..., 3:] - (row1 * sixd[..., 3:]).sum(-1, keepdim=True) * row1
    row2 = normalize(rest, dim=-1)
    return torch.stack([row1, row2, torch.linalg.cross(row1, row2)], -2)


def test_usual_rotations_are_those_of_the_official_code_to_the_last_bit(generator):
    sixd = torch.randn(20_000, 6, generator=generator).requires_grad_()
    direction = torch.randn(20_000, 3, 3, generator=generator)
    ours, theirs = geometry.sixd_to_matrix(sixd), schmidt(sixd)
    assert torch.equal(ours, theirs)
    gradients = [torch.autograd.grad((m * direction).sum(), sixd)[0] for m in (ours, theirs)]
    assert torch.equal(*gradients)


SIZES = [0.0, 1e-45, 1e-38, 1e-30, 1e-20, 1e-12, 1e-7, 1e-4, 1.0, 1e5, 1e15, 1e20, 1e25, 3e38]


@pytest.mark.parametrize("angle", [0.0, 1e-9, 1e-7, 3e-6, 1e-5, 1e-4, 1e-3, 1.0, torch.pi])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_finite_input_is_a_rotation_with_a_bounded_gradient(dtype, angle, generator):
    vectors = torch.randn(30, 3, generator=generator, dtype=torch.float64)
    vectors = torch.cat([vectors, torch.eye(3).double(), -torch.eye(3).double()])
    first = torch.nn.functional.normalize(vectors, dim=-1)
    side = torch.linalg.cross(first, first.roll(1, -1) * torch.tensor([1.0, -1.0, 2.0]))
    side = torch.nn.functional.normalize(side, dim=-1)
    second = first * torch.tensor(angle).cos() + side * torch.tensor(angle).sin()
    sizes = torch.tensor(SIZES, dtype=torch.float64)
    rows = torch.stack(
        torch.broadcast_tensors(
            sizes[:, None, None, None] * first, sizes[None, :, None, None] * second
        ),
        -2,
    )
    sixd = rows.flatten(-2).to(dtype).requires_grad_()
    assert sixd.isfinite().all()
    matrix = geometry.sixd_to_matrix(sixd)
    eye = torch.eye(3, dtype=dtype).expand_as(matrix)
    torch.testing.assert_close(matrix @ matrix.mT, eye, atol=3e-4, rtol=0)
    assert (torch.linalg.det(matrix) > 0.999).all()
    (gradient,) = torch.autograd.grad(matrix[..., :, 0].sum() + matrix[..., :, 2].sum(), sixd)
    assert gradient.abs().max() < 1e9


def test_the_short_and_the_parallel_keep_what_direction_they_have():
    sixd = torch.tensor([[0, 0, 1e-20, 1e-30, 0, 0], [0.0, 3, 0, 0, 3, 1e-5], [0, 0, 0, 0, 0, 0]])
    expected = torch.tensor(
        [[[0.0, 0, 1], [1, 0, 0]], [[0, 1, 0], [0, 0, 1]], [[1, 0, 0], [0, 1, 0]]]
    )
    torch.testing.assert_close(geometry.sixd_to_matrix(sixd)[:2, :2], expected[:2])
    torch.testing.assert_close(geometry.sixd_to_matrix(sixd)[2], torch.eye(3))
