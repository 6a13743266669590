import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader
from torchvision.models import squeezenet1_1

from lightning_modules.distillation import TAUGHT, Distillation, on_student_pixels
from lightning_modules.networks.feature_net import ImageNetNormalize
from norms.errors import SettingError


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "teacher.pth"
    torch.save(squeezenet1_1().state_dict(), path)
    return str(path)


def fit(module, image, max_steps):
    trainer = pl.Trainer(
        max_steps=max_steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader([{"image": i} for i in image], batch_size=len(image)))
    return trainer


@pytest.mark.parametrize(("stride", "taught_cells"), [(2, 47), (4, 23), (8, 11)])
def test_resampling_puts_equal_image_coordinates_over_each_other(stride, taught_cells):
    # Both maps hold the image coordinate of each cell's center, of an image of 96 pixels.
    ramp = stride * torch.arange(taught_cells) + stride - 1.0
    taught = torch.stack(torch.meshgrid(ramp, ramp, indexing="ij"))[None]
    length = 96 // stride
    resampled = on_student_pixels(taught, torch.zeros(1, 5, length, length), stride)
    expected = stride * torch.arange(length) + (stride - 1) / 2
    inside = slice(1, -2)  # beyond the teacher's border the nearest cell counts
    torch.testing.assert_close(resampled[0, 0, inside, 3], expected[inside])
    torch.testing.assert_close(resampled[0, 1, 3, inside], expected[inside])


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_student_learns_and_the_teacher_stays_out_of_the_checkpoint(weights):
    module = Distillation(weights, first_width=8, depths=(1, 1, 1, 1), lr=1e-2)
    image = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    first = float(fit(module, image, 1).callback_metrics["train/loss"])
    trainer = fit(module, image, 40)
    assert float(trainer.callback_metrics["train/loss"]) < 0.6 * first
    assert module.scales.min() > 0
    assert not any(key.startswith("teacher") for key in module.state_dict())


def test_the_losses_are_relative_to_the_teacher(weights):
    module = Distillation(weights, first_width=8, depths=(1, 1, 1, 1)).eval()
    module.setup("fit")
    logged = {}
    module.log_dict = lambda metrics, **_: logged.update(metrics)
    image = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    module.feature_net.features = lambda x, layers: {
        layer: torch.zeros(4, channels, 32 // stride, 32 // stride)
        for layer, channels, stride in zip(layers, TAUGHT.values(), (2, 4, 8), strict=True)
    }
    module.validation_step({"image": image}, 0)
    assert float(logged["val/grams"]) == pytest.approx(1)
    # Interpolation averages, so the resampled maps have somewhat less power than those that set the scale.
    assert 0.6 < float(logged["val/activations"]) <= 1
    assert float(logged["val/loss"]) == pytest.approx(float(logged["val/activations"]) + 0.3)


def test_varied_images_are_a_function_of_seed_and_step_and_stay_images(weights):
    image = torch.rand(64, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    first, again, other = (Distillation(weights, seed=seed)._varied(image) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.min() >= 0
    assert first.max() <= 1
    assert ImageNetNormalize()(first).shape == image.shape


def test_a_student_of_other_depth_is_refused(weights):
    with pytest.raises(SettingError, match="needs four stages"):
        Distillation(weights, depths=(2, 2))
