from dataclasses import replace

import pytest
import torch

from humr.lifting import propose
from humr.lifting.config import ProposeModel, ProposeRule, ProposeWeights
from humr.lifting.data import LiftingBatch, complete
from humr.lifting.propose import PHASE1, PHASE2, Propose, ProposeObjective

SMALL = ProposeModel(width=6, hidden=20, critic_hidden=16, blocks=2, flow_hidden=12)
RULE = ProposeRule(hypotheses=8, best_of=3, share=0.0)
LEARNED1 = set(PHASE1) - {"divergence"}


def fake_batch(count=4):
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(count, *shape, generator=generator, dtype=torch.float64)

    pose = 0.3 * normal(16, 3)
    pose = pose - pose.mean(1, keepdim=True)
    return LiftingBatch(pose, normal(16, 2), normal(13, 6), complete(pose))


def objective(weights=None, *, model=None, **rule):
    torch.manual_seed(0)
    weights = weights or ProposeWeights()
    network = Propose(replace(SMALL, **(model or {})))
    return ProposeObjective(network, weights, replace(RULE, **rule)).double()


def without(*names):
    return ProposeWeights(**dict.fromkeys(names, 0.0))


def seeded(seed=3):
    return torch.Generator().manual_seed(seed)


def terms_of(system, group, batch=None, seed=3):
    return system(fake_batch() if batch is None else batch, generator=seeded(seed), group=group)


def touched(system, terms):
    """Names of the parameters that a sum of terms has a gradient for."""
    system.zero_grad()
    system.total(terms).backward()
    return {n for n, p in system.named_parameters() if p.grad is not None and p.grad.any()}


def only(system, *modules):
    return {n for n, _ in system.named_parameters() if n.startswith(tuple(modules))}


G, K, D = "model.instance.encoder", "model.instance.decoder", "discriminator"
REST = ("model.adaptive", "model.flow")


@pytest.mark.parametrize(
    ("scheme", "groups"),
    [
        ("alternate", {D: {D}, "instance": LEARNED1, "adaptive": set(PHASE2)}),
        ("end_to_end", {D: {D}, "model": LEARNED1 | set(PHASE2)}),
    ],
)
def test_every_group_has_its_terms(scheme, groups):
    system = objective(scheme=scheme)
    assert list(system.optimizer_groups()) == list(groups)
    for group, names in groups.items():
        terms = terms_of(system, group)
        assert set(terms) == names
        assert all(value.ndim == 0 and value.isfinite() for value in terms.values())
        total = sum(system.weights[name] * value for name, value in terms.items())
        torch.testing.assert_close(system.total(terms), total)


@pytest.mark.parametrize("scheme", ["alternate", "end_to_end"])
@pytest.mark.parametrize("part", [{}, {"instance": "normal"}, {"adaptive": "normal"}])
def test_groups_own_every_parameter_once_and_every_one_learns(part, scheme):
    system = objective(model=part, scheme=scheme)
    owned = [p for group in system.optimizer_groups().values() for p in group.parameters]
    assert len(owned) == len({id(p) for p in owned})
    assert {id(p) for p in owned} == {id(p) for p in system.parameters()}
    names = {id(p): n for n, p in system.named_parameters()}
    for name, group in system.optimizer_groups().items():
        mine = {names[id(p)] for p in group.parameters}
        assert mine <= touched(system, terms_of(system, name)), name


def test_alternately_phase_2_never_reaches_the_instance_learner():
    system = objective()
    assert touched(system, terms_of(system, "adaptive")) == only(system, *REST)


def test_end_to_end_the_likelihood_reaches_the_encoder_only_through_the_latent():
    weights = without("reconstruct3d", "reconstruct2d", "mode", "bidirectional", "discriminator")
    system = objective(weights, scheme="end_to_end")
    terms = terms_of(system, "model")
    assert set(terms) == {"nll"}
    reached = touched(system, terms)
    assert only(system, G) <= reached
    assert not only(system, K) & reached
    alternately = objective(weights)
    assert not only(alternately, G) & touched(alternately, terms_of(alternately, "adaptive"))


def test_end_to_end_the_likelihood_pays_for_forgetting_depth():
    """Poses of one 2D pose: their latents come closer than s, and the term nears its bound."""
    weights = without("reconstruct3d", "reconstruct2d", "mode", "bidirectional", "discriminator")
    system, batch = objective(weights, scheme="end_to_end"), fake_batch(16)
    batch = replace(batch, points=batch.points[:1].expand_as(batch.points))

    def spread():
        return system.model.latent(batch).mean.std(0).mean().item()

    assert spread() > 2 * SMALL.std
    optimizer = torch.optim.Adam(system.model.parameters(), lr=3e-3)
    for step in range(25):
        nll = system.total(terms_of(system, "model", batch, seed=step))
        optimizer.zero_grad()
        nll.backward()
        optimizer.step()
    assert spread() < SMALL.std
    assert nll.item() > propose.latent_entropy(SMALL.width, SMALL.std)


