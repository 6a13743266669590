"""A device that is not the CPU and runs on it: ``mimic``, in the place that torch keeps for others' devices.

Its tensors are torch's own, with storages of another device, whose memory is the CPU's: DLPack hands memory from one
library to another, and says in one field on which device it is. Below, that field is changed. Each operation on such
tensors runs on the CPU's view of their memory, after it was checked as CUDA would:

- Tensors of the CPU do not mix with those of the device, but for scalars in elementwise operations.
- Random numbers are drawn by generators of the device, and only there.

What makes the host wait for a device is recorded in :data:`events`, with the line of code that asked for it: reading a
value, results whose shape depends on values, and copies in either direction that are not ``non_blocking``.

A process cannot get rid of it again: only processes made for it (:func:`run_on_mimic`) call :func:`install`.
"""

import contextlib
import ctypes
import functools
import sys
from pathlib import Path
from typing import ClassVar, NamedTuple

import torch
from torch.utils import backend_registration

NAME = "mimic"
ROOT = Path(__file__).parents[2]

_CPU, _OTHER = 1, 12
"""Device types of DLPack: the CPU, and devices that it does not know."""

_capsule_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_capsule_pointer.restype, _capsule_pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)

_libraries = []


class Event(NamedTuple):
    """Something that makes the host wait, or a copy that does not."""

    kind: str
    """``read``, ``upload`` or ``download`` if the host waits, ``load`` or ``unload`` for copies beside its work."""
    op: str
    place: str
    """File and line of what has called torch."""


events: list[Event] = []


@contextlib.contextmanager
def recorded():
    """Collect the events of a block in a list of its own."""
    before, found = len(events), []
    try:
        yield found
    finally:
        found += events[before:]


def waits(found):
    """Of some events, those that the host waits for."""
    return [each for each in found if each.kind in ("read", "upload", "download")]


def _record(kind, op):
    frame = sys._getframe(1)
    while frame and ("/torch/" in frame.f_code.co_filename or frame.f_code.co_filename == __file__):
        frame = frame.f_back
    name = Path(frame.f_code.co_filename) if frame else Path("backward")
    place = name.relative_to(ROOT) if name.is_relative_to(ROOT) else Path(*name.parts[-3:])
    events.append(Event(kind, str(op), f"{place}:{frame.f_lineno if frame else 0}"))


def _with_device_type(tensor, kind):
    capsule = torch._C._to_dlpack(tensor.resolve_conj().resolve_neg())
    # After the address of the memory.
    ctypes.c_int32.from_address(_capsule_pointer(capsule, b"dltensor") + ctypes.sizeof(ctypes.c_void_p)).value = kind
    return torch._C._from_dlpack(capsule)


def to_host(tensor):
    """Return a tensor of the CPU with the same memory."""
    return _with_device_type(tensor, _CPU)


def to_mimic(tensor):
    """Return a tensor of the device with the same memory."""
    return _with_device_type(tensor, _OTHER)


def on_mimic(value):
    return isinstance(value, torch.Tensor) and value.device.type == NAME


class _Generator(torch.Generator):
    """Draws for the device, as the CPU's generator of the same seed does for the CPU."""

    of_mimic: ClassVar[set[int]] = set()
    """Where those of the device are in memory: operations are given another Python object."""

    def __new__(cls, device="cpu"):
        device = torch.device(device)
        made = super().__new__(cls, "cpu" if device.type == NAME else device)
        made.drawn_on = device
        if device.type == NAME:
            cls.of_mimic.add(made._cdata)
        return made

    def __del__(self):
        self.of_mimic.discard(self._cdata)

    @property
    def device(self):
        return self.drawn_on


# Their results have shapes that depend on values, or values that CUDA checks, before the host goes on.
_READING = {
    "_local_scalar_dense",
    "equal",
    "nonzero",
    "masked_select",
    "_unique",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
    "bincount",
    "repeat_interleave",
    "_linalg_check_errors",
    "_linalg_eigh",
    "_linalg_svd",
    "linalg_eig",
    "linalg_lstsq",
    "multinomial",
    "histc",
}

_INDEXING = {"index", "index_put_", "_index_put_impl_"}

# CUDA takes scalars of the CPU in these, beside elementwise operations.
_WITH_SCALARS = {"fill_", "masked_fill", "masked_fill_", "where", *_INDEXING}


