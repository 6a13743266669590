"""Options of GANs, against a training step that is written out in plain torch."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from test_gan import SMALL, Images, Spy, fit

from lightning_modules.gan import (
    FAKE_AUGMENTATION,
    FIRST_DISCRIMINATOR_LATENTS,
    GAN,
    GENERATOR_LATENTS,
    INTERPOLATION,
    LABELS,
    REAL_AUGMENTATION,
)
from norms.errors import SettingError

CLASSES = 3
CONDITIONAL = {"num_classes": CLASSES}


class LabeledImages(Images):
    num_classes = CLASSES

    def __init__(self, parts):
        super().__init__(parts, batch=4 * parts)
        self.images = [{**item, "label": n % CLASSES} for n, item in enumerate(self.images)]


def build(**options):
    torch.manual_seed(0)
    return GAN(**{**SMALL, "lr": 1e-3, **options})


class Plain:
    """Make the step of a copy of ``module``, as the paper writes it and without any of its methods but the noise."""

    def __init__(self, module, batch, lr_d, loss_d, loss_g, clip=None, shared=False, penalty=None, paired=False):
        self.module, self.batch = module, batch
        self.generator, self.discriminator = copy.deepcopy(module.generator), copy.deepcopy(module.discriminator)
        self.loss_d, self.loss_g, self.shared, self.paired = loss_d, loss_g, shared, paired
        self.clip, self.penalty = clip, penalty or (lambda *_: 0)
        self.adam_d = torch.optim.Adam(self.discriminator.parameters(), lr_d, betas=(0.0, 0.9))
        self.adam_g = torch.optim.Adam(self.generator.parameters(), 1e-3, betas=(0.0, 0.9))

    def generated(self, stream, count, labels):
        latents = self.module.noise(stream, count, SMALL["latent_dim"])
        if not self.module.num_classes:
            return self.generator(latents), None
        if not self.paired:
            keyed = self.module.keyed(LABELS + stream)
            labels = torch.randint(CLASSES, (count,), generator=keyed)
        return self.generator(latents, labels), labels

    def scores(self, images, labels):
        inputs = (images,) if labels is None or self.module.auxiliary else (images, labels)
        found = self.discriminator(*inputs)
        return found if self.module.auxiliary else (found, None)

    def augmented(self, images, stream):
        return images if self.module.augment is None else self.module.augment(images, self.module.keyed(stream))

    def step(self):
        parts, accumulate = self.module.n_dis * self.module.accumulate, self.module.accumulate
        real = list((2 * self.batch["image"] - 1).chunk(parts))
        labels = list(self.batch["label"].chunk(parts)) if self.module.num_classes else [None] * parts
        for first in range(0, parts, accumulate):
            total = 0
            for k in range(first, first + accumulate):
                stream = FIRST_DISCRIMINATOR_LATENTS + k
                fake, fake_labels = self.generated(stream, len(real[k]), labels[k])
                x, y = real[k].clone().requires_grad_(), fake.detach().requires_grad_()
                seen = self.augmented(x, REAL_AUGMENTATION + stream), self.augmented(y, FAKE_AUGMENTATION + stream)
                if self.shared:
                    both = self.scores(
                        torch.cat(seen), None if labels[k] is None else torch.cat([labels[k], fake_labels])
                    )
                    d_real, d_fake = both[0].chunk(2)
                    logits = both[1]
                else:
                    (d_real, logits), (d_fake, _) = self.scores(seen[0], labels[k]), self.scores(seen[1], fake_labels)
                total = total + self.loss_d(d_real, d_fake) + self.penalty(self, x, y, d_real, d_fake, seen, stream)
                if logits is not None:
                    total = total + F.nll_loss(logits.log_softmax(1), labels[k])
            self.update(self.adam_d, self.discriminator, total / accumulate)
        total = 0
        for number in range(accumulate):
            stream = FIRST_DISCRIMINATOR_LATENTS + parts + number if number else GENERATOR_LATENTS
            x, y = real[parts - accumulate + number], labels[parts - accumulate + number]
            fake, fake_labels = self.generated(stream, len(x), y)
            d_fake, logits = self.scores(self.augmented(fake, FAKE_AUGMENTATION + stream), fake_labels)
            inputs = (d_fake,)
            if self.paired:
                inputs = d_fake, self.scores(self.augmented(x, REAL_AUGMENTATION + stream), y)[0]
            total = total + self.loss_g(*inputs)
            if logits is not None:
                total = total + F.nll_loss(logits.log_softmax(1), fake_labels)
        self.update(self.adam_g, self.generator, total / accumulate)

    def update(self, adam, network, loss):
        adam.zero_grad()
        loss.backward()
        if self.clip is not None:
            length = torch.cat([p.grad.flatten() for p in network.parameters()]).norm()
            for parameter in network.parameters():
                parameter.grad *= min(1, self.clip / (length + 1e-6))
        adam.step()


def hinge_d(real, fake):
    return (1 - real).clamp_min(0).mean() + (1 + fake).clamp_min(0).mean()


def hinge_g(fake):
    return -fake.mean()


def squared_gradient(scores, images):
    [gradient] = torch.autograd.grad(scores.sum(), images, create_graph=True)
    return (gradient**2).sum() / len(images)


def r1_and_r2(plain, x, y, d_real, d_fake, seen, stream):
    return 0.5 * 3 * squared_gradient(d_real, x) + 0.5 * 0.5 * squared_gradient(d_fake, y)


def wgan_gp(plain, x, y, d_real, d_fake, seen, stream):
    share = torch.rand(len(x), generator=plain.module.keyed(INTERPOLATION + stream)).view(-1, 1, 1, 1)
    along = (share * seen[0] + (1 - share) * seen[1]).detach().requires_grad_()
    [gradient] = torch.autograd.grad(plain.scores(along, None)[0].sum(), along, create_graph=True)
    return 10 * ((gradient.flatten(1).norm(dim=1) - 1) ** 2).mean()


HINGE = {"lr_d": 1e-3, "loss_d": hinge_d, "loss_g": hinge_g}
RELATIVISTIC = {
    "lr_d": 1e-3,
    "loss_d": lambda r, f: (1 + (f - r).exp()).log().mean(),
    "loss_g": lambda f, r: (1 + (r - f).exp()).log().mean(),
    "paired": True,
}
CASES = {
    "plain": ({"n_dis": 2}, HINGE),
    "projection": (CONDITIONAL, HINGE),
    "auxiliary": ({**CONDITIONAL, "architecture_options": {"conditioning": "auxiliary"}}, HINGE),
    "shared": ({**CONDITIONAL, "shared_power_iteration": True, "n_dis": 2}, {**HINGE, "shared": True}),
    "two time scales": ({"discriminator_lr_multiplier": 4.0}, {**HINGE, "lr_d": 4e-3}),
    "accumulate": ({"accumulate": 2, "n_dis": 2}, HINGE),
    "clip": ({"gradient_clip": 0.01}, {**HINGE, "clip": 0.01}),
    "augment": ({"augment": "diff"}, HINGE),
    "r1 and r2": ({"penalties": {"r1": 3, "r2": 0.5}, "augment": "diff"}, {**HINGE, "penalty": r1_and_r2}),
    "wgan_gp": (
        {"loss": "wasserstein", "penalties": {"wgan_gp": 10}},
        {"lr_d": 1e-3, "loss_d": lambda r, f: f.mean() - r.mean(), "loss_g": hinge_g, "penalty": wgan_gp},
    ),
    "relativistic": ({"loss": "relativistic", "n_dis": 2}, RELATIVISTIC),
    # A pair is of one class, as in the code of R3GAN.
    "relativistic of classes": ({**CONDITIONAL, "loss": "relativistic", "n_dis": 2}, RELATIVISTIC),
}


@pytest.mark.parametrize("case", CASES)
def test_a_step_is_that_of_a_plain_loop(case, tmp_path):
    options, how = CASES[case]
    # Biases before a norm of the batch have no gradient but rounding errors, of which Adam makes whole steps.
    module = build(**options, norm="group")
    data = LabeledImages(module.batches_per_step)
    reference = {}

    class Reference(GAN):
        def training_step(self, batch, batch_idx):
            # Noise is keyed by the step, so that both have to be made within it.
            reference["plain"] = Plain(self, batch, **how)
            reference["plain"].step()
            super().training_step(batch, batch_idx)

    module.__class__ = Reference
    fit(module, 1, tmp_path, data=data)
    for name in ("generator", "discriminator"):
        mine, theirs = getattr(module, name).state_dict(), getattr(reference["plain"], name).state_dict()
        for key, value in mine.items():
            torch.testing.assert_close(value, theirs[key], rtol=1e-4, atol=2e-5, msg=lambda m, key=key: f"{key}: {m}")


@pytest.mark.parametrize(("every", "expected"), [(1, [1, 1, 1, 1]), (2, [2, 0, 2, 0]), (3, [3, 0, 0, 3])])
def test_lazy_penalties_count_as_much_on_average(every, expected, tmp_path, monkeypatch):
    module = build(n_dis=2, penalties={"r1": 2.0}, penalty_every=every)
    factors = []
    monkeypatch.setattr("lightning_modules.gan.zero_centered", lambda scores, images: scores.sum() * 0 + 7)

    class Recording(GAN):
        def manual_backward(self, loss):
            if any(p.requires_grad for p in self.discriminator.parameters()):
                factors.append(loss.item())
            super().manual_backward(loss)

        def _discriminator_loss(self, *args):
            loss, scores, penalty = super()._discriminator_loss(*args)
            return loss * 0, scores, penalty

    module.__class__ = Recording
    fit(module, 2, tmp_path)
    assert factors == [pytest.approx(7 * factor) for factor in expected]


@pytest.mark.parametrize("n_dis", [1, 2])
def test_a_lazy_penalty_is_logged_until_there_is_another(n_dis, tmp_path, monkeypatch):
    logged = []

    class Recording(GAN):
        def log(self, name, value, **options):
            if name == "train/penalty":
                logged.append(float(value))

    def lazy():
        module = build(n_dis=n_dis, penalties={"r1": 2.0}, penalty_every=3)
        module.__class__ = Recording
        return module

    monkeypatch.setattr("lightning_modules.gan.zero_centered", lambda scores, images: scores.sum() * 0 + 7)
    trainer = fit(lazy(), 2, tmp_path, total=5)
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    fit(lazy(), 5, tmp_path, ckpt_path=tmp_path / "two.ckpt")
    assert logged == [7] * 5


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_schedules_are_logged_by_name(schedule, tmp_path):
    expected = {
        "linear": [1, 0.75, 0.5, 0.25],
        "cosine": [0.5 + 0.5 * math.cos(math.pi * step / 4) for step in range(4)],
        "constant": [1, 1, 1, 1],
    }
    logged = []

    class Recording(GAN):
        def log_dict(self, values, **options):
            if "train/lr_g" in values:
                logged.append(values)

    module = build(schedule=schedule, discriminator_lr_multiplier=0.5)
    module.__class__ = Recording
    fit(module, 4, tmp_path)
    assert [row["train/lr_g"] for row in logged] == pytest.approx([1e-3 * share for share in expected[schedule]])
    assert [row["train/lr_d"] for row in logged] == pytest.approx([5e-4 * share for share in expected[schedule]])


def test_shared_power_iteration_makes_fewer(tmp_path, monkeypatch):
    def iterations(shared):
        module, count = build(n_dis=2, shared_power_iteration=shared), []
        [first] = module.discriminator.linear.parametrizations.weight
        iterate = first.power_iterate_
        monkeypatch.setattr(first, "power_iterate_", lambda *args: (count.append(1), iterate(*args)))
        fit(module, 1, tmp_path)
        return len(count)

    assert iterations(False) == 2 * 2 + 1
    assert iterations(True) == 2 + 1


@pytest.mark.parametrize(
    "options",
    [
        {
            **CONDITIONAL,
            "norm": "batch_instance",
            "penalties": {"r1": 1.0},
            "penalty_every": 2,
            "augment": "adaptive",
            "augment_options": {"target": 0.0, "images": 40},
            "n_dis": 2,
        },
        {"loss": "relativistic", "augment": "diff", "accumulate": 2, "schedule": "cosine"},
    ],
)
def test_options_resume_bit_for_bit(options, tmp_path):
    def data():
        return LabeledImages(build(**options).batches_per_step)

    whole = build(**options)
    fit(whole, 5, tmp_path, data=data())
    first = fit(build(**options), 3, tmp_path, total=5, data=data())
    first.save_checkpoint(tmp_path / "three.ckpt")
    torch.manual_seed(99)
    second = GAN(**{**SMALL, "lr": 1e-3, **options})
    fit(second, 5, tmp_path, ckpt_path=tmp_path / "three.ckpt", data=data())
    for name, value in second.state_dict().items():
        assert torch.equal(value, whole.state_dict()[name]), name
    if options["augment"] == "adaptive":
        assert whole.augment.probability > 0


@pytest.mark.parametrize("penalties", [{"r1": 5.0, "r2": 5.0}, {"wgan_gp": 10.0}])
def test_penalties_under_autocast_are_those_without(penalties, tmp_path):
    def gradient(precision):
        module, found = build(penalties=penalties), []
        spy = Spy(lambda name, module: found.append([p.grad.clone() for p in module.discriminator.parameters()]))
        trainer = fit(module, 1, tmp_path, callbacks=[spy], precision=precision)
        return trainer.callback_metrics["train/penalty"], torch.cat([g.flatten() for g in found[0]])

    (exact, exact_gradient), (penalty, found) = gradient("32-true"), gradient("bf16-mixed")
    assert penalty.dtype == torch.float32
    torch.testing.assert_close(penalty, exact, rtol=0.02, atol=0)
    assert torch.cosine_similarity(found, exact_gradient, dim=0) > 0.99


def test_samples_of_classes():
    module = build(**CONDITIONAL)
    latents = module.fixed_latents(1, 7)
    one = module.sample(latents, torch.ones(7, dtype=torch.long))
    shares = module.sample(latents, F.one_hot(torch.ones(7, dtype=torch.long), CLASSES).float())
    torch.testing.assert_close(one, shares)
    in_turn = module.sample(latents)
    assert torch.equal(in_turn, module.sample(latents, torch.tensor([0, 1, 2, 0, 1, 2, 0])))
    assert module.sample_grid().shape[0] == 3
    for label, message in ((3, "label must be at most 2, got 3"), (-1, "label must be at least 0, got -1")):
        with pytest.raises(SettingError, match=message):
            module.sample(latents[:1], torch.tensor([label]))
    with pytest.raises(SettingError, match="has no classes"):
        build().sample(latents, torch.zeros(7, dtype=torch.long))


def test_statistics_for_samples_are_estimated_once(monkeypatch):
    module, calls = build(), []
    recalibrate = GAN.sampler.__globals__["recalibrate"]
    monkeypatch.setattr(
        "lightning_modules.generation.recalibrate", lambda *args, **kw: (calls.append(1), recalibrate(*args, **kw))[1]
    )
    first = module.sample_grid()
    assert torch.equal(module.sample_grid(), first)
    assert len(calls) == 1
    module.generator_ema.linear.weight.data += 1
    assert not torch.equal(module.sample_grid(), first)
    assert len(calls) == 2
    module.sample_grid()
    assert len(calls) == 2


class Data:
    channels, image_size = 1, 16

    def __init__(self, num_classes):
        self.num_classes = num_classes


@pytest.mark.parametrize(
    ("known", "given", "message"),
    [
        (3, 0, "the model has 3 classes, and Data has no labels: set model.init_args.num_classes: 0"),
        (3, 10, "Data has 10 classes: set model.init_args.num_classes: 10"),
    ],
)
def test_classes_that_the_data_has_not(known, given, message):
    with pytest.raises(SettingError, match=message):
        build(num_classes=known).check_data(Data(given))
    build(num_classes=0).check_data(Data(given))


def test_labels_that_are_left_out():
    data = Data(0)
    data.labels = False  # as data.LabeledFolder and data.Shards have it
    with pytest.raises(SettingError, match=r"has no labels: set data.init_args.labels: true, or model.init_args.num_"):
        build(num_classes=3).check_data(data)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"compile": True, "penalties": {"r1": 1}}, "compile has no second derivatives, which penalties need"),
        ({"loss": "relativistic", "generator_batch_size": 3}, "a relativistic loss pairs real and generated images"),
        ({"schedule": "linaer"}, "unknown schedule 'linaer', did you mean 'linear'"),
        ({"penalties": {"r3": 1}}, "r3"),
        ({"augment": "adaptive", "loss": "wasserstein"}, "no score of the wasserstein loss means real"),
        ({"augment": "dif"}, "unknown augmentation 'dif', did you mean 'diff'"),
        ({"gradient_clip": 0}, "gradient_clip must be above 0"),
        ({"accumulate": 0}, "accumulate must be at least 1"),
        ({"num_classes": -1}, "num_classes must be at least 0"),
    ],
)
def test_wrong_options(settings, message):
    with pytest.raises(SettingError, match=message) as error:
        build(**settings)
    assert "\n" not in str(error.value)
