"""All images of a node in one server, by node_driver.c, for tests of the server alone."""

import itertools
import json
import os
import queue
import signal
import subprocess
import threading

from tools import workplace

DRIVER = os.path.join(os.path.dirname(workplace.SLUICE), "tests", "node_driver")


class ImageNode:
    """Commands are sent at once; answer() waits for what came of one."""

    def __init__(self, cache, environment, holder=(), watchdog=0):
        self._faults = os.path.join(cache, "faults")
        self._log_path = cache + ".log"
        # A file, because a holder that is started has it longer.
        with open(self._log_path, "ab") as log:
            self.process = subprocess.Popen([DRIVER, cache, *holder], stdin=subprocess.PIPE,
                                            text=True, stdout=subprocess.PIPE, stderr=log,
                                            env={**environment,
                                                 "NODE_DRIVER_WATCHDOG": str(watchdog)})
        self._tags = map(str, itertools.count())
        self._answers = {"start": queue.Queue()}
        self._thread = threading.Thread(target=self._read_answers, daemon=True)
        self._thread.start()
        self.started = self.answer("start")

    def _read_answers(self):
        for line in self.process.stdout:
            tag, text = line.split(" ", 1)
            self._answers[tag].put(json.loads(text))

    @property
    def log(self):
        with open(self._log_path, encoding="utf-8") as file:
            return file.read().splitlines()

    def send(self, *words):
        """The tag by which answer() knows the command."""
        tag = next(self._tags)
        self._answers[tag] = queue.Queue()
        self.process.stdin.write(" ".join(map(str, (tag, *words))) + "\n")
        self.process.stdin.flush()
        return tag

    def answer(self, tag, timeout=90):
        return self._answers[tag].get(timeout=timeout)

    def ask(self, *words):
        return self.answer(self.send(*words))

    def send_open(self, number, reference, point, layers=0, front="auto", fill="off",
                  milliseconds=60000):
        os.makedirs(point, exist_ok=True)
        return self.send("open", number, reference, point, layers, front, fill, milliseconds)

    def open(self, *arguments, **options):
        return self.answer(self.send_open(*arguments, **options))

    def close(self, number):
        self.ask("close", number)

    def status(self):
        return self.ask("status")

    def ask_for_faults(self, kind, name, count):
        """Of servers that are to load an image of the repository; node_driver.c has the kinds."""
        os.makedirs(self._faults, exist_ok=True)
        for number in range(count):
            with open(os.path.join(self._faults, f"{kind}-{name}-{number}"), "wb"):
                pass

    def faults_left(self):
        return sorted(os.listdir(self._faults))

    def image(self, number):
        """What status says of one image, or None."""
        found = [image for image in self.status()["images"] if image["id"] == number]
        return found[0] if found else None

    def server(self):
        """The server's process."""
        return self.status()["server"]["pid"]

    def kill_server(self):
        pid = self.server()
        os.kill(pid, signal.SIGKILL)
        return pid

    def stop(self):
        self.process.stdin.close()
        self.process.wait(timeout=60)
        self._thread.join()
        self.process.stdout.close()
        return self.process.returncode
