"""Numbers of generated images: which, of what, where they are kept, and that nothing else is moved by them."""

import csv
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from processes import ended, start_two
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import EarlyStopping
from stand_ins import TinyData, TinyModel, fit
from tiny_gan import Blots, gan

from lightning_modules.classifier import Classifier
from lightning_modules.metrics.extractors import Extractor
from lightning_modules.metrics.scores import SCORES, compute_scores
from norms.errors import SettingError
from training import features
from training.callbacks.checkpoint import RunCheckpoint
from training.callbacks.generation_metrics import CHEAP, GenerationMetrics
from training.callbacks.run_folder import RunFolder
from training.command import main
from training.features import BUNDLED, build_extractor

TINY = """
name: tiny
trainer: {max_steps: 6, accelerator: cpu, val_check_interval: 3, log_every_n_steps: 1}
model: {class_path: lightning_modules.GAN,
  init_args: {architecture: tiny_gan.networks, channels: 1, latent_dim: 4, n_dis: 1, lr: 0.01, ema_half_life: 20}}
data: {class_path: tiny_gan.Blots}
metrics: {features: garments, names: [kid, precision], val_images: 30, images: 45}
"""


@pytest.fixture(autouse=True)
def _folders(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.chdir(tmp_path)


def numbers(run_dir):
    return {path.stem: json.loads(path.read_text()) for path in sorted(Path(run_dir).glob("metrics/*.json"))}


def train(run_dir, *callbacks, metrics=None, model=None, **options):
    metrics = metrics or GenerationMetrics("garments", ["kid", "recall"], val_images=30)
    settings = {"data": Blots(), "val_check_interval": 4, "max_steps": 8, **options}
    return fit(Path(run_dir), [metrics, *callbacks], model or gan(), **settings)


class StopAt(Callback):
    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, *_):
        trainer.should_stop = trainer.global_step == self.step


def test_numbers_are_those_of_the_images_and_their_protocol_is_kept(tmp_path):
    trainer = train("run")
    found = numbers("run")
    assert list(found) == ["step_0000004", "step_0000008"]
    record, model = found["step_0000008"], trainer.lightning_module
    # Once more, in one pass without any of the callback's code.
    classifier = build_extractor("garments").classifier
    picked = torch.randperm(50, generator=torch.Generator().manual_seed(features.generator(0).initial_seed()))[:30]
    real = torch.stack([Blots().train_images()[int(index)]["image"] for index in picked])
    fake = (model.sample(model.fixed_latents(2**32 - 3, 30)) * 255).round() / 255
    of = []
    for images in (real, fake):
        enlarged = torch.nn.functional.interpolate(images, (32, 32), mode="bicubic", antialias=True).clamp(0, 1)
        of.append(classifier.features(enlarged).detach())
    expected = compute_scores(["kid", "recall"], *of, of[1])
    assert record["scores"] == pytest.approx({f"{k}_garments": v for k, v in expected.items()}, rel=1e-3)
    hashes = {key: record["protocol"].pop(key) for key in ("real_hash", "extractor_hash")}
    assert all(len(value) == 16 for value in hashes.values())
    assert record["protocol"] == {
        "step": 8,
        "generated_images": 30,
        "real_images": 30,
        "real_split": "train",
        "real_data": "Blots",
        "extractor": "garments",
        "resize": "to 32x32, bicubic with antialiasing",
        "averaged_weights": True,
        "norm_statistics": "estimated anew from 512 generated images",
        "labels": "none",
        "seed": 0,
        "estimators": {"kid": "unbiased, all pairs", "recall": "k = 3"},
    }
    with open("run/metrics.csv") as file:
        rows = [row for row in csv.DictReader(file) if row.get("val/kid_garments")]
    logged = [float(row["val/kid_garments"]) for row in rows]
    assert logged == pytest.approx([each["scores"]["kid_garments"] for each in found.values()], rel=1e-6)


def test_the_validation_split_can_be_what_is_compared_with():
    train("run", metrics=GenerationMetrics("garments", ["kid"], val_images=45, split="val"))
    protocol = numbers("run")["step_0000008"]["protocol"]
    assert (protocol["real_split"], protocol["real_images"], protocol["generated_images"]) == ("val", 40, 45)


