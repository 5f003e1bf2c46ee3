"""What the official code does not measure on 3DPW and EMDB: scores and calibration.

As in `measures`, with two differences: joints are those of the data set (`official_measures`), and
visible are those that the detector is confident of, since of photographs nobody knows better.
"""

from torch import Tensor

from humr import measures, metrics
from humr.measures import COCO_HIPS
from humr.official_measures import Forecast, Truth


def scores(drawn: Forecast, truth: Truth) -> dict[str, Tensor]:
    """Energy scores in mm: of the data set's joints, and of COCO-17 by visibility."""
    joints = drawn.joints[:, drawn.random]
    samples, target = _centred(drawn, truth)
    by_joint = metrics.energy_score_by_joint(samples, target)
    return {
        "energy_score": 1e3 * metrics.energy_score(joints, truth.joints),
        "joint_energy_score": 1e3 * metrics.joint_energy_score(joints, truth.joints),
        "energy_visible": 1e3 * metrics.masked_mean(by_joint, truth.visible),
        "energy_hidden": 1e3 * metrics.masked_mean(by_joint, ~truth.visible),
    }


def calibration(drawn: Forecast, truth: Truth) -> dict[str, Tensor]:
    """Coverage and ranks of COCO-17 coordinates about the middle of the hips."""
    samples, target = _centred(drawn, truth)
    shares = measures.coverage(samples, target, truth.visible, ~truth.visible)
    return shares | measures.ranks(samples, target)


def _centred(drawn: Forecast, truth: Truth) -> tuple[Tensor, Tensor]:
    """Random hypotheses and labels of COCO-17."""
    samples = metrics.centre(drawn.coco17[:, drawn.random], COCO_HIPS)
    return samples, metrics.centre(truth.coco17, COCO_HIPS)
