"""Tests of what notebook 17 defines for its own figures."""

from dataclasses import replace

import matplotlib.pyplot as plt
import pytest
import torch
from notebook_code import functions

from humr.figures import posteriors


def test_the_mask_loss_pulls_what_is_off_the_mask(ax, example, around):
    pulled, show = functions("17", "pulled", "show_pull")
    window = posteriors.Window.of_points(example.posterior, [around])
    batch = example.posterior.batch
    nobody, everybody = torch.zeros_like(batch.mask), torch.ones_like(batch.mask)
    size = batch.image_size[0]
    in_picture = int(((around >= 0) & (around < size)).all(-1).sum())
    for mask, expected in ((nobody, in_picture), (everybody, 0)):
        looked_at = replace(example.posterior, batch=replace(batch, mask=mask))
        pays, kept = pulled(replace(example, posterior=looked_at), around, around)
        assert int(pays.sum()) == expected
        show(ax, window, around, pays, kept)


def test_ends_are_about_the_hips_and_point_down(example, body):
    about_hips, ends = functions("17", "about_hips", "ends", body=body)
    fig, (front, side) = plt.subplots(1, 2)
    ends((front, side), example)
    assert front.get_ylim()[0] > front.get_ylim()[1]
    hips = about_hips(example.people.keypoints(body, "coco17"))[[11, 12]]
    torch.testing.assert_close(hips.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    assert len(front.collections) == 4
    plt.close(fig)


def test_rows_fill_their_axes(example, body):
    opposite, hypotheses, failure = functions("17", "opposite", "hypotheses", "failure", body=body)
    fig, axes = posteriors.grid(3, 5)
    opposite(axes[0], example.posterior, example.joint)
    hypotheses(axes[1], example.posterior, example.joint)
    failure(axes[2], example)
    assert all(ax.images for ax in [*axes[0, :4], *axes[1, :4], *axes[2, :4]])
    posteriors.finding(fig, "what it shows")
    plt.close(fig)


def test_without_noise_every_hypothesis_is_the_mode(example, upright, body):
    class Run:
        generator = torch.Generator().manual_seed(0)

    (tempered,) = functions("17", "tempered", model=upright, body=body, count=3, run=Run)
    points = tempered(example, 0.0)
    mode = example.posterior.pixels(example.posterior.mode.keypoints(body, "coco17")[None])[0]
    torch.testing.assert_close(points, mode[example.joint].expand(3, 2), atol=1e-2, rtol=0)


def test_points_drawn_from_a_heatmap_lie_in_its_regions_as_often_as_they_say(example):
    (inside,) = functions("17", "inside_heatmap")
    generator = torch.Generator().manual_seed(0)
    drawn = example.posterior.detection.sample(1500, generator=generator)[:, example.joint].float()
    assert inside(example, drawn, 0.8) == pytest.approx(0.8, abs=0.05)
