"""What kubelet says to containerd: images, pods and containers through CRI."""

import os
import time

import grpc

from tools import newer_debian
from tools.services import Definitions, Service, connect

_NODE = {"network": "NODE"}


def _ids_from(first):
    return [{"container_id": 0, "host_id": first, "length": 65536}]


class Cri:
    """A client of a Containerd with CRI. Pods are on the machine's own network, or, those in user
    namespaces, on none."""

    def __init__(self, containerd):
        self.cgroup = containerd.cgroup
        self.logs = os.path.join(containerd.directory, "pods")
        os.makedirs(self.logs, exist_ok=True)
        self.address = containerd.address
        self.definitions = Definitions("k8s.io/cri-api/pkg/apis/runtime/v1/api.proto",
                                       directories=[newer_debian.cri_definitions()])
        self.configurations = {}  # of pods, by their ids
        self.connect()

    def connect(self):
        """Again, when containerd was started anew."""
        self.channel = connect(self.address)
        self.images, self.runtime = (
            Service(self.channel, self.definitions, f"runtime.v1.{name}Service")
            for name in ("Image", "Runtime"))
        deadline = time.monotonic() + 120
        while (problem := self._problem()) and time.monotonic() < deadline:
            time.sleep(0.05)
        if problem:
            raise RuntimeError(f"CRI did not start: {problem}")

    def _problem(self):
        """CRI is there later than containerd."""
        try:
            self.runtime.call("ListPodSandbox")
        except grpc.RpcError as error:
            return error.details()
        return None

    def close(self):
        self.channel.close()

    # ---- images ----

    def pull(self, reference, **credentials):
        """The id of the image; `credentials`: username and password."""
        return self.images.call("PullImage", image={"image": reference},
                                auth=credentials or None).image_ref

    def image_references(self):
        return {tag for image in self.images.call("ListImages").images for tag in image.repo_tags}

    def remove_image(self, reference):
        self.images.call("RemoveImage", image={"image": reference})

    # ---- pods ----

    def run_pod(self, name, mapped=None):
        """`mapped`: which user and group of the machine its root is."""
        namespaces = _NODE
        if mapped:
            users, groups = map(_ids_from, mapped)
            namespaces = {"network": "POD", "userns_options": {"mode": "POD", "uids": users,
                                                               "gids": groups}}
        configuration = {
            "metadata": {"name": name, "uid": name, "namespace": "tests"},
            "log_directory": os.path.join(self.logs, name),
            "linux": {"cgroup_parent": self.cgroup,
                      "security_context": {"namespace_options": namespaces}},
        }
        os.makedirs(configuration["log_directory"], exist_ok=True)
        pod = self.runtime.call("RunPodSandbox", config=configuration).pod_sandbox_id
        self.configurations[pod] = configuration
        return pod

    def remove_pod(self, pod):
        """With its containers."""
        self.runtime.call("StopPodSandbox", pod_sandbox_id=pod)
        self.runtime.call("RemovePodSandbox", pod_sandbox_id=pod)
        self.configurations.pop(pod, None)

    def remove_all_pods(self):
        for pod in self.runtime.call("ListPodSandbox").items:
            self.remove_pod(pod.id)

    # ---- containers ----

    def create(self, pod, name, reference, *command):
        """A container of a pod that does not run yet; its id."""
        security = self.configurations[pod]["linux"]["security_context"]
        return self.runtime.call(
            "CreateContainer", pod_sandbox_id=pod, sandbox_config=self.configurations[pod],
            config={"metadata": {"name": name}, "image": {"image": reference},
                    "command": command, "log_path": name + ".log",
                    "linux": {"security_context": security}}).container_id

    def start(self, pod, name, reference, *command):
        container = self.create(pod, name, reference, *command)
        self.start_created(container)
        return container

    def start_created(self, container):
        self.runtime.call("StartContainer", container_id=container)

    def run(self, pod, name, reference, *command, seconds=120):
        """(exit code, output) of a container that ends by itself."""
        container = self.start(pod, name, reference, *command)
        deadline = time.monotonic() + seconds
        while (status := self.status(container)).finished_at == 0:
            if time.monotonic() > deadline:
                raise TimeoutError(f"container {name} does not end in {seconds} s")
            time.sleep(0.05)
        return status.exit_code, self._output(status.log_path)

    def status(self, container):
        return self.runtime.call("ContainerStatus", container_id=container).status

    def execute(self, container, *command):
        """(exit code, output) of a command in a running container."""
        done = self.runtime.call("ExecSync", container_id=container, cmd=command, timeout=60)
        return done.exit_code, (done.stdout + done.stderr).decode(errors="backslashreplace")

    def output(self, container):
        """What it has printed so far."""
        return self._output(self.status(container).log_path)

    def stop(self, container):
        """Its status after it was told to end."""
        self.runtime.call("StopContainer", container_id=container, timeout=60)
        return self.status(container)

    def remove(self, container):
        self.runtime.call("StopContainer", container_id=container, timeout=2)
        self.runtime.call("RemoveContainer", container_id=container)

    @staticmethod
    def _output(path):
        """A log has a time, a stream and whether the line is whole before what was printed."""
        with open(path, encoding="utf-8", errors="backslashreplace") as file:
            lines = [line.split(" ", 3) for line in file]
        return "".join(text if mark == "F" else text.rstrip("\n") for _, _, mark, text in lines)
