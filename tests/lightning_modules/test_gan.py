import shlex
import warnings
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

import norms
from data.stream import StreamDataset, StreamSampler
from lightning_modules.gan import GAN
from norms.errors import SettingError
from sampling import command as sample
from training.run import Run

SMALL = {"architecture": "resnet16", "channels": 1, "latent_dim": 8, "n_dis": 1, "ema_half_life": 20}
BATCH = 2


class Images(pl.LightningDataModule):
    def __init__(self, n_dis, shape=(1, 16, 16), batch=None):
        super().__init__()
        torch.manual_seed(1)
        self.images = [{"image": image} for image in torch.rand(7, *shape)]
        self.per_step = batch or BATCH * n_dis

    def train_dataloader(self):
        trainer = self.trainer
        sampler = StreamSampler(self.per_step, lambda: trainer.global_step, trainer.global_rank, trainer.world_size)
        return DataLoader(StreamDataset(self.images), batch_sampler=sampler)


class Spy(pl.Callback):
    """Calls a function right before each update of either network."""

    def __init__(self, before_step):
        self.before_step = before_step

    def on_train_start(self, trainer, module):
        for name, optimizer in zip("gd", trainer.optimizers, strict=True):
            optimizer.register_step_pre_hook(lambda *_, name=name: self.before_step(name, module))


def fit(module, max_steps, root, *, data=None, callbacks=(), ckpt_path=None, total=None, **options):
    torch.seed()  # nothing may depend on the default generator
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=total or max_steps,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=root,
        callbacks=[*callbacks, StopAt(max_steps)],
        use_distributed_sampler=False,
        **{"enable_checkpointing": False, **options},
    )
    trainer.fit(module, datamodule=data or Images(module.n_dis), ckpt_path=ckpt_path, weights_only=True)
    return trainer


class StopAt(pl.Callback):
    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step >= self.step:
            trainer.should_stop = True


@pytest.mark.parametrize("n_dis", [1, 5])
def test_global_step_counts_updates_of_the_generator(n_dis, tmp_path):
    updates = {"g": 0, "d": 0}

    def count(name, module):
        updates[name] += 1

    module = GAN(**{**SMALL, "n_dis": n_dis})
    trainer = fit(module, 3, tmp_path, callbacks=[Spy(count)])
    assert trainer.global_step == 3
    assert updates == {"g": 3, "d": 3 * n_dis}
    assert module.batches_per_step == n_dis


def test_each_network_is_frozen_while_the_other_learns(tmp_path):
    weights, gradients = {}, {}

    def snapshot(network):
        return [p.detach().clone() for p in network.parameters()]

    def check(name, module):
        mine, other = (module.generator, module.discriminator)[:: 1 if name == "g" else -1]
        assert all(p.requires_grad for p in mine.parameters())
        assert not any(p.requires_grad for p in other.parameters())
        assert any(p.grad.any() for p in mine.parameters())
        # The other network's gradients are those of its own last update.
        kept = gradients.get("d" if name == "g" else "g", [None] * 100)
        assert all(p.grad is g or torch.equal(p.grad, g) for p, g in zip(other.parameters(), kept, strict=False))
        gradients[name] = [p.grad.clone() for p in mine.parameters()]
        if "g" in weights:
            moved = {
                key: any(not torch.equal(a, b) for a, b in zip(snapshot(network), weights[key], strict=True))
                for key, network in (("g", module.generator), ("d", module.discriminator))
            }
            # Between two updates exactly the network that was updated first has moved.
            assert moved == {"g": weights["last"] == "g", "d": weights["last"] == "d"}
        weights.update(g=snapshot(module.generator), d=snapshot(module.discriminator), last=name)

    module = GAN(**{**SMALL, "n_dis": 2})
    fit(module, 3, tmp_path, callbacks=[Spy(check)])
    assert all(p.requires_grad for n in (module.generator, module.discriminator) for p in n.parameters())
    assert not any(p.requires_grad for p in module.generator_ema.parameters())


