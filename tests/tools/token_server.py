"""An issuer of registry tokens: https://distribution.github.io/distribution/spec/auth/token/"""

import base64
import http.server
import json
import os
import subprocess
import threading
import time
import urllib.parse


def make_key(directory):
    """A key and its self-signed certificate as (key path, certificate path)."""
    key = os.path.join(directory, "token.key")
    certificate = os.path.join(directory, "token.crt")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30",
                    "-subj", "/CN=tests", "-keyout", key, "-out", certificate],
                   check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return key, certificate


def _base64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=")


class TokenServer:
    """Gives tokens for what is asked: to everybody to pull, to one user to push."""

    def __init__(self, key, certificate, user, password, lifetime=60):
        self.key = key
        der = subprocess.run(["openssl", "x509", "-in", certificate, "-outform", "DER"],
                             stdout=subprocess.PIPE, check=True).stdout
        self.chain = [base64.b64encode(der).decode()]
        self.basic = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
        self.user = user
        self.lifetime = lifetime
        self.asked = []  # (scopes, user or None)
        self.given = []  # tokens
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        self._server.issuer = self
        self.realm = "http://127.0.0.1:%d/token" % self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()

    def token(self, service, scopes, user):
        access = []
        for scope in scopes:
            kind, name, actions = scope.split(":", 2)
            allowed = [action for action in actions.split(",") if user or action == "pull"]
            access.append({"type": kind, "name": name, "actions": allowed})
        now = int(time.time())
        header = {"typ": "JWT", "alg": "RS256", "x5c": self.chain}
        claims = {"iss": "tests", "sub": user or "", "aud": service, "exp": now + self.lifetime,
                  "nbf": now - 10, "iat": now, "jti": str(time.monotonic_ns()), "access": access}
        signed = b".".join(_base64(json.dumps(part).encode()) for part in (header, claims))
        signature = subprocess.run(["openssl", "dgst", "-sha256", "-sign", self.key],
                                   input=signed, stdout=subprocess.PIPE, check=True).stdout
        token = b".".join((signed, _base64(signature))).decode()
        self.given.append(token)
        return token


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):  # pylint: disable=arguments-differ
        """Nothing: the test asks for `asked`."""

    def do_GET(self):
        issuer = self.server.issuer
        given = self.headers.get("Authorization")
        if given not in (None, issuer.basic):
            self._answer(401, {"errors": [{"code": "UNAUTHORIZED"}]})
            return
        user = issuer.user if given else None
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
        scopes = " ".join(query.get("scope", [])).split()
        issuer.asked.append((scopes, user))
        token = issuer.token(query.get("service", [""])[0], scopes, user)
        self._answer(200, {"token": token, "expires_in": issuer.lifetime})

    def _answer(self, status, value):
        data = json.dumps(value).encode()
        self.send_response_only(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
