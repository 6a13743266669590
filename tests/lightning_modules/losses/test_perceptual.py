import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lightning_modules.losses.perceptual import (
    PerceptualLoss,
    Term,
    gram_matrix,
    relative_error,
    split_layer,
    squared_error,
    total_variation,
    usual_terms,
)
from lightning_modules.losses.settings import build_term
from lightning_modules.losses.view import View
from lightning_modules.networks.loss_network import LossNetwork
from norms.errors import SettingError

STYLE = torch.rand(1, 3, 10, 14, generator=torch.Generator().manual_seed(0))
WEIGHTS = {"content_weight": 2.0, "style_weight": 3.0, "tv_weight": 0.5}


class Polynomials(nn.Module):
    """Stands in for a loss network: its layers are powers of the image."""

    def __init__(self, scale=1.0):
        super().__init__()
        self.scale = scale

    def forward(self, image, layers):
        return {layer: self.scale * image ** int(layer[-1]) for layer in layers}


def usual_loss(network, *layers_and_scaling, **weights):
    return PerceptualLoss(network, usual_terms(*layers_and_scaling, **weights))


def make(scaling="relative", network=None, content=("power1",), style=("power1", "power2"), **weights):
    loss = usual_loss(network or Polynomials(), content, style, scaling, **{**WEIGHTS, **weights})
    loss.set_style(STYLE)
    return loss


def test_gram_of_two_channels():
    features = torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]])
    expected = torch.tensor([[[5.0, 11.0], [11.0, 25.0]]]) / (2 * 1 * 2)
    torch.testing.assert_close(gram_matrix(features), expected)


def test_gram_forgets_places_and_keeps_samples_apart():
    features = torch.randn(2, 4, 3, 5, dtype=torch.double)
    shuffled = features.flatten(2)[:, :, torch.randperm(15)].unflatten(2, (5, 3))
    torch.testing.assert_close(gram_matrix(shuffled), gram_matrix(features))
    torch.testing.assert_close(gram_matrix(features[1:]), gram_matrix(features)[1:])
    torch.testing.assert_close(gram_matrix(features), torch.einsum("bihw,bjhw->bij", features, features) / 60)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gram_of_half_precision_is_computed_in_float32(dtype):
    features = (torch.rand(1, 8, 32, 32) * 1000).to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        gram = gram_matrix(features)
    assert gram.dtype == torch.float32
    torch.testing.assert_close(gram.double(), gram_matrix(features.double()), rtol=1e-5, atol=0)
    assert gram.max() > torch.finfo(torch.float16).max / 2


def test_gram_has_the_right_gradient():
    assert torch.autograd.gradcheck(gram_matrix, torch.randn(2, 3, 2, 3, dtype=torch.double, requires_grad=True))


def test_errors_in_closed_form():
    value, target = torch.tensor([[1.0, 2.0], [3.0, 5.0]]), torch.tensor([1.0, 3.0])
    assert squared_error(value, target) == (0 + 1 + 4 + 4) / 4
    assert relative_error(value, target) == ((0 + 1) + (4 + 4)) / 2 / (1 + 9)


@given(scale=st.floats(1e-3, 1e3))
def test_relative_error_does_not_depend_on_the_scale(scale):
    value, target = torch.randn(2, 5, dtype=torch.double), torch.randn(5, dtype=torch.double)
    torch.testing.assert_close(relative_error(scale * value, scale * target), relative_error(value, target))


def test_relative_error_of_nothing_and_of_a_dead_layer():
    assert relative_error(torch.zeros(3, 2), torch.tensor([1.0, 2.0])) == 1
    assert relative_error(torch.zeros(3), torch.zeros(3)) == 0
    assert relative_error(torch.ones(3), torch.zeros(3)).isfinite()


def test_total_variation_in_closed_form():
    assert total_variation(torch.full((2, 3, 5, 7), 0.3)) == 0
    ramp = (0.1 * torch.arange(7.0) + 0.2 * torch.arange(5.0)[:, None]).expand(2, 3, 5, 7)
    torch.testing.assert_close(total_variation(ramp), torch.tensor(0.1**2 + 0.2**2))
    image = torch.rand(2, 3, 4, 6).double()
    rows = sum(((image[:, :, i + 1] - image[:, :, i]) ** 2).sum() for i in range(3)) / (2 * 3 * 3 * 6)
    columns = sum(((image[..., i + 1] - image[..., i]) ** 2).sum() for i in range(5)) / (2 * 3 * 4 * 5)
    torch.testing.assert_close(total_variation(image), rows + columns)