def test_numbers_move_neither_weights_nor_random_state_nor_modes():
    class Watched(GenerationMetrics):
        def on_validation_epoch_end(self, trainer, module):
            before = torch.get_rng_state(), np.random.get_state()[1].copy(), [m.training for m in module.modules()]
            super().on_validation_epoch_end(trainer, module)
            assert torch.equal(torch.get_rng_state(), before[0])
            assert (np.random.get_state()[1] == before[1]).all()
            assert [m.training for m in module.modules()] == before[2]

    with_numbers = train("with", metrics=Watched("garments", val_images=200)).lightning_module
    without = train("without", metrics=GenerationMetrics()).lightning_module
    assert numbers("without") == {}
    for name, value in with_numbers.state_dict().items():
        assert torch.equal(value, without.state_dict()[name]), name


def test_a_resumed_run_writes_the_same_numbers():
    train("whole", RunFolder("name: run"), RunCheckpoint(3))
    train("killed", RunFolder("name: run"), RunCheckpoint(3), StopAt(6))
    last = "killed/checkpoints/last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 6
    Path("killed/metrics/step_0000007.json").write_text("of a step that is made again")
    train("killed", RunFolder("name: run"), RunCheckpoint(3), ckpt_path=last)
    whole, killed = numbers("whole"), numbers("killed")
    assert list(whole) == ["step_0000004", "step_0000008"]
    # What ends early is validated then, too.
    assert killed == {**whole, "step_0000006": killed["step_0000006"]}


def test_only_every_few_steps():
    train("run", metrics=GenerationMetrics("garments", ["kid"], val_images=30, every_n_steps=8))
    assert list(numbers("run")) == ["step_0000008"]


def test_broken_weights_are_left_to_the_guard():
    model = gan()
    with torch.no_grad():
        model.generator_ema[0].weight[0, 0] = float("nan")
    model.validation_step = lambda *_: None
    metrics = GenerationMetrics("garments", ["kid"], val_images=30)
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=[metrics])
    assert trainer.validate(model, Blots(), verbose=False) == [{}]


