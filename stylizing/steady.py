"""A filter over time, which keeps the strokes of one frame in the next where both show the same."""

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save
from torch import Tensor

from training.files import replacing

TOLERANCE = 0.06
"""Difference between two frames, for values in [0, 1], from which on they count as different there."""

CUT = 0.25
"""Share of the frame that must show the same as the one before, or else it is a new scene."""

FLOW_SIZE = 128
"""Longer side, in pixels, of the frames between which motion is estimated."""


class Steady:
    r"""Blend each painting of a sequence with the result before it, moved along with what the camera saw.

    .. math:: r_t = (1 - w)\, y_t + w\, M r_{t-1}, \qquad w = s\, (1 - |x_t - M x_{t-1}| / \tau)_+

    for the frames ``x`` and their paintings ``y``. Both sides of the difference are blurred, which evens out the noise
    of a camera. The motion ``M`` is a dense optical flow, or none where the frames match as well without. After a cut
    to another scene, or a change of size, it begins anew.

    Source:
        The flow is that of Le Besnerais and Champagnat, Dense Optical Flow by Iterative Local Window Registration, ICIP
        2005, as scikit-image has it.

    Args:
        share: Most of what a result takes over from the one before, ``s``; in [0, 1).
    """

    def __init__(self, share: float) -> None:
        self.share = share
        self._before: dict[str, Tensor] = {}

    def __call__(self, seen: Tensor, painted: Tensor) -> Tensor:
        """Return the result for the next frame.

        Args:
            seen: The frame, values in [0, 1].
            painted: Its painting, values in [0, 1].

        Shape:
            (3, H, W), (3, H, W) -> (3, H, W)
        """
        result = painted
        if self.share and self._before and self._before["seen"].shape == seen.shape:
            same, before = self._match(seen)
            if same.mean() >= CUT:
                result = torch.lerp(painted, before, self.share * same)
        self._before = {"seen": seen, "result": result}
        return result

    def save(self, path: Path) -> None:
        """Write to a file what the next frame needs."""
        with replacing(path) as partial:
            partial.write_bytes(save({name: values.contiguous() for name, values in self._before.items()}))

    def load(self, path: Path) -> None:
        """Go on where another one has been saved."""
        self._before = load_file(path)

    def _match(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Return how far each pixel shows what it showed before, (1, H, W) in [0, 1], and the result before, moved."""
        still = torch.cat([self._before["seen"], self._before["result"]])
        moved = _warp(still, _flow(seen, self._before["seen"]))
        at_rest, in_motion = (_difference(seen, before[:3]) for before in (still, moved))
        difference = torch.minimum(at_rest, in_motion)
        return (1 - difference / TOLERANCE).clamp_min(0), torch.where(at_rest <= in_motion, still, moved)[3:]


def _difference(one: Tensor, other: Tensor) -> Tensor:
    """Return how far two frames differ around each pixel, (1, H, W)."""
    blurred = F.avg_pool2d(one - other, 3, 1, 1, count_include_pad=False)
    return F.avg_pool2d(blurred.abs().amax(0, keepdim=True), 5, 1, 2, count_include_pad=False)


def _flow(frame: Tensor, before: Tensor) -> Tensor:
    """Estimate where in the frame before each pixel was, as pixels right and down of its place; (2, H, W)."""
    from skimage.registration import optical_flow_ilk

    height, width = frame.shape[-2:]
    scale = min(1.0, FLOW_SIZE / max(height, width))
    size = [max(1, round(scale * side)) for side in (height, width)]
    if min(size) < 8:
        return frame.new_zeros(2, height, width)
    small = [F.interpolate(image.mean(0)[None, None], size, mode="area")[0, 0].numpy() for image in (frame, before)]
    down, right = torch.from_numpy(optical_flow_ilk(*small, radius=5, num_warp=4, dtype="float32"))
    flow = torch.stack([right * width / size[1], down * height / size[0]])
    return F.interpolate(flow[None], (height, width), mode="bilinear")[0]


def _warp(images: Tensor, flow: Tensor) -> Tensor:
    """Take every pixel from where the flow says it was."""
    height, width = images.shape[-2:]
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    x, y = (columns + flow[0] + 0.5) * 2 / width - 1, (rows + flow[1] + 0.5) * 2 / height - 1
    grid = torch.stack([x, y], dim=-1)[None]
    return F.grid_sample(images[None], grid, "bicubic", "border", align_corners=False)[0].clamp(0, 1)
