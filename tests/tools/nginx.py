"""nginx on a free loopback port, with a configuration and a directory of its own."""

import collections
import os
import shutil
import socket
import subprocess

# Everything that it writes is below the directory.
CONFIGURATION = """\
daemon off;
worker_processes 1;
{user}
pid {directory}/pid;
error_log {directory}/error.log warn;
events {{ worker_connections 512; }}
http {{
    log_format tests '$connection $server_protocol $status $request_method $request_uri';
    access_log {directory}/access.log tests;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    client_max_body_size 0;
    server {{
        listen 127.0.0.1:{port}{listen};
        {server}
        location / {{
            proxy_pass http://{upstream};
            proxy_http_version 1.1;
            proxy_set_header Host $http_host;
            {location}
        }}
    }}
}}
"""

PROGRAM = shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin")

# Blobs come from the registry's files ({storage}): nginx itself gives the ranges.
BLOBS_OF = """\
location ~ "/blobs/sha256:(..)([0-9a-f]{{62}})$" {{
    alias "{storage}/docker/registry/v2/blobs/sha256/$1/$1$2/data";
}}
"""

Request = collections.namedtuple("Request", "connection protocol status method uri")


class Nginx:
    """In front of `upstream` ("host:port"); starts at once. With `certificate` (and its key) it
    speaks TLS, with `http2` HTTP/2, with `clients` only to those whom this authority knows."""

    def __init__(self, directory, upstream, certificate=None, http2=False, clients=None,
                 location=""):
        os.makedirs(directory)
        self.directory = directory
        server = ""
        if certificate:
            server = f"ssl_certificate {certificate[0]}; ssl_certificate_key {certificate[1]};"
        if clients:
            server += f" ssl_client_certificate {clients}; ssl_verify_client on;"
        # A socket that listens already is handed over, so that the port is ours from the start.
        with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
            self.port = listener.getsockname()[1]
            path = os.path.join(directory, "nginx.conf")
            with open(path, "w", encoding="utf-8") as file:
                file.write(CONFIGURATION.format(
                    user="user root;" if os.geteuid() == 0 else "", directory=directory,
                    port=self.port, upstream=upstream, server=server,
                    listen=(" ssl" if certificate else "") + (" http2" if http2 else ""),
                    location=location))
            self.process = subprocess.Popen(
                [PROGRAM, "-p", directory, "-c", path, "-e", os.path.join(directory, "error.log")],
                env={"NGINX": f"{listener.fileno()};", "PATH": os.environ["PATH"]},
                pass_fds=[listener.fileno()], stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.name = f"127.0.0.1:{self.port}"

    def stop(self):
        if self.process:
            self.process.terminate()  # the worker goes with it
            self.process.wait()
            self.process = None

    def requests(self):
        with open(os.path.join(self.directory, "access.log"), encoding="utf-8") as log:
            return [Request(*line.split()) for line in log]

    def blob_requests(self):
        return [request for request in self.requests() if "/blobs/" in request.uri]