class _Operation:
    """What is to be known of an operation before it runs."""

    def __init__(self, op):
        self.op, self.name = op, op.overloadpacket.__name__
        schema = op._schema
        self.names = [each.name for each in schema.arguments]
        self.tensors = [isinstance(each.type, torch.TensorType) for each in schema.arguments]
        aliased = {each.name: each.alias_info for each in schema.arguments if each.alias_info is not None}
        self.written = [name for name, info in aliased.items() if info.is_write]
        self.results = [each.alias_info for each in schema.returns]
        self.sources = [
            info and next(name for name, each in aliased.items() if each.before_set == info.before_set)
            for info in self.results
        ]
        self.takes_scalars = (
            torch.Tag.pointwise in op.tags or self.name in _WITH_SCALARS or self.name.startswith("_foreach")
        )
        self.reads, self.indexes = self.name in _READING, self.name in _INDEXING

    def check(self, named):
        """Refuse what CUDA refuses, and note what it waits for."""
        if self.reads:
            _record("read", self.op)
        written = [value for name in self.written if name in named for value in _flat([named[name]])]
        for value in _flat(named.values()):
            if isinstance(value, torch.Tensor):
                # That of index is asked for its places before.
                if self.indexes and self.name != "index" and value.dtype in (torch.bool, torch.uint8) and value.dim():
                    _record("read", self.op)
                if on_mimic(value) or (self.takes_scalars and not value.dim() and not any(value is w for w in written)):
                    continue
                if not self.indexes or value.dtype not in (torch.int64, torch.bool):
                    raise RuntimeError(
                        f"{self.op}: expected all tensors on {NAME}, got {tuple(value.shape)} on the CPU"
                    )
                _record("upload", self.op)  # as CUDA does
            elif isinstance(value, torch._C.Generator) and value._cdata not in _Generator.of_mimic:
                raise RuntimeError(f"{self.op}: expected a generator of {NAME}, got one of the CPU")


_operation = functools.cache(_Operation)


def _flat(values):
    for value in values:
        if isinstance(value, list | tuple):
            yield from _flat(value)
        else:
            yield value


def _mapped(value, function):
    return [_mapped(each, function) for each in value] if isinstance(value, list | tuple) else function(value)


def _host_value(value):
    if isinstance(value, torch.Tensor):
        return to_host(value) if on_mimic(value) else value
    return torch.device("cpu") if isinstance(value, torch.device) else value


def _mimic_value(value):
    return to_mimic(value) if isinstance(value, torch.Tensor) else value


def _view(base, result):
    """Return the view of ``base`` that the CPU's result is."""
    if not isinstance(result, torch.Tensor):
        return [_view(base, each) for each in result]
    if result.dtype != base.dtype:
        return to_mimic(result)
    return _same_memory(base, result.size(), result.stride(), result.storage_offset())


def _as_strided(tensor, size, stride, offset=None):
    # Whose offset counts from the beginning of the memory.
    further = 0 if offset is None else offset - tensor.storage_offset()
    return _same_memory(tensor, size, stride, further)


def _same_memory(base, size, stride, further):
    if base.is_inference():  # which has no version to share
        return to_mimic(to_host(base).as_strided(size, stride, further))
    outside = torch.inference_mode(False) if torch.is_inference_mode_enabled() else contextlib.nullcontext()
    with outside, torch.no_grad():
        return torch.ops.inductor._reinterpret_tensor(base, size, stride, further)


def _resize(tensor, size, memory_format=torch.contiguous_format):
    # As for results, whose values are yet to come.
    if tuple(size) != tuple(tensor.shape):
        tensor.data = torch.empty(size, dtype=tensor.dtype, device=tensor.device, memory_format=memory_format)
    return tensor


def _run(op, *args, **kwargs):
    """Run an operation on the CPU's views of its tensors."""
    known = _operation(op)
    # Numbers in the place of tensors come as numbers.
    given = zip(args, known.tensors[: len(args)], strict=True)
    args = [torch.tensor(v) if t and isinstance(v, bool | int | float) else v for v, t in given]
    named = dict(zip(known.names[: len(args)], args, strict=True)) | kwargs
    known.check(named)
    kwargs.pop("pin_memory", None)
    host = {name: _mapped(value, _host_value) for name, value in kwargs.items()}
    # Kernels are free to resize what is made for their results, as views cannot be.
    made_for = {name: torch.empty(0, dtype=kwargs[name].dtype) for name in known.written if on_mimic(kwargs.get(name))}
    result = op(*_mapped(args, _host_value), **(host | made_for))
    made = []
    results = result if len(known.results) > 1 else [result] * len(known.results)
    for info, source, value in zip(known.results, known.sources, results, strict=True):
        if info is None:
            made.append(_mapped(value, _mimic_value))
        elif info.is_write:
            if made_for:
                _resize(named[source], value.shape)
                to_host(named[source]).copy_(value)
            assert value.shape == named[source].shape, f"{op} changes the shape of its argument"
            made.append(named[source])
        else:
            made.append(_view(named[source], value))
    return tuple(made) if len(made) > 1 else made[0] if made else None