def test_averaged_generator_follows_the_closed_form(tmp_path):
    trajectory = []

    class Record(pl.Callback):
        def on_train_batch_end(self, trainer, module, *_):
            trajectory.append(module.generator.linear.weight.detach().double())

    module = GAN(**SMALL, generator_batch_size=3)
    expected = module.generator.linear.weight.detach().double()
    fit(module, 6, tmp_path, callbacks=[Record()])
    for step, weight in enumerate(trajectory, start=1):
        decay = 0.5 ** (3 / min(20, 0.05 * 3 * step))
        expected = decay * expected + (1 - decay) * weight
    torch.testing.assert_close(module.generator_ema.linear.weight.detach().double(), expected, rtol=0, atol=1e-7)
    for average, live in zip(module.generator_ema.buffers(), module.generator.buffers(), strict=True):
        assert torch.equal(average, live)


def test_lr_falls_linearly_to_zero(tmp_path):
    rates = []

    def record(name, module):
        optimizer = module.trainer.optimizers["gd".index(name)]
        rates.append((name, {group["name"]: group["lr"] for group in optimizer.param_groups}))

    module = GAN(**SMALL, norm="batch_instance", lr=0.01, rho_lr_multiplier=3)
    fit(module, 4, tmp_path, callbacks=[Spy(record)])
    for step in range(4):
        share = 0.01 * (1 - step / 4)
        assert rates[2 * step] == ("d", pytest.approx({"weights": share, "affine": share}))
        assert rates[2 * step + 1] == ("g", pytest.approx({"weights": share, "affine": share, "rho": 3 * share}))


@pytest.mark.parametrize(("norm", "n_dis"), [("batch_instance", 1), ("switchable", 3)])
def test_resumes_bit_for_bit(norm, n_dis, tmp_path):
    settings = {**SMALL, "norm": norm, "n_dis": n_dis, "lr": 0.01, "dequantize": True, "seed": 5}

    def build():
        torch.manual_seed(3)
        return GAN(**settings)

    whole = build()
    trainer = fit(whole, 9, tmp_path)
    first = fit(build(), 5, tmp_path, total=9)
    first.save_checkpoint(tmp_path / "five.ckpt")
    torch.manual_seed(12345)
    second = GAN(**settings)
    resumed = fit(second, 9, tmp_path, ckpt_path=tmp_path / "five.ckpt")
    assert resumed.global_step == trainer.global_step == 9
    state = second.state_dict()
    for name, value in whole.state_dict().items():
        assert torch.equal(value, state[name]), name
    for one, other in zip(trainer.optimizers, resumed.optimizers, strict=True):
        for mine, theirs in zip(one.state.values(), other.state.values(), strict=True):
            assert all(torch.equal(mine[key], theirs[key]) for key in mine)


def test_noise_never_repeats_within_a_run(tmp_path):
    drawn = []

    class Recording(GAN):
        def noise(self, stream, *shape):
            drawn.append(super().noise(stream, *shape))
            return drawn[-1]

    fit(Recording(**{**SMALL, "n_dis": 3}, dequantize=True), 2, tmp_path)
    assert len(drawn) == 2 * (3 + 1 + 1)
    first_values = [noise.flatten()[0].item() for noise in drawn]
    assert len(set(first_values)) == len(drawn)


def test_dequantization_spreads_the_levels_evenly(tmp_path):
    class Constant(Images):
        def __init__(self, level):
            super().__init__(1, batch=40)
            self.images = [{"image": torch.full((1, 16, 16), level / 255)}]

    for level in (0, 100, 255):
        seen = []

        class Recording(GAN):
            def _update_discriminator(self, optimizer, parts, *args, seen=seen):
                seen.append(parts[0][0])
                return super()._update_discriminator(optimizer, parts, *args)

        fit(Recording(**SMALL, dequantize=True), 1, tmp_path, data=Constant(level))
        within = (seen[0].double() + 1) * 128 - level
        assert -1e-4 <= within.min() < 0.01
        assert 0.99 < within.max() <= 1 + 1e-4
        assert within.mean().item() == pytest.approx(0.5, abs=0.02)
        assert within.var().item() == pytest.approx(1 / 12, abs=0.005)


