"""containerd with a store, sockets and cgroups of its own; with CRI and snapshotters as asked."""

import contextlib
import glob
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time

from tools.testcase import mounts_under

_COMMON = """\
version = {version}
root = "{directory}/root"
state = "{state}"
disabled_plugins = [{disabled}]
[grpc]
address = "{address}"
[plugins."io.containerd.internal.v1.opt"]
path = "{directory}/opt"
"""
_UNUSED = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
           "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
           "io.containerd.nri.v1.nri"]
_CRI = "io.containerd.grpc.v1.cri"
# OOM scores are not lowered: that takes a capability which machines for tests may lack.
_CRI_1 = """\
[plugins."io.containerd.grpc.v1.cri"]
disable_tcp_service = true
restrict_oom_score_adj = true
sandbox_image = "{pause}"
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "{snapshotter}"
disable_snapshot_annotations = false
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".registry]
config_path = "{directory}/certs.d"
"""
# The transfer service unpacks for the snapshotter that is named there.
_CRI_2 = """\
[plugins."io.containerd.grpc.v1.cri"]
disable_tcp_service = true
[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true
[plugins."io.containerd.cri.v1.runtime".cni]
bin_dir = "{directory}/cni"
conf_dir = "{directory}/cni"
[plugins."io.containerd.cri.v1.images"]
snapshotter = "{snapshotter}"
disable_snapshot_annotations = false
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{pause}"
[plugins."io.containerd.cri.v1.images".registry]
config_path = "{directory}/certs.d"
"""
# Where pods are not on the machine's network, they are on none: this says that all went well.
_NETWORK = """\
#!/bin/sh
test "$CNI_COMMAND" != ADD || echo '{"cniVersion": "1.0.0", "interfaces": [{"name": "eth0"}],
    "ips": [{"interface": 0, "address": "192.0.2.1/32"}]}'
test "$CNI_COMMAND" != VERSION || echo '{"cniVersion": "1.0.0", "supportedVersions": ["1.0.0"]}'
"""
_TRANSFER = """\
[plugins."io.containerd.transfer.v1.local"]
config_path = "{directory}/certs.d"
[[plugins."io.containerd.transfer.v1.local".unpack_config]]
platform = "linux/amd64"
snapshotter = "{snapshotter}"
"""
_PROXY = """\
[proxy_plugins.{name}]
type = "snapshot"
address = "{address}"
"""
_PROXY_2 = _PROXY + """\
capabilities = ["remap-ids"]
exports = {{ enable_remote_snapshot_annotations = "true" }}
"""


def configuration(directory, address, *, state=None, version=2, disabled=(*_UNUSED, _CRI)):
    """What any containerd here needs: it keeps everything in `directory`, but for its state."""
    return _COMMON.format(version=version, directory=directory, address=address,
                          state=state or os.path.join(directory, "state"),
                          disabled=", ".join(map(json.dumps, disabled)))


