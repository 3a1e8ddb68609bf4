"""What the machine is, and that every choice made for it comes with its reason."""

from __future__ import annotations

import dataclasses
import json
import sys
import warnings
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lessonkit.errors import HardwareError, UnknownNameError
from lessonkit.hardware import (
    GIB,
    SCALES,
    Gpu,
    Hardware,
    choose_scale,
    choose_threads,
    detect_hardware,
    devices,
    format_bytes,
    system,
    versions,
)
from lessonkit.hardware.system import NvidiaDriver

CHOICES = {"device", "dtype", "scale", "threads", "attention"}


def stand_in(
    *,
    cuda: dict | None = None,
    mps: dict | None = None,
    cpu_flags: tuple[str, ...] = (),
    build: str | None = None,
    hip: str | None = None,
    onednn: bool = True,
    amx: bool = True,
):
    """What `detect_hardware` asks of torch, for a machine that is not here.

    cuda: ``name``, ``capability``, ``bytes``; or ``gpus``, a list of such; ``built`` for what it has code for.
    """
    torch = SimpleNamespace(
        cuda=SimpleNamespace(is_available=lambda: cuda is not None, get_arch_list=lambda: []),
        backends=SimpleNamespace(
            mps=SimpleNamespace(is_available=lambda: mps is not None),
            mkldnn=SimpleNamespace(is_available=lambda: onednn),
        ),
        cpu=SimpleNamespace(
            get_capabilities=lambda: {**dict.fromkeys(cpu_flags, True), "cores": 1}, _init_amx=lambda: amx
        ),
        version=SimpleNamespace(cuda="12.8" if cuda and not hip else build, hip=hip),
        mps=SimpleNamespace(driver_allocated_memory=lambda: GIB),
    )
    if cuda:
        gpus = cuda.get("gpus") or [cuda] * cuda.get("count", 1)
        torch.cuda.get_arch_list = lambda: cuda.get("built", [])
        torch.cuda.get_device_capability = lambda index: answered(gpus[index]["capability"])
        torch.cuda.mem_get_info = lambda index: answered(memory_of(gpus[index]))
        torch.cuda.device_count = lambda: len(gpus)
        torch.cuda.get_device_name = lambda index: answered(gpus[index]["name"])
        torch.cuda.get_device_properties = lambda index: answered(gpus[index].get("properties", SILENT))
    if mps and "bytes" in mps:
        torch.mps.recommended_max_memory = lambda: mps["bytes"]
    return torch


SILENT = RuntimeError("CUDA error: device is busy. Try again later.\nFor debugging, see elsewhere")


def memory_of(gpu: dict):
    """Free and total bytes; one GiB is in use unless the GPU says otherwise."""
    return gpu["memory"] if "memory" in gpu else (gpu["bytes"] - GIB, gpu["bytes"])


def answered(value):
    """A GPU in trouble raises."""
    if isinstance(value, Exception):
        raise value
    return value


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    """A function that detects a stand-in machine of 2 cores and 8 GiB."""
    monkeypatch.setattr(system, "cpu_name", lambda: "Some CPU")
    monkeypatch.setattr(system, "usable_cores", lambda: 2)
    monkeypatch.setattr(system, "ram_total", lambda: 8 * GIB)
    monkeypatch.setattr(system, "ram_free", lambda: 5 * GIB)
    monkeypatch.setattr(system, "machine_cores", lambda: 2)
    monkeypatch.setattr(system, "nvidia_driver", lambda: None)
    for name in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)

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
    assert found.device_count == len(found.gpus) == count
    assert said in found.reasons["device"]
    assert ("CUDA_VISIBLE_DEVICES" in found.reasons["device"]) == (count > 1)


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
    features, missed = devices.cpu_features(SimpleNamespace(cpu=SimpleNamespace()), {})
    assert set(features) <= {"amx_bf16", "avx512_bf16", "avx2"}
    assert set(features) <= system.cpu_flags()
    assert missed == ""


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
    monkeypatch.setattr(system, "ram_total", lambda: None)
    monkeypatch.setattr(system, "ram_free", lambda: None)
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