def test_rho_stays_in_the_unit_interval(tmp_path):
    module = GAN(**SMALL, norm="batch_instance", lr=0.05)
    fit(module, 4, tmp_path)
    for network in (module.generator, module.generator_ema):
        rho = torch.cat([layer.rho for _, layer in norms.mixing_layers(network)])
        assert 0 <= rho.min() < rho.max() <= 1


def test_logs(tmp_path):
    trainer = fit(GAN(**SMALL), 1, tmp_path)
    logged = trainer.callback_metrics
    losses = {"train/loss_d", "train/loss_g", "train/d_real", "train/d_fake"}
    assert set(logged) == losses | {"train/lr_g", "train/lr_d"}
    assert logged["train/loss_d"] >= 0
    assert all(value.isfinite() for value in logged.values())


def test_validation_scores_held_out_images(tmp_path):
    module = GAN(**SMALL)
    state = {name: value.clone() for name, value in module.state_dict().items()}
    images = torch.rand(5, 1, 16, 16)
    batches = DataLoader([{"image": image} for image in images], batch_size=2)
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    [metrics] = trainer.validate(module, batches, verbose=False)
    with torch.no_grad():
        expected = module.discriminator.eval()(2 * images - 1).mean().item()
    assert metrics == {"val/d_real": pytest.approx(expected)}
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())


