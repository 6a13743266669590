import numpy as np
import pytest
from PIL import Image

from data.images import ImageError, check_image, load_image


def gradient(width: int, height: int) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 255 / (width - 1), y * 255 / (height - 1), 255 - (x + y) / 3], axis=-1).astype(np.uint8)


@pytest.mark.filterwarnings("error")
class TestLimit:
    """A limit of 10,000 pixels, and images of ten times as many."""

    @pytest.fixture(autouse=True)
    def _limit(self, monkeypatch):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)

    def save(self, path, **options):
        Image.fromarray(gradient(400, 255)).save(path, quality=95, **options)
        return path

    def test_a_jpeg_that_is_decoded_reduced_counts_as_what_is_decoded(self, tmp_path):
        path = self.save(tmp_path / "large.jpg")
        image = load_image(path, lambda width, height: width / 90)
        assert image.size == (100, 64)
        expected = Image.fromarray(gradient(400, 255)).resize((100, 64), Image.Resampling.BOX)
        assert np.abs(np.asarray(image).astype(int) - np.asarray(expected)).mean() < 2
        assert check_image(path, lambda *_: 4) == (400, 255)
        assert load_image(path, lambda *_: 7.9).size == (100, 64)
        assert load_image(path, lambda *_: 100).size == (50, 32)

    @pytest.mark.parametrize(("name", "options"), [("a.jpg", {"progressive": True}), ("a.png", {}), ("a.tif", {})])
    def test_what_is_decoded_whole_counts_whole(self, tmp_path, name, options):
        path = self.save(tmp_path / name, **options)
        for read in (load_image, check_image):
            with pytest.raises(ImageError, match="400x255 pixels are more than max_pixels allows, 10000"):
                read(path, lambda *_: 8)

    def test_more_can_be_allowed(self, tmp_path):
        path = self.save(tmp_path / "a.png")
        assert load_image(path, max_pixels=102_000).size == (400, 255)
        with pytest.raises(ImageError, match="max_pixels allows, 101999"):
            load_image(path, max_pixels=101_999)
        assert Image.MAX_IMAGE_PIXELS == 10_000
        with pytest.raises(Image.DecompressionBombError):
            Image.open(path)