@pytest.mark.parametrize("scaling", ["relative", "published"])
def test_an_image_has_its_own_content_and_the_style_picture_its_own_style(scaling):
    network = LossNetwork("bundled", ["relu1_2", "relu2_1"])
    loss = usual_loss(network, ["relu2_1"], ["relu1_2", "relu2_1"], scaling)
    style, photo = torch.rand(1, 3, 32, 48), torch.rand(2, 3, 32, 32)
    loss.set_style(style)
    terms = loss(photo, photo)
    assert terms["content"] == 0
    assert terms["style"] > 0
    terms = loss(style, torch.rand(1, 3, 32, 48))
    assert terms["style"] < 1e-10
    assert terms["content"] > 0


def test_relative_terms_in_closed_form():
    loss, image, photo = make(), torch.rand(4, 3, 8, 8), torch.rand(4, 3, 8, 8)
    content = ((image - photo) ** 2).sum() / (photo**2).sum()
    per_layer = []
    for power in (1, 2):
        target = gram_matrix(STYLE**power)[0]
        grams = gram_matrix(image**power)
        per_layer.append(sum(((gram - target) ** 2).sum() / (target**2).sum() for gram in grams) / 4)
    terms = loss(image, photo)
    torch.testing.assert_close(terms["content"], content)
    torch.testing.assert_close(terms["style"], (per_layer[0] + per_layer[1]) / 2)
    torch.testing.assert_close(terms["tv"], total_variation(image))
    torch.testing.assert_close(terms["loss"], 2 * terms["content"] + 3 * terms["style"] + 0.5 * terms["tv"])


def test_published_terms_in_closed_form():
    loss = make("published", content=("power1", "power2"))
    image, photo = torch.rand(4, 3, 8, 8), torch.rand(4, 3, 8, 8)
    terms = loss(image, photo)
    content = ((image - photo) ** 2).mean() + ((image**2 - photo**2) ** 2).mean()
    per_layer = [((gram_matrix(image**p) - gram_matrix(STYLE**p)) ** 2).mean() for p in (1, 2)]
    torch.testing.assert_close(terms["content"], content)
    torch.testing.assert_close(terms["style"], per_layer[0] + per_layer[1])
    torch.testing.assert_close(terms["loss"], 2 * terms["content"] + 3 * terms["style"] + 0.5 * terms["tv"])


def test_relative_terms_do_not_depend_on_the_scale_of_the_loss_network():
    image, photo = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(make(network=Polynomials(30.0))(image, photo), make()(image, photo))
    large, plain = (make("published", Polynomials(scale))(image, photo) for scale in (30.0, 1.0))
    torch.testing.assert_close(large["content"], 30**2 * plain["content"])
    torch.testing.assert_close(large["style"], 30**4 * plain["style"])


