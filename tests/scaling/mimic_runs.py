"""What is run on the device ``mimic``, in a process of its own."""

import contextlib
import io
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from unittest import mock

import mimic
import processes
import torch
import yaml
from PIL import Image
from pytorch_lightning import Callback, LightningModule
from pytorch_lightning.accelerators import Accelerator, AcceleratorRegistry
from pytorch_lightning.strategies import SingleDeviceStrategy, StrategyRegistry

import norms
import sampling.command
import stylizing.command
from lightning_modules import generation
from lightning_modules import processes as shared
from lightning_modules.processes import SharedModule
from training.callbacks import signs
from training.command import main

sys.path.append(str(processes.ROOT / "tests" / "norms"))

import oracles

STEPS, EVERY = 6, 3
"""How long trainings are, and at which steps they log, draw and save: the second and the fifth step do neither."""

COMMON = {
    "name": "run",
    "trainer": {
        "accelerator": mimic.NAME,
        "strategy": "single_mimic",
        "max_steps": STEPS,
        "log_every_n_steps": EVERY,
        "val_check_interval": EVERY,
        "limit_val_batches": 1,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "callbacks": [{"class_path": "mimic_runs.Watch"}],
    },
    "checkpoint": {"every_n_train_steps": EVERY, "keep_all": True},
    **{name: {"every_n_steps": EVERY} for name in ("guard", "mixing", "samples", "spectral")},
}


class MimicAccelerator(Accelerator):
    """Lets Lightning use the device."""

    def setup_device(self, device):
        assert device.type == mimic.NAME

    def teardown(self):
        pass

    @staticmethod
    def parse_devices(devices):
        return 1

    @staticmethod
    def get_parallel_devices(devices):
        return [torch.device(mimic.NAME, 0)]

    @staticmethod
    def auto_device_count():
        return 1

    @staticmethod
    def is_available():
        return True

    def get_device_stats(self, device):
        return {}

    @staticmethod
    def name():
        return mimic.NAME


def begin():
    """Prepare a process for what follows."""
    torch.set_num_threads(1)
    mimic.install()
    # Less work, of the same kind.
    generation.SAMPLING_BATCH, generation.STATISTICS_BATCHES, signs.SAMPLES = 8, 1, 16
    AcceleratorRegistry.register(mimic.NAME, MimicAccelerator)
    StrategyRegistry.register("single_mimic", SingleDeviceStrategy, device=f"{mimic.NAME}:0")


def pool():
    """Return a process that has the device, to which functions of this module are submitted."""
    path = os.pathsep.join(map(str, (processes.ROOT, processes.ROOT / "tests")))
    with mock.patch.dict(os.environ, PYTHONPATH=path):
        made = ProcessPoolExecutor(1, processes.CONTEXT, begin)
        made.submit(int).result()
    return made


class Watch(Callback):
    """Notes what each step makes the host wait for, from its beginning to that of the next."""

    steps: dict[int, list[mimic.Event]] = {}  # noqa: RUF012, one for all trainings

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        assert all(p.device.type == mimic.NAME for p in [*pl_module.parameters(), *pl_module.buffers()])
        self.steps[trainer.global_step] = mimic.events = []

    def on_train_end(self, trainer, pl_module):
        mimic.events = []


def call(command, *args):
    """Run a command line; returns what it prints."""
    told = io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
        code = command([str(arg) for arg in args])
    assert code == 0, told.getvalue()
    return told.getvalue()


def merged(base, changes):
    both = {key: base[key] | value if isinstance(base.get(key), dict) else value for key, value in changes.items()}
    return base | both


def weights(run):
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True, map_location="cpu")["state_dict"]


