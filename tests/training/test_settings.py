"""What holds for every value of a configuration."""

from datetime import timedelta
from pathlib import Path

import pytest

from training.cli import TrainCLI
from training.command import main
from training.guarded_loggers import NO_SECOND_WANDB

BASE = """
name: tiny
trainer: {max_steps: 3, accelerator: cpu}
model: {class_path: stand_ins.TinyModel, init_args: {norm: batch}}
data: {class_path: stand_ins.TinyData}
"""

with pytest.raises(TypeError) as PARSECS:  # in the words of this Python
    timedelta(parsecs=12)

REFUSED = {
    "--model.width=null": "model.init_args.width must have a value, got null",
    "--mixing.every_n_steps=null": "mixing.every_n_steps: expected int, got None",
    "--model=lightning_modules.GAN --model.lr=null": "model.init_args.lr must have a value, got null",
    "--model=lightning_modules.GAN --model.betas=null": "model.init_args.betas must have a value, got null",
    "--model.seconds=.inf": "model.init_args.seconds must be a finite number, got inf",
    "--trainer.gradient_clip_val=.nan": "trainer.gradient_clip_val must be a finite number, got nan",
    "--model=lightning_modules.GAN --model.norm_options={eps: -.inf}": (
        "model.init_args.norm_options.eps must be a finite number, got -inf"
    ),
    "--model=lightning_modules.GAN --model.norm_options={eps: small}": "eps must be a number, got 'small'",
    "--model=lightning_modules.GAN --model.norm_options={eps: 0}": "eps must be above 0 and below inf, got 0",
    "--model=lightning_modules.GAN --model.norm_options={affine: 7}": "affine must be true or false, got 7",
    "--model=lightning_modules.GAN --model.norm_options={momentum: no}": "momentum must be a number or null, got False",
    "--model=lightning_modules.GAN --model.norm=group --model.norm_options={num_groups: 0}": (
        "num_groups must be at least 1, got 0"
    ),
    **{
        f"--model=lightning_modules.{model} --model.norm_options={{{name}: 3}}": message
        for model in ("GAN", "StyleTransfer")
        for name, message in {
            "num_features": "'num_features' is no option of a norm here: it follows from the network",
            "dims": "'dims' is no option of a norm here: it follows from the network",
            "num_conditions": "'num_conditions' is no option of a norm here: it follows from the network",
            "name": "'name' is no option of a norm here: the norm itself is named beside its options",
            "device": "'device' is no option of a norm here: the trainer chooses it",
            "dtype": "'dtype' is no option of a norm here: the trainer chooses it",
            "1": "the name of a norm's option must be a text, got 1",
            "true": "the name of a norm's option must be a text, got True",
        }.items()
    },
    "--model=lightning_modules.GAN --model.norm=switchable --model.norm_options={statistics: 7}": (
        "norm 'switchable' cannot be built with statistics=7: argument of type 'int' is not iterable"
    ),
    "--model=lightning_modules.GAN --model.norm=group --model.norm_options={num_groups: 7}": (
        "norm 'group' cannot be built with num_groups=7: num_channels (256) must be divisible by num_groups (7)"
    ),
    "--model.dict_kwargs={1: 3}": "model.dict_kwargs: the name of an argument must be a text, got 1",
    "--data.dict_kwargs={null: 3}": "data.dict_kwargs: the name of an argument must be a text, got None",
    "--trainer.callbacks=pytorch_lightning.callbacks.EarlyStopping": (
        "no monitor given: pytorch_lightning.callbacks.EarlyStopping needs it, as init_args: {monitor: ...}"
    ),
    "--trainer.callbacks=[{class_path: pytorch_lightning.callbacks.ModelPruning}]": (
        "no pruning_fn given: pytorch_lightning.callbacks.ModelPruning needs it, as init_args: {pruning_fn: ...}"
    ),
    "--trainer.logger=WandbLogger": NO_SECOND_WANDB,
    "--trainer.logger=[pytorch_lightning.loggers.CSVLogger, pytorch_lightning.loggers.WandbLogger]": NO_SECOND_WANDB,
    "--wandb.mode=banana": "unknown wandb.mode 'banana' (known: online, offline, disabled)",
    "--wandb.tags=a,,b": "wandb.tags: a tag has 1 to 64 characters, got ''",
    "--wandb.project=me/normlab": (
        "wandb.project: Invalid project name 'me/normlab': cannot contain characters '/,\\\\,#,?,%,:', found '/'"
    ),
    "--wandb.log_model=perhaps": "wandb.log_model: expected bool, Literal['all'], got perhaps",
    "--model={true: 3}": "model: the name of a setting must be a text, got True",
    "--config=empty.yaml": "empty.yaml is empty, but a configuration is made of settings, such as name: run",
    "--config=list.yaml": "list.yaml holds [], but a configuration is made of settings, such as name: run",
    "--config=text.yaml": "text.yaml holds foo, but a configuration is made of settings, such as name: run",
    "--config=key.yaml": "key.yaml, line 2: the name of a setting must be a text, got null",
    "--config=nested.yaml": "nested.yaml, line 2: the name of a setting must be a text, got yes",
    "--trainer.max_steps=1:30": "trainer.max_steps: expected int, got 1:30",
    "--model=lightning_modules.GAN --model.norm_options={eps: 1:30}": "eps must be a number, got '1:30'",
    "--model=lightning_modules.GAN --model.norm_options.eps=1:30": "eps must be a number, got '1:30'",
    "--config=sixty.yaml": "model.init_args.width: expected int, got 1:30",
    "--trainer.model_registry=mine": (
        "trainer.model_registry has no effect here: remove it, a run keeps its checkpoints itself"
    ),
    "--trainer.overfit_batches=0.5": (
        "trainer.overfit_batches must be a whole number of batches, since data streams without an end, got 0.5"
    ),
    "--trainer.callbacks=pytorch_lightning.callbacks.BackboneFinetuning": (
        "BackboneFinetuning trains a part of the model that is called backbone, and TinyModel has none: "
        "remove it from trainer.callbacks"
    ),
    f"--model.seed={10**400}": "model.init_args.seed must be between -2**63 and 2**63, got a number of 1329 bits",
    "--model.seed=-1": "seed must be at least 0 and at most 9223372036854775807, got -1",
    "--seed_everything=-1": "seed_everything must be at least 0 and at most 4294967295, got -1",
    "--seed_everything=4294967296": "seed_everything must be at least 0 and at most 4294967295, got 4294967296",
    "--model=lightning_modules.Classifier --model.weight_decay=-1": (
        "weight_decay must be at least 0 and below inf, got -1.0"
    ),
    "--model=lightning_modules.GAN --model.channels=9223372036854775807": (
        "GAN does not fit into memory: Storage size calculation overflowed with sizes=[9223372036854775807, 256, 3, 3]"
    ),
    "--model.dict_kwargs={depth: 2}": "TinyModel: got an unexpected keyword argument 'depth'",
    "--data=data.BundledDigits --data.num_workers=1000000": (
        "data.num_workers must be at least 0 and at most 256, got 1000000"
    ),
    "--data=data.BundledDigits --data.image_size=1": "data.image_size must be at least 4 and at most 16384, got 1",
    "--trainer.limit_train_batches=0": "trainer.limit_train_batches must be above 0, got 0",
    "--trainer.accumulate_grad_batches=-2": "trainer.accumulate_grad_batches must be at least 1, got -2",
    "--trainer.log_every_n_steps=0": "trainer.log_every_n_steps must be at least 1, got 0",
    "--trainer.val_check_interval=0": "trainer.val_check_interval must be above 0, got 0",
    "--trainer.devices=-1": "trainer: `devices` selected with `CPUAccelerator` should be an int > 0.",
    "--trainer.devices=0": "trainer.devices must be at least 1, or auto or -1 for all, got 0",
    "--trainer.devices=100000": "trainer.devices must be at least -1 and at most 1024, got 100000",
    "--trainer.strategy=ddp_spawn": (
        "trainer.strategy must not start processes by spawn, of which nothing comes back: use ddp"
    ),
    "--trainer.strategy=ddp_notebook_find_unused_parameters_true": (
        "trainer.strategy must not start processes by fork, of which nothing comes back: use ddp"
    ),
    "--trainer.devices=2 --trainer.strategy=single_device": (
        "trainer.strategy: single_device trains in one process, and not in 2: use ddp"
    ),
    "--trainer.strategy=deepspeed_stage_2": (
        "trainer.strategy: deepspeed writes checkpoints that nothing here can read: use ddp"
    ),
    "--trainer.min_steps=4": "trainer.min_steps must be at most 3, got 4",
    "--trainer.min_epochs=1": "trainer.min_epochs is 1, but data streams without epochs: use trainer.min_steps",
    "--seed_everything=true": "seed_everything must be a number, since a run follows from its seed, got true",
    "--seed_everything=false": "seed_everything must be a number, since a run follows from its seed, got false",
    "--trainer.max_time={days: -1}": "the seconds of trainer.max_time must be above 0, got -86400.0",
    "--trainer.max_time={parsecs: 12}": f"trainer.max_time: {PARSECS.value}",
    "--runs_dir=": "runs_dir must have a value, got an empty text",
    "--name=a\nb": "name must be the name of a folder, got 'a\\nb'",
    "--name=" + "x" * 256: "name must be the name of a folder, of at most 255 bytes, got 256",
    "--runs_dir=" + "x" * 300: "x" * 300 + "/tiny: File name too long",
    "--runs_dir=" + "x/" * 3000: "runs_dir is too long: it has 6000 characters, and at most 4096 are taken",
    "--name=caf\udce9": "b'--name=caf\\xe9' is no UTF-8, as a configuration must be: rename it",
    "--runs_dir=a\0b": "runs_dir holds a NUL character: 'a\\x00b'",
    "--model.width=[&a [1],&b [*a,*a,*b]]": (
        "model.width, line 1: the alias 'b' stands for nothing, or for what it is part of"
    ),
    "--trainer.check_val_every_n_epoch=2": (
        "trainer.check_val_every_n_epoch is 2, but data streams without epochs: use trainer.val_check_interval"
    ),
    "--trainer.default_root_dir=elsewhere": "trainer.default_root_dir has no effect here: use runs_dir",
    "--trainer.callbacks=pytorch_lightning.callbacks.BatchSizeFinder": (
        "BatchSizeFinder trains with other settings than the configuration's, which the run keeps: "
        "remove it from trainer.callbacks"
    ),
    "--config=.": "--config .: not a regular file",
    "--config=latin.yaml": (
        "latin.yaml is not valid YAML: 'utf-8' codec can't decode byte 0xe9 in position 0: unexpected end of data"
    ),
    "--config=merged.yaml": (
        "merged.yaml is not valid YAML: while constructing a mapping line 1, column 1: <<: 3 ^ expected a mapping or "
        "list of mappings for merging, but found scalar line 1, column 5: <<: 3 ^"
    ),
    "--config=tagged.yaml": (
        "tagged.yaml is not valid YAML: could not determine a constructor for the tag '!x' line 1, column 7: "
        "name: !x y ^"
    ),
    "--config=deep.yaml": "deep.yaml, line 1: nested deeper than 50 levels",
    "--config=twice.yaml": "twice.yaml, line 3: the key 'width' is there twice",
}


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("base.yaml").write_text(BASE)
    Path("twice.yaml").write_text("model:\n  width: 1\n  width: 2")
    Path("sixty.yaml").write_text("model: {class_path: stand_ins.TinyModel, init_args: {width: 1:30}}")
    Path("empty.yaml").touch()
    Path("list.yaml").write_text("[]")
    Path("text.yaml").write_text("foo")
    Path("key.yaml").write_text("name: x\nnull: a")
    Path("nested.yaml").write_text("model:\n  yes: a")
    Path("latin.yaml").write_bytes(b"\xe9")
    Path("merged.yaml").write_text("<<: 3")
    Path("tagged.yaml").write_text("name: !x y")
    Path("deep.yaml").write_text("{a: " * 60 + "1" + "}" * 60)


