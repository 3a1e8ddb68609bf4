"""The doctor's report: whole whatever is broken, fit to be pasted, and each problem with what to type."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from lessonkit import doctor
from lessonkit.assets import assets
from lessonkit.doctor import Report, examine, installation, without_home
from lessonkit.doctor import checks as doctor_checks
from lessonkit.hardware import GIB, Gpu, detect_hardware, system
from lessonkit.hardware.devices import Problem
from lessonkit.hardware.system import BusyPython, NvidiaDriver
from lessonkit.progress import Journal

ROOT = Path(__file__).resolve().parents[1]
#: What a report on JSON has, from its first version on.
KEYS = {"lessonkit", "hardware", "versions", "assets", "cache", "journal"}
NEWER_KEYS = {"system", "python", "driver", "environment", "disk", "busy_processes", "problems"}


@pytest.fixture(autouse=True)
def sound(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing is wrong with this machine, this Python and the environment, whatever they are."""
    for name in [name for name in os.environ if name.startswith("LESSONKIT_")]:
        monkeypatch.delenv(name)
    for name in doctor_checks.SHOWN_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LESSONKIT_PROGRESS", str(tmp_path / "progress"))
    monkeypatch.setenv("LESSONKIT_OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.setattr("lessonkit.assets.is_fetched", lambda name: True)
    monkeypatch.setattr(system, "busy_pythons", lambda: ())
    monkeypatch.setattr(system, "nvidia_driver", lambda: None)
    monkeypatch.setattr(installation, "check_python", lambda environ: ({"version": "3.12.1"}, []))


def plain(report: Report) -> str:
    """The report's text with line breaks and indentation taken out."""
    return " ".join(report.text().split())


# ---- A sound machine ----------------------------------------------------------------------------------


def test_nothing_to_mend():
    report = examine()
    assert report.problems == ()
    assert not report.broken
    assert report.text().endswith("\nNothing to mend.")


def test_each_choice_is_there_with_its_reason():
    report = examine()
    for name, reason in detect_hardware().reasons.items():
        assert reason in plain(report), name
    for name in ("torch", "transformers", "peft", "datasets", "accelerate", "bitsandbytes", "numpy"):
        assert f"{name} {report.to_dict()['versions'][name]}" in plain(report)
    for name in ("jupyterlab", "ipywidgets"):
        assert name in plain(report)


def test_as_json_it_has_all_its_keys():
    told = json.loads(json.dumps(examine().to_dict()))
    assert set(told) == KEYS | NEWER_KEYS
    assert told["problems"] == []
    assert told["assets"] == dict.fromkeys(assets(), True)
    assert told["hardware"]["reasons"]["scale"]
    assert told["disk"]["outputs_free_bytes"] > 0


def test_it_is_short_and_narrow_enough_to_paste(monkeypatch, tmp_path):
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    lines = examine().text().splitlines()
    assert len(lines) <= 45
    assert all(len(line) <= 110 for line in lines)
    assert all(line.isprintable() for line in lines)


# ---- What a variable can be set to ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "broken", "told"),
    [
        ("LESSONKIT_SCALE", "labtop", True, "Did you mean 'laptop'?"),
        ("LESSONKIT_CASHE", "/somewhere", False, "Did you mean LESSONKIT_CACHE?"),
        ("LESSONKIT_XYZZY", "1", False, "It knows LESSONKIT_CACHE, OUTPUTS"),
        (
            "LESSONKIT_CACHE",
            "~nobody-of-this-name/cache",
            True,
            "LESSONKIT_CACHE is '~nobody-of-this-name/cache'",
        ),
        ("LESSONKIT_PROGRESS", "~nobody-of-this-name", True, "LESSONKIT_PROGRESS is '~nobody-of-this-name'"),
        ("LESSONKIT_PROGRESS", __file__, True, "journal"),
        ("LESSONKIT_OUTPUTS", __file__, True, "is not a folder"),
        ("OMP_NUM_THREADS", "abc", False, "OMP_NUM_THREADS=abc is not a number from 1 on"),
        ("OMP_NUM_THREADS", "0", False, "OMP_NUM_THREADS=0 is not"),
        ("OMP_NUM_THREADS", "-3", False, "OMP_NUM_THREADS=-3 is not"),
        ("OMP_NUM_THREADS", "²", False, "OMP_NUM_THREADS=² is not"),
        ("OMP_NUM_THREADS", "9999", False, "is more than the"),
        ("CUDA_VISIBLE_DEVICES", "first", False, "CUDA_VISIBLE_DEVICES=first is no list of GPU numbers"),
        ("CUDA_VISIBLE_DEVICES", "0;1", False, "is no list of GPU numbers"),
    ],
)
def test_a_variable_that_says_nothing_sensible_is_told(monkeypatch, name, value, broken, told):
    monkeypatch.setenv(name, value)
    report = examine()
    assert [problem.broken for problem in report.problems] == [broken]
    assert told in plain(report)
    assert name in report.problems[0].what + report.problems[0].fix
    assert report.problems[0].fix
    assert f"{name}=" in plain(report)
    assert report.hardware is not None  # the rest of the report is there


