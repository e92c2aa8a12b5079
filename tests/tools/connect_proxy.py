"""A forward proxy on loopback that knows CONNECT only, and counts."""

import http.server
import select
import socket
import threading


class ConnectProxy:
    """`connects` lists where it was asked to connect to ("host:port")."""

    def __init__(self):
        self.connects = []
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        self._server.proxy = self
        self.url = "http://127.0.0.1:%d" % self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):  # pylint: disable=arguments-differ
        """Nothing: the test asks for `connects`."""

    def do_CONNECT(self):
        self.server.proxy.connects.append(self.path)
        host, port = self.path.rsplit(":", 1)
        with socket.create_connection((host, int(port))) as onward:
            self.send_response_only(200)
            self.end_headers()
            self._pass_on(onward)
        self.close_connection = True

    def _pass_on(self, onward):
        other = {self.connection: onward, onward: self.connection}
        while True:
            for ready in select.select(list(other), [], [])[0]:
                try:
                    data = ready.recv(65536)
                except OSError:
                    return
                if not data:
                    return
                other[ready].sendall(data)