def test_terms_are_means_over_the_batch():
    loss, image, photo = make("published"), torch.rand(3, 3, 8, 8), torch.rand(3, 3, 8, 8)
    singles = [loss(image[i : i + 1], photo[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(
        loss(image, photo), {name: torch.stack([single[name] for single in singles]).mean() for name in singles[0]}
    )


@pytest.mark.parametrize(("scaling", "weights"), [("relative", (1.0, 5.0, 1.0)), ("published", (1e5, 1e10, 0.0))])
def test_customary_weights(scaling, weights):
    loss = usual_loss(Polynomials(), ["power1"], ["power1"], scaling)
    assert tuple(term.weight for term in loss.terms[0].values()) == weights


def test_each_layer_is_computed_once():
    network = LossNetwork("bundled", ["relu1_2", "relu2_1"])
    passes = []
    network.layers["relu1_1"].register_forward_hook(lambda module, args, output: passes.append(output.requires_grad))
    loss = usual_loss(network, ["relu1_2"], ["relu1_2", "relu2_1"])
    loss.set_style(torch.rand(1, 3, 16, 16))
    loss(torch.rand(1, 3, 16, 16, requires_grad=True), torch.rand(1, 3, 16, 16))
    assert passes == [False, True, False]  # the style, the image, the photo


def test_gradient_reaches_the_image_alone():
    loss = usual_loss(LossNetwork("bundled", ["relu1_2", "relu2_1"]), ["relu2_1"], ["relu1_2"])
    loss.set_style(torch.rand(1, 3, 24, 24))
    image, photo = torch.rand(2, 3, 24, 24, requires_grad=True), torch.rand(2, 3, 24, 24, requires_grad=True)
    loss(image, photo)["loss"].backward()
    assert (image.grad != 0).float().mean() > 0.99
    assert photo.grad is None
    assert not list(loss.parameters())


def test_descent_on_the_image_brings_it_to_the_style():
    loss = usual_loss(LossNetwork("bundled", ["relu1_2"]), ["relu1_1"], ["relu1_2"], content_weight=0.0)
    style = torch.rand(1, 3, 32, 32)
    loss.set_style(style)
    image = torch.full((1, 3, 32, 32), 0.5).add(0.01 * torch.randn(1, 3, 32, 32)).requires_grad_()
    optimizer = torch.optim.Adam([image], lr=0.05)
    before = loss(image, style)["style"].item()
    for _ in range(30):
        optimizer.zero_grad()
        loss(image, style)["style"].backward()
        optimizer.step()
    assert loss(image, style)["style"] < before / 10


def test_targets_are_not_saved_and_can_be_replaced():
    loss, image, photo = make(), torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 8)
    assert not loss.state_dict()
    before = loss(image, photo)["style"]
    loss.set_style(image)
    assert loss(image, photo)["style"] < 1e-10 < before
    assert loss.double()(image.double(), photo.double())["style"].dtype == torch.double


def test_autocast_gives_float32_terms():
    loss = usual_loss(LossNetwork("bundled", ["relu2_1"]), ["relu2_1"], ["relu2_1"])
    style, image, photo = torch.rand(3, 1, 3, 32, 32)
    loss.set_style(style)
    expected = loss(image, photo)
    with torch.autocast("cpu", torch.bfloat16):
        terms = loss(image, photo)
    assert {term.dtype for term in terms.values()} == {torch.float32}
    torch.testing.assert_close(terms, expected, rtol=0.05, atol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scaling": "absolute"}, "unknown loss_scaling 'absolute' \\(known: relative, published\\)"),
        ({"style_weight": -1.0}, "style_weight must be at least 0 and below inf, got -1.0"),
        ({"content_weight": float("nan")}, "content_weight must be at least 0 and below inf, got nan"),
        ({"tv_weight": float("inf")}, "tv_weight must be at least 0 and below inf, got inf"),
        ({"content": ()}, "content_layers must name a layer of the loss network"),
    ],
)
def test_impossible_settings_are_refused(options, message):
    with pytest.raises(SettingError, match=message):
        make(**options)


class Brightness(Term):
    """How far the mean brightness is from the style picture's in the loss network, as a user would add it."""

    name = "brightness"

    def set_style(self, style):
        self.register_buffer("level", style[self.layers[0]].mean(), persistent=False)

    def forward(self, image, found, wanted):
        return (found[self.layers[0]].mean() - self.level).abs()


def test_a_further_term():
    path = {"class_path": f"{__name__}.Brightness", "init_args": {"weight": 7, "layers": ["power3"]}}
    loss = PerceptualLoss(Polynomials(), [*usual_terms(["power1"], ["power2"], **WEIGHTS), build_term(path)])
    loss.set_style(STYLE)
    image, photo = torch.rand(2, 2, 3, 8, 8)
    terms = loss(image, photo)
    without = usual_loss(Polynomials(), ["power1"], ["power2"], **WEIGHTS)
    without.set_style(STYLE)
    torch.testing.assert_close(terms["brightness"], ((image**3).mean() - (STYLE**3).mean()).abs())
    torch.testing.assert_close(terms["loss"], without(image, photo)["loss"] + 7 * terms["brightness"])
    assert list(terms) == ["loss", "content", "style", "tv", "brightness"]


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ({}, r"^a term of the loss needs a class_path, and may have init_args, got \{\}$"),
        ({"class_path": "x.Y", "weight": 1}, "may have init_args, got"),
        ({"class_path": "Nonesuch"}, "^unknown loss term 'Nonesuch'"),
        ({"class_path": f"{__name__}.Nonesuch"}, "has no Nonesuch$"),
        ({"class_path": "torch.nn.ReLU"}, "^loss term 'torch.nn.ReLU' is no Term$"),
        ({"class_path": f"{__name__}.Brightness", "init_args": {"wieght": 1}}, "unexpected keyword argument 'wieght'"),
        (
            {"class_path": f"{__name__}.Brightness", "init_args": {"weight": -1}},
            "^brightness_weight must be at least 0",
        ),
    ],
)
def test_what_is_no_term(description, message):
    with pytest.raises(SettingError, match=message) as error:
        build_term(description)
    assert "\n" not in str(error.value)


def test_terms_have_different_names():
    with pytest.raises(SettingError, match="different names other than loss, got brightness, brightness"):
        PerceptualLoss(Polynomials(), [Brightness(layers=["power1"]), Brightness(layers=["power2"])])


