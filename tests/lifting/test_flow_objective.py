from dataclasses import asdict, replace

import pytest
import torch

from humr.lifting import flow
from humr.lifting.config import LiftingModel, LiftingRule, LiftingWeights
from humr.lifting.data import LiftingBatch, complete
from humr.lifting.flow import Critic, LiftingFlow, LiftingObjective

SMALL = LiftingModel(blocks=2, hidden=16, condition_hidden=12, condition_width=6)
RULE = LiftingRule(hypotheses=6, best_of=2)
NONE = LiftingWeights(
    points=0.0, mmd=0.0, deterministic=0.0, heatmap=0.0, best=0.0, adversarial=0.0
)


@pytest.fixture
def batch(generator):
    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    pose = 0.3 * normal(4, 16, 3)
    pose = pose - pose.mean(1, keepdim=True)
    points = normal(4, 16, 2)
    condition = torch.cat(
        [normal(4, 13, 3), torch.tensor([0.09, 0.02, 0.06]).expand(4, 13, 3)], -1
    )
    return LiftingBatch(pose, points - points.mean(1, keepdim=True), condition, complete(pose))


def build(weights=None, rule=RULE, **options):
    torch.manual_seed(0)
    weights = LiftingWeights() if weights is None else weights
    model = LiftingFlow(SMALL, noisy=weights.nll > 0).double()
    critic = Critic(hidden=8, bones_hidden=12).double()
    return LiftingObjective(model, weights, rule, critic=critic, **options)


def terms_of(objective, batch, group="model"):
    return objective(batch, generator=torch.Generator().manual_seed(1), group=group)


def test_weights_and_terms_have_the_same_names(batch):
    weights = LiftingWeights(nll=1.0)
    terms = terms_of(build(weights), batch)
    assert terms.keys() == asdict(weights).keys()
    assert all(term.shape == () and term.isfinite() for term in terms.values())


@pytest.mark.parametrize("name", sorted(asdict(LiftingWeights())))
def test_each_term_alone(name, batch):
    objective = build(replace(NONE, **{name: 2.0}))
    terms = terms_of(objective, batch)
    assert list(terms) == [name]
    torch.testing.assert_close(objective.total(terms), 2 * terms[name])


def test_weight_zero_means_not_computed(batch, monkeypatch):
    def never(*args, **kwargs):
        raise AssertionError("computed")

    for function in ("heatmap_covariance", "best_hypotheses", "mmd_term", "generator_score"):
        monkeypatch.setattr(flow, function, never)
    terms = terms_of(build(replace(NONE, points=1.0, deterministic=1.0)), batch)
    assert terms.keys() == {"points", "deterministic"}


def test_hypotheses_are_drawn_once_and_shared(batch, monkeypatch):
    seen = {}
    for name in ("heatmap_covariance", "best_hypotheses"):
        original = getattr(flow, name)

        def spy(hypotheses, *args, name=name, original=original, **kwargs):
            seen[name] = hypotheses
            return original(hypotheses, *args, **kwargs)

        monkeypatch.setattr(flow, name, spy)
    terms_of(build(), batch)
    assert seen["heatmap_covariance"] is seen["best_hypotheses"]
    assert seen["heatmap_covariance"].shape == (4, 6, 16, 3)


def test_the_deterministic_term_starts_from_a_latent_that_stands_still(batch):
    """Its gradient is that of lifting a constant, and 0 wherever the 2D pose is already right."""
    objective = build(replace(NONE, deterministic=1.0))
    terms = terms_of(objective, batch)
    model = objective.model
    projected = model.project(batch)
    with torch.no_grad():
        z, points, _ = model.forward_pose(batch.pose, projected)
    back = model.lift(z[:, None], batch.points, projected)[:, 0]
    expected = (back - batch.pose).abs().mean()
    torch.testing.assert_close(terms["deterministic"], expected)
    parameters = list(model.parameters())
    found = torch.autograd.grad(terms["deterministic"], parameters)
    for one, other in zip(found, torch.autograd.grad(expected, parameters), strict=True):
        torch.testing.assert_close(one, other)
    exact = terms_of(objective, replace(batch, points=points))
    assert exact["deterministic"].item() < 1e-10


def test_one_backward_is_the_three_of_the_official_code(batch):
    objective = build()
    parameters = list(objective.model.parameters())
    terms = terms_of(objective, batch)
    whole = torch.autograd.grad(objective.total(terms), parameters, retain_graph=True)
    parts = [("points", "mmd"), ("deterministic", "heatmap", "best"), ("adversarial",)]
    summed = [torch.zeros_like(p) for p in parameters]
    weights = asdict(objective.weights)
    for names in parts:
        part = torch.stack([weights[name] * terms[name] for name in names]).sum()
        gradients = torch.autograd.grad(part, parameters, retain_graph=True, allow_unused=True)
        summed = [s if g is None else s + g for s, g in zip(summed, gradients, strict=True)]
    for one, other in zip(whole, summed, strict=True):
        torch.testing.assert_close(one, other)


