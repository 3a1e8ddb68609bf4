"""What the machine is, and that every choice made for it comes with its reason."""

from __future__ import annotations

import dataclasses
import json
import sys
from types import SimpleNamespace

import pytest

from lessonkit import hardware as module
from lessonkit.errors import HardwareError, UnknownNameError
from lessonkit.hardware import GIB, SCALES, Hardware, choose_scale, detect_hardware, format_bytes, versions

CHOICES = {"device", "dtype", "scale", "threads", "attention"}


def stand_in(*, cuda: dict | None = None, mps: dict | None = None, cpu_flags: tuple[str, ...] = ()):
    """What `detect_hardware` asks of torch, for a machine that is not here."""
    torch = SimpleNamespace(
        cuda=SimpleNamespace(is_available=lambda: cuda is not None),
        backends=SimpleNamespace(mps=SimpleNamespace(is_available=lambda: mps is not None)),
        cpu=SimpleNamespace(get_capabilities=lambda: {**dict.fromkeys(cpu_flags, True), "cores": 1}),
        version=SimpleNamespace(cuda="12.8" if cuda else None),
        mps=SimpleNamespace(driver_allocated_memory=lambda: GIB),
    )
    if cuda:
        torch.cuda.get_device_capability = lambda index: cuda["capability"]
        torch.cuda.mem_get_info = lambda index: (cuda["bytes"] - GIB, cuda["bytes"])
        torch.cuda.device_count = lambda: cuda.get("count", 1)
        torch.cuda.get_device_name = lambda index: cuda["name"]
    if mps and "bytes" in mps:
        torch.mps.recommended_max_memory = lambda: mps["bytes"]
    return torch


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    """A function that detects a stand-in machine of 2 cores and 8 GiB."""
    monkeypatch.setattr(module, "_cpu_name", lambda: "Some CPU")
    monkeypatch.setattr(module, "_usable_cores", lambda: 2)
    monkeypatch.setattr(module, "_ram_total", lambda: 8 * GIB)
    monkeypatch.setattr(module, "_ram_free", lambda: 5 * GIB)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)

    def detect(**parts) -> Hardware:
        monkeypatch.setitem(sys.modules, "torch", stand_in(**parts))
        return detect_hardware()

    return detect


T4 = {"name": "Tesla T4", "capability": (7, 5), "bytes": int(14.6 * GIB)}
A100 = {"name": "A100", "capability": (8, 0), "bytes": 40 * GIB}


@pytest.mark.parametrize(
    ("gpu", "dtype", "scale"),
    [
        (T4, "float16", "gpu"),
        (A100, "bfloat16", "gpu"),
        ({"name": "H100", "capability": (9, 0), "bytes": 79 * GIB}, "bfloat16", "gpu"),
        ({"name": "GTX 1080", "capability": (6, 1), "bytes": 8 * GIB}, "float32", "laptop"),
        ({"name": "RTX 3070", "capability": (8, 6), "bytes": 8 * GIB}, "bfloat16", "laptop"),
    ],
)
def test_cuda_generation_decides_the_dtype_and_memory_the_scale(machine, gpu, dtype, scale):
    found = machine(cuda=gpu)
    assert (found.device, found.device_name, found.device_count) == ("cuda", gpu["name"], 1)
    assert (found.dtype, found.scale) == (dtype, scale)
    assert (found.bf16, found.fp16) == (dtype == "bfloat16", dtype == "float16")
    assert found.compute_capability == gpu["capability"]
    assert (found.memory_total_bytes, found.memory_free_bytes) == (gpu["bytes"], gpu["bytes"] - GIB)
    assert "{}.{}".format(*gpu["capability"]) in found.reasons["dtype"]


@pytest.mark.parametrize(("count", "said"), [(1, "1 CUDA GPU"), (4, "4 CUDA GPUs")])
def test_gpus_are_counted_in_words(machine, count, said):
    found = machine(cuda=A100 | {"count": count})
    assert found.device_count == count
    assert found.reasons["device"].endswith(said)


