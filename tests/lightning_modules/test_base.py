import pytest
import torch
from stand_ins import PlainModel, TinyModel

import norms
from norms.errors import SettingError


def saved(module):
    checkpoint = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}
    module.on_save_checkpoint(checkpoint)
    return checkpoint


def test_noise_is_a_function_of_seed_stream_and_shape():
    module = TinyModel(seed=3)
    noise = module.noise(0, 1000, 4)
    assert torch.equal(noise, TinyModel(seed=3).noise(0, 1000, 4))
    assert not torch.equal(noise, module.noise(1, 1000, 4))
    assert not torch.equal(noise, TinyModel(seed=4).noise(0, 1000, 4))
    assert abs(float(noise.mean())) < 0.1
    assert abs(float(noise.std()) - 1) < 0.1


def test_noise_leaves_the_global_generator_alone():
    module = TinyModel()
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    module.noise(0, 5)
    assert torch.equal(torch.rand(1), expected)


def test_adam_takes_integer_betas_gives_rho_its_rate_and_keeps_it_in_range():
    module = TinyModel()
    optimizer = module.adam(module, 0.1, betas=(0, 0.9), lr_multipliers={"rho": 20})
    rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
    assert rates == {"weights": 0.1, "affine": 0.1, "rho": 2.0, "switch": 0.1}
    module.loss(torch.rand(2, 3, 8, 8)).backward()
    optimizer.step()
    rho = module.net.norm1.rho
    assert ((rho == 0) | (rho == 1)).all(), "a first step of Adam with rate 2 ends at a bound"


def test_evaluation_restores_the_mode_of_every_submodule():
    module = TinyModel().train()
    module.net.norm1.eval()

    def fail():
        with module.evaluation():
            assert not any(m.training for m in module.modules())
            assert not torch.is_grad_enabled()
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail()
    assert module.training
    assert module.net.norm2.training
    assert not module.net.norm1.training


def test_its_own_checkpoint_is_accepted():
    module = TinyModel(width=5)
    module.on_load_checkpoint(saved(TinyModel(width=5)))


def test_a_checkpoint_from_before_a_setting_was_added_is_accepted_if_that_has_its_default():
    checkpoint = saved(TinyModel())
    del checkpoint["hyper_parameters"]["n_dis"]
    TinyModel().on_load_checkpoint(checkpoint)
    with pytest.raises(SettingError, match="n_dis was 1, is now 2"):
        TinyModel(n_dis=2).on_load_checkpoint(checkpoint)


@pytest.mark.parametrize(
    ("checkpoint", "reason"),
    [
        (saved(PlainModel()), "the checkpoint is of PlainModel, but the configured model is TinyModel"),
        ({"state_dict": {}}, "the checkpoint is of another program's module"),
        (saved(TinyModel(width=6, n_dis=2)), "n_dis was 2, is now 1; width was 6, is now 4"),
    ],
)
def test_checkpoints_of_other_modules_and_settings_are_refused(checkpoint, reason):
    with pytest.raises(SettingError, match=reason) as error:
        TinyModel().on_load_checkpoint(checkpoint)
    assert "\n" not in str(error.value)


def test_a_module_without_pictures_says_so():
    with pytest.raises(RuntimeError, match="PlainModel makes no pictures"):
        PlainModel().sample_grid()


def test_testing_scores_as_validation_does():
    module = TinyModel()
    module.log = lambda name, value, **_: logged.append((name, float(value)))
    logged, batch = [], {"image": torch.rand(2, 3, 8, 8)}
    with torch.no_grad():
        module.eval().test_step(batch, 0)
        module.validation_step(batch, 0)
    assert logged[0] == logged[1]


def test_the_default_rate_of_rho_is_that_of_the_paper():
    module = TinyModel()
    (rho,) = [g for g in module.adam(module, 0.01).param_groups if g["name"] == "rho"]
    assert rho["lr"] == pytest.approx(0.1)
    assert rho["params"] == list(next(norms.mixing_layers(module))[1].mixing_parameters().values())
