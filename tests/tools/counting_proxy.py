"""A reverse proxy on loopback that counts what passes, and can misbehave on request.

Runs in threads of the test's own process.
"""

import collections
import http.client
import http.server
import re
import threading

_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade"}
_BLOB = re.compile(r"/v2/(.+)/blobs/(sha256:[0-9a-f]{64})$")

Request = collections.namedtuple("Request", "method path range status length")


class CountingProxy:
    """`requests` lists what was answered, in order, with the bytes of each answer's body."""

    def __init__(self, upstream, handler=None):
        self.upstream = upstream  # "host:port"
        self.redirect_blobs_to = None  # "host:port" of another proxy, for blob GETs
        self.hold_blobs = threading.Event()  # while clear, blob answers wait
        self.hold_blobs.set()
        self.requests = []
        self.headers_seen = []
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), handler or ProxyHandler)
        self._server.proxy = self
        self.name = "127.0.0.1:%d" % self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,),
                                        daemon=True)
        self._thread.start()

    def close(self):
        self.hold_blobs.set()
        self._server.shutdown()
        self._server.server_close()

    def record(self, request, headers):
        with self._lock:
            self.requests.append(request)
            self.headers_seen.append(headers)

    def forget(self):
        with self._lock:
            self.requests.clear()
            self.headers_seen.clear()

    def blob_requests(self, digest=None):
        """The GETs of blobs, or of one blob."""
        with self._lock:
            asked = [request for request in self.requests if request.method == "GET"]
        found = [(request, _BLOB.search(request.path)) for request in asked]
        return [request for request, blob in found if blob and digest in (None, blob[2])]

    def blob_bytes(self, digest=None):
        return sum(request.length for request in self.blob_requests(digest))


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request, client_address):
        """A client that hangs up in the middle is no news."""


class ProxyHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def setup(self):
        super().setup()
        self.onward = None

    def finish(self):
        if self.onward:
            self.onward.close()
        super().finish()

    def log_message(self, *_):  # pylint: disable=arguments-differ
        """Nothing: the counters tell."""

    def _body(self):
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            data = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return data
        length = int(self.headers.get("Content-Length", 0))
        return self.rfile.read(length) if length else None

    def _serve(self):
        proxy = self.server.proxy
        body = self._body()
        path = self.path.split("?")[0]
        is_blob = self.command == "GET" and _BLOB.search(path)
        if is_blob:
            proxy.hold_blobs.wait()
            if proxy.redirect_blobs_to:
                self._redirect(proxy)
                return
        answer, data = self.forward(proxy, body)
        proxy.record(Request(self.command, path, self.headers.get("Range"), answer.status,
                             len(data)), dict(self.headers))
        length = answer.getheader("Content-Length", "0") if self.command == "HEAD" else len(data)
        self.reply(answer.status, [*answer.getheaders(), ("Content-Length", str(length))], data)

    def reply(self, status, headers, data):
        """Sends the answer; those who damage it override this. The last length holds."""
        lengths = [value for key, value in headers if key.lower() == "content-length"]
        self.send_response_only(status)
        for key, value in headers:
            if key.lower() not in _HOP_BY_HOP | {"content-length"}:
                self.send_header(key, value)
        self.send_header("Content-Length", lengths[-1])
        self.end_headers()
        self.wfile.write(data)

    def forward(self, proxy, body):
        """What the registry answers, and the bytes; those who change it override this."""
        headers = {key: ", ".join(self.headers.get_all(key)) for key in self.headers
                   if key.lower() not in _HOP_BY_HOP}
        if body is not None:
            headers["Content-Length"] = str(len(body))
        try:
            if not self.onward:
                self.onward = http.client.HTTPConnection(proxy.upstream, timeout=60)
            self.onward.request(self.command, self.path, body, headers)
            answer = self.onward.getresponse()
            return answer, answer.read()
        except OSError:
            # What a client sees when the registry behind a load balancer is gone.
            self.onward = None
            self.close_connection = True
            raise

    def _redirect(self, proxy):
        proxy.record(Request(self.command, self.path, self.headers.get("Range"), 307, 0),
                     dict(self.headers))
        self.send_response_only(307)
        self.send_header("Location", f"http://{proxy.redirect_blobs_to}{self.path}?signature=s3cr3t")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _serve
