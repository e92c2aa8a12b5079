"""A docker-registry on a free loopback port with a storage directory of its own, and its client."""

import base64
import contextlib
import http.client
import json
import os
import re
import socket
import subprocess
import tempfile
import time
import urllib.parse

from tools.layout import IMAGE_INDEX, MANIFEST

WITHOUT_SYNC = os.path.join(os.path.dirname(os.path.abspath(__file__)), "without_sync.py")

CONFIGURATION = """\
version: 0.1
log: {{level: info, formatter: text}}
storage:
  filesystem: {{rootdirectory: {storage}}}
  delete: {{enabled: true}}
  redirect: {{disable: true}}
http: {{addr: "127.0.0.1:{port}", relativeurls: true{tls}}}
{auth}
"""


class Registry:
    """Starts at once; stop() and start() keep storage and port. `tls`: (certificate, key). Where it
    `syncs`, a push is answered when it is on disk: on a busy one, that takes minutes."""

    def __init__(self, directory, auth="", storage=None, tls=None, syncs=False):
        self.directory = directory
        self.storage = storage or os.path.join(directory, "storage")
        os.makedirs(self.storage, exist_ok=True)
        self.auth = auth
        self.tls = ", tls: {certificate: %s, key: %s}" % tls if tls else ""
        self.command = [] if syncs else ["/usr/bin/python3", WITHOUT_SYNC]
        self.port = 0
        self.kept_port = None
        self.process = None
        self.start()

    @property
    def name(self):
        return f"127.0.0.1:{self.port}"

    def start(self):
        path = os.path.join(self.directory, "config.yml")
        with open(path, "w", encoding="utf-8") as file:
            file.write(CONFIGURATION.format(storage=self.storage, port=self.port, auth=self.auth,
                                            tls=self.tls))
        self.log_path = os.path.join(self.directory, "log")
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen([*self.command, "docker-registry", "serve", path],
                                            stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        try:
            self.port = self._wait_for_port()
        except BaseException:
            self.stop()
            raise
        if self.kept_port:
            self.kept_port.close()
            self.kept_port = None

    def _wait_for_port(self):
        """The registry chooses a free port itself and tells it in its log."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and self.process.poll() is None:
            with open(self.log_path, encoding="utf-8", errors="replace") as log:
                found = re.search(r"listening on 127\.0\.0\.1:(\d+)", log.read())
            if found:
                return int(found[1])
            time.sleep(0.05)
        with open(self.log_path, encoding="utf-8", errors="replace") as log:
            raise RuntimeError("docker-registry did not start: " + log.read()[-2000:])

    def stop(self):
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None
            self._keep_port()

    def _keep_port(self):
        """Nobody listens there, and the kernel gives it to nobody else."""
        if self.port and not self.kept_port:
            self.kept_port = socket.socket()
            self.kept_port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.kept_port.bind(("127.0.0.1", self.port))

    def blob_file(self, digest):
        """Where the registry keeps the bytes of a blob."""
        algorithm, name = digest.split(":")
        return os.path.join(self.storage, "docker/registry/v2/blobs", algorithm, name[:2], name,
                            "data")


class Client:
    """The few requests that tests make of a registry themselves."""

    def __init__(self, registry_name, credentials=None):
        self.connection = http.client.HTTPConnection(registry_name, timeout=60)
        self.headers = {}
        if credentials:
            token = base64.b64encode(":".join(credentials).encode()).decode()
            self.headers["Authorization"] = "Basic " + token

    def close(self):
        self.connection.close()

    def request(self, method, path, body=None, headers=None):
        self.connection.request(method, path, body, {**self.headers, **(headers or {})})
        answer = self.connection.getresponse()
        data = answer.read()
        return answer, data

    def expect(self, status, method, path, body=None, headers=None):
        answer, data = self.request(method, path, body, headers)
        if answer.status != status:
            raise RuntimeError(f"{method} {path}: {answer.status} {data[:500]!r}")
        return answer, data

    def push_blob(self, repository, digest, data, length):
        answer, _ = self.request("HEAD", f"/v2/{repository}/blobs/{digest}")
        if answer.status == 200:
            return
        answer, _ = self.expect(202, "POST", f"/v2/{repository}/blobs/uploads/",
                                headers={"Content-Length": "0"})
        place = urllib.parse.urlsplit(answer.headers["Location"])
        query = "&".join(part for part in (place.query, "digest=" + digest) if part)
        self.expect(201, "PUT", f"{place.path}?{query}", data,
                    {"Content-Length": str(length), "Content-Type": "application/octet-stream"})

    def push_manifest(self, repository, target, media_type, data):
        self.expect(201, "PUT", f"/v2/{repository}/manifests/{target}", data,
                    {"Content-Type": media_type})

    def manifest(self, repository, target):
        """(body, headers) or None when the registry has none."""
        answer, data = self.request("GET", f"/v2/{repository}/manifests/{target}",
                                    headers={"Accept": f"{MANIFEST}, {IMAGE_INDEX}"})
        if answer.status == 404:
            return None
        if answer.status != 200:
            raise RuntimeError(f"manifest {repository}:{target}: {answer.status} {data[:500]!r}")
        return data, answer.headers

    def manifest_digest(self, repository, target):
        return self.manifest(repository, target)[1]["Docker-Content-Digest"]

    def blob(self, repository, digest):
        return self.expect(200, "GET", f"/v2/{repository}/blobs/{digest}")[1]

    def has_blob(self, repository, digest):
        return self.request("HEAD", f"/v2/{repository}/blobs/{digest}")[0].status == 200

    def tags(self, repository):
        return json.loads(self.expect(200, "GET", f"/v2/{repository}/tags/list")[1])["tags"] or []


def push(layout, descriptor, registry_name, repository, tag, credentials=None):
    """Copies an image of a layout, bytes unchanged, to repository:tag."""
    with contextlib.closing(Client(registry_name, credentials)) as client:
        _push_manifest(client, layout, descriptor, repository, tag)


def _push_manifest(client, layout, descriptor, repository, target):
    body = layout.blob(descriptor["digest"])
    manifest = json.loads(body)
    for child in manifest.get("manifests", []):
        _push_manifest(client, layout, child, repository, child["digest"])
    parts = manifest.get("layers", []) + ([manifest["config"]] if "config" in manifest else [])
    for blob in parts:
        with open(layout.blob_path(blob["digest"]), "rb") as file:
            client.push_blob(repository, blob["digest"], file, blob["size"])
    client.push_manifest(repository, target, descriptor["mediaType"], body)


def htpasswd_auth(directory, user, password):
    """The `auth` section for basic authentication."""
    path = os.path.join(directory, "htpasswd")
    line = subprocess.run(["htpasswd", "-niB", user], input=password.encode(),
                          stdout=subprocess.PIPE, check=True).stdout
    with open(path, "wb") as file:
        file.write(line)
    return f"auth: {{htpasswd: {{realm: tests, path: {path}}}}}"


def token_auth(certificate, realm, service="registry"):
    """The `auth` section for bearer tokens issued at URL `realm`."""
    return (f"auth: {{token: {{realm: '{realm}', service: {service}, issuer: tests, "
            f"rootcertbundle: {certificate}}}}}")


def write_docker_config(directory, registry_name, user=None, password=None, helper=None):
    """A docker configuration with the credentials of one registry; returns its directory."""
    directory = tempfile.mkdtemp(prefix="docker-", dir=directory)
    if helper:
        config = {"credHelpers": {registry_name: helper}}
    else:
        secret = base64.b64encode(f"{user}:{password}".encode()).decode()
        config = {"auths": {registry_name: {"auth": secret}}}
    with open(os.path.join(directory, "config.json"), "w", encoding="utf-8") as file:
        json.dump(config, file)
    return directory
