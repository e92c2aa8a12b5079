"""Threads that read a mount at random and compare each byte with what it must be."""

import collections
import errno
import os
import random
import threading
import time

Failure = collections.namedtuple("Failure", "path error seconds")


def direct_flag(path):
    """O_DIRECT where the file can be opened so: the kernel does not let EROFS on plain files."""
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_DIRECT))
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return 0
    return os.O_DIRECT


class Readers:
    """`contents`: {path: bytes}. Start with `with`; the threads are over when the block is.
    Errors other than `allowed` are as bad as wrong bytes. A read has at most `longest` bytes; of a
    file that is opened, one of `runs` reads are made."""

    def __init__(self, point, contents, seed, count=8, allowed=(errno.EIO,), longest=1 << 20,
                 runs=(1, 1, 4)):
        self.point = point
        self.allowed = allowed
        self.longest = longest
        self.runs = runs
        self.contents = {path: data for path, data in contents.items() if data}
        self.paths = sorted(self.contents)
        self.direct = direct_flag(os.path.join(point, self.paths[0]))
        self.reads = self.bytes = 0
        self.slowest = 0  # seconds
        self.wrong = []  # "path: LENGTH bytes at OFFSET"
        self.failures = []  # Failure
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(f"{seed} {number}",), daemon=True)
                         for number in range(count)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self, seconds=300):
        """A read that does not come back is told as wrong."""
        self._over.set()
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            if thread.ident:
                thread.join(max(0, deadline - time.monotonic()))
        hanging = sum(thread.is_alive() for thread in self._threads)
        if hanging:
            self.wrong.append(f"{hanging} reads hang")

    def until(self, seconds, reads=1 << 62):
        """Returns when so much is done, or something is wrong."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self.reads < reads and not self.wrong:
            time.sleep(0.05)

    def _run(self, seed):
        generator = random.Random(seed)
        while not self._over.is_set() and not self.wrong:
            path = generator.choice(self.paths)
            begun = time.monotonic()
            try:
                self._read_file(path, generator)
            except OSError as error:
                self._failed(Failure(path, error.errno, time.monotonic() - begun))

    def _failed(self, failure):
        with self._lock:
            self.failures.append(failure)
            if failure.error not in self.allowed:
                self.wrong.append(f"{failure.path}: {os.strerror(failure.error)}")
        self._over.wait(0.01)

    def _read_file(self, path, generator):
        flags = os.O_RDONLY | (self.direct if generator.random() < 0.5 else 0)
        descriptor = os.open(os.path.join(self.point, path), flags)
        try:
            for _ in range(generator.choice(self.runs)):
                # The page cache must not answer for the server.
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                self._read(descriptor, path, generator)
        finally:
            os.close(descriptor)

    def _read(self, descriptor, path, generator):
        truth = self.contents[path]
        offset = generator.randrange(len(truth))
        length = int(self.longest ** generator.random())
        begun = time.monotonic()
        data = piece = os.pread(descriptor, length, offset)
        expected = truth[offset:offset + length]
        # A read may end early, where what follows could not be had; asked for, that is an error.
        while piece and len(data) < len(expected):
            piece = os.pread(descriptor, length - len(data), offset + len(data))
            data += piece
        with self._lock:
            self.reads += 1
            self.bytes += len(data)
            self.slowest = max(self.slowest, time.monotonic() - begun)
            if data != expected:
                self.wrong.append(f"{path}: {length} bytes at {offset}")


def wrong_files(point, contents):
    """Reads all files whole; lines for those that are not right."""
    wrong = []
    for path, data in contents.items():
        try:
            with open(os.path.join(point, path), "rb", buffering=0) as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                if file.readall() != data:
                    wrong.append(path)
        except OSError as error:
            wrong.append(f"{path}: {error}")
    return wrong