def train(folder, **settings):
    """Train, resume in the middle and compare; returns what the quiet steps and the resumed ones made wait."""
    os.chdir(folder)
    os.environ["WANDB_MODE"] = "disabled"
    Path("config.yaml").write_text(yaml.safe_dump(merged(COMMON, settings)))
    Watch.steps = {}
    call(main, "fit", "--config", "config.yaml")
    run = Path("runs/run/version_0")
    first, steps = weights(run), Watch.steps
    Watch.steps = {}
    call(main, "fit", "--config", "config.yaml", "--ckpt_path", run / f"checkpoints/step_{EVERY:07d}.ckpt")
    assert min(Watch.steps) == EVERY
    second = weights(run)
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
    assert any(not torch.equal(first[n], v) for n, v in weights_of_start(run).items())
    use(run, settings["model"]["class_path"])
    quiet = [step for step in steps if step % EVERY == 1]
    assert len(quiet) == STEPS // EVERY
    return [event for each in (steps, Watch.steps) for step in quiet for event in each.get(step, [])]


def use(run, module):
    """Draw or paint with a trained network."""
    if module.endswith("GAN"):
        call(sampling.command.main, run, "-o", "samples.png", "--count", 4, "--device", mimic.NAME)
        assert Path("samples.png").is_file()
    elif module.endswith(("AnyStyle", "StyleTransfer")):
        Image.new("RGB", (20, 16), "teal").save("photo.png")
        call(stylizing.command.main, run, "photo.png", "-o", "painted", "--device", mimic.NAME)
        assert len(list(Path("painted").iterdir())) == 1


def weights_of_start(run):
    file = run / f"checkpoints/step_{EVERY:07d}.ckpt"
    return torch.load(file, weights_only=True, map_location="cpu")["state_dict"]


def on_both(function):
    """Call ``function(device)`` on the device and on the CPU; compare, and return what the first has made wait."""
    found = [function(torch.device(mimic.NAME)), function(torch.device("cpu"))]
    made, expected = ([value.detach().cpu() for value in values] for values in found)
    torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-3)
    assert all(value.device.type == mimic.NAME for value in found[0])


def norm_trains(name, dims):
    """Compare a norm's passes, derivatives and statistics with those on the CPU; nothing may wait."""
    waited = []

    def passes(device):
        torch.manual_seed(0)
        layer = norms.build(name, 4, dims).to(device, torch.float64)
        x = oracles.draw((3, 4, 5, 4, 3)[: 2 + dims], seed=1).to(device).requires_grad_()
        with mimic.recorded() as found:
            y = layer(x)
            first = torch.autograd.grad((y.square() * y).sum(), [x, *layer.parameters()], create_graph=True)
            second = torch.autograd.grad(sum(each.square().sum() for each in first), x)
            norms.project_(layer)
            layer.zero_grad()
            layer(x).sum().backward()
        waited.extend(found)
        # Which reads whether the statistics have settled.
        evaluated = layer.eval()(x.detach())
        return [y, *first, *second, evaluated, *layer.buffers()]

    on_both(passes)
    return waited


def norm_is_handled(name):
    """Compare what is done with networks that have a norm with what comes of it on the CPU."""

    def handled(device):
        torch.manual_seed(0)
        batches = [oracles.draw((2, 3, 6, 6), seed).float().to(device) for seed in range(2)]
        model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), norms.build(name, 4)).to(device)
        norms.recalibrate(model, batches).eval()
        with mimic.recorded() as read:
            values = [value for layer in norms.report(model) for value in layer.values.values()]
        assert len(mimic.waits(read)) == (len(values) > 0) * (device.type == mimic.NAME)
        with norms.fixed_statistics(model, batches[0]):
            painted = model(batches[1])
        if values:
            norms.binarize_(model)
            norms.prune(model)
        before, state = model(batches[0]), list(model.state_dict().values())
        conditional = norms.build(name, 4, num_conditions=2).to(device)
        labels = torch.arange(2, device=device)
        y = conditional(model[0](batches[0]).detach(), labels)
        assert all(value.device.type == "cpu" for value in values)
        return [painted, before, y, *state]

    on_both(handled)


