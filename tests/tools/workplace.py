"""Where the tests keep what is costly to make, and where things of the project are."""

import contextlib
import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
import time

TOOLS = os.path.dirname(os.path.abspath(__file__))
PROJECT = os.path.dirname(os.path.dirname(TOOLS))
SLUICE = os.path.abspath(os.environ.get("SLUICE", os.path.join(PROJECT, "build", "sluice")))
SLUICED = os.path.join(os.path.dirname(SLUICE), "sluiced")
HOLDER = os.path.join(os.path.dirname(SLUICE), "sluice-holder")
WORK = os.environ.get("SLUICE_WORK") or (
    "/var/tmp/sluice-tests" + ("" if os.geteuid() == 0 else f"-{os.geteuid()}"))


def _directory_of_work(name):
    """A directory in WORK, which must be ours: it is used as root, and /var/tmp is everybody's."""
    os.makedirs(WORK, mode=0o700, exist_ok=True)
    info = os.lstat(WORK)
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid():
        raise PermissionError(f"{WORK} belongs to somebody else; set SLUICE_WORK")
    path = os.path.join(WORK, name)
    os.makedirs(path, mode=0o700, exist_ok=True)
    return path


def kept(name, recipe, make):
    """The directory that make(directory) filled; made once for each text of `recipe`.

    Whatever decides the content (package names, options, the source of the maker) belongs into
    `recipe`, so that a changed recipe never meets what an older one made.
    """
    key = hashlib.sha256(recipe.encode()).hexdigest()[:16]
    directory = os.path.join(_directory_of_work("kept"), f"{name}-{key}")
    with _locked(directory + ".lock"):
        if not os.path.isdir(directory):
            shutil.rmtree(directory + ".new", ignore_errors=True)
            os.mkdir(directory + ".new")
            make(directory + ".new")
            os.rename(directory + ".new", directory)
    os.utime(directory)
    _remove_unused(os.path.dirname(directory))
    return directory


def _remove_unused(parent, days=7):
    """Recipes change; what nobody asked for in a week goes."""
    for entry in os.scandir(parent):
        if time.time() - entry.stat().st_mtime > days * 86400:
            if entry.is_dir():
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                os.unlink(entry.path)


@contextlib.contextmanager
def _locked(path):
    with open(path, "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def source_of(*names):
    """The text of tools, for use in a recipe."""
    texts = []
    for name in names:
        with open(os.path.join(TOOLS, name), encoding="utf-8") as file:
            texts.append(file.read())
    return "\0".join(texts)


def fresh_directory(name):
    """An empty directory of this process, on the disk of WORK (not tmpfs: EROFS and xattrs)."""
    return tempfile.mkdtemp(prefix=name + "-", dir=_directory_of_work("run"))


def bytes_on_disk(directory):
    """What the files below it take, whatever comes and goes meanwhile."""
    total = 0
    for parent, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.lstat(os.path.join(parent, name)).st_blocks * 512
    return total