@pytest.fixture
def built(monkeypatch):
    lines = []
    monkeypatch.setattr(TrainCLI, "fit", lambda self, **_: lines.append(self))
    return lines


def arguments(options):
    return ["fit", "--config", "base.yaml", *(f"--{option}" for option in options.removeprefix("--").split(" --"))]


@pytest.mark.parametrize(("options", "message"), REFUSED.items(), ids=range(len(REFUSED)))
def test_what_is_refused(options, message, capsys):
    before = sorted(Path().rglob("*"))
    assert main(arguments(options)) == 2
    assert capsys.readouterr().err == f"error: {message}\n"
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize(
    "options", ["devices=3", "devices=3 --trainer.accelerator=auto", "devices=3 --trainer.strategy=ddp"]
)
def test_more_processes_than_cores_are_refused(options, capsys, monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    monkeypatch.setattr("torch.accelerator.is_available", lambda *_: False)
    assert main(arguments(f"--trainer.{options}")) == 2
    message = "trainer.devices must be at most 2, the number of this machine's cores, got 3"
    assert capsys.readouterr().err == f"error: {message}\n"


def test_whoever_has_started_processes_decides_how_many(built, monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "2")
    assert main(arguments("--trainer.devices=3")) == 0
    assert built[0].trainer.num_devices == 3


@pytest.mark.parametrize("strategy", ["auto", "ddp", "ddp_find_unused_parameters_false"])
def test_a_gan_trains_in_several_processes_by_any_name_of_ddp(strategy, built, monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    options = ["--trainer.accelerator=cpu", "--trainer.devices=2", f"--trainer.strategy={strategy}"]
    assert main(["fit", "--config=gan", *options]) == 0
    assert main([*arguments("--name=tiny"), *options]) == 0
    for each in built:
        each.model.trainer = each.trainer
        each.model.setup("fit")
    looked_for = [each.trainer.strategy._ddp_kwargs.get("find_unused_parameters", False) for each in built]
    assert looked_for == [True, False]


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        ("EarlyStopping --trainer.callbacks.monitor=val/los", "Early stopping conditioned on metric `val/los`"),
        ("ModelCheckpoint --trainer.callbacks.monitor=val/los", "could not find the monitored key"),
    ],
)
def test_what_lightnings_callbacks_say_is_one_line(callback, message, capsys, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    options = f"--trainer.val_check_interval=1 --trainer.callbacks=pytorch_lightning.callbacks.{callback}"
    assert main(arguments(options)) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert message in line


@pytest.mark.parametrize("number", ["1e3", "1E+3", "10e2", "1.0e3"])
def test_a_whole_number_may_have_an_exponent(number, built):
    assert main(arguments(f"--trainer.max_steps={number} --model.width={number}")) == 0
    Path("base.yaml").write_text(BASE.replace("max_steps: 3", f"max_steps: {number}"))
    assert main(["fit", "--config", "base.yaml", "--model.width", number, "--name", "1e3"]) == 0
    assert [each.trainer.max_steps for each in built] == [1000, 1000]
    assert [each.model.hparams["width"] for each in built] == [1000, 1000]
    assert [each.config.fit.name for each in built] == ["tiny", "1e3"]


def test_a_callback_whose_default_is_no_plain_text(built):
    assert main(arguments("--trainer.callbacks=pytorch_lightning.callbacks.Timer")) == 0
    assert main(arguments("--trainer.callbacks=[pytorch_lightning.callbacks.Timer]")) == 0
    assert len(built) == 2


def test_what_may_be_null_or_any_text(built):
    options = "--trainer.min_steps=null --trainer.limit_val_batches=0 --name=réseau --trainer.max_time={hours: 1}"
    assert main(arguments(options)) == 0
    assert main(arguments("--trainer.max_time=1:00:00:00 --name=1:30")) == 0
    assert [built[-1].config.fit.trainer.max_time, built[-1].config.fit.name] == ["1:00:00:00", "1:30"]
    assert (
        main(["fit", "--config=gan", "--model.generator_batch_size=null", "--model.norm_options={momentum: null}"]) == 0
    )
    assert len(built) == 3