def test_apple_gpu_trains_in_float32_at_laptop_scale(machine):
    found = machine(mps={"bytes": 6 * GIB})
    assert (found.device, found.dtype, found.scale) == ("mps", "float32", "laptop")
    assert not found.bf16
    assert not found.fp16
    assert (found.memory_total_bytes, found.memory_free_bytes) == (6 * GIB, 5 * GIB)
    assert "Some CPU" in found.device_name


def test_apple_gpu_of_an_older_torch_has_the_main_memory(machine):
    assert machine(mps={"old": True}).memory_total_bytes == 8 * GIB


@pytest.mark.parametrize(
    ("flags", "dtype", "features"),
    [
        (("amx_bf16", "avx512_bf16", "avx2"), "bfloat16", ("amx_bf16", "avx512_bf16", "avx2")),
        (("avx2", "avx512_bf16"), "bfloat16", ("avx512_bf16", "avx2")),
        (("avx2",), "float32", ("avx2",)),
        ((), "float32", ()),
    ],
)
def test_cpu_features_decide_the_dtype(machine, flags, dtype, features):
    found = machine(cpu_flags=flags)
    assert (found.device, found.device_name, found.device_count) == ("cpu", "Some CPU", 0)
    assert (found.dtype, found.cpu_features) == (dtype, features)
    assert found.scale == "laptop"
    assert (found.memory_total_bytes, found.memory_free_bytes) == (8 * GIB, 5 * GIB)
    spoken = {"amx_bf16": "AMX", "avx512_bf16": "AVX-512"}.get(features[0] if features else "", "no bf16")
    assert spoken in found.reasons["dtype"]


def test_cpu_flags_are_read_from_the_system_where_torch_tells_none():
    flags = module._cpu_features(SimpleNamespace(cpu=SimpleNamespace()))
    assert set(flags) <= {"amx_bf16", "avx512_bf16", "avx2"}


def test_torch_without_cuda_is_told(machine):
    assert "built without CUDA" in machine().reasons["device"]


@pytest.mark.parametrize("parts", [{"cuda": T4}, {"mps": {"bytes": GIB}}, {"cpu_flags": ("avx2",)}])
def test_every_choice_has_a_reason(machine, parts):
    found = machine(**parts)
    assert set(found.reasons) == CHOICES
    assert all(len(reason) > 10 for reason in found.reasons.values())


@pytest.mark.parametrize("parts", [{"cuda": T4}, {"mps": {}}, {}])
def test_hardware_is_plain_data_and_one_line(machine, parts):
    found = machine(**parts)
    assert json.loads(json.dumps(found.to_dict()))["device"] == found.device
    assert found.summary()
    assert "\n" not in found.summary()


def test_summary_names_cores_and_the_best_feature(machine):
    assert machine(cpu_flags=("avx512_bf16", "avx2")).summary() == "Some CPU, 2 cores, avx512_bf16, 8.0 GiB"
    assert machine(cuda=A100).summary() == "A100, 40.0 GiB"


def test_unknown_memory_stays_unknown(machine, monkeypatch):
    monkeypatch.setattr(module, "_ram_total", lambda: None)
    monkeypatch.setattr(module, "_ram_free", lambda: None)
    for found in (machine(), machine(mps={"old": True})):
        assert found.memory_total_bytes is None
        assert found.memory_free_bytes is None
        assert found.ram_total_bytes is None
    assert machine().summary().endswith("unknown")


def test_gpu_of_unknown_memory_is_not_called_small():
    scale, why = choose_scale("cuda", None, {})
    assert scale == "laptop"
    assert "unknown" in why
    assert "less than" not in why


def test_memory_is_unknown_without_psutil(monkeypatch):
    monkeypatch.setitem(sys.modules, "psutil", None)
    assert module._ram_total() is None
    assert module._ram_free() is None


