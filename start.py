"""Set up and open the course with one command; needs nothing but Python itself.

    python start.py                makes .venv, installs, fetches models and data, opens JupyterLab
    python start.py --production   the same, with what the production part needs besides
    python start.py test           sets all of that up and runs all the tests

Every step may be interrupted: the next start goes on from there. A stamp, written last, says that a
set-up is complete and what it was made from.
"""

import argparse
import contextlib
import difflib
import errno
import hashlib
import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

OLDEST, NEWEST = (3, 11), (3, 13)


def python_problem(version, bits=64) -> "str | None":
    """What is wrong with this Python, and what to type instead; None when it will do."""
    if not OLDEST <= tuple(version[:2]) <= NEWEST:
        what = "This is Python {}.{}; the course needs Python 3.11, 3.12 or 3.13.".format(*version[:2])
    elif bits < 64:
        what = "This is a 32-bit Python; PyTorch exists for 64-bit Python only."
    else:
        return None
    fits = f"import sys; sys.exit(not ({OLDEST} <= sys.version_info[:2] <= {NEWEST} and sys.maxsize > 2**32))"
    for name in ("python3.12", "python3.13", "python3.11", "python3", "python"):
        if shutil.which(name) and subprocess.call([name, "-c", fits], stderr=subprocess.DEVNULL) == 0:
            return f"{what}\nThis computer also has one that fits. Type: {name} start.py"
    return (
        f"{what}\nInstall 64-bit Python 3.12 (python.org has it for every system), then start with that one."
    )


# Comes before everything that an older Python might not understand; the grammar of this file is Python 3.6.
PYTHON_PROBLEM = python_problem(sys.version_info, 64 if sys.maxsize > 2**32 else 32)
if __name__ == "__main__" and PYTHON_PROBLEM:
    sys.exit(PYTHON_PROBLEM)

ROOT = Path(__file__).resolve().parent
FIRST_NOTEBOOK = "notebooks/00-start-here.ipynb"
GB = 10**9
VENV_BYTES = int(2.3 * GB)  # a finished .venv with PyTorch's CPU build, measured on Linux
PRODUCTION_BYTES = int(0.6 * GB)  # what the production part adds to it, measured alike
VENV_PARTS = {"bin", "scripts", "include", "lib", "lib64", "share", "etc", "man", "doc", "pyvenv.cfg"}
VENV_PARTS |= {".gitignore", "setup.log", "lessonkit-setup.json", "cachedir.tag", ".lock"}
AGAIN = "Then type the same command again: it goes on from here."

# What a failed program writes last, and what that means; the first that fits is told.
CAUSES = [
    (
        r"No space left on device|Errno 28|not enough space on the disk|WinError 112",
        "The disk is full. {space} Make room.",
    ),
    (
        r"CERTIFICATE_VERIFY_FAILED|SSLError|SSLCertVerification",
        "No secure connection: the network's certificate is not trusted. Check this computer's date. On "
        "a company or school network, ask for its certificate file, then: pip config set global.cert FILE.",
    ),
    (
        r"ProxyError|Cannot connect to proxy|Tunnel connection failed|407 Proxy",
        "The proxy that this computer is told to use lets nothing through. Check the variables "
        "HTTPS_PROXY and HTTP_PROXY, and: pip config list.",
    ),
    (
        r"NewConnectionError|Failed to establish a new connection|NameResolutionError|name resolution"
        r"|getaddrinfo|Network is unreachable|Read ?[tT]imed? ?out|ConnectTimeout|RemoteDisconnected"
        r"|Connection (refused|reset|aborted)|IncompleteRead|ProtocolError",
        "No network: the package index cannot be reached, or the connection broke off. What is downloaded is "
        "kept. Connect this computer to the internet; only the set-up needs it.",
    ),
    (
        r"ensurepip is not available|No module named '?(ensurepip|venv)",
        "This Python lacks its venv part, which Debian and Ubuntu package apart. Type: "
        "sudo apt install python3-venv.",
    ),
    (
        r"Long Path support|WinError 206",
        "A path is too long for Windows. Move this folder to a shorter one, such as C:\\course.",
    ),
    (
        r"Permission denied|Errno 13|Access is denied|WinError 5\b|WinError 32|Read-only file|Errno 30",
        "A file could not be written. Close JupyterLab and whatever else uses .venv, and make sure that this "
        "folder is yours to write in: {root}.",
    ),
    (
        r"No matching distribution|Could not find a version",
        "A package named above does not exist for this computer and this Python. PyTorch is made for 64-bit "
        "Linux and Windows and for Macs with Apple chips.",
    ),
]