@pytest.mark.parametrize(("scheme", "reached"), [("alternate", (K,)), ("end_to_end", (K, *REST))])
def test_what_the_bidirectional_loss_reaches(scheme, reached):
    weights = without("reconstruct3d", "reconstruct2d", "nll", "mode", "discriminator")
    system = objective(weights, scheme=scheme)
    group = "instance" if scheme == "alternate" else "model"
    found = touched(system, terms_of(system, group))
    expected = only(system, *reached) - only(system, "model.adaptive.decoder")
    assert found == expected


def test_bidirectional_loss_by_brute_force():
    """All hypotheses with gradients give the same value and the same gradients."""
    for scheme, group in (("alternate", "instance"), ("end_to_end", "model")):
        weights = without("reconstruct3d", "reconstruct2d", "nll", "mode", "discriminator")
        system, batch = objective(weights, scheme=scheme), fake_batch()
        generator = seeded()
        torch.randn(4, 1, 6, generator=generator, dtype=torch.float64)  # of the instance Gaussian
        torch.rand((), generator=generator)  # the coin
        poses = 10 * system.model.hypotheses(batch, 8, generator=generator)
        errors = (poses - 10 * batch.pose[:, None]).norm(dim=-1).sum(-1)
        expected = errors[:, 0]
        for image in range(4):
            best = poses[image, errors[image].argsort()[:3]].mean(0)
            distance = (best - 10 * batch.pose[image]).norm(dim=-1).sum()
            expected = expected + distance * torch.eye(4, dtype=torch.float64)[image]
        value = terms_of(system, group)["bidirectional"]
        torch.testing.assert_close(value, expected.mean())
        decoder = list(system.model.instance.decoder.parameters())
        for ours, brute in zip(
            torch.autograd.grad(value, decoder),
            torch.autograd.grad(expected.mean(), decoder),
            strict=True,
        ):
            torch.testing.assert_close(ours, brute)


def test_the_coin_skips_the_bidirectional_loss_in_a_share_of_the_batches():
    values = {}
    for share in (0.0, 0.25, 1.0):
        system = objective(share=share, hypotheses=2, best_of=1)
        with torch.no_grad():
            drawn = [terms_of(system, "instance", seed=s)["bidirectional"] for s in range(60)]
        values[share] = torch.stack(drawn)
    assert (values[0.0] > 0).all()
    assert not values[1.0].any()
    assert (values[0.25] == 0).double().mean().item() == pytest.approx(0.25, abs=0.15)
    kept = values[0.25] > 0
    assert (values[0.25][kept] == values[0.0][kept]).all()


def test_terms_of_phase_1_by_hand():
    system, batch = objective(share=1.0), fake_batch()
    terms = terms_of(system, "instance")
    noise = torch.randn(4, 1, 6, generator=seeded(), dtype=torch.float64)
    latent = system.model.latent(batch).mean[:, None] + SMALL.std * noise
    made = system.model.instance.decode(latent, batch.points)[:, 0]
    error = 10 * (made - batch.pose).norm(dim=-1).sum(-1)  # decimetres
    torch.testing.assert_close(terms["reconstruct3d"], error.mean())
    energy, code = system.discriminator(made, batch.points)
    torch.testing.assert_close(terms["generator"], energy.mean())
    torch.testing.assert_close(terms["pulling"], propose.pulling_away(code).mean())


def test_terms_of_phase_2_by_hand():
    system, batch = objective(), fake_batch()
    terms = terms_of(system, "adaptive")
    model, target = system.model, system.model.latent(batch)
    noise = torch.randn(4, 1, 6, generator=seeded(), dtype=torch.float64)
    density = model.latent_log_prob(target.at(noise), batch.points)
    torch.testing.assert_close(terms["nll"], -density.mean())
    condition = model.flow.project(batch.points.flatten(1))
    image, _ = model.flow.normalize(target.mean[:, None], condition)
    distance = (image[:, 0] - model.base(batch.points).mean).norm(dim=-1)
    torch.testing.assert_close(terms["mode"], distance.mean())
    again = model.adaptive.reconstruct(batch.points)
    torch.testing.assert_close(
        terms["reconstruct2d"], (again - batch.points).abs().sum((1, 2)).mean()
    )


def test_the_discriminator_sees_reconstructions_as_constants():
    system, batch = objective(margin=50.0), fake_batch()
    terms = terms_of(system, D)
    assert touched(system, terms) == only(system, D)
    noise = torch.randn(4, 1, 6, generator=seeded(), dtype=torch.float64)
    latent = system.model.latent(batch).at(noise)
    made = system.model.instance.decode(latent, batch.points)[:, 0]
    real, fake = (system.discriminator(p, batch.points)[0] for p in (batch.pose, made))
    torch.testing.assert_close(terms[D], (real + 50 - fake).mean())


