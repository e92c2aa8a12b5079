"""sluiced, started by tests: its root, its sockets and its log in directories of its own."""

import contextlib
import glob
import os
import shutil
import signal
import subprocess
import tempfile
import time

from tools import workplace

_CONFIGURATION = """\
[holder]
socket = "{sockets}/holder.sock"
[snapshots]
remap_ids = true
"""


class Sluiced:
    """Starts at once; stop() ends it. `hosts`: containerd's certs.d. `more`: configuration."""

    def __init__(self, directory, hosts=None, more="", environment=None):
        self.directory = directory
        self.root = os.path.join(directory, "root")
        # Names of sockets are short.
        self.sockets = tempfile.mkdtemp(prefix="sluice-sluiced-", dir="/tmp")
        self.address = os.path.join(self.sockets, "snapshotter.sock")
        self.configuration = os.path.join(directory, "sluiced.toml")
        with open(self.configuration, "w", encoding="utf-8") as file:
            file.write(_CONFIGURATION.format(sockets=self.sockets))
            if hosts:
                file.write(f'[registry]\nconfig_path = "{hosts}"\n')
            file.write(more)
        self.log_path = os.path.join(directory, "sluiced.log")
        self.environment = environment
        self.process = None
        self.start()

    @property
    def command(self):
        return [workplace.SLUICED, "--address", self.address, "--root", self.root, "--config",
                self.configuration]

    def start(self):
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=self.environment)
        deadline = time.monotonic() + 120
        while not os.path.exists(self.address):
            if time.monotonic() > deadline or self.process.poll() is not None:
                self.stop()
                raise RuntimeError("sluiced did not start: " + self.log()[-2000:])
            time.sleep(0.02)

    def log(self):
        with open(self.log_path, encoding="utf-8", errors="replace") as file:
            return file.read()

    def server(self):
        """The process that serves the images, or None while there is none."""
        for thread in glob.glob(f"/proc/{self.process.pid}/task/*/children"):
            with open(thread, encoding="ascii") as file:
                for child in file.read().split():
                    with contextlib.suppress(OSError):
                        with open(f"/proc/{child}/cmdline", encoding="ascii") as words:
                            if words.read().startswith("sluiced-server\0"):
                                return int(child)
        return None

    def holder(self):
        """The process that keeps what the server has, or None while there is none."""
        for arguments in glob.glob("/proc/[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                with open(arguments, "rb") as words:
                    if f"--socket\0{self.sockets}/holder.sock\0" in words.read().decode("latin1"):
                        return int(arguments.split("/")[2])
        return None

    def end(self, number=signal.SIGTERM):
        """Its exit code; the sockets stay where they are named."""
        self.process.send_signal(number)
        code = self.process.wait(120)
        self.process = None
        if number == signal.SIGKILL and os.path.exists(self.address):
            os.unlink(self.address)  # so that start() sees the next one's
        return code

    def end_holder(self):
        subprocess.run([workplace.HOLDER, "--socket", os.path.join(self.sockets, "holder.sock"),
                        "--abort"], stderr=subprocess.DEVNULL, check=False, timeout=120)

    def stop(self):
        if self.process:
            self.process.terminate()
            try:
                self.process.wait(120)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.process = None
        self.end_holder()
        shutil.rmtree(self.sockets, ignore_errors=True)