def test_a_containers_limit_is_the_memory(monkeypatch):
    limits = {"memory.max": 2 * GIB, "memory.current": GIB // 2}
    monkeypatch.setattr(module, "_cgroup_number", limits.get)
    assert module._ram_total() <= 2 * GIB
    assert module._ram_free() <= 3 * GIB // 2


@pytest.mark.parametrize("scale", SCALES)
def test_asked_scale_wins_over_the_hardware(machine, monkeypatch, scale):
    monkeypatch.setenv("LESSONKIT_SCALE", f" {scale.upper()} ")
    found = machine(cuda=A100)
    assert found.scale == scale
    assert f"LESSONKIT_SCALE={scale}" in found.reasons["scale"]


def test_misspelt_scale_offers_the_nearest(machine, monkeypatch):
    monkeypatch.setenv("LESSONKIT_SCALE", "labtop")
    with pytest.raises(UnknownNameError) as caught:
        machine()
    assert caught.value.nearest == ["laptop"]
    assert "LESSONKIT_SCALE" in caught.value.fix


@pytest.mark.parametrize("memory", [0, 8 * GIB, 14 * GIB - 1])
def test_small_gpu_gets_laptop_scale(memory):
    assert choose_scale("cuda", memory, {})[0] == "laptop"


def test_threads_are_the_cores_unless_asked_otherwise(machine, monkeypatch):
    assert machine().threads == 2
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    found = machine()
    assert found.threads == 1
    assert "OMP_NUM_THREADS=1" in found.reasons["threads"]


@pytest.mark.parametrize("nonsense", ["0", "many", "-1", ""])
def test_nonsense_threads_are_passed_over(machine, monkeypatch, nonsense):
    monkeypatch.setenv("OMP_NUM_THREADS", nonsense)
    assert machine().threads == 2


def test_missing_torch_is_a_clear_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(HardwareError, match=r"start\.py"):
        detect_hardware()


def test_torch_with_a_broken_library_is_a_clear_error(monkeypatch):
    class Broken:
        def find_spec(self, name, path=None, target=None):
            if name == "torch":
                raise OSError("libtorch.so: cannot open shared object file")

    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(HardwareError, match="shared object"):
        detect_hardware()


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (None, "unknown"),
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1024, "1.0 KiB"),
        (3 * 2**20, "3.0 MiB"),
        (3 * GIB // 2, "1.5 GiB"),
        (2048 * GIB, "2048.0 GiB"),
    ],
)
def test_format_bytes(count, text):
    assert format_bytes(count) == text


def test_versions_name_python_and_torch():
    found = versions()
    assert found["python"].startswith(f"{sys.version_info.major}.{sys.version_info.minor}.")
    assert "torch" in found


def test_hardware_cannot_be_changed_by_accident(machine):
    with pytest.raises(dataclasses.FrozenInstanceError):
        machine().device = "cuda"


def test_this_machine():
    found = detect_hardware()
    assert set(found.reasons) == CHOICES
    assert found.cpu_cores >= 1
    assert found.dtype in ("float32", "float16", "bfloat16")
    assert found.ram_total_bytes is None or found.ram_total_bytes > GIB // 4
    assert found.memory_free_bytes is None or 0 <= found.memory_free_bytes <= found.memory_total_bytes


@pytest.mark.gpu
def test_this_gpu_is_what_torch_says():
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA GPU here")
    found = detect_hardware()
    assert found.device == "cuda"
    assert found.device_name == torch.cuda.get_device_name(0)
    assert found.device_count == torch.cuda.device_count()
    assert found.compute_capability == torch.cuda.get_device_capability(0)
    assert found.memory_total_bytes == torch.cuda.mem_get_info(0)[1]
    assert 0 < found.memory_free_bytes <= found.memory_total_bytes
    assert found.bf16 == (torch.cuda.get_device_capability(0) >= (8, 0))