def test_the_variational_control_adds_a_divergence():
    system = objective(model={"instance": "normal"})
    terms = terms_of(system, "instance")
    assert set(terms) == set(PHASE1)
    batch = fake_batch()
    posterior = system.model.instance.encode(batch.pose, batch.points)
    torch.testing.assert_close(terms["divergence"], propose.divergence(posterior).mean())
    assert system.weights["divergence"] == ProposeWeights().divergence
    # the flow is shown N(0, I), which does not depend on the label
    other = replace(batch, pose=batch.pose + 1)
    first, second = (terms_of(system, "adaptive", b) for b in (batch, other))
    assert first["nll"] == second["nll"]


def test_without_the_adaptive_gaussian_there_is_no_2d_autoencoder():
    system = objective(model={"adaptive": "normal"})
    terms = terms_of(system, "adaptive")
    assert set(terms) == {"nll", "mode"}
    batch = fake_batch()
    condition = system.model.flow.project(batch.points.flatten(1))
    image, _ = system.model.flow.normalize(system.model.latent(batch).mean[:, None], condition)
    torch.testing.assert_close(terms["mode"], image.norm(dim=-1).mean())


def test_terms_of_weight_zero_are_left_out_and_change_no_other():
    every = terms_of(objective(), "adaptive") | terms_of(objective(), "instance")
    weights = without("nll", "bidirectional", "discriminator")
    few = objective(weights)
    assert few.discriminator is None
    assert list(few.optimizer_groups()) == ["instance", "adaptive"]
    terms = terms_of(few, "adaptive") | terms_of(few, "instance")
    assert set(terms) == {"reconstruct3d", "reconstruct2d", "mode"}
    for name, value in terms.items():
        torch.testing.assert_close(value, every[name], rtol=0, atol=0)
    nothing = replace(weights, reconstruct3d=0.0)
    assert list(objective(nothing).optimizer_groups()) == ["adaptive"]


def test_without_likelihood_only_the_modes_teach_the_flow_alternately():
    weights = without("reconstruct2d", "nll")
    alternate = objective(weights)
    found = touched(alternate, terms_of(alternate, "adaptive"))
    assert only(alternate, "model.flow") <= found
    width = SMALL.width
    head = alternate.model.adaptive.head.weight.grad
    assert head[:width].any()
    assert not head[width:].any()  # the standard deviation learns nothing
    together = objective(weights, scheme="end_to_end")
    touched(together, terms_of(together, "model"))
    assert together.model.adaptive.head.weight.grad[width:].any()


def test_a_batch_of_one_has_every_term():
    system = objective()
    for group in system.optimizer_groups():
        terms = terms_of(system, group, fake_batch(1))
        assert system.total(terms).isfinite()
        touched(system, terms)
        assert all(p.grad is None or p.grad.isfinite().all() for p in system.parameters())
    assert terms_of(system, "instance", fake_batch(1))["pulling"] == 0


def test_the_coin_never_waits_for_a_device(monkeypatch):
    """Where noise comes from a device, the coin is of the CPU's own generator."""

    class Elsewhere(torch.Generator):
        device = torch.device("cuda")

    tossed, own = [], seeded()
    monkeypatch.setattr(torch, "rand", lambda *_, generator: tossed.append(generator) or 0.0)
    for generator in (Elsewhere(), own):
        objective(share=1.0)._bidirectional(fake_batch(), generator)
    assert tossed == [None, own]


def test_the_same_generator_gives_the_same_terms():
    system = objective()
    first, second, other = (terms_of(system, "instance", seed=s) for s in (1, 1, 2))
    assert first == second
    assert first["reconstruct3d"] != other["reconstruct3d"]


def test_turns_lower_reconstruction_and_likelihood():
    system, batch = objective(hypotheses=4), fake_batch(16)
    optimizers = {
        name: torch.optim.Adam(group.parameters, lr=3e-3)
        for name, group in system.optimizer_groups().items()
    }
    history = []
    for step in range(60):
        row = {}
        for name, optimizer in optimizers.items():
            terms = terms_of(system, name, batch, seed=step)
            optimizer.zero_grad()
            system.total(terms).backward()
            optimizer.step()
            row |= {key: value.item() for key, value in terms.items()}
        history.append(row)
    for name in ("reconstruct3d", "reconstruct2d", "nll", "bidirectional"):
        assert history[-1][name] < 0.8 * history[0][name], name


def test_unknown_groups_and_foreign_terms():
    system = objective()
    with pytest.raises(ValueError, match="group must be one of discriminator, instance"):
        terms_of(system, "model")
    with pytest.raises(ValueError, match="are not those of a group"):
        system.total({"nll": torch.tensor(0.0)})