def test_saving_during_training_warns_of_nothing(tmp_path):
    saving = pl.callbacks.ModelCheckpoint(tmp_path, every_n_train_steps=1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(GAN(**SMALL), 1, tmp_path, callbacks=[saving], enable_checkpointing=True)
    assert Path(saving.best_model_path).is_file()
    assert not [str(warning.message) for warning in caught if "ModelCheckpoint" in str(warning.message)]


def test_bfloat16_takes_the_same_step(tmp_path):
    def gradients(precision):
        found = []

        def record(name, module):
            network = {"g": module.generator, "d": module.discriminator}[name]
            found.append(torch.cat([p.grad.flatten() for p in network.parameters()]))

        torch.manual_seed(0)
        module = GAN(**{**SMALL, "n_dis": 2}, lr=0.05)
        trainer = fit(module, 1, tmp_path, callbacks=[Spy(record)], precision=precision)
        assert trainer.callback_metrics["train/loss_d"].dtype == torch.float32
        return found

    single, half = gradients("32-true"), gradients("bf16-mixed")
    assert len(single) == len(half) == 3
    # A short parameter alone may differ more, where terms of its gradient cancel.
    for gradient, expected in zip(half, single, strict=True):
        assert torch.cosine_similarity(gradient, expected, dim=0) > 0.9


@pytest.mark.parametrize("precision", ["16-true", "bf16-true", "64-true"])
def test_other_precision_is_refused(precision, tmp_path):
    with pytest.raises(SettingError, match=f"in precision 32-true or bf16-mixed, not {precision}$"):
        fit(GAN(**SMALL), 1, tmp_path, precision=precision)


def test_integer_betas(tmp_path):
    trainer = fit(GAN(**SMALL, betas=[0, 0.9]), 1, tmp_path)
    assert trainer.optimizers[0].defaults["betas"] == (0.0, 0.9)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"architecture": "resnet33"}, r"^unknown architecture 'resnet33', did you mean"),
        ({"norm": "swichable"}, r"unknown norm 'swichable', did you mean 'switchable'\?"),
        ({"norm": "batch", "norm_options": {"epsilon": 1}}, r"norm 'batch' has no option 'epsilon'"),
        ({"norm": "batch_instance", "norm_options": {"initial_rho": 1.5}}, "1.5"),
        ({"loss": "wgan"}, r"^unknown adversarial loss 'wgan'"),
        ({"n_dis": 0}, r"^n_dis must be at least 1 and at most 1000, got 0$"),
        ({"channels": 0}, r"^channels must be at least 1, got 0$"),
        ({"latent_dim": 0}, r"^latent_dim must be at least 1 and at most 65536, got 0$"),
        ({"generator_batch_size": 0}, r"^generator_batch_size must be at least 1 and at most 1048576, got 0$"),
        ({"rho_lr_multiplier": -1}, r"^rho_lr_multiplier must be at least 0 and below inf, got -1$"),
        ({"lr": -1e-4}, r"^lr must be at least 0 and below inf, got -0.0001$"),
        ({"lr": float("nan")}, r"^lr must be at least 0 and below inf, got nan$"),
        ({"norm": lambda features: None}, r"<lambda> at .* has no class path to keep"),
        ({"betas": (0.5, 1)}, r"^betas must be at least 0 and below 1, got 1$"),
        ({"ema_half_life": -1}, r"^ema_half_life must be at least 0 and below inf, got -1$"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(SettingError, match=message) as error:
        GAN(**{**SMALL, **settings})
    assert "\n" not in str(error.value)


def test_images_of_another_size(tmp_path):
    with pytest.raises(SettingError, match=r"images of 1x16x16 .* but the data has 3x8x8: choose"):
        fit(GAN(**SMALL), 1, tmp_path, data=Images(1, shape=(3, 8, 8)))


def test_batch_that_does_not_divide(tmp_path):
    module = GAN(**{**SMALL, "n_dis": 3})
    with pytest.raises(SettingError, match=r"a batch of 4 images does not divide into n_dis=3 equal"):
        fit(module, 1, tmp_path, data=Images(3, batch=4))


def test_samples_depend_on_weights_and_latents_alone():
    torch.manual_seed(0)
    module = GAN(**SMALL, norm="switchable")
    for parameter in module.generator_ema.parameters():
        parameter.data += 0.1
    latents = torch.randn(70, 8)
    state = {name: value.clone() for name, value in module.state_dict().items()}
    random_state = torch.get_rng_state()
    images = module.sample(latents)
    assert images.shape == (70, 1, 16, 16)
    assert 0 <= images.min() < images.max() <= 1
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(m.training for m in module.modules())
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())
    for name, buffer in module.generator_ema.named_buffers():
        if name.endswith("running_mean"):
            buffer += 7
    torch.testing.assert_close(module.sample(latents), images, rtol=0, atol=0)
    torch.testing.assert_close(module.sample(latents[65:]), images[65:], rtol=0, atol=1e-5)
    assert not torch.allclose(module.sample(latents, averaged=False), images, atol=1e-3)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sample_grid(channels):
    module = GAN(**{**SMALL, "channels": channels})
    grid = module.sample_grid()
    assert grid.shape == (3, 8 * (64 + 8) + 8, 8 * (64 + 8) + 8)
    assert torch.equal(grid[:, 8:, 8:][:, ::4, ::4].repeat_interleave(4, 1).repeat_interleave(4, 2), grid[:, 8:, 8:])
    assert 0 <= grid.min() < grid.max() <= 1
    assert torch.equal(grid, module.sample_grid())


def test_checkpoint_round_trip(tmp_path):
    module = GAN(**SMALL, norm="batch_instance", norm_options={"eps": 1e-4}, betas=(0.5, 0.99))
    trainer = fit(module, 2, tmp_path)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    loaded = Run.find(tmp_path / "last.ckpt").load(GAN)
    latents = torch.randn(3, 8)
    assert torch.equal(loaded.sample(latents), module.sample(latents))
    assert torch.equal(loaded.sample_grid(), module.sample_grid())


def test_next_command_is_understood(tmp_path):
    command = GAN(**SMALL).next_command(tmp_path / "my run")
    program, script, *arguments = shlex.split(command)
    assert (program, script) == ("python", "sample.py")
    options = sample._parser().parse_args(arguments)
    assert options.run == tmp_path / "my run"
    assert options.output == tmp_path / "my run" / "samples.png"