@pytest.mark.parametrize("nonsense", ["0", "many", "-3", "²", "٣", "1.5", "1,", "0x2"])
def test_nonsense_threads_are_passed_over_and_told(machine, monkeypatch, nonsense):
    monkeypatch.setenv("OMP_NUM_THREADS", nonsense)
    found = machine()
    assert found.threads == 2
    assert f"OMP_NUM_THREADS={nonsense} is passed over" in found.reasons["threads"]


@given(st.text(max_size=12), st.integers(1, 64))
def test_threads_are_at_least_one_and_at_most_the_cores(text, cores):
    threads, why = choose_threads(cores, {"OMP_NUM_THREADS": text})
    assert 1 <= threads <= cores
    assert why


@pytest.mark.parametrize(
    ("text", "threads"), [(" 1 ", 1), ("1,2", 1), ("02", 2), ("", 4), ("99999999999", 4)]
)
def test_threads_are_read_as_openmp_reads_them(text, threads):
    assert choose_threads(4, {"OMP_NUM_THREADS": text})[0] == threads


def test_cores_that_a_container_withholds_are_told(machine, monkeypatch):
    monkeypatch.setattr(system, "machine_cores", lambda: 64)
    found = machine()
    assert (found.threads, found.machine_cores) == (2, 64)
    assert "the machine has 64" in found.reasons["threads"]


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


def test_an_empty_folder_called_torch_is_a_clear_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace())
    with pytest.raises(HardwareError, match="not PyTorch"):
        detect_hardware()


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (None, "unknown"),
        (float("nan"), "unknown"),
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


# ---- Several GPUs, GPUs in trouble, GPUs that cannot be used ------------------------------------------


def test_each_gpu_is_listed_and_the_first_is_used(machine):
    found = machine(cuda={"gpus": [T4, A100]})
    assert found.gpus == (
        Gpu(0, "Tesla T4", (7, 5), T4["bytes"], T4["bytes"] - GIB),
        Gpu(1, "A100", (8, 0), 40 * GIB, 39 * GIB),
    )
    assert (found.device_name, found.dtype, found.memory_total_bytes) == ("Tesla T4", "float16", T4["bytes"])
    assert "CUDA_VISIBLE_DEVICES" in found.reasons["device"]
    assert json.loads(json.dumps(found.to_dict()))["gpus"][1]["name"] == "A100"


