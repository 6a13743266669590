import ast
import itertools
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pytorch_lightning import LightningModule, Trainer

import data
from data.arrays import ArrayImages
from data.module import ImageDataModule
from norms.errors import SettingError


class Numbered(ImageDataModule):
    """Image number n is n in every pixel, plus the transform's noise."""

    def __init__(self, **options):
        super().__init__(**{"batch_size": 3, "image_size": 4, **options})
        self.loads = 0

    def load(self):
        self.loads += 1
        images = torch.arange(20, dtype=torch.uint8)[:, None, None, None].expand(20, 3, 4, 4)
        return ArrayImages(images[:13], 4, torch.arange(13)), ArrayImages(images[13:], 4)


def shifted(item):
    return {**item, "image": item["image"] + 0.1 * torch.rand(1)}


class Recorder(LightningModule):
    """Keeps what it was given, and takes one optimizer step per `accumulate_grad_batches` batches."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.batches = []

    def training_step(self, batch, _):
        self.batches.append(batch["image"][:, 0, 0, 0].clone())
        return (self.weight * batch["image"]).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def train(tmp_path, steps, *, checkpoint=None, data=None, **options):
    module = Recorder()
    data = data or Numbered()
    data.train_transform = shifted
    trainer = Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        **options,
    )
    trainer.fit(module, data, ckpt_path=checkpoint)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    return torch.stack(module.batches)


def test_batches(tmp_path):
    data = Numbered(batches_per_step=2)
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].shape == (6, 3, 4, 4)
    assert batch["image"].dtype == torch.float32
    assert batch["label"].dtype == torch.int64
    assert torch.equal((batch["image"][:, 0, 0, 0] * 255).round().long(), batch["label"])


def test_training_goes_through_all_images_and_never_ends():
    labels = [batch["label"] for batch in itertools.islice(Numbered(seed=1).train_dataloader(), 13)]
    assert sorted(torch.cat(labels).tolist()) == sorted([*range(13)] * 3)


def test_validation_is_finite_and_in_order():
    data = Numbered()
    for loader in (data.val_dataloader(), data.val_dataloader(), data.test_dataloader()):
        values = torch.cat([batch["image"][:, 0, 0, 0] for batch in loader]) * 255
        assert values.round().tolist() == [13, 14, 15, 16, 17, 18, 19]


def test_images_are_loaded_once():
    data = Numbered()
    data.setup("fit")
    data.train_dataloader()
    data.val_dataloader()
    data.setup("validate")
    assert data.loads == 1


def test_loaders_leave_the_default_generator_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    data = Numbered(num_workers=1)
    next(iter(data.train_dataloader()))
    list(data.val_dataloader())
    assert torch.equal(torch.get_rng_state(), before)


def test_workers_and_seeds():
    def images(**options):
        data = Numbered(**options)
        data.train_transform = shifted
        return torch.stack([batch["image"] for batch in itertools.islice(data.train_dataloader(), 6)])

    assert torch.equal(images(num_workers=2), images(num_workers=0))
    assert not torch.equal(images(seed=1), images(seed=0))


@pytest.mark.parametrize("accumulated", [1, 2])
def test_a_resumed_training_sees_what_one_without_stop_sees(tmp_path, accumulated):
    whole = train(tmp_path, 7, accumulate_grad_batches=accumulated)
    first = train(tmp_path, 3, accumulate_grad_batches=accumulated)
    rest = train(tmp_path, 7, accumulate_grad_batches=accumulated, checkpoint=tmp_path / "last.ckpt")
    assert torch.equal(torch.cat([first, rest]), whole)
    assert len(whole) == 7 * accumulated


@pytest.mark.parametrize("workers", [0, 1])
def test_epochs_of_limited_length_go_on_in_the_stream(tmp_path, workers):
    whole = train(tmp_path, 6)
    in_epochs = train(tmp_path, 6, limit_train_batches=2, data=Numbered(num_workers=workers))
    assert torch.equal(in_epochs, whole)


def test_overfitting_sees_the_same_batches_again(tmp_path):
    first, second, third, fourth = train(tmp_path, 4, overfit_batches=2)
    assert torch.equal(first, third)
    assert torch.equal(second, fourth)
    assert not torch.equal(first, second)


@pytest.mark.filterwarnings("ignore:data.limit")
def test_a_limit_takes_the_same_images_for_any_seed_and_fewer_of_more():
    def labels(**options):
        batches = itertools.islice(Numbered(**options).train_dataloader(), 40)
        return set(torch.cat([batch["label"] for batch in batches]).tolist())

    assert labels(limit=5, seed=1) == labels(limit=5, seed=2)
    assert len(labels(limit=5)) == 5
    assert labels(limit=5) < labels(limit=9)
    assert labels(limit=5) != set(range(5))
    assert labels(limit=13) == set(range(13))
    assert len(Numbered(limit=5).val_images()) == 7
    with pytest.raises(SettingError, match=r"^data\.limit must be at most 13, the number of images .*, got 14$"):
        Numbered(limit=14).setup()


@pytest.mark.filterwarnings("ignore:data.limit")
def test_limited_trainings_resume(tmp_path):
    whole = train(tmp_path, 6, data=Numbered(limit=5))
    first = train(tmp_path, 4, data=Numbered(limit=5, num_workers=1))
    rest = train(tmp_path, 6, data=Numbered(limit=5), checkpoint=tmp_path / "last.ckpt")
    assert torch.equal(torch.cat([first, rest]), whole)


def test_the_model_says_the_size_where_it_is_left_open():
    data = Numbered(image_size=None)
    with pytest.raises(SettingError, match=r"^data\.image_size is not set"):
        _ = data.image_size
    data.take_shape(3, 8)
    assert data.image_size == 8
    data.take_shape(3, 9)
    assert data.image_size == 8
    data = Numbered(image_size=4)
    data.take_shape(3, 8)
    assert data.image_size == 4


def test_a_size_of_its_own_is_for_when_nobody_says_one():
    class Native(Numbered):
        native_size = 4

    data = Native(image_size=None)
    assert data.image_size == 4
    data.take_shape(3, 8)
    assert data.image_size == 8


def test_ranks_take_different_images():
    class Rank:
        world_size, global_step, accumulate_grad_batches, overfit_batches = 3, 5, 1, 0.0
        strategy = type("Strategy", (), {"root_device": torch.device("cpu")})

        def __init__(self, rank):
            self.global_rank = rank

    def labels(rank):
        data = Numbered(batch_size=4)
        data.trainer = Rank(rank)
        return next(iter(data.train_dataloader()))["label"].tolist()

    alone = Numbered(batch_size=4)
    stream = torch.cat([batch["label"] for batch in itertools.islice(alone.train_dataloader(), 18)])
    assert labels(0) + labels(1) + labels(2) == stream[60:72].tolist()


def trained_by(world_size, step, rank=0, accumulate=1):
    class Rank:
        accumulate_grad_batches, overfit_batches, global_rank, global_step = accumulate, 0.0, rank, step
        strategy = type("Strategy", (), {"root_device": torch.device("cpu")})

    Rank.world_size = world_size
    return Rank()


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 2), st.integers(0, 3)), min_size=1, max_size=4))
def test_a_stream_goes_on_whatever_number_of_processes_does(phases):
    taken, step, saved = [], 0, None
    for world_size, accumulate, steps in phases:
        ranks = []
        for rank in range(world_size):
            data = Numbered(batch_size=2)
            data.trainer = trained_by(world_size, step, rank, accumulate)
            if saved is not None:
                data.load_state_dict(saved)
            ranks.append(list(itertools.islice(data.train_dataloader().batch_sampler, steps * accumulate)))
        taken += [position for batch in zip(*ranks, strict=True) for part in batch for position in part]
        step += steps
        data.trainer.global_step = step
        saved = data.state_dict()
    assert taken == list(range(len(taken)))
    assert saved["images"] == len(taken)


@pytest.mark.parametrize("state", [{}, {"steps": 1, "images": "4", "images_per_step": 4}, {"steps": -1, "images": 0}])
def test_a_damaged_count_of_images_is_refused(state):
    with pytest.raises(SettingError, match="does not say how many images it has taken"):
        Numbered(batch_size=2).load_state_dict(state)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("batch_size", 0),
        ("image_size", 1),
        ("image_size", 10**6),
        ("num_workers", -1),
        ("num_workers", 10**6),
        ("limit", 0),
    ],
)
def test_impossible_numbers_are_refused(name, value):
    with pytest.raises(
        SettingError, match=rf"data\.{name} must be at least \d( and at most \d+)?, got {value}"
    ) as error:
        Numbered(**{name: value})
    assert "\n" not in str(error.value)


def test_import_is_light():
    for path in Path(data.__file__).parent.glob("*.py"):
        top = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)]
        names = {alias.name for node in top for alias in node.names} | {getattr(node, "module", None) for node in top}
        assert not {"sklearn", "skimage", "wandb"} & {str(name).partition(".")[0] for name in names}, path