class TestCommands:
    """As users meet them."""

    def test_fit_test_and_validate(self, capsys, caplog):
        Path("tiny.yaml").write_text(TINY)
        assert main(["fit", "--config", "tiny.yaml"]) == 0
        capsys.readouterr()
        run = Path("runs/tiny/version_0")
        assert list(numbers(run)) == ["step_0000003", "step_0000006"]
        of = "30 real images (train) and 30 generated ones, features of garments"
        assert f"kid_garments, precision_garments in {run}/metrics: {of}" in caplog.text
        assert main(["test", "--config", str(run / "config.yaml"), "--ckpt_path", str(run)]) == 0
        out = capsys.readouterr().out
        tested = numbers(run)["test_step_0000006"]
        assert tested["protocol"]["generated_images"] == tested["protocol"]["real_images"] == 45
        assert f"wrote {run}/metrics/test_step_0000006.json: kid_garments " in out
        assert "45 real images (train) and 45 generated ones" in out
        assert "test/precision_garments" in out
        assert main(["validate", "--config", str(run / "config.yaml"), "--ckpt_path", str(run)]) == 0
        assert numbers(run)["validate_step_0000006"] == numbers(run)["step_0000006"]

    def test_all_numbers_in_a_test_by_default(self):
        Path("tiny.yaml").write_text(TINY.replace("names: [kid, precision], val_images: 30, images: 45", "images: 100"))
        assert main(["fit", "--config", "tiny.yaml", "--trainer.max_steps", "3", "--metrics.features", "null"]) == 0
        run = "runs/tiny/version_0"
        assert main(["test", "--config", "tiny.yaml", "--ckpt_path", run]) == 0
        # 50 real images are too few for 64 features.
        assert [*numbers(run)["test_step_0000003"]["scores"]] == [f"{name}_garments" for name in SCORES[1:]]

    def test_features_of_a_classifier_of_the_users_own(self):
        settings = "{num_classes: 4, widths: [4], depths: [1]}"
        Path("labelled.yaml").write_text(
            f"model: {{class_path: lightning_modules.Classifier, init_args: {settings}}}\n"
            "data: {class_path: test_generation_metrics.Labelled}\ntrainer: {max_steps: 2, accelerator: cpu}"
        )
        assert main(["fit", "--config", "labelled.yaml", "--name", "classifier"]) == 0
        Path("tiny.yaml").write_text(TINY)
        options = ["--metrics.features", "runs/classifier", "--metrics.names", "[fd]"]
        assert main(["fit", "--config", "tiny.yaml", *options]) == 0
        record = numbers("runs/tiny/version_0")["step_0000006"]
        assert [*record["scores"]] == ["fd_classifier"]
        assert record["protocol"]["resize"] == "none"

    @pytest.mark.slow
    def test_two_processes_write_the_numbers_of_one(self):
        Path("tiny.yaml").write_text(TINY)
        options = ["fit", "--config", "tiny.yaml", "--trainer.devices", "2", "--checkpoint.monitor", "val/kid_garments"]
        # With all that looks at a GAN, and norms that wait for the other process wherever they are trained.
        options += ["--trainer.strategy", "ddp", "--trainer.sync_batchnorm", "true"]
        for monitor in ("guard", "spectral", "lipschitz", "activations", "samples", "mixing"):
            options += [f"--{monitor}.every_n_steps", "3"]
        processes = start_two("train.py", *options)
        assert [ended(process) for process in processes] == [0, 0], Path("log1.txt").read_text()
        run = Path("runs/tiny/version_0")
        found = numbers(run)
        assert list(found) == ["step_0000003", "step_0000006"]
        assert main(["validate", "--config", "tiny.yaml", "--ckpt_path", str(run)]) == 0
        assert numbers(run)["validate_step_0000006"] == found["step_0000006"]
        best = min(found.values(), key=lambda record: record["scores"]["kid_garments"])
        assert json.loads((run / "checkpoints/best.json").read_text())["step"] == best["protocol"]["step"]
        assert [path.stem for path in sorted(run.glob("samples/*"))] == [f"step_{step:07d}" for step in (0, 3, 6)]
        header = set((run / "metrics.csv").read_text().splitlines()[0].split(","))
        looks = {"guard/sigma", "spectral/discriminator/sigma", "lipschitz/data", "activations/all/dead"}
        assert looks < header


class Labelled(Blots):
    @property
    def num_classes(self):
        return 4

    def load(self):
        train, val = super().load()
        train.labels = val.labels = torch.arange(50) % 4
        return train, val


class TestCache:
    """Features of real images are computed once."""

    @pytest.fixture
    def extractor(self):
        extractor = build_extractor("garments")
        calls = []
        extractor.register_forward_hook(lambda *_: calls.append(1))
        extractor.calls = calls
        return extractor

    def test_features_are_kept_by_content(self, extractor, tmp_path):
        data = Blots()
        first = features.real_features(data.train_images(), 30, extractor)
        again = features.real_features(data.train_images(), 30, extractor)
        assert len(extractor.calls) == 1
        assert torch.equal(first[0], again[0])
        assert first[1] == again[1]
        (file,) = tmp_path.glob("cache/normlab/features/*")
        assert file.name == f"garments-{extractor.digest()}-{first[1]}.safetensors"
        # Other images, fewer of them, or one of another brightness, are others.
        features.real_features(data.val_images(), 30, extractor)
        features.real_features(data.train_images(), 29, extractor)
        changed = Blots()
        changed.setup()
        changed._images[0].images[features.torch.randperm(50, generator=features.generator(0))[0], 0, 0, 0] += 1
        features.real_features(changed.train_images(), 30, extractor)
        assert len(extractor.calls) == 4
        # And so are those of another network.
        with torch.no_grad():
            extractor.classifier.head.bias[0] += 1
        features.real_features(data.train_images(), 30, extractor)
        assert len(extractor.calls) == 5

    @pytest.mark.parametrize("damage", [lambda b: b[:100], lambda b: b"", lambda b: b[:-1] + bytes([b[-1] ^ 1])])
    def test_a_damaged_cache_is_made_anew(self, extractor, damage, tmp_path):
        images = Blots().train_images()
        first = features.real_features(images, 30, extractor)[0]
        (file,) = tmp_path.glob("cache/normlab/features/*")
        file.write_bytes(damage(file.read_bytes()))
        assert torch.equal(features.real_features(images, 30, extractor)[0], first)
        assert len(extractor.calls) == 2
        assert torch.equal(features.real_features(images, 30, extractor)[0], first)
        assert len(extractor.calls) == 2

    def test_no_cache_is_no_fault(self, extractor, monkeypatch, tmp_path):
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
        with pytest.warns(UserWarning, match=str(tmp_path / "file")):
            found = features.real_features(Blots().train_images(), 30, extractor)[0]
        assert found.shape == (30, 64)


