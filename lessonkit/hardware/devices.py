"""What PyTorch says of the GPUs and the CPU, which dtype follows, and what stands in a GPU's way.

A GPU that does not answer is unknown (None), never guessed. Each function that decides returns the
fields of ``hardware.Hardware`` that it decides about, with the reasons and the problems that it met.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lessonkit.hardware import system
from lessonkit.hardware.system import format_bytes, set_command, unset_command

__all__ = ["Gpu", "Problem", "cpu_features", "device_facts", "supported_by_build"]

#: AMD's chips with matrix units for bf16, by how ROCm's names for them begin: CDNA, RDNA 3 and later.
ROCM_BF16 = ("gfx908", "gfx90a", "gfx94", "gfx95", "gfx11", "gfx12")
#: CPU features that decide the dtype, most capable first, and how they are spoken of.
CPU_BF16 = {"amx_bf16": "AMX", "avx512_bf16": "AVX-512"}
#: Values of ONEDNN_MAX_CPU_ISA under which oneDNN does without a feature (its guide, "CPU Dispatcher Control").
_NO_BF16 = {"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI"}
ISA_WITHOUT = {
    "amx_bf16": _NO_BF16 | {"AVX512_CORE_BF16", "AVX512_CORE_FP16", "AVX10_1_512"},
    "avx512_bf16": _NO_BF16,
}
NEW_TORCH = "choose your system and CUDA on pytorch.org under Get Started, and type the command it shows"


@dataclass(frozen=True)
class Problem:
    """Something to mend. what: one sentence. fix: what to type. broken: if not, it only could be better."""

    what: str
    fix: str
    broken: bool = False


@dataclass(frozen=True)
class Gpu:
    """One CUDA or ROCm GPU; what could not be read from it is None.

    index: PyTorch's number for it. compute_capability: CUDA's ``(major, minor)``; None with ROCm.
    """

    index: int
    name: str
    compute_capability: tuple[int, int] | None
    memory_total_bytes: int | None
    memory_free_bytes: int | None


def device_facts(torch: Any, cpu: Mapping[str, Any], environ: Mapping[str, str]) -> dict:
    """The device to use and what is known of it, as fields of ``Hardware``.

    cpu: ``cpu_name``, ``cpu_features``, ``ram_total_bytes``, and ``missed``: why a feature is out of use.
    """
    with warnings.catch_warnings(record=True) as caught:  # PyTorch warns of drivers and GPUs: told below
        warnings.simplefilter("always")
        gpus = _gpus(torch)
        supported = not gpus or supported_by_build(torch, gpus[0].compute_capability)
    if gpus and supported:
        return _cuda_facts(torch, gpus, environ)
    if gpus:
        return _without_support(torch, gpus, _cpu_facts(torch, cpu), environ)
    if _answer(torch.backends.mps.is_available):
        return _mps_facts(torch, cpu)
    facts = _cpu_facts(torch, cpu)
    why, problems = _why_no_gpu(torch, environ, [str(each.message) for each in caught])
    facts["reasons"]["device"] += why
    return facts | {"problems": problems}


def _answer(question: Callable[[], Any], otherwise: Any = None) -> Any:
    """What PyTorch answers; a GPU in trouble raises one of many errors, and is then unknown."""
    try:
        return question()
    except Exception:
        return otherwise


# ---- CUDA and ROCm ----------------------------------------------------------------------------------


def _gpus(torch: Any) -> tuple[Gpu, ...]:
    if not _answer(torch.cuda.is_available):
        return ()
    return tuple(_gpu(torch, index) for index in range(_answer(torch.cuda.device_count, 0)))


def _gpu(torch: Any, index: int) -> Gpu:
    free, total = _answer(lambda: torch.cuda.mem_get_info(index), (None, None))
    if total is None:  # a full GPU has no room left for the question, but its properties are known
        total = _answer(lambda: torch.cuda.get_device_properties(index).total_memory)
    name = _answer(lambda: torch.cuda.get_device_name(index)) or "unknown GPU"
    capability = None if _rocm(torch) else _answer(lambda: tuple(torch.cuda.get_device_capability(index)))
    return Gpu(index, name, capability, total, free)


def _rocm(torch: Any) -> str | None:
    return getattr(torch.version, "hip", None)


def _kind(torch: Any) -> str:
    return "ROCm" if _rocm(torch) else "CUDA"


def supported_by_build(torch: Any, capability: tuple[int, int] | None) -> bool:
    """Whether this PyTorch holds code for a GPU of this compute capability; True where that is unknown.

    ``sm_80`` is machine code: for 8.0 and later minors. ``compute_80`` is compiled at need, for all later.
    A suffix ``a`` is for exactly one capability (NVIDIA's CUDA programming guide, "Compute Capabilities").
    """
    built = _answer(torch.cuda.get_arch_list, []) if capability is not None else []
    found = [re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", name) for name in built]
    known = [(each[1], (int(each[2]), int(each[3])), each[4]) for each in found if each]
    if not known:
        return True
    return any(
        code == capability
        or (suffix != "a" and code < capability and (kind == "compute" or code[0] == capability[0]))
        for kind, code, suffix in known
    )


def _cuda_facts(torch: Any, gpus: tuple[Gpu, ...], environ: Mapping[str, str]) -> dict:
    first = gpus[0]
    dtype, why = _rocm_dtype(torch) if _rocm(torch) else _cuda_dtype(first)
    device = f"PyTorch sees {len(gpus)} {_kind(torch)} GPU{'s' if len(gpus) > 1 else ''}"
    if len(gpus) > 1:
        device += f"; a Trainer shares each batch among them; for number 0 alone: {_choose(gpus[0], environ)}"
    return {
        "device": "cuda",
        "device_name": first.name,
        "device_count": len(gpus),
        "compute_capability": first.compute_capability,
        "memory_total_bytes": first.memory_total_bytes,
        "memory_free_bytes": first.memory_free_bytes,
        "dtype": dtype,
        "reasons": {"device": device, "dtype": why},
        "problems": _gpu_problems(torch, gpus, environ),
        "gpus": gpus,
        "backend": f"{_kind(torch)} {_rocm(torch) or torch.version.cuda}",
    }


def _cuda_dtype(gpu: Gpu) -> tuple[str, str]:
    capability = gpu.compute_capability
    if capability is None:
        return "float32", "the GPU's compute capability is unknown, so 16-bit numbers are not relied on"
    spoken = f"compute capability {capability[0]}.{capability[1]}"
    if capability >= (8, 0):
        return "bfloat16", f"{spoken} has bf16 matrix units"
    if capability >= (7, 0) and "GTX 16" not in gpu.name:  # the one family of 7.5 that has none
        return "float16", f"{spoken} has fp16 matrix units but none for bf16 (from 8.0 on)"
    return "float32", f"{spoken} has no 16-bit matrix units (from 7.0 on, without the GTX 16 family)"


def _rocm_dtype(torch: Any) -> tuple[str, str]:
    chip = _answer(lambda: torch.cuda.get_device_properties(0).gcnArchName.split(":")[0])
    if chip is None:
        return "float32", "the AMD chip is unknown, so 16-bit numbers are not relied on"
    if chip.startswith(ROCM_BF16):
        return "bfloat16", f"AMD's {chip} has bf16 matrix units"
    return "float32", f"AMD's {chip} is not known to have bf16 matrix units (CDNA, RDNA 3 and later have)"


def _gpu_problems(torch: Any, gpus: tuple[Gpu, ...], environ: Mapping[str, str]) -> list[Problem]:
    """A first GPU that does not answer, or most of whose memory is in use."""
    first, free, total = gpus[0], gpus[0].memory_free_bytes, gpus[0].memory_total_bytes
    roomier = max(gpus, key=lambda gpu: gpu.memory_free_bytes or 0)
    other = _choose(roomier, environ) if roomier is not first else ""
    smi = "rocm-smi" if _rocm(torch) else "nvidia-smi"
    if free is None:
        try:
            torch.cuda.mem_get_info(0)
            said = ""
        except Exception as error:
            said = f" ({_first_line(str(error))})"
        fix = f"{smi} shows its state and what uses it; end that, or restart this computer"
        fix += f"; or use another one: {other}" if other else ""
        return [Problem(f"GPU 0 does not tell its free memory{said}.", fix, broken=True)]
    if total and free < total / 2:
        fix = f"shut down other notebooks' kernels; {smi} shows what uses it"
        if other:
            fix += f"; GPU {roomier.index} has {format_bytes(roomier.memory_free_bytes)} free: {other}"
        return [Problem(f"GPU 0 has only {format_bytes(free)} of {format_bytes(total)} free.", fix)]
    return []


def _without_support(torch: Any, gpus: tuple[Gpu, ...], facts: dict, environ: Mapping[str, str]) -> dict:
    """A CPU's facts, where the first GPU is one that this PyTorch has no code for."""
    first = gpus[0]
    capability = "{}.{}".format(*first.compute_capability)
    built = ", ".join(torch.cuda.get_arch_list())
    what = f"This PyTorch has no code for {first.name} (compute capability {capability}; it has {built})"
    fit = [gpu for gpu in gpus if supported_by_build(torch, gpu.compute_capability)]
    hide = set_command("CUDA_VISIBLE_DEVICES", "-1")
    fix = f"{NEW_TORCH}; if no build has code for it, hide it: {hide}"
    if fit:
        fix = f"{_choose(fit[0], environ)}   ({fit[0].name}, which it has code for)"
    facts["reasons"]["device"] = (
        f"this PyTorch has no code for {first.name} (compute capability {capability}), so the CPU is used"
    )
    problems = [Problem(what + ".", fix, broken=True)]
    return facts | {"device_count": len(gpus), "gpus": gpus, "problems": problems}


def _choose(gpu: Gpu, environ: Mapping[str, str]) -> str:
    """The command that makes this GPU the one that is seen, by the name that the variable has for it now."""
    listed = [each.strip() for each in environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    named = listed[gpu.index] if gpu.index < len(listed) and listed[gpu.index] else str(gpu.index)
    return set_command("CUDA_VISIBLE_DEVICES", named)


# ---- No GPU: why not --------------------------------------------------------------------------------


def _why_no_gpu(torch: Any, environ: Mapping[str, str], said: list[str]) -> tuple[str, list[Problem]]:
    """What to add to the reason, and the problem if there is an NVIDIA GPU that could be used."""
    if _rocm(torch):
        return f"; this PyTorch is built for ROCm {_rocm(torch)}", []
    built = torch.version.cuda
    driver = system.nvidia_driver()
    if built is None:
        if driver is None or not driver.gpus:
            return "; this PyTorch is built without CUDA", []
        what = f"There is an NVIDIA GPU ({driver.gpus[0]}), but this PyTorch is built without CUDA."
        return f", though there is {driver.gpus[0]}: this PyTorch is built without CUDA", [
            Problem(what, NEW_TORCH)
        ]
    if driver is None:
        return f"; this PyTorch is built for CUDA {built}, but no NVIDIA driver was found", []
    if driver.trouble:
        what = f"nvidia-smi cannot reach the NVIDIA driver: {driver.trouble}"
        fix = "restart this computer; if it stays so, install the driver anew, as your system's guide says"
        return "; the NVIDIA driver does not answer", [Problem(what, fix)]
    if driver.cuda is not None and driver.cuda[0] < int(built.split(".")[0]):
        newest = "{}.{}".format(*driver.cuda)
        what = f"The NVIDIA driver {driver.version} runs CUDA {newest} at most; this PyTorch is built for {built}."
        fix = f"update the NVIDIA driver; or install a PyTorch for CUDA {newest}: {NEW_TORCH}"
        return f"; the NVIDIA driver is too old for CUDA {built}", [Problem(what, fix)]
    hidden = environ.get("CUDA_VISIBLE_DEVICES")
    if hidden is not None:
        if hidden.strip() in ("", "-1"):  # on purpose
            return f"; CUDA_VISIBLE_DEVICES={hidden} hides the NVIDIA GPU from it", []
        what = f"CUDA_VISIBLE_DEVICES={hidden} names no GPU of this machine, which hides all of them."
        fix = unset_command("CUDA_VISIBLE_DEVICES")
        return f"; CUDA_VISIBLE_DEVICES={hidden} names no GPU of this machine", [Problem(what, fix)]
    why = f": {_first_line(said[0])}" if said else ""
    what = f"There is an NVIDIA driver ({driver.version}), but PyTorch cannot use it{why}."
    return "; the NVIDIA driver is there, but cannot be used", [Problem(what, "restart this computer")]


def _first_line(text: str) -> str:
    """The first sentence of what a library said, at most 160 characters."""
    line = next(iter(text.strip().splitlines()), "")
    return re.split(r"(?<=[a-z)])\. ", line)[0].rstrip(".")[:160]


# ---- Apple ------------------------------------------------------------------------------------------


def _mps_facts(torch: Any, cpu: Mapping[str, Any]) -> dict:
    limit = _answer(lambda: torch.mps.recommended_max_memory()) or cpu["ram_total_bytes"]
    used = _answer(lambda: torch.mps.driver_allocated_memory())
    why = "fp32 is the safe choice on MPS; set bf16=True yourself on an M2 or later and compare"
    return {
        "device": "mps",
        "device_name": f"Apple GPU ({cpu['cpu_name']})",
        "device_count": 1,
        "compute_capability": None,
        "memory_total_bytes": limit,
        "memory_free_bytes": None if limit is None or used is None else max(0, limit - used),
        "dtype": "float32",
        "reasons": {"device": "PyTorch sees an Apple GPU (MPS)", "dtype": why},
        "backend": "MPS",
    }


# ---- CPU --------------------------------------------------------------------------------------------


def _cpu_facts(torch: Any, cpu: Mapping[str, Any]) -> dict:
    dtype, why = _cpu_dtype(torch, cpu["cpu_features"], cpu["missed"])
    return {
        "device": "cpu",
        "device_name": cpu["cpu_name"],
        "device_count": 0,
        "compute_capability": None,
        "memory_total_bytes": cpu["ram_total_bytes"],
        "memory_free_bytes": system.ram_free(),
        "dtype": dtype,
        "reasons": {"device": "no CUDA or Apple GPU is visible to PyTorch", "dtype": why},
    }


def _cpu_dtype(torch: Any, features: tuple[str, ...], missed: str) -> tuple[str, str]:
    best = next((name for name in CPU_BF16 if name in features), None)
    onednn = getattr(torch.backends, "mkldnn", None)  # what multiplies bf16 matrices on a CPU
    if (
        best
        and onednn is not None
        and not (_answer(onednn.is_available) and getattr(onednn, "enabled", True))
    ):
        return "float32", f"the CPU has {best}, but this PyTorch is without oneDNN, which would use it"
    if best:
        why = f"the CPU multiplies bf16 matrices in hardware ({CPU_BF16[best]}; {best} was found)"
        return "bfloat16", why + missed
    why = "no bf16 matrix instructions (AMX or AVX-512) were found in the CPU, so bf16 would only be emulated"
    return "float32", why + missed


def cpu_features(torch: Any, environ: Mapping[str, str]) -> tuple[tuple[str, ...], str]:
    """Of the features that decide the dtype, those that PyTorch can use, and why others are out of use.

    The second is "" or begins with "; ". AMX needs the kernel's leave; ONEDNN_MAX_CPU_ISA may forbid both.
    """
    read = getattr(torch.cpu, "get_capabilities", None)  # in recent PyTorch, on every system
    told = _answer(read, {}) if read is not None else dict.fromkeys(system.cpu_flags(), True)
    present = [name for name in (*CPU_BF16, "avx2") if told.get(name) is True]
    cap = (environ.get("ONEDNN_MAX_CPU_ISA") or environ.get("DNNL_MAX_CPU_ISA") or "").strip().upper()
    missed = ""
    for name in [each for each in present if each in CPU_BF16]:
        if cap in ISA_WITHOUT[name]:
            present.remove(name)
            missed += f"; it has {name}, which ONEDNN_MAX_CPU_ISA={cap} forbids"
    if "amx_bf16" in present and _answer(getattr(torch.cpu, "_init_amx", lambda: True), True) is False:
        present.remove("amx_bf16")
        missed += "; it has amx_bf16, which the system does not let this process use"
    return tuple(present), missed