class Containerd:
    """Starts at once; stop() ends it, and all that runs in it.

    `pause`: the image of pods; with it there is CRI. `snapshotter`: what CRI uses.
    `proxies`: {name: socket} of snapshotters in other processes. `debian`: the NewerDebian in
    which it runs; `directory` is below what that shares. `plain`: registries without TLS.
    """

    def __init__(self, directory, *, pause=None, snapshotter="overlayfs", proxies=None,
                 debian=None, plain=()):
        self.directory = directory
        self.prefix = debian.prefix if debian else []
        self.visible_root = debian.root if debian else ""
        self.version = 3 if debian else 2  # of the configuration
        # Names of sockets are short, and the root of a user namespace must get at what is mounted
        # for it.
        self.sockets = tempfile.TemporaryDirectory(prefix="sluice-containerd-", dir="/tmp")
        os.chmod(self.sockets.name, 0o711)
        self.state = os.path.join(self.sockets.name, "state")
        self.address = os.path.join(self.sockets.name, "socket")
        self.cgroup = "/" + os.path.basename(self.sockets.name)
        self.configuration = os.path.join(directory, "config.toml")
        with open(self.configuration, "w", encoding="utf-8") as file:
            file.write(self._configure(pause, snapshotter, proxies or {}))
        self._write_network()
        self.allow_plain(*plain)
        self.log_path = os.path.join(directory, "log")
        self.process = None
        self.start()

    def _configure(self, pause, snapshotter, proxies):
        more = ""
        if pause:
            more += _CRI_1 if self.version == 2 else _CRI_2
        if self.version == 3:
            more += _TRANSFER
        proxy = _PROXY if self.version == 2 else _PROXY_2
        common = configuration(self.directory, self.address, state=self.state,
                               version=self.version,
                               disabled=_UNUSED if pause else [*_UNUSED, _CRI])
        more = more.format(directory=self.directory, pause=pause, snapshotter=snapshotter)
        return common + more + "".join(proxy.format(name=name, address=address)
                              for name, address in proxies.items())

    def _write_network(self):
        directory = os.path.join(self.directory, "cni")
        os.makedirs(directory, exist_ok=True)
        for name in ("none", "loopback"):
            with open(os.path.join(directory, name), "w", encoding="ascii") as file:
                file.write(_NETWORK)
            os.chmod(file.name, 0o755)
        with open(os.path.join(directory, "none.conf"), "w", encoding="ascii") as file:
            json.dump({"cniVersion": "1.0.0", "name": "none", "type": "none"}, file)

    def allow_plain(self, *registries):
        """Registries without TLS."""
        for name in registries:
            directory = os.path.join(self.directory, "certs.d", name)
            os.makedirs(directory, exist_ok=True)
            with open(os.path.join(directory, "hosts.toml"), "w", encoding="ascii") as file:
                file.write(f'server = "http://{name}"\n')

    def start(self):
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                [*self.prefix, "containerd", "--config", self.configuration],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise

    def _wait(self):
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and self.process.poll() is None:
            if self.ctr("version", check=False).returncode == 0:
                return
            time.sleep(0.1)
        raise RuntimeError("containerd did not start: " + self.log()[-2000:])

    def log(self):
        with open(self.log_path, encoding="utf-8", errors="replace") as log:
            return log.read()

    def ctr(self, *arguments, check=True, program="ctr"):
        """Runs ctr, or what is called like it; the finished process, with its output as text."""
        done = subprocess.run([*self.prefix, program, "--address", self.address, *arguments],
                              check=False, stdin=subprocess.DEVNULL, capture_output=True,
                              timeout=240, text=True, errors="backslashreplace")
        if check and done.returncode:
            raise RuntimeError(f"{program} {' '.join(arguments)}: {done.stdout}{done.stderr}")
        return done

    def pull(self, reference, snapshotter="overlayfs"):
        """Everything is fetched from a loopback registry and unpacked."""
        self.ctr("images", "pull", "--plain-http", "--snapshotter", snapshotter, reference)

    def run(self, reference, name, *command, snapshotter="overlayfs", options=(),
            namespace="default"):
        """What a container printed that ran to its end. (To runc, names are the machine's.) ctr may
        miss what comes through it from one that ends at once; a file gets all."""
        name += f"-{os.getpid()}"
        output = os.path.join(self.sockets.name, name + ".output")
        self.ctr("-n", namespace, "run", "--rm", "--cgroup", f"{self.cgroup}/{name}",
                 "--log-uri", f"file://{output}", "--snapshotter", snapshotter, *options,
                 reference, name, *command)
        with open(output, encoding="utf-8", errors="backslashreplace") as file:
            text = file.read()
        os.unlink(output)
        return text

    def mount(self, reference, directory):
        """The image's file tree, read-only."""
        self.ctr("images", "mount", "--snapshotter", "overlayfs", reference, directory)

    def unmount(self, directory):
        self.ctr("images", "unmount", directory)

    def leftovers(self):
        """What containers have left behind while containerd runs: [] once all were removed."""
        cgroups = [path for path in self._cgroups()
                   if os.path.dirname(path).endswith(self.cgroup)]
        return self._tasks() + mounts_under(self.state) + cgroups

    def restart(self):
        """Containers run meanwhile."""
        self._end_process()
        self.start()

    def stop(self):
        """At the latest the end of every container."""
        self.end()
        if not mounts_under(self.state):
            shutil.rmtree(self.sockets.name, ignore_errors=True)

    def end(self):
        """With every container, whose shims live on without it; it can be started again."""
        if self.process:
            self._end_process()
        for task in self._tasks():
            _end_task(task, self.visible_root)
        for path in sorted(self._cgroups(), key=len, reverse=True):
            _remove_cgroup(path)
        for point in mounts_under(self.state):
            subprocess.run(["umount", "--lazy", point], check=False)

    def _tasks(self):
        return glob.glob(f"{self.state}/io.containerd.runtime.v2.task/*/*")

    def _end_process(self):
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def _cgroups(self):
        """Directories of our cgroup, of every hierarchy."""
        mounts = ["/sys/fs/cgroup", *glob.glob("/sys/fs/cgroup/*/")]
        tops = {os.path.normpath(mount) + self.cgroup for mount in mounts}
        return [path for top in tops for path, _, _ in os.walk(top)]


def _end_task(task, visible_root):
    """The process of a container, and the shim beside it."""
    shim = None
    with contextlib.suppress(OSError, ValueError):
        with open(os.path.join(task, "shim.pid"), encoding="ascii") as file:
            shim = int(file.read())
    with contextlib.suppress(OSError, ValueError):
        with open(os.path.join(task, "init.pid"), encoding="ascii") as file:
            pid = int(file.read())
        shim = shim or _parent(pid)
        os.kill(pid, signal.SIGKILL)
    if shim and "containerd-shim" in _command(shim):
        with contextlib.suppress(ProcessLookupError):
            os.kill(shim, signal.SIGKILL)
    with contextlib.suppress(OSError):
        with open(os.path.join(task, "address"), encoding="utf-8") as file:
            os.unlink(visible_root + file.read().strip().removeprefix("unix://"))
    namespace, name = task.split("/")[-2:]
    shutil.rmtree(f"{visible_root}/run/containerd/runc/{namespace}/{name}", ignore_errors=True)


def _parent(pid):
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
        return int(file.read().rpartition(")")[2].split()[1])


def _command(pid):
    with contextlib.suppress(OSError):
        with open(f"/proc/{pid}/cmdline", encoding="utf-8", errors="replace") as file:
            return file.read()
    return ""


def _remove_cgroup(path):
    """Whoever is in it is being ended."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.rmdir(path)
            return
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(0.02)