class TestMistakes:
    """Each is told in one line, before anything is trained."""

    def fails(self, match, model=None, data=None, **options):
        with pytest.raises(SettingError, match=match) as caught:
            fit(Path("run"), [GenerationMetrics(**options)], model or gan(), data=data or Blots())
        assert "\n" not in str(caught.value)
        assert not Path("run").exists()

    def test_unknown_names(self):
        self.fails("unknown metrics.features 'garment', did you mean 'garments'", features="garment")
        self.fails("unknown metric in metrics.names 'kit', did you mean 'kid'", features="garments", names=["kit"])
        self.fails("unknown metric in metrics.names 'fid'", features="garments", names=["fid"])

    def test_too_few_images(self):
        few = r"fd_garments of 50 images means nothing, with 64 features: it needs 65 .*; take kid"
        self.fails(few, features="garments", names=["fd", "kid"])
        self.fails("is_garments of 9 images", features="garments", names=["is"], val_images=9)
        self.fails("kid_garments of 1 images .* kid needs 2 of each$", features="garments", val_images=1)
        self.fails("metrics.names holds no number", features="garments", names=[])

    @pytest.mark.parametrize(
        ("features", "monitor", "told"),
        [
            ("garments", "val/kid", "'val/kid', did you mean 'val/kid_garments'"),
            ("garments", "val/recall_garments", "unknown metric in {} 'val/recall_garments'"),
            (None, "val/kid_garments", "{}: val/kid_garments needs metrics.features"),
        ],
    )
    def test_a_monitor_of_what_is_not_computed(self, features, monitor, told):
        metrics, stopping = GenerationMetrics(features, ["kid"], val_images=30), EarlyStopping(monitor)
        best = RunCheckpoint(monitor=monitor)
        for callback, where in ((best, "checkpoint.monitor"), (stopping, "trainer.callbacks")):
            with pytest.raises(SettingError, match=told.format(where)):
                fit(Path("run"), [metrics, callback], gan(), data=Blots())
            assert not Path("run").exists()

    def test_other_channels(self):
        model, data = gan(channels=3), Blots(channels=3)
        self.fails("garments is a classifier of images with one channel", features="garments", model=model, data=data)

    def test_a_model_that_draws_nothing(self):
        self.fails("TinyModel does not: set it to null", features="garments", model=TinyModel(), data=TinyData())

    def test_data_that_cannot_be_counted(self):
        self.fails(r"TinyData has no train_images\(\)", features="garments", data=TinyData())

    def test_a_run_of_something_else(self, tmp_path):
        trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
        trainer.strategy.connect(TinyModel())
        trainer.save_checkpoint("other.ckpt")
        self.fails("is a checkpoint of TinyModel, not of Classifier", features="other.ckpt")
        assert BUNDLED.keys() == {"garments", "digits"}
        assert Classifier(2).image_shape is None


@pytest.mark.parametrize("config", sorted((Path(__file__).parents[3] / "configs").glob("*.yaml")), ids=lambda c: c.stem)
def test_configurations_monitor_what_they_compute(config):
    settings = yaml.safe_load(config.read_text())
    if monitor := settings.get("checkpoint", {}).get("monitor"):
        network = SimpleNamespace(name=settings["metrics"]["features"])
        assert monitor in {f"val/{Extractor.score_name(network, score)}" for score in CHEAP}


def test_left_out_by_default_where_there_are_too_few(capsys):
    train("run", metrics=GenerationMetrics("garments", val_images=30), max_steps=4)
    assert [*numbers("run")["step_0000004"]["scores"]] == ["kid_garments"]
