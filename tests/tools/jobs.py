"""Jobs in processes of their own, some at once: what one prints is shown when it is over, in one
piece, and what it has found goes to whoever has started them as JSON."""

import json
import os
import shutil
import signal
import sys
import tempfile


class Job:
    """`run()` returns what can be told as JSON."""

    def __init__(self, name, run):
        self.name = name
        self.run = run
        self._output = self._report = None

    def start(self):
        """The pid; 0 in the new process."""
        # pylint: disable=consider-using-with
        self._output, self._report = tempfile.TemporaryFile(), tempfile.TemporaryFile()
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            os.dup2(self._output.fileno(), 1)
            os.dup2(self._output.fileno(), 2)
        return pid

    def carry_out(self):
        """In the new process."""
        report = json.dumps(self.run())
        self._report.write(report.encode())
        self._report.flush()

    def end(self):
        """Shows what was printed. The report, or None where the process came to no end."""
        for file in (self._output, self._report):
            file.seek(0)
        shutil.copyfileobj(self._output, sys.stdout.buffer)
        sys.stdout.flush()
        text = self._report.read()
        self._output.close()
        self._report.close()
        return json.loads(text) if text else None


def run(jobs, at_once, ended):
    """Calls ended(job, report) for each. Returns in the new processes, too, with the job that such a
    process is to carry_out() before it ends; else None."""
    waiting, running = list(jobs), {}
    try:
        while waiting or running:
            if waiting and len(running) < at_once:
                job = waiting.pop(0)
                pid = job.start()
                if pid == 0:
                    return job
                running[pid] = job
            else:
                job = running.pop(os.wait()[0])
                ended(job, job.end())
    except BaseException:
        for pid in running:
            os.kill(pid, signal.SIGTERM)
        for pid in running:
            os.waitpid(pid, 0)
        raise
    return None
