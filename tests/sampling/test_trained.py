"""Generators that are ready to draw, of runs and of files."""

import pytest
import torch
from gan_runs import GARMENTS, make_gan, write_run

from norms.errors import SettingError
from sampling.draw import BATCH, draw
from sampling.trained import TrainedGenerator


def test_it_draws_what_the_gan_samples():
    gan = make_gan(num_classes=4)
    trained = TrainedGenerator.of(gan)
    latents, labels = torch.randn(3, 8), torch.tensor([3, 0, 1])
    torch.testing.assert_close(trained.draw(latents, labels), gan.sample(latents, labels), atol=1e-6, rtol=0)
    shares = torch.tensor([[0.5, 0.5, 0, 0], [0, 0, 1, 0], [0.25] * 4])
    torch.testing.assert_close(trained.draw(latents, shares), gan.sample(latents, shares), atol=1e-6, rtol=0)
    live = TrainedGenerator.of(gan, averaged=False)
    torch.testing.assert_close(live.draw(latents, labels), gan.sample(latents, labels, False), atol=1e-6, rtol=0)
    assert not trained.draw(latents, labels).allclose(live.draw(latents, labels), atol=0.01)


def test_the_gan_is_left_as_it_is():
    gan = make_gan()
    before = {name: value.clone() for name, value in gan.state_dict().items()}
    trained = TrainedGenerator.of(gan.train()).settled()
    assert gan.training
    assert not any(module.training for module in trained.modules())
    assert not any(parameter.requires_grad for parameter in trained.parameters())
    assert all(torch.equal(value, before[name]) for name, value in gan.state_dict().items())
    assert any(parameter.requires_grad for parameter in gan.generator.parameters())


def test_an_image_does_not_depend_on_how_many_are_drawn():
    trained = TrainedGenerator.of(make_gan())
    all_of_them = draw(trained, 2 * BATCH + 3)
    for count in (1, 2, BATCH, BATCH + 1):
        assert torch.equal(draw(trained, count), all_of_them[:count])


def test_images_of_conditional_generators_take_classes_in_turn_by_default():
    trained = TrainedGenerator.of(make_gan(num_classes=3))
    assert torch.equal(draw(trained, 5), draw(trained, 5, labels=[0, 1, 2]))
    assert not torch.equal(draw(trained, 5)[1], draw(trained, 5, labels=[0, 2])[1])
    with pytest.raises(SettingError, match="--label must be at least 0 and at most 2, got 3"):
        draw(trained, 1, labels=[3])


def test_a_run_of_another_model_is_told(tmp_path):
    path = tmp_path / "style.ckpt"
    torch.save({"normlab": {"module": "StyleTransfer", "version": "0"}, "state_dict": {}}, path)
    with pytest.raises(SettingError, match="is a checkpoint of StyleTransfer, not of GAN"):
        TrainedGenerator.find(path)


def test_class_names_are_those_of_the_data(tmp_path):
    named = write_run(tmp_path / "named", make_gan(num_classes=10), "data.BundledGarments")
    assert TrainedGenerator.find(named).class_names == list(GARMENTS)


@pytest.mark.parametrize(("data", "settings"), [("data.LabeledFolder", {"path": "nowhere"}), ("stranger.Data", {})])
def test_without_their_data_classes_have_no_names(data, settings, tmp_path):
    folder = write_run(tmp_path / "run", make_gan(num_classes=10), data, **settings)
    assert TrainedGenerator.find(folder).class_names == []