class SetupError(Exception):
    """A set-up that cannot go on; the text is for the learner. known: its cause is told for certain."""

    def __init__(self, text: str, known: bool = True) -> None:
        super().__init__(text)
        self.known = known


class Home:
    """Where everything lies in one checkout."""

    def __init__(self, root: Path, production: bool = False) -> None:
        self.root = root
        self.venv = root / ".venv"
        self.bin = self.venv / ("Scripts" if os.name == "nt" else "bin")
        self.python = self.bin / ("python.exe" if os.name == "nt" else "python")
        self.stamp = self.venv / "lessonkit-setup.json"
        self.log = self.venv / "setup.log"
        self.requirements = [root / "requirements.txt"]
        # Asked for once, the production part stays: a later start without the word takes nothing away.
        self.production = production or bool(self.stamped().get("production"))
        if self.production:
            self.requirements.append(root / "production" / "requirements.txt")

    def stamped(self) -> dict:
        """What the last complete set-up was made from; empty where there is none."""
        try:
            found = json.loads(self.stamp.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def env(self, **extra: str) -> "dict[str, str]":
        """The environment for programs of .venv: the user's own (pip's settings too), .venv first."""
        env = {key: value for key, value in os.environ.items() if key not in ("PYTHONHOME", "PYTHONPATH")}
        path = str(self.bin) + os.pathsep + env.get("PATH", "")
        env.update(PATH=path, VIRTUAL_ENV=str(self.venv), PYTHONUTF8="1", PYTHONUNBUFFERED="1")
        env.update(PIP_DISABLE_PIP_VERSION_CHECK="1", PIP_NO_INPUT="1", PIP_USER="0", **extra)
        return env

    def fingerprint(self) -> str:
        """Changes when what a set-up is made from changes, or the folder has moved."""
        digest = hashlib.sha256(repr((sys.version_info[:2], str(self.root))).encode("utf-8", "replace"))
        for path in (*self.requirements, self.root / "pyproject.toml"):
            digest.update(path.read_bytes())
        return digest.hexdigest()


def say(text: str) -> None:
    """Print at once, so that our lines and those of the programs we run stay in order."""
    print(text, flush=True)


def duration(seconds: float) -> str:
    """Seconds as a person says them: '8 s', '1 min 40 s'."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


# Running other programs


def end(child: subprocess.Popen, patience: float = 10) -> None:
    """Let a program that is still alive end by itself (Ctrl+C has reached it too), then insist."""
    for insist in (None, child.terminate, child.kill):
        if child.poll() is None:
            if insist:
                insist()
            with contextlib.suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
                child.wait(timeout=patience)


def run(command: "list[str]", home: Home, on_line=None, on_tick=None, **extra: str) -> int:
    """Run a program that ends with us, whichever way we end; returns its exit code.

    With ``on_line`` it runs unseen: that gets its lines as they come, ``on_tick`` is called twice a second.
    """
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    pipes = {**pipes, "encoding": "utf-8", "errors": "replace"} if on_line else {}
    child = subprocess.Popen(command, cwd=str(home.root), env=home.env(**extra), **pipes)
    try:
        if on_line:
            follow(child, on_line, on_tick or (lambda: None))
        return child.wait()
    except SystemExit:  # a signal told us to stop; it did not reach the child
        child.terminate()
        raise
    finally:
        end(child)


def follow(child: subprocess.Popen, on_line, on_tick) -> None:
    """Pass on a program's lines until it closes its output."""
    lines = queue.Queue()

    def pump() -> None:
        with child.stdout:
            for line in child.stdout:
                lines.put(line.rstrip("\r\n"))
        lines.put(None)

    threading.Thread(target=pump, daemon=True).start()
    while True:
        try:
            line = lines.get(timeout=0.5)
        except queue.Empty:
            on_tick()
            continue
        if line is None:
            return
        on_line(line)


class PipNews:
    """What pip is doing, in a few words: on one line that changes (a terminal), now and then (a log)."""

    def __init__(self) -> None:
        self.live = sys.stdout.isatty()
        self.began = self.told = time.monotonic()
        self.found, self.doing, self.text = 0, "looking them up", ""

    def read(self, line: str) -> None:
        """Take one line of pip's."""
        word, _, rest = line.strip().partition(" ")
        before, worth_a_line = self.doing, True
        file = re.match(r"(?P<name>[\w.]+?)-\d\S*\.(whl|tar\.gz) \((?P<mb>\d+)(\.\d+)? MB\)", rest)
        progress = re.match(r"(\d+) of (\d+)$", rest)
        if word in ("Collecting", "Processing"):
            self.found += 1
        elif word == "Downloading" and file:
            self.doing = f"downloading {file['name']} ({file['mb']} MB)"
            worth_a_line = int(file["mb"]) >= 50
        elif word == "Progress" and progress:
            done, total = (int(number) // 10**6 for number in progress.groups())
            self.doing = re.sub(r"\(.* MB\)", f"({done} of {total} MB)", before)
            worth_a_line = False
        elif word == "Installing" and rest.startswith("collected packages") and "," in rest:
            self.doing = f"putting {rest.count(',') + 1} packages in place"
        elif "Retrying (Retry" in rest:
            self.doing = "no answer from the network, trying again"
        if self.live or (worth_a_line and self.doing != before):
            self.show()

    def tick(self) -> None:
        """Show a sign of life: each half second on a terminal, each half minute in a log."""
        if self.live or time.monotonic() - self.told > 30:
            self.show()

    def show(self) -> None:
        """Write the line."""
        self.told = time.monotonic()
        text = f"      Packages found: {self.found}; {self.doing}; {duration(self.told - self.began)}"
        if not self.live:
            say(text)
        elif text != self.text:
            self.overwrite(text)

    def overwrite(self, text: str) -> None:
        """Put the text in place of the line before, and the cursor back to its start."""
        self.text = text
        width = shutil.get_terminal_size().columns - 1
        print("\r" + text[:width].ljust(width), end="\r", flush=True)

    def clear(self) -> None:
        """Leave the terminal's line empty for what comes next."""
        if self.live:
            self.overwrite("")


def diagnose(lines: "list[str]", home: Home) -> "str | None":
    """The cause of a failure in plain words, from the last lines that the program wrote; None: unknown."""
    text = "\n".join(lines[-40:])
    for pattern, sentence in CAUSES:
        if re.search(pattern, text):
            return f"{sentence.format(root=home.root, space=free_space(home))} {AGAIN}"
    return None


def free_space(home: Home) -> str:
    """What is free where the installer writes: here, and where it unpacks."""
    here, there = (shutil.disk_usage(str(path)).free / GB for path in (home.root, tempfile.gettempdir()))
    return f"Free: {here:.1f} GB here, {there:.1f} GB in the temporary folder {tempfile.gettempdir()}."


def fail(what: str, lines: "list[str]", home: Home) -> None:
    """Show a program's last words, then raise what they mean."""
    shown = [line for line in lines if line.strip() and "is ignored: it is neither" not in line]
    for line in [line for line in shown if "Retry(total=" not in line][-8:]:
        say("      | " + line[:200])
    cause = diagnose(shown, home)
    more = f"\nAll of its messages: {home.log}" if home.log.exists() else ""
    unknown = f"Type the same command again; if that does not help, delete {home.venv} and try once more."
    raise SetupError(f"{what}\n{cause or unknown}{more}", known=bool(cause))


# The set-up

PROBE = """
import importlib.metadata, json, sys, sysconfig
def version(name):
    try: return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError: return None
print(json.dumps({
    "python": sys.version_info[:2], "venv": sys.prefix != sys.base_prefix, "pip": version("pip"),
    "packages": sysconfig.get_path("purelib"),
    "missing": [name for name in sys.argv[1:] if not version(name)],
}))
"""


def probe(home: Home) -> dict:
    """What .venv's own Python says of itself and of the packages it lacks; empty when it does not run."""
    pins = "\n".join(path.read_text(encoding="utf-8") for path in home.requirements)
    names = re.findall(r"(?m)^([\w.-]+)==", pins)
    command = [str(home.python), "-I", "-c", PROBE, *names, "lessonkit"]
    try:
        answer = subprocess.check_output(command, cwd=str(home.root), stderr=subprocess.DEVNULL, timeout=120)
        found = json.loads(answer.decode("utf-8"))
    except (OSError, ValueError, subprocess.SubprocessError):
        return {}
    return found if found["venv"] and found["python"] == list(sys.version_info[:2]) else {}


def is_ready(home: Home) -> bool:
    """Whether a complete set-up, made from today's files, is in place and runs."""
    return home.stamped().get("fingerprint") == home.fingerprint() and probe(home).get("missing") == []


@contextlib.contextmanager
def locked(home: Home):
    """Hold the folder: one set-up at a time. The system lets go when the holder ends, however it ends."""
    try:
        handle = open(str(home.root / ".start.lock"), "a")  # noqa: SIM115 - closed below
    except OSError as error:
        what = f"Nothing can be written in this folder ({error.strerror}): {home.root}"
        raise SetupError(what + "\nCopy the course to a folder of your own, and start it there.") from None
    with handle:
        try:
            if os.name == "nt":
                import msvcrt

                msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                import fcntl

                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES, errno.EDEADLK):
                what = "Another start.py is setting up this folder right now."
                raise SetupError(f"{what} When it has finished, type the same command again.") from None
            # A network drive without locks: better to go on than to refuse.
        yield


def remove_venv(home: Home) -> None:
    """Delete .venv, if nothing but a virtual environment is in it."""
    if not os.path.lexists(str(home.venv)):
        return
    strangers = ["a link"] if home.venv.is_symlink() else [] if home.venv.is_dir() else ["a file"]
    strangers += sorted(path.name for path in home.venv.glob("*") if path.name.lower() not in VENV_PARTS)
    if strangers:
        what = f"The packages belong in {home.venv}, but something else is there ({', '.join(strangers[:5])})"
        raise SetupError(f"{what}, so it was left alone. Rename or remove it. {AGAIN}")
    try:
        shutil.rmtree(str(home.venv))
    except OSError as error:
        what = f"{home.venv} must be made anew, but could not be removed ({error})."
        raise SetupError(f"{what}\nClose JupyterLab and whatever else uses it. {AGAIN}") from None


def needed(home: Home) -> int:
    """Bytes of a finished .venv."""
    return VENV_BYTES + (PRODUCTION_BYTES if home.production else 0)


def make_venv(home: Home) -> bool:
    """Make sure that .venv is a sound virtual environment of this Python; True when it was made anew."""
    if probe(home).get("pip"):
        return False
    if os.path.lexists(str(home.venv)):
        say("      The .venv that is here is incomplete or of another Python; making it anew.")
        remove_venv(home)
    free = shutil.disk_usage(str(home.root)).free
    if free < needed(home):
        need = f"the packages need {needed(home) / GB:.1f} GB, and {free / GB:.1f} GB are free"
        raise SetupError(f"The disk is too full: {need} in {home.root}. Make room. {AGAIN}")
    lines = []
    code = run([sys.executable, "-m", "venv", str(home.venv)], home, lines.append)
    if code or not probe(home).get("pip"):
        fail("The Python environment .venv could not be made.", lines, home)
    return True


def install(home: Home) -> None:
    """Install the pinned packages and lessonkit into .venv, in view; pip completes what is half there."""
    found = probe(home)
    for info in Path(found["packages"]).glob("*.dist-info"):
        if not (info / "RECORD").exists():  # cut off in the middle of it; without this pip calls it done
            shutil.rmtree(str(info))
    pip = [str(home.python), "-m", "pip", "install"]
    numbers = re.findall(r"\d+", found["pip"])[:2]
    # From 24.1 on, pip can tell a program how far a download is; before, only a person at a terminal.
    bar = "raw" if tuple(map(int, numbers)) >= (24, 1) else "off"
    pins = [word for path in home.requirements for word in ("-r", str(path.relative_to(home.root)))]
    commands = [
        [*pip, "--prefer-binary", "--progress-bar", bar, *pins],
        [*pip, "--no-deps", "--no-build-isolation", "-e", "."],  # setuptools is pinned: needs no network
    ]
    news, lines = PipNews(), []
    with open(str(home.log), "w", encoding="utf-8") as log:

        def on_line(line: str) -> None:
            news.read(line)
            if not line.startswith("Progress "):
                lines.append(line)
                print(line, file=log, flush=True)

        failed = any(run(command, home, on_line, news.tick) for command in commands)
    news.clear()
    if failed:
        fail("The packages could not be installed.", lines, home)


def quiet_jupyter(home: Home) -> None:
    """JupyterLab in .venv asks for no news and looks for no updates: nothing to answer, no network."""
    folder = home.venv / "share" / "jupyter" / "lab" / "settings"
    folder.mkdir(parents=True, exist_ok=True)
    silence = {"checkForUpdates": False, "fetchNews": "false"}
    settings = json.dumps({"@jupyterlab/apputils-extension:notification": silence})
    (folder / "overrides.json").write_text(settings, encoding="utf-8")


def set_up(home: Home) -> None:
    """Bring .venv to what today's files ask for; does nothing where that is so."""
    if is_ready(home):
        say("[1/4] Python environment: in place\n[2/4] Packages: in place")
        return
    with locked(home):
        say(f"[1/4] Python environment: {home.venv}")
        fresh = make_venv(home)
        with contextlib.suppress(FileNotFoundError):
            home.stamp.unlink()
        gpu = "; PyTorch for Linux may bring several GB of GPU libraries" if sys.platform == "linux" else ""
        say(f"[2/4] Packages: about {needed(home) / GB:.1f} GB on disk{gpu}")
        try:
            install(home)
        except SetupError as problem:
            if fresh or problem.known:
                raise
            say("      This .venv seems damaged; making it anew, once.")
            remove_venv(home)
            make_venv(home)
            install(home)
        quiet_jupyter(home)
        stamp = {"fingerprint": home.fingerprint(), "python": sys.version.split()[0]}
        stamp["production"] = home.production
        home.stamp.with_suffix(".tmp").write_text(json.dumps(stamp), encoding="utf-8")
        os.replace(str(home.stamp.with_suffix(".tmp")), str(home.stamp))


def prepare(home: Home) -> None:
    """Set-up, models and data, and one line on how long that took."""
    began = time.monotonic()
    set_up(home)
    say("[3/4] Models and data")
    if run([str(home.python), "-m", "lessonkit", "fetch"], home):
        raise SetupError(f"The models and data are not complete; the reason stands above. {AGAIN}")
    say(f"      Ready after {duration(time.monotonic() - began)}.")


# What can be asked for


def open_jupyter(home: Home, browser: bool, port: "int | None") -> int:
    """Run JupyterLab on the first notebook, on this computer only, until Ctrl+C."""
    if not (home.root / FIRST_NOTEBOOK).exists():
        raise SetupError(f"{FIRST_NOTEBOOK} is missing. Get it back with: git checkout {FIRST_NOTEBOOK}")
    command = [str(home.python), "-m", "jupyterlab", "--ip=127.0.0.1", "--log-level=WARN"]
    # The whole project is the root, so that a notebook's links to the guides work; a file's name as an
    # argument would make its folder the root, and the printed address would not lead to it.
    command += [f"--ServerApp.root_dir={home.root}", f"--LabApp.default_url=/lab/tree/{FIRST_NOTEBOOK}"]
    command += ["--ServerApp.answer_yes=True"]  # Ctrl+C ends it at once, with no question
    command += [] if browser else ["--no-browser"]
    command += [f"--port={port}"] if port else []
    command += ["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []  # in a container
    say(f"[4/4] JupyterLab on {FIRST_NOTEBOOK}; its address follows, Ctrl+C here ends it")
    try:
        code = run(command, home)
    except KeyboardInterrupt:
        code = 0
    say("JupyterLab could not go on; the reason stands above." if code else "JupyterLab has ended.")
    return code


def run_tests(home: Home, arguments: "list[str]") -> int:
    """Style, tests, and every notebook at smoke scale; with arguments, only pytest with them."""
    pytest = [str(home.python), "-m", "pytest", "-n", "2", "--dist", "loadfile"]
    ruff = [str(home.python), "-m", "ruff"]
    checks = {
        "style": [*ruff, "check", "."],
        "layout": [*ruff, "format", "--check", "."],
        "tests": [*pytest, "tests"],
        "notebooks": [*pytest, "--nbval-lax", "notebooks"],
    }
    if arguments:
        checks = {"tests": [*pytest, *arguments]}
    began = time.monotonic()
    say("[4/4] Running: " + ", ".join(checks))
    # One thread for each worker: two processes of two threads slow each other down many times over.
    extra = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    failed = []
    with tempfile.TemporaryDirectory(prefix="lessonkit-tests-") as journal:  # never the learner's own
        extra.update(LESSONKIT_SCALE="smoke", LESSONKIT_PROGRESS=journal)
        for name, command in checks.items():
            say(f"\n-- {name}")
            if run(command, home, **extra):
                failed.append(name)
    outcome = f"Failed: {', '.join(failed)}; see above." if failed else f"All is well: {', '.join(checks)}."
    say(f"\n{outcome} Took {duration(time.monotonic() - began)}.")
    return 1 if failed else 0


def port_number(text: str) -> int:
    """A port for JupyterLab, from the command line."""
    if not text.isdigit() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port; give a number from 1 to 65535, such as 8888")
    return int(text)


def parse(argv: "list[str]") -> argparse.Namespace:
    """Read the command line; what follows 'test' belongs to pytest."""
    parser = argparse.ArgumentParser(
        prog="start.py",
        usage="python start.py [--production] [--no-browser] [--port N]\n       python start.py test [PYTEST ARGUMENTS]",
        description="Sets up the course in .venv (once; later starts take seconds), fetches its models and "
        "data, and opens JupyterLab on the first notebook. Interrupted? Type the same command again.",
        epilog="'test' sets up the same way, with the production part, then runs the style checks, the tests and "
        "every notebook; with "
        "arguments, only pytest with them: python start.py test tests/test_start.py -k disk. All other "
        "commands are lessonkit's, which .venv holds: lessonkit --help",
        allow_abbrev=False,
    )
    parser.add_argument("command", nargs="?", metavar="test", help="run the tests, open nothing")
    parser.add_argument(
        "--production", action="store_true", help="install what the production part needs, too (stays)"
    )
    parser.add_argument("--no-browser", action="store_true", help="print the address, open no browser")
    parser.add_argument(
        "--port", type=port_number, metavar="N", help="JupyterLab's port (if taken, the next)"
    )
    for_pytest = argv[:1] == ["test"] and argv[1:] not in (["-h"], ["--help"])
    options = parser.parse_args(argv[:1] if for_pytest else argv)
    options.rest = argv[1:] if for_pytest else []
    if options.command not in (None, "test"):
        meant = difflib.get_close_matches(options.command, ["test"], cutoff=0.5)
        hint = "did you mean 'test'?" if meant else f"one of lessonkit's? Type: lessonkit {options.command}"
        parser.error(f"there is no command {options.command!r}; {hint}")
    return options


def stop(signum: int, frame: object) -> None:
    """Told to stop by the system: leave through every ``finally``."""
    raise SystemExit(128 + signum)


def main(argv: "list[str] | None" = None, root: Path = ROOT) -> int:
    """Do what the command line asks; returns the exit code (130: interrupted)."""
    for out in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):
            out.reconfigure(errors="replace")  # a path may hold letters that this terminal lacks
    options = parse(sys.argv[1:] if argv is None else argv)
    try:
        home = Home(root, options.production or options.command == "test")
        prepare(home)
        if options.command == "test":
            return run_tests(home, options.rest)
        return open_jupyter(home, not options.no_browser, options.port)
    except KeyboardInterrupt:
        say("\nStopped. Nothing is lost: type the same command again, and it goes on from here.")
        return 130
    except SetupError as problem:
        text = str(problem)
    except OSError as error:
        cause = diagnose([str(error)], home) or f"A file could not be read or written. {AGAIN}"
        text = f"{cause}\n({error})"
    print("\n" + text, file=sys.stderr, flush=True)
    return 1


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, stop)
    sys.exit(main())
