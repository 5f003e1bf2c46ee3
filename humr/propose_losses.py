r"""The losses of ProPose (Han, Kim and Lee, AAAI 2025): one value per batch element.

Numbers of equations are the paper's. Poses may have any unit; `propose_objective` passes
decimetres. [ours] marks what the paper leaves open.
"""

import math

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from humr.propose import Gaussian


def joint_error(
    predicted: Float[Tensor, "*batch joints 3"], target: Float[Tensor, "*batch joints 3"]
) -> Float[Tensor, "*batch"]:
    r"""Sum of distances $\sum_j \|P^j - \hat P^j\|_2$ (Eq. 4 and 13).

    The text says "mean squared error"; the equations print norms that are not squared, and no
    mean. The equations count.
    """
    return (predicted - target).norm(dim=-1).sum(-1)


def point_error(
    predicted: Float[Tensor, "*batch joints 2"], target: Float[Tensor, "*batch joints 2"]
) -> Float[Tensor, "*batch"]:
    r"""Sum $\sum_j \|P_{2D}^j - \hat P_{2D}^j\|_1$ over joints and both coordinates (Eq. 6)."""
    return (predicted - target).abs().sum((-1, -2))


def latent_nll(
    noise: Float[Tensor, "batch hypotheses dim"],
    log_det: Float[Tensor, "batch hypotheses"],
    base: Gaussian,
) -> Float[Tensor, " batch"]:
    r"""Negative log-likelihood of latents $w$ whose image is `noise` $= f_\theta(w; c)$ (Eq. 10).

    $$\sum_d \left[\log \sigma_d + \frac{(f_\theta(w; c)_d - \mu_d)^2}{2 \sigma_d^2}
      + \tfrac12 \log 2 \pi \right] - \log |\det \partial f_\theta / \partial w|$$

    The sum is not printed; the exact likelihood needs it. If $w \sim \mathcal N(\mu_{3D}, s^2 I)$
    the expectation is at least the entropy, $\frac d2 \log 2 \pi e s^2$. Mean over hypotheses.
    """
    return -(base.log_prob(noise) + log_det).mean(-1)


def mode_to_mode(noise: Float[Tensor, "batch dim"], base: Gaussian) -> Float[Tensor, " batch"]:
    r"""Distance $\|f_\theta(\mu_{3D}; c) - \mu_{2D}\|_2$ of the modes (Eq. 15)."""
    return (noise - base.mean).norm(dim=-1)


def divergence(posterior: Gaussian) -> Float[Tensor, " batch"]:
    r"""Kullback-Leibler divergence $\frac12 \sum_d (\mu_d^2 + \sigma_d^2 - 1) - \log \sigma_d$.

    From $\mathcal N(\mu, \sigma)$ to $\mathcal N(0, I)$. Not printed in the paper, but part of any
    variational autoencoder, which its Table 4 compares with.
    """
    squares = posterior.mean.square() + (2 * posterior.log_std).exp() - 1
    return (0.5 * squares - posterior.log_std).sum(-1)


def best_of_indices(errors: Float[Tensor, "batch hypotheses"], best_of: int) -> Tensor:
    """Return the `best_of` hypotheses of least error of every image, (batch, best_of)."""
    if not 1 <= best_of <= errors.shape[1]:
        raise ValueError(
            f"best_of must lie in 1..{errors.shape[1]}, the number of hypotheses; got {best_of}"
        )
    return errors.topk(best_of, dim=1, largest=False).indices


def best_of_many(
    best: Float[Tensor, "batch best joints 3"], target: Float[Tensor, "batch joints 3"]
) -> Float[Tensor, " batch"]:
    """Error of the mean of the best hypotheses (Eq. 12)."""
    return joint_error(best.mean(1), target)


def discriminator(
    real: Float[Tensor, " batch"], fake: Float[Tensor, " batch"], *, margin: float
) -> Float[Tensor, " batch"]:
    r"""Energies of labels and of made poses: $D(P) + [m - D(\hat P)]^+$ (Eq. 11).

    The generator's $L_G = D(\hat P)$ is the energy itself. Made poses beyond the margin do not
    count.
    """
    return real + (margin - fake).relu()


def pulling_away(code: Float[Tensor, "batch code"]) -> Float[Tensor, " batch"]:
    r"""Mean squared cosine of a code with all others of the batch (Eq. 11, $L_{PT}$).

    $$\frac{1}{N - 1} \sum_{j \ne i} \left(\frac{S_i^T S_j}{\|S_i\| \|S_j\|}\right)^2$$

    for every $i$, so that the mean over the batch is the paper's. 0 in a batch of one, where the
    paper's is 0 / 0: nothing is there to be pushed apart [ours].
    """
    direction = functional.normalize(code, dim=-1)
    squares = (direction @ direction.mT).square()
    others = squares.sum(-1) - squares.diagonal()
    return others / max(len(code) - 1, 1)


def latent_entropy(dim: int, std: float) -> float:
    r"""Entropy $\frac d2 \log 2 \pi e s^2$ of the instance Gaussian, below every `latent_nll`."""
    return dim * (0.5 * math.log(2 * math.pi * math.e) + math.log(std))