def weights_are_normalized():
    """Compare spectral and weight normalization with those on the CPU; no training step of either may wait."""
    waited = []

    def normalized(device):
        torch.manual_seed(0)
        conv, linear = torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.Linear(4, 2)
        norms.spectral_norm(conv, input_size=(6, 6))
        norms.weight_norm(linear)
        model = torch.nn.Sequential(conv, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), linear).to(device)
        x = oracles.draw((3, 3, 6, 6), seed=1).float().to(device)
        norms.initialize_weight_norm_(model, x)
        with mimic.recorded() as found:
            y = model(x)
            y.square().mean().backward()
            norms.power_iterate_(model)
        waited.extend(found)
        sigma = torch.tensor([*norms.sigmas(model).values()], device=device)
        grads, state = [p.grad for p in model.parameters()], list(model.state_dict().values())
        return [y, sigma, *grads, *state, norms.fold_(model.eval())(x)]

    on_both(normalized)
    return waited


def numbers_are_averaged():
    """Log, as one of two processes, numbers of the CPU and of the device; returns what that makes wait."""
    module, logged = SharedModule().to(mimic.NAME), []
    here = mock.patch.multiple(shared, is_distributed=lambda: True, all_reduce=lambda values: 3 * values)
    trainer = mock.patch.object(SharedModule, "trainer", mock.Mock(training=True, world_size=2))
    log = mock.patch.object(LightningModule, "log", lambda module, name, value: logged.append(value))
    with here, trainer, log, mimic.recorded() as found:
        module.log_dict({"a": 1, "b": 0.5, "c": torch.tensor(2.0), "d": torch.ones((), device=mimic.NAME)})
    assert [value.item() for value in logged] == [1.5, 0.75, 3, 1.5]
    return found


def _mixed(x):
    return x + torch.ones(3)


def _drawn_beside(x):
    return torch.randn(3, generator=torch.Generator(), device=x.device)


MISTAKES = {
    "a tensor of the CPU": (_mixed, "RuntimeError"),
    "a scalar of the CPU in a matrix product": (lambda x: torch.cat([x, torch.tensor(1.0)[None]]), "RuntimeError"),
    "a result of the device in a tensor of the CPU": (lambda x: torch.zeros(3).add_(x), "RuntimeError"),
    "noise of the CPU's generator": (_drawn_beside, "RuntimeError"),
    "a number that is read": (lambda x: x.sum().item(), ["read"]),
    "numbers that are read": (lambda x: x.tolist(), ["download"]),
    "a condition": (lambda x: bool((x > 0).all()), ["read"]),
    "a comparison": (lambda x: torch.equal(x, x), ["read"]),
    "a mask": (lambda x: x[x > 0], ["read"]),
    "a mask to write to": (lambda x: x.index_put_((x > 0,), x[1:]), ["read"]),
    "places": (lambda x: x.nonzero(), ["read"]),
    "draws by weights": (lambda x: torch.multinomial(x, 1, generator=torch.Generator(x.device)), ["read"]),
    "eigenvalues": (lambda x: torch.linalg.eigvalsh(torch.diag(x)), ["read"]),
    "singular values": (lambda x: torch.linalg.svd(torch.diag(x)), ["read"]),
    "a list of places": (lambda x: x[[0, 2]], ["upload"]),
    "a constant": (lambda x: x * x.new_tensor([1.0, 2.0, 3.0]), ["upload"]),
    "an array": (lambda x: x.cpu().numpy(), ["download"]),
    "a copy that is not waited for": (lambda x: torch.ones(3).to(x.device, non_blocking=True), []),
    "a scalar of the CPU": (lambda x: x * torch.tensor(2.0), []),
    "noise": (lambda x: torch.randn(3, generator=torch.Generator(x.device), device=x.device), []),
}
"""What code may do to a tensor of three numbers, and the error or the waits that it makes."""


def mistake(name):
    """Make a mistake; returns what tells of it."""
    x = torch.arange(3.0).to(mimic.NAME)
    try:
        with mimic.recorded() as found:
            MISTAKES[name][0](x)
    except RuntimeError as error:
        return type(error).__name__
    return [event.kind for event in mimic.waits(found)]