def test_the_first_gpu_is_named_as_the_variable_names_it_now(machine, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, 5")
    found = machine(cuda={"gpus": [A100, A100]})
    assert system.set_command("CUDA_VISIBLE_DEVICES", "3") in found.reasons["device"]


def test_a_gpu_that_does_not_answer_is_unknown(machine):
    dead = {"name": SILENT, "capability": SILENT, "memory": SILENT}
    found = machine(cuda=dead)
    assert found.gpus == (Gpu(0, "unknown GPU", None, None, None),)
    assert (found.device, found.dtype, found.scale) == ("cuda", "float32", "laptop")
    assert (found.memory_total_bytes, found.memory_free_bytes, found.compute_capability) == (None, None, None)
    [problem] = found.problems
    assert problem.broken
    assert "CUDA error: device is busy" in problem.what
    assert "debugging" not in problem.what
    assert found.summary() == "unknown GPU, unknown"


def test_a_full_gpu_still_tells_its_size(machine):
    full = A100 | {"memory": SILENT, "properties": SimpleNamespace(total_memory=40 * GIB)}
    found = machine(cuda=full)
    assert (found.memory_total_bytes, found.memory_free_bytes, found.scale) == (40 * GIB, None, "gpu")


def test_a_gpu_in_use_by_others_is_a_hint_and_a_freer_one_is_named(machine):
    busy = A100 | {"memory": (GIB, 40 * GIB)}
    [alone] = machine(cuda=busy).problems
    assert "1.0 GiB of 40.0 GiB free" in alone.what
    assert not alone.broken
    assert "CUDA_VISIBLE_DEVICES" not in alone.fix
    [beside] = machine(cuda={"gpus": [busy, A100]}).problems
    assert system.set_command("CUDA_VISIBLE_DEVICES", "1") in beside.fix
    assert machine(cuda=A100).problems == ()


@pytest.mark.parametrize(
    ("capability", "built", "supported"),
    [
        ((7, 5), ["sm_75", "sm_80"], True),
        ((8, 6), ["sm_80"], True),  # machine code runs on later minors
        ((7, 0), ["sm_75", "sm_80", "compute_80"], False),
        ((8, 0), ["sm_86"], False),  # but not on earlier ones
        ((9, 0), ["sm_80"], False),  # nor on another major
        ((9, 0), ["sm_80", "compute_80"], True),  # compiled at need
        ((12, 0), ["sm_90", "sm_100", "sm_120"], True),
        ((10, 3), ["sm_100f"], True),
        ((9, 1), ["sm_90a"], False),  # for exactly one
        ((9, 0), ["sm_90a"], True),
        ((8, 0), [], True),  # a build that does not say
        (None, ["sm_80"], True),
    ],
)
def test_which_gpus_a_build_has_code_for(capability, built, supported):
    torch = SimpleNamespace(cuda=SimpleNamespace(get_arch_list=lambda: built))
    assert devices.supported_by_build(torch, capability) is supported


def test_a_gpu_that_this_build_has_no_code_for_is_left_alone_and_told(machine):
    old = {"name": "Quadro K4000", "capability": (3, 0), "bytes": 3 * GIB, "built": ["sm_75", "sm_80"]}
    found = machine(cuda=old, cpu_flags=("avx512_bf16",))
    assert (found.device, found.dtype, found.device_count) == ("cpu", "bfloat16", 1)
    assert found.memory_total_bytes == 8 * GIB
    assert "Quadro K4000" in found.reasons["device"]
    [problem] = found.problems
    assert problem.broken
    assert "sm_75, sm_80" in problem.what
    assert "pytorch.org" in problem.fix
    assert set(found.reasons) == CHOICES


def test_a_second_gpu_that_has_code_is_offered(machine):
    old = {"name": "Quadro K4000", "capability": (3, 0), "bytes": 3 * GIB}
    found = machine(cuda={"gpus": [old, A100], "built": ["sm_80"]})
    assert found.device == "cpu"
    assert system.set_command("CUDA_VISIBLE_DEVICES", "1") in found.problems[0].fix


def test_gtx_16_has_no_matrix_units(machine):
    found = machine(cuda={"name": "NVIDIA GeForce GTX 1660 Ti", "capability": (7, 5), "bytes": 6 * GIB})
    assert found.dtype == "float32"


@pytest.mark.parametrize(
    ("chip", "dtype"),
    [
        ("gfx90a:sramecc+:xnack-", "bfloat16"),
        ("gfx1100", "bfloat16"),
        ("gfx1030", "float32"),
        (None, "float32"),
    ],
)
def test_an_amd_gpu_is_not_called_nvidias(machine, chip, dtype):
    gpu = {"name": "AMD Radeon", "capability": (9, 0), "bytes": 24 * GIB}
    gpu["properties"] = SimpleNamespace(gcnArchName=chip) if chip else SILENT
    found = machine(cuda=gpu, hip="6.4.1")
    assert (found.device, found.dtype, found.backend) == ("cuda", dtype, "ROCm 6.4.1")
    assert found.compute_capability is None
    assert "ROCm GPU" in found.reasons["device"]
    assert "CUDA" not in " ".join(found.reasons.values())


T4_DRIVER = NvidiaDriver("550.54", (12, 4), ("Tesla T4",))


@pytest.mark.parametrize(
    ("build", "driver", "variables", "reason", "told", "typed"),
    [
        (None, None, {}, "built without CUDA", None, None),
        (None, T4_DRIVER, {}, "Tesla T4", "built without CUDA", "pytorch.org"),
        ("13.0", None, {}, "no NVIDIA driver", None, None),
        (
            "13.0",
            T4_DRIVER,
            {},
            "too old for CUDA 13.0",
            "runs CUDA 12.4 at most",
            "update the NVIDIA driver",
        ),
        ("12.8", T4_DRIVER, {}, "cannot be used", "PyTorch cannot use it", "restart"),
        (
            "12.8",
            T4_DRIVER,
            {"CUDA_VISIBLE_DEVICES": "7"},
            "=7 names no GPU",
            "=7 names no GPU",
            "CUDA_VISIBLE",
        ),
        ("12.8", T4_DRIVER, {"CUDA_VISIBLE_DEVICES": ""}, "hides the NVIDIA GPU", None, None),
        ("12.8", T4_DRIVER, {"CUDA_VISIBLE_DEVICES": "-1"}, "hides the NVIDIA GPU", None, None),
        ("12.8", NvidiaDriver(None, None, trouble="no devices"), {}, "not answer", "no devices", "restart"),
        ("12.8", NvidiaDriver(None, None), {}, "cannot be used", "cannot use it", "restart"),
    ],
)
def test_why_there_is_no_gpu(machine, monkeypatch, build, driver, variables, reason, told, typed):
    monkeypatch.setattr(system, "nvidia_driver", lambda: driver)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found = machine(build=build)
    assert found.device == "cpu"
    assert reason in found.reasons["device"]
    assert len(found.problems) == (told is not None)
    for problem in found.problems:
        assert told in problem.what
        assert typed in problem.fix
        assert not problem.broken  # the lessons run, on the CPU


def test_pytorchs_own_warning_is_passed_on_not_printed(machine, monkeypatch):
    monkeypatch.setattr(system, "nvidia_driver", lambda: T4_DRIVER)
    torch = stand_in(build="12.8")

    def unavailable() -> bool:
        warnings.warn("CUDA initialization: forward compatibility was attempted. More words", stacklevel=1)
        return False

    torch.cuda.is_available = unavailable
    monkeypatch.setitem(sys.modules, "torch", torch)
    [problem] = detect_hardware().problems
    assert "forward compatibility was attempted" in problem.what
    assert "More words" not in problem.what


# ---- bf16 on the CPU ----------------------------------------------------------------------------------

ALL_FLAGS = ("amx_bf16", "avx512_bf16", "avx2")


def test_amx_that_the_system_withholds_is_not_counted_on(machine):
    found = machine(cpu_flags=ALL_FLAGS, amx=False)
    assert found.cpu_features == ("avx512_bf16", "avx2")
    assert found.dtype == "bfloat16"
    assert "amx_bf16, which the system does not let this process use" in found.reasons["dtype"]


@pytest.mark.parametrize(
    ("limit", "features", "dtype"),
    [
        ("avx2", ("avx2",), "float32"),
        ("AVX512_CORE", ("avx2",), "float32"),
        ("AVX512_CORE_BF16", ("avx512_bf16", "avx2"), "bfloat16"),
        ("AVX512_CORE_AMX", ALL_FLAGS, "bfloat16"),
        ("nonsense", ALL_FLAGS, "bfloat16"),
    ],
)
def test_a_limit_set_for_onednn_counts(machine, monkeypatch, limit, features, dtype):
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    found = machine(cpu_flags=ALL_FLAGS)
    assert (found.cpu_features, found.dtype) == (features, dtype)
    assert ("ONEDNN_MAX_CPU_ISA" in found.reasons["dtype"]) == (features != ALL_FLAGS)


def test_bf16_needs_onednn(machine):
    found = machine(cpu_flags=ALL_FLAGS, onednn=False)
    assert found.dtype == "float32"
    assert "oneDNN" in found.reasons["dtype"]


def test_another_environment_may_be_asked_about(machine, monkeypatch):
    monkeypatch.setenv("LESSONKIT_SCALE", "nonsense")
    machine_torch = stand_in(cuda=A100)
    monkeypatch.setitem(sys.modules, "torch", machine_torch)
    assert detect_hardware({}).scale == "gpu"


def test_an_apple_gpu_that_does_not_answer_is_unknown(machine):
    def fails():
        raise RuntimeError("MPS backend is out of order")

    torch = stand_in(mps={"bytes": GIB})
    torch.mps.driver_allocated_memory = fails
    found = devices.device_facts(torch, {"cpu_name": "M9", "ram_total_bytes": 8 * GIB}, {})
    assert found["memory_total_bytes"] == GIB
    assert found["memory_free_bytes"] is None


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
    assert len(found.gpus) == torch.cuda.device_count()
    assert found.backend == f"CUDA {torch.version.cuda}"
