"""Networks that features are taken from: which images they take, and what they see of them."""

import socket

import pytest
import torch
from torch.nn import functional as F

from data.garments import BundledGarments
from lightning_modules.classifier import Classifier
from lightning_modules.metrics import generated
from lightning_modules.metrics.extractors import ClassifierFeatures, InceptionFeatures
from lightning_modules.metrics.generated import to_bytes
from norms.errors import SettingError
from training.features import BUNDLED, build_extractor


def images(*shape, seed=0):
    return torch.randint(256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def classifier(shape=None):
    module = Classifier(3, widths=[4, 6], depths=[1, 1]).eval()
    module.image_shape = shape
    return module


def test_features_are_what_the_last_layer_of_the_classifier_sees():
    module, x = classifier((1, 8, 8)), images(5, 1, 8, 8)
    features, logits = ClassifierFeatures(module, "classifier")(x)
    torch.testing.assert_close(logits, module(x.float() / 255))
    torch.testing.assert_close(features @ module.head.weight.T + module.head.bias, logits)


@pytest.mark.parametrize(
    ("known", "given", "words"),
    [
        ((1, 8, 8), (1, 8, 8), "none"),
        (None, (1, 12, 12), "none"),
        ((1, 8, 8), (1, 12, 12), "to 8x8, bicubic with antialiasing"),
        ((1, 32, 32), (1, 28, 28), "padded with black to 32x32"),
        ((1, 32, 32), (1, 16, 16), "to 32x32, bicubic with antialiasing"),
        ((3, 32, 32), (3, 28, 28), "to 32x32, bicubic with antialiasing"),
    ],
)
def test_images_of_another_size(known, given, words):
    module, x = classifier(known), images(2, *given)
    extractor = ClassifierFeatures(module, "classifier")
    assert extractor.resize(given) == words
    scaled, size = x.float() / 255, (known or given)[1:]
    if "padded" in words:
        expected = F.pad(scaled, (2, 2, 2, 2))
    else:
        expected = F.interpolate(scaled, size, mode="bicubic", antialias=True).clamp(0, 1)
    torch.testing.assert_close(extractor(x)[1], module(expected), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("known", "given"), [((1, 8, 8), (3, 8, 8)), ((3, 8, 8), (1, 8, 8))])
def test_gray_and_color_are_not_mixed_up(known, given):
    with pytest.raises(SettingError, match=r"classifier is a classifier of images with .* makes images with .*: take"):
        ClassifierFeatures(classifier(known), "classifier").check_images(given)
    ClassifierFeatures(classifier(None), "classifier").check_images(given)


def test_the_digest_is_of_the_weights():
    one, other = (ClassifierFeatures(classifier(), "classifier") for _ in range(2))
    other.load_state_dict(one.state_dict())
    assert one.digest() == other.digest()
    with torch.no_grad():
        other.classifier.head.bias[0] += 1e-6
    assert one.digest() != other.digest()


@pytest.mark.parametrize("classes", [0, 3])
def test_generated_images_are_drawn_in_parts_with_classes_in_turn(classes, monkeypatch):
    class Drawing:
        def fixed_labels(self, count):
            return torch.arange(count) % classes if classes else None

        def fixed_latents(self, key, count, index):
            assert key == generated.METRICS
            return torch.full((count, 2), 10.0 * index) + torch.arange(count)[:, None]

        def sample(self, latents, labels):
            assert (labels is None) == (classes == 0)
            shade = latents[:, 0] / 100 + (0 if labels is None else labels / 10)
            return shade[:, None, None, None].expand(-1, 1, 4, 4)

    def extractor(images):
        assert images.dtype == torch.uint8
        return images.flatten(1).float(), -images.flatten(1).float()

    monkeypatch.setattr(generated, "BATCH", 4)
    features, logits = generated.generated_features(Drawing(), extractor, 10)
    shades = torch.tensor([0, 1, 2, 3, 10, 11, 12, 13, 20, 21]) / 100
    if classes:
        shades += torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 2, 0]) / 10
    torch.testing.assert_close(features, (255 * shades).round()[:, None].expand(-1, 16))
    assert torch.equal(logits, -features)


def test_images_are_rounded_as_in_a_file():
    assert to_bytes(torch.tensor([-0.1, 0.0, 0.4999 / 255, 0.51 / 255, 1.0, 1.5])).tolist() == [0, 0, 0, 1, 255, 255]


@pytest.mark.parametrize("name", list(BUNDLED))
def test_the_bundled_classifiers_are_small_and_frozen(name):
    extractor = build_extractor(name)
    assert [extractor.score_name(score) for score in ("fd", "is")] == [f"fd_{name}", f"is_{name}"]
    assert extractor.classifier.image_shape == (1, 32, 32)
    assert not any(parameter.requires_grad for parameter in extractor.parameters())
    assert not extractor.training
    assert BUNDLED[name].stat().st_size < 2**20
    features, logits = extractor(images(2, 1, 32, 32))
    assert (features.shape, logits.shape) == ((2, extractor.dimension), (2, 10))


@pytest.mark.parametrize("size", [28, 32])
def test_the_bundled_classifier_of_garments_knows_them(size):
    held_out = list(BundledGarments(image_size=size).val_images())
    logits = build_extractor("garments")(to_bytes(torch.stack([item["image"] for item in held_out])))[1]
    labels = torch.tensor([item["label"] for item in held_out])
    assert float((logits.argmax(1) == labels).float().mean()) > 0.9


class TestInception:
    @pytest.fixture(autouse=True)
    def _without_network(self, monkeypatch, tmp_path):
        def refuse(*args, **kwargs):
            raise OSError("no network")

        monkeypatch.setattr(socket, "create_connection", refuse)
        monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
        pytest.importorskip("torch_fidelity")

    def test_without_its_weights_says_where_to_put_them(self, tmp_path, capsys):
        with pytest.raises(SettingError, match=f"no weights .*no network.*: put https://.*pth to {tmp_path}") as caught:
            InceptionFeatures()
        assert "\n" not in str(caught.value)
        assert capsys.readouterr() == ("", "")

    def test_a_damaged_file_is_told(self, tmp_path):
        file = tmp_path / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth"
        file.parent.mkdir()
        file.write_bytes(b"no weights")
        with pytest.raises(SettingError, match=r"metrics.features: inception has no weights"):
            InceptionFeatures()

    def test_without_the_package_says_what_to_install(self, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, "torch_fidelity", None)
        with pytest.raises(SettingError, match=r"pip install 'normlab\[metrics\]', .* or null for no numbers$"):
            InceptionFeatures()

    def test_features_are_those_that_torch_fidelity_takes(self, monkeypatch):
        # Its own weights cannot be had here, so any will do.
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        torch.manual_seed(0)
        monkeypatch.setattr(
            "torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url", lambda *args, **kwargs: {}
        )
        monkeypatch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda *args, **kwargs: None)
        extractor = InceptionFeatures()
        gray = images(1, 1, 8, 8)
        features, logits = extractor(gray)
        assert (features.shape, logits.shape) == ((1, 2048), (1, 1008))
        torch.testing.assert_close(features, extractor(gray.repeat(1, 3, 1, 1))[0])
        assert [extractor.score_name(name) for name in ("fd", "kid")] == ["fid", "kid"]
        extractor.check_images((1, 8, 8))
        with pytest.raises(SettingError, match="inception takes gray or RGB images, not 4 channels"):
            extractor.check_images((4, 8, 8))