@pytest.mark.parametrize("value", ["", "0", "0,1", " 1 , 0 ", "-1", "GPU-1a2b-3c", "MIG-GPU-1/2/0"])
def test_sensible_gpu_numbers_are_no_problem(monkeypatch, value):
    assert doctor_checks.check_environment({"CUDA_VISIBLE_DEVICES": value})[1] == []


def test_a_gpu_number_that_is_not_there_is_told(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    monkeypatch.setattr(system, "nvidia_driver", lambda: NvidiaDriver("550.54", (12, 4), ("Tesla T4",)))
    import torch

    monkeypatch.setattr(torch.version, "cuda", "12.4")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    report = examine()
    assert "CUDA_VISIBLE_DEVICES=7 names no GPU of this machine" in plain(report)
    assert not report.broken
    assert "GPU driver NVIDIA driver 550.54, for CUDA up to 12.4" in plain(report)


def test_only_variables_that_matter_are_shown(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    text = examine().text()
    assert "hf_secret" not in text
    assert "HF_HUB_OFFLINE=1" in text


def test_a_value_cannot_forge_a_line(monkeypatch):
    monkeypatch.setenv("HF_HOME", "a\nNothing to mend.\x1b[2J")
    assert "\x1b" not in examine().text()
    assert "\nNothing to mend.\x1b" not in examine().text()


# ---- PyTorch that is missing or broken ----------------------------------------------------------------


class Broken:
    """Finds torch, and fails."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name == "torch":
            raise self.error


@pytest.mark.parametrize(
    ("error", "typed"),
    [
        (ImportError("No module named 'torch'"), "pip install"),
        (OSError("libtorch_cpu.so: cannot open shared object file"), "--force-reinstall --no-deps torch=="),
        (OSError("[WinError 126] The specified module could not be found"), "Visual C++ Redistributable"),
        (RuntimeError("module compiled against another ABI"), "--force-reinstall"),
        (AttributeError("partially initialized module 'torch'"), "--force-reinstall"),
    ],
)
def test_a_torch_that_cannot_be_imported_leaves_the_rest_of_the_report(monkeypatch, error, typed):
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(error), *sys.meta_path])
    report = examine()
    assert report.broken
    [problem] = report.problems
    assert "PyTorch cannot be imported" in problem.what
    assert str(error) in problem.what
    assert typed in problem.fix
    assert "device unknown" in plain(report)
    assert system.cpu_name() in plain(report)
    assert "transformers" in report.text()
    told = json.loads(json.dumps(report.to_dict()))
    assert told["hardware"] is None
    assert told["system"]["cpu_cores"] >= 1


# ---- Whatever else may be broken ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "name"),
    [
        *((doctor_checks, f"check_{name}") for name in ("hardware", "driver", "environment", "assets")),
        *((doctor_checks, f"check_{name}") for name in ("journal", "folders", "processes")),
        (installation, "check_packages"),
        (installation, "check_python"),
        (doctor, "versions"),
        (doctor, "_system"),
    ],
)
def test_a_check_that_fails_costs_no_other(monkeypatch, module, name):
    def fails(*_: object) -> None:
        raise ZeroDivisionError("a bug of ours\nwith two lines")

    monkeypatch.setattr(module, name, fails)
    report = examine()
    assert report.broken
    assert "ZeroDivisionError: a bug of ours)" in plain(report)
    assert set(json.loads(json.dumps(report.to_dict()))) == KEYS | NEWER_KEYS
    assert "variables " in report.text()


def test_a_package_that_a_check_itself_needs_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "packaging.requirements", None)
    report = examine()
    assert report.broken
    assert report.problems[0].fix.split()[-1].startswith("packaging")


def test_a_damaged_asset_and_a_missing_one_are_hints(monkeypatch):
    monkeypatch.setattr("lessonkit.assets.is_fetched", lambda name: name not in ("minilm", "bbc-news"))
    report = examine()
    [problem] = report.problems
    assert not problem.broken
    assert problem.fix == "lessonkit fetch minilm bbc-news"
    assert f"{len(assets()) - 2} of {len(assets())} in" in plain(report)


def test_a_cache_that_cannot_be_filled_is_broken(monkeypatch, tmp_path):
    monkeypatch.setenv("LESSONKIT_CACHE", str(tmp_path / "file" / "cache"))
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr("lessonkit.assets.is_fetched", lambda name: False)
    report = examine()
    assert report.broken
    assert "cannot be written" in plain(report)
    assert any("LESSONKIT_CACHE" in problem.fix for problem in report.problems)


def test_a_damaged_journal_line_is_a_hint():
    Journal().append("note", text="kept", about="")
    with Journal().path.open("a", encoding="utf-8") as file:
        file.write("torn\n" * 5)
    report = examine()
    assert not report.broken
    assert "line 2" in plain(report)
    assert "And 3 more." in plain(report)
    assert ", 1 events" in plain(report)


def test_a_full_disk_is_a_hint(monkeypatch):
    monkeypatch.setattr(doctor_checks.shutil, "disk_usage", lambda path: SimpleNamespace(free=GIB // 4))
    report = examine()
    assert [problem.broken for problem in report.problems] == [False]
    assert "256.0 MiB free" in plain(report)


def test_a_disk_that_does_not_tell_is_unknown(monkeypatch):
    def fails(path: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(doctor_checks.shutil, "disk_usage", fails)
    report = examine()
    assert report.problems == ()
    assert "unknown free" in plain(report)


def test_other_trainings_are_a_hint(monkeypatch):
    busy = (BusyPython(4711, "notebook kernel", 1.93), *(BusyPython(pid, "Python", 0.9) for pid in (1, 2, 3)))
    monkeypatch.setattr(system, "busy_pythons", lambda: busy)
    report = examine()
    [problem] = report.problems
    assert not problem.broken
    assert "notebook kernel 4711 on 1.9 cores" in problem.what
    assert "and 1 more" in problem.what
    assert report.to_dict()["busy_processes"][0] == {"pid": 4711, "kind": "notebook kernel", "cores": 1.9}


def test_broken_things_come_first_and_each_has_what_to_type(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "abc")
    monkeypatch.setenv("LESSONKIT_SCALE", "huge")
    report = examine()
    assert [problem.broken for problem in report.problems] == [True, False]
    tail = report.text().split("To mend: 1 broken, 1 that could be better\n")[1].splitlines()
    assert tail[0].startswith(" 1. There is no scale called 'huge'")
    assert [line for line in tail if line.startswith("    -> ")] == [
        f"    -> {system.unset_command(name)}" for name in ("LESSONKIT_SCALE", "OMP_NUM_THREADS")
    ]
    assert any(line.startswith(" 2. (hint) ") for line in tail)


def test_even_with_much_to_mend_it_stays_short(monkeypatch, tmp_path):
    for name in ("LESSONKIT_CASHE", "LESSONKIT_SCALE", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.setenv(name, "nonsense")
    monkeypatch.setattr("lessonkit.assets.is_fetched", lambda name: False)
    monkeypatch.setattr(system, "busy_pythons", lambda: (BusyPython(1, "Python", 1.0),))
    monkeypatch.setenv("LESSONKIT_OUTPUTS", __file__)
    report = examine()
    assert len(report.problems) == 7
    assert len(report.text().splitlines()) <= 48


# ---- GPUs ---------------------------------------------------------------------------------------------


def test_each_gpu_has_its_line(monkeypatch):
    found = detect_hardware()
    gpus = (Gpu(0, "Tesla T4", (7, 5), 15 * GIB, 14 * GIB), Gpu(1, "Tesla P4", None, None, None))
    fields = {name: getattr(found, name) for name in found.__dataclass_fields__}
    fields |= {"device": "cuda", "device_name": "Tesla T4", "gpus": gpus, "backend": "CUDA 12.8"}
    fields["problems"] = (Problem("GPU 0 is in use.", "nvidia-smi"),)
    monkeypatch.setattr(doctor_checks, "detect_hardware", lambda environ: type(found)(**fields))
    report = examine()
    lines = report.text().splitlines()
    assert "GPU 0      Tesla T4, compute capability 7.5, 14.0 GiB of 15.0 GiB free" in lines
    assert "GPU 1      Tesla P4, compute capability unknown, unknown of unknown free, not used" in lines
    assert "GPU driver CUDA 12.8" in lines
    assert report.problems[0].what == "GPU 0 is in use."


# ---- Pasting ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("/home/ada/course/x", "~/course/x"),
        ("in /home/ada", "in ~"),
        ("'/home/ada'", "'~'"),
        ("/home/adam/x", "/home/adam/x"),
        ("/home/ada-lovelace", "/home/ada-lovelace"),
        ("/mnt/home/ada2", "/mnt/home/ada2"),
    ],
)
@pytest.mark.skipif(os.name == "nt", reason="POSIX paths")
def test_the_home_folder_is_not_shown(text, clean):
    assert without_home(text, Path("/home/ada")) == clean
    assert without_home(text, Path("/")) == text


def test_no_user_name_in_a_report(monkeypatch, tmp_path):
    home = tmp_path / "secret-name"
    home.mkdir()
    monkeypatch.setattr(Path, "home", lambda: home)
    monkeypatch.setenv("LESSONKIT_CACHE", str(home / "cache"))
    monkeypatch.setenv("LESSONKIT_PROGRESS", str(home / "progress"))
    monkeypatch.setenv("LESSONKIT_OUTPUTS", str(home / "no" / "such"))
    monkeypatch.setattr("lessonkit.assets.is_fetched", lambda name: False)
    text = examine().text()
    assert "secret-name" not in text
    assert re.search(r"assets .* in ~.cache", text)


# ---- As a program -------------------------------------------------------------------------------------


def program(tmp_path: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess:
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "LESSONKIT_CACHE": str(tmp_path / "cache"), **variables}
    command = [sys.executable, "-m", "lessonkit", "doctor", *arguments]
    return subprocess.run(
        command, env=environ, cwd=tmp_path, capture_output=True, text=True, encoding="utf-8"
    )


@pytest.fixture
def shadow(tmp_path: Path) -> Callable[[str], Path]:
    """A function that puts a file called torch.py in the way of PyTorch."""

    def write(text: str) -> Path:
        (tmp_path / "torch.py").write_text(text)
        return tmp_path

    return write


@pytest.mark.parametrize("text", ["", "raise SystemError('broken')", "def ("])
def test_a_file_in_the_way_of_torch_gives_a_report_and_exit_code_1(shadow, text):
    done = program(shadow(text))
    assert done.returncode == 1
    assert "PyTorch cannot be imported" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert "assets " in done.stdout