def _copy_from(source, target, non_blocking=False):
    if on_mimic(source) and not on_mimic(target):
        _record("unload" if non_blocking else "download", "copy_")
    elif on_mimic(target) and not on_mimic(source):
        # As a kernel's argument, which fill_ passes, a scalar would not wait; as a tensor it does.
        _record("load" if non_blocking else "upload", "copy_")
    _host_value(target).copy_(_host_value(source))
    return target


def _set_storage(tensor, storage, offset=0, size=None, stride=()):
    if size is None:
        size, stride = [storage.nbytes() // tensor.element_size()], [1]
    memory = bytearray(tensor.element_size())
    if storage.nbytes():
        memory = (ctypes.c_byte * storage.nbytes()).from_address(storage.data_ptr())
        memory.owner = storage
    host = torch.frombuffer(memory, dtype=torch.uint8).view(tensor.dtype)
    tensor.data = to_mimic(host.as_strided(size, stride, offset))
    return tensor


def _convolution(*args):
    return _run(torch.ops.aten.convolution.default, *args)


def _convolution_backward(grad, x, weight, *args):
    *geometry, mask = args
    _, _, _, transposed, _, groups = geometry
    biases = [weight.shape[1] * groups if transposed else weight.shape[0]]
    return _run(torch.ops.aten.convolution_backward.default, grad, x, weight, biases, *geometry, mask)


_LOWERED = ["conv1d", "conv2d", "conv3d", "conv_transpose2d", "linear", "matmul", "mm", "bmm", "addmm"]
_WIDENED = [
    "grid_sampler",
    "softmax",
    "log_softmax",
    "mse_loss",
    "cross_entropy_loss",
    "nll_loss",
    "group_norm",
    "exp",
    "log",
    "pow",
]
"""Of the operations that autocast computes in the lower or in the wider dtype, those of use here."""


def _autocast(op, dtype):
    key = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)

    def cast(value):
        floats = on_mimic(value) and value.is_floating_point() and value.dtype != torch.float64
        return value.to(dtype or torch.get_autocast_dtype(NAME)) if floats else value

    def kernel(*args, **kwargs):
        with torch._C._ExcludeDispatchKeyGuard(key):
            return op(*map(cast, args), **{k: cast(v) for k, v in kwargs.items()})

    return kernel


def _clone_storage(storage):
    copied = torch.empty(storage.nbytes(), dtype=torch.uint8, device=storage.device).untyped_storage()
    return copied.copy_(storage, False)


class _Module:
    """What torch asks of ``torch.mimic``."""

    is_initialized = is_available = is_bf16_supported = staticmethod(lambda *_: True)
    current_device = staticmethod(lambda: 0)
    device_count = staticmethod(lambda: 1)
    _is_in_bad_fork = staticmethod(lambda: False)
    manual_seed_all = manual_seed = set_device = synchronize = staticmethod(lambda *_: None)
    get_rng_state = staticmethod(lambda *_: torch.get_rng_state())
    set_rng_state = staticmethod(lambda state, *_: torch.set_rng_state(state))
    get_amp_supported_dtype = staticmethod(lambda: [torch.bfloat16, torch.float16])
    device = staticmethod(lambda *_: contextlib.nullcontext())


_KERNELS = {
    "_copy_from": _copy_from,
    "as_strided": _as_strided,
    "resize_": _resize,
    "set_.source_Storage": _set_storage,
    "set_.source_Storage_storage_offset": _set_storage,
    "convolution_overrideable": _convolution,
    "convolution_backward_overrideable": _convolution_backward,
}


def install():
    """Add the device to torch, for as long as this process lives."""
    backend_registration._setup_privateuseone_for_python_backend(NAME, _Module())
    everything, aten = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
    _libraries.extend([everything, aten])
    everything.fallback(_run, "PrivateUse1")
    for name, kernel in _KERNELS.items():
        aten.impl(name, kernel, "PrivateUse1")
    everything.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    for name in _LOWERED + _WIDENED:
        packet = getattr(torch.ops.aten, name)
        for op in (getattr(packet, overload) for overload in packet.overloads() if "out" not in overload):
            dtype = torch.float32 if name in _WIDENED else None
            aten.impl(op.name(), _autocast(op, dtype), "AutocastPrivateUse1")
    torch.Generator = _Generator
    clone = torch.UntypedStorage.clone
    torch.UntypedStorage.clone = lambda self: _clone_storage(self) if self.device.type == NAME else clone(self)