def test_groups_own_disjoint_parameters_and_clip_the_flow_only():
    objective = build()
    groups = objective.optimizer_groups()
    assert list(groups) == ["critic", "model"]
    assert groups["critic"].updates == 5
    assert groups["model"].updates == 1
    ids = {name: {id(p) for p in group.parameters} for name, group in groups.items()}
    assert not ids["critic"] & ids["model"]
    assert ids["critic"] == {id(p) for p in objective.critic.parameters()}
    assert ids["model"] == {id(p) for p in objective.model.parameters()}
    clipped = {id(p) for p in groups["model"].clipped}
    assert clipped == {id(p) for p in objective.model.flow.parameters()}
    assert clipped < ids["model"]
    assert groups["critic"].clipped == []


def test_without_its_term_the_critic_does_not_play(batch):
    objective = build(replace(LiftingWeights(), adversarial=0.0))
    assert list(objective.optimizer_groups()) == ["model"]
    assert objective.critic is None
    with pytest.raises(ValueError, match=r"group must be one of \['model'\]; got 'critic'"):
        terms_of(objective, batch, "critic")


def test_the_critic_learns_to_tell_hypotheses_from_labels(batch):
    objective = build()
    optimizer = torch.optim.Adam(objective.critic.parameters(), lr=1e-2)
    first = terms_of(objective, batch, "critic")
    assert first.keys() == {"gap", "penalty"}
    expected = first["gap"] + 10 * first["penalty"]
    torch.testing.assert_close(objective.total(first), expected)
    for _ in range(60):
        optimizer.zero_grad()
        objective.total(terms_of(objective, batch, "critic")).backward()
        optimizer.step()
    last = terms_of(objective, batch, "critic")
    assert last["gap"] < first["gap"] - 0.1
    assert all(p.grad is None for p in objective.model.parameters())


def test_the_critic_compares_different_images(batch, monkeypatch):
    seen = {}

    def spy(critic, real, fake, share):
        seen.update(real=real, fake=fake, share=share)
        return real.new_zeros(len(real))

    monkeypatch.setattr(flow, "gradient_penalty", spy)
    objective = build()
    terms_of(objective, batch, "critic")
    assert seen["real"] is batch.pose
    projected = objective.model.project(batch)
    _, points, _ = objective.model.forward_pose(seen["fake"].roll(-1, 0), projected)
    torch.testing.assert_close(points, batch.points)  # hypothesis i belongs to image i - 1
    assert ((seen["share"] >= 0) & (seen["share"] <= 1)).all()


def test_steps_lower_the_loss(batch):
    objective = build(replace(LiftingWeights(), adversarial=0.0))
    optimizer = torch.optim.Adam(objective.model.parameters(), lr=3e-3)
    first = objective.total(terms_of(objective, batch)).item()
    for _ in range(60):
        optimizer.zero_grad()
        total = objective.total(terms_of(objective, batch))
        total.backward()
        optimizer.step()
    assert total.item() < 0.7 * first


def test_the_likelihood_is_that_of_poses_moved_as_a_whole(batch, monkeypatch):
    """Centred poses lie in 45 dimensions; a random offset of each fills the other three."""
    objective = build(replace(NONE, nll=1.0))
    log_prob, seen = objective.model.log_prob, []

    def spy(moved):
        seen.append((moved.pose - batch.pose, log_prob(moved)))
        return seen[-1][1]

    monkeypatch.setattr(objective.model, "log_prob", spy)
    generator = torch.Generator().manual_seed(1)
    for _ in range(100):
        value = objective(batch, generator=generator, group="model")["nll"]
    torch.testing.assert_close(value, -seen[-1][1].mean() / 48)
    offsets = torch.stack([offset for offset, _ in seen])
    torch.testing.assert_close(offsets, offsets[:, :, :1].expand_as(offsets))
    assert offsets[:, :, 0].std().item() == pytest.approx(0.1, rel=0.1)


def test_same_generator_same_terms(batch):
    objective = build(LiftingWeights(nll=1.0))
    assert terms_of(objective, batch) == terms_of(objective, batch)


def test_one_hypothesis_and_one_image(batch):
    rule = replace(RULE, hypotheses=1, best_of=1)
    with pytest.raises(ValueError, match="a covariance needs two or more hypotheses; got 1"):
        terms_of(build(rule=rule), batch)
    no_covariance = replace(LiftingWeights(), heatmap=0.0)
    assert terms_of(build(no_covariance, rule=rule), batch)["best"] > 0
    with pytest.raises(ValueError, match="the unbiased estimator needs two or more samples"):
        terms_of(build(), batch[:1])
    biased = build(rule=replace(RULE, estimator="biased"))
    assert biased.total(terms_of(biased, batch[:1])).isfinite()
    assert biased.total(terms_of(biased, batch[:1], "critic")).isfinite()


def test_wrong_parts_are_refused(batch):
    model = LiftingFlow(SMALL)
    with pytest.raises(ValueError, match="the adversarial term needs a critic"):
        LiftingObjective(model, LiftingWeights(), RULE)
    with pytest.raises(ValueError, match="noisy=True"):
        LiftingObjective(model, replace(NONE, nll=1.0), RULE)
    objective = build()
    with pytest.raises(ValueError, match=r"group must be one of .*'critic', 'model'.* got 'flow'"):
        terms_of(objective, batch, "flow")
    terms = terms_of(objective, batch)
    del terms["points"]
    with pytest.raises(ValueError, match="match neither weights"):
        objective.total(terms)