def test_several_styles_are_each_compared_with_their_own_images():
    styles = [STYLE, torch.rand(1, 3, 7, 9), torch.rand(1, 3, 12, 8)]
    images, photos = torch.rand(2, 5, 3, 8, 8)
    loss = usual_loss(Polynomials(), ["power1"], ["power1", "power2"], **WEIGHTS)
    loss.set_style(*styles)
    terms = loss(images, photos, styles=[2, 0, 1, 0, 0])
    single = []
    for image, photo, style in zip(images, photos, [2, 0, 1, 0, 0], strict=True):
        loss.set_style(styles[style])
        single.append(loss(image[None], photo[None]))
    # The content is relative to all photos of a style.
    torch.testing.assert_close(terms["style"], torch.stack([each["style"] for each in single]).mean())
    torch.testing.assert_close(terms["tv"], torch.stack([each["tv"] for each in single]).mean())


def test_all_images_of_one_style_are_compared_as_a_batch():
    images, photos = torch.rand(2, 4, 3, 8, 8)
    loss = make()
    expected, found = loss(images, photos), loss(images, photos, styles=[0] * 4)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)


def test_a_layer_with_a_number_sees_smaller_images():
    images, photos = torch.rand(2, 2, 3, 16, 24)
    small = [View(0.5, 0, 0)(each) for each in (images, photos)]
    assert small[0].shape == (2, 3, 8, 12)
    loss = make(content=["power2@2"], style=["power1@2"])
    expected = make(content=["power2"], style=["power1"])
    expected.set_style(View(0.5, 0, 0)(STYLE))
    for name in ("content", "style"):
        torch.testing.assert_close(loss(images, photos)[name], expected(*small)[name])
    torch.testing.assert_close(
        make(style=["power1", "power1@1"])(images, photos)["style"], make(style=["power1"])(images, photos)["style"]
    )
    assert split_layer("relu2_2") == ("relu2_2", 1)
    assert split_layer("relu2_2@1.5") == ("relu2_2", 1.5)


@pytest.mark.parametrize("layer", ["power1@", "power1@0.5", "power1@a", "power1@nan", "power1@inf", "power1@2@2"])
def test_layers_with_impossible_numbers(layer):
    with pytest.raises(SettingError, match="expected a number of at least 1 after @"):
        make(style=[layer])


def test_a_view_is_scaled_and_shifted():
    image = torch.rand(1, 3, 20, 30)
    assert torch.equal(View(1, 3, 2)(image), image[..., 2:, 3:])
    assert View(1.5, 4, 5)(image).shape == (1, 3, 30 - 5, 45 - 4)
    assert View(0.1, 7, 7)(image).shape == (1, 3, 1, 1), "never nothing"
    loss, photo = make(), torch.rand(1, 3, 20, 30)
    seen = View(0.7, 1, 2)
    terms, expected = loss(image, photo, view=seen), loss(seen(image), seen(photo))
    torch.testing.assert_close(terms["style"], expected["style"])
    torch.testing.assert_close(terms["content"], expected["content"])
    torch.testing.assert_close(terms["tv"], total_variation(image))


def test_factors_of_layers_in_closed_form():
    loss, image, photo = make(style={"power1": 0.5, "power2": 3.0}), torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 8)
    alone = [float(make(style=(layer,))(image, photo)["style"]) for layer in ("power1", "power2")]
    assert float(loss(image, photo)["style"]) == pytest.approx((0.5 * alone[0] + 3 * alone[1]) / 2, rel=1e-5)
    with pytest.raises(SettingError, match=r"factor of power1 in style_layers must be at least 0"):
        make(style={"power1": -1.0})
    with pytest.raises(SettingError, match=r"style_layers: no layer has a factor above 0"):
        make(style={"power1": 0.0, "power2": 0.0})


def test_a_style_can_be_that_of_the_photos_themselves():
    loss, photo = make(), torch.rand(4, 3, 8, 8)
    loss.set_style(STYLE, None)
    assert float(loss(photo, photo, [1, 1, 1, 1])["style"]) == 0
    mixed = loss(photo, photo, [0, 1, 0, 1])["style"]
    torch.testing.assert_close(mixed, make()(photo[::2], photo[::2])["style"] / 2)
    image = torch.rand(4, 3, 8, 8)
    expected = torch.stack([relative_error(gram_matrix(image**p), gram_matrix(photo**p)) for p in (1, 2)])
    torch.testing.assert_close(loss(image, photo, [1, 1, 1, 1])["style"], expected.mean())
