"""GANs of every family on two processes; with synchronized norms they are one on the joined batch."""

from pathlib import Path

import pytest
import torch
from processes import ended, start_two
from test_gan import SMALL, Spy, fit
from test_gan_options import CLASSES, LabeledImages

from data.stream import generator
from lightning_modules.gan import GAN
from training.layer_sync import NormSync

CASES = {
    "classes": {"num_classes": CLASSES, "norm": "batch_instance"},
    "penalized": {"norm": "switchable", "penalties": {"r1": 1.0}, "loss": "relativistic"},
    "attention": {
        "architecture": "sagan",
        "architecture_options": {"image_size": 16, "width": 0.01, "attention": 8},
        "norm": "batch",
    },
    "skip latents": {
        "architecture": "biggan32",
        "architecture_options": {"image_size": 16, "width": 0.03, "embedding": 4},
        "num_classes": CLASSES,
        "latent_dim": 9,
        "norm": "batch",
        "penalties": {"orthogonal": 1e-4},
    },
    "without norms": {
        "architecture": "r3gan",
        "architecture_options": {"image_size": 16, "width": 0.02, "embedding": 4, "blocks": 1},
        "num_classes": CLASSES,
        "norm": "none",
    },
    "adaptive": {"norm": "batch", "augment": "adaptive", "augment_options": {"target": 0.0, "images": 1e6}},
}


class Joined(GAN):
    """Draws for all processes alike, and takes the part of its own; in float64, where little is rounded."""

    def on_fit_start(self):
        pass

    def noise(self, stream, *shape):
        world = self.trainer.world_size
        keyed = generator(self.seed, self.global_step, stream)
        drawn = torch.randn((shape[0] * world, *shape[1:]), generator=keyed, dtype=torch.float64)
        return drawn.chunk(world)[self.global_rank]

    def _generated(self, stream, count, labels):
        latents = self.noise(stream, count, self.latent_dim)
        if not self.num_classes:
            return self.generator(latents), None
        world = self.trainer.world_size
        labels = (torch.arange(count * world) % CLASSES).chunk(world)[self.global_rank]
        return self.generator(latents, labels), labels


def gradients(case, root, **options):
    """Take a step; return the gradients of both networks, and the augmentation's probability."""
    torch.manual_seed(1)
    module = Joined(**{**SMALL, **CASES[case]})
    found = {}

    def record(name, module):
        network = {"g": module.generator, "d": module.discriminator}[name]
        found.update({f"{name}.{key}": p.grad.clone() for key, p in network.named_parameters()})

    data = LabeledImages(1)
    data.per_step = 8 // options.get("devices", 1)
    fit(module, 1, root, data=data, callbacks=[Spy(record)], plugins=[NormSync()], precision="64-true", **options)
    return found | {"probability": getattr(module.augment, "probability", torch.zeros(()))}


NARROW = {"image_size": 16, "width": 0.0625}
FAMILIES = {
    "resnet": {"architecture": "resnet16", "norm": "batch_instance", "architecture_options": {"separate_norms": True}},
    "auxiliary": {"architecture": "resnet32", "architecture_options": {**NARROW, "conditioning": "auxiliary"}},
    "cnn": {"architecture": "cnn32", "architecture_options": NARROW, "norm": "switchable", "penalty_every": 2},
    "sagan": {
        "architecture": "sagan",
        "architecture_options": {**NARROW, "attention": 8},
        "shared_power_iteration": True,
    },
    "biggan": {"architecture": "biggan32", "architecture_options": NARROW, "penalties": {"orthogonal": 1e-4}},
    "r3gan": {
        "architecture": "r3gan",
        "architecture_options": NARROW,
        "norm": "none",
        "loss": "relativistic",
        "augment": "diff",
    },
}


class Recording(GAN):
    """Note the keys of all that is drawn at random."""

    def __init__(self, **options):
        super().__init__(**options)
        self.drawn = []

    def keyed(self, stream):
        made = super().keyed(stream)
        self.drawn.append(made.initial_seed())
        return made


def trained(family, root):
    """Train for three steps on two processes; return what each of them has, and what it has drawn."""
    torch.manual_seed(0)
    options = {
        "penalties": {"r1": 1.0},
        "augment": "adaptive",
        "accumulate": 2,
        "num_classes": CLASSES,
        "latent_dim": 12,
    }
    module = Recording(**{**SMALL, **options, **FAMILIES[family]})
    data = LabeledImages(module.batches_per_step)
    fit(module, 3, root, data=data, devices=2, strategy="ddp")
    weights = {name: value.detach() for name, value in module.named_parameters()}
    return {"weights": weights, "drawn": module.drawn, "vectors": dict(module.discriminator.named_buffers())}


SCRIPT = """
import os, sys, torch
sys.path.insert(0, sys.argv[2])
from test_gan_processes import CASES, FAMILIES, gradients, trained
rank = os.environ["LOCAL_RANK"]
for case in CASES:
    torch.save(gradients(case, sys.argv[1], devices=2, strategy="ddp"), f"{sys.argv[1]}/{case}{rank}.pt")
for family in FAMILIES:
    torch.save(trained(family, sys.argv[1]), f"{sys.argv[1]}/{family}{rank}.pt")
"""


@pytest.fixture(scope="module")
def by_two(tmp_path_factory):
    """The folder of what two processes have found."""
    folder = tmp_path_factory.mktemp("two")
    script = folder / "two.py"
    script.write_text(SCRIPT)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        processes = start_two(script, folder, Path(__file__).parent)
        assert [ended(process, timeout=200) for process in processes] == [0, 0], Path("log0.txt").read_text()
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_two_processes_make_the_step_of_one_on_the_joined_batch(case, by_two, tmp_path):
    expected = gradients(case, tmp_path)
    size = torch.cat([g.flatten() for g in expected.values()]).abs().max()
    for rank in range(2):
        found = torch.load(by_two / f"{case}{rank}.pt", weights_only=True)
        for name, value in found.items():
            assert (value - expected[name]).abs().max() <= 1e-6 * size, name
    assert (expected["probability"] > 0) == (case == "adaptive")


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_on_two_processes(family, by_two):
    first, second = (torch.load(by_two / f"{family}{rank}.pt", weights_only=True) for rank in range(2))
    for kind in ("weights", "vectors"):
        for name, value in first[kind].items():
            assert torch.equal(value, second[kind][name]), name
            assert value.isfinite().all(), name
    assert len(first["drawn"]) == len(second["drawn"]) > 0
    assert not set(first["drawn"]) & set(second["drawn"])
