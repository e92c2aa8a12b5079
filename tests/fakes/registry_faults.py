#!/usr/bin/python3
"""A registry with faults, for tests/unit/test_registry.c.

Usage: registry_faults.py LOG [CERTIFICATE KEY]

Listens on free ports of 127.0.0.1: a registry, another host (the storage that
blobs are redirected to), a token server, with a certificate a registry that
speaks TLS, and a mirror. Prints their ports in one line, then serves until it is
ended. The first part of the repository's name says what goes wrong, at the mirror
what comes before "/v2/": the same repository is well at one and ill at the other.
Every request becomes one line in LOG: host, method, path,
Authorization, Range, X-Own.
"""
import base64
import email.utils
import gzip
import hashlib
import http.server
import json
import re
import socket
import ssl
import struct
import sys
import threading
import time
import urllib.parse

from several_ranges import SeveralRanges

PATTERN = bytes((j * 7 + j // 256) & 0xff for j in range(65537))
INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def pattern(length):
    return (PATTERN * (length // len(PATTERN) + 1))[:length]


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


BLOBS = {digest(pattern(n)): pattern(n) for n in (300000, 6000000)}
BODY = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "layers": []}).encode()
INDEX_BODY = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [
    {"mediaType": MANIFEST, "digest": digest(BODY), "size": len(BODY)}]}).encode()

lock = threading.Lock()
counts = {}
tokens = {}
ports = {}
log = None


def count(key):
    """How often this was called for `key` before."""
    with lock:
        counts[key] = counts.get(key, 0) + 1
        return counts[key] - 1


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    role = "registry"

    def log_message(self, *args):
        pass

    def record(self):
        with lock:
            log.write("%s %s %s auth=%s range=%s own=%s\n" % (
                self.role, self.command, self.path, self.headers.get("Authorization", "-"),
                self.headers.get("Range", "-"), self.headers.get("X-Own", "-")))
            log.flush()

    def answer(self, status, body=b"", headers=(), length=None):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def error(self, status, code, headers=()):
        body = json.dumps({"errors": [{"code": code, "message": "the message of " + code}]})
        self.answer(status, body.encode(), [("Content-Type", "application/json"), *headers])

    def reset(self):
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def body(self):
        return self.rfile.read(int(self.headers.get("Content-Length", "0")))

    def serve_range(self, data, ranges=True):
        wanted = re.match(r"bytes=(\d+)-(\d+)$", self.headers.get("Range", ""))
        if not wanted or not ranges:
            return self.answer(200, data)
        first, last = int(wanted[1]), min(int(wanted[2]), len(data) - 1)
        if first >= len(data):
            return self.error(416, "RANGE")
        self.answer(206, data[first:last + 1],
                    [("Content-Range", "bytes %d-%d/%d" % (first, last, len(data)))])

    def do_GET(self):
        self.record()
        self.handle_request()

    do_HEAD = do_GET

    def do_POST(self):
        self.sent = self.body()
        self.record()
        self.handle_request()

    do_PUT = do_POST


class Registry(SeveralRanges, Handler):
    count = staticmethod(count)

    def blob(self):
        return BLOBS[self.target]

    def handle_request(self):
        path = urllib.parse.urlsplit(self.path).path
        parts = re.match(r"(?:/at/([^/]+))?/v2/(([^/]+)/.+?)/(manifests|blobs|referrers)/(.*)$",
                         path)
        if not parts:
            return self.error(404, "NAME_UNKNOWN")
        place, self.name, scenario, self.kind, self.target = parts.groups()
        scenario = place or scenario
        if "fault_" + scenario.replace("-", "_") not in dir(self):
            return self.error(404, "NAME_UNKNOWN")
        getattr(self, "fault_" + scenario.replace("-", "_"))()

    def good(self):
        if self.kind == "blobs" and self.target in BLOBS:
            return self.serve_range(BLOBS[self.target])
        if self.kind == "manifests" and (self.target in ("tag", digest(BODY))):
            return self.answer(200, BODY, [("Content-Type", MANIFEST + "; charset=utf-8"),
                                           ("Docker-Content-Digest", digest(BODY))])
        self.error(404, "BLOB_UNKNOWN" if self.kind == "blobs" else "MANIFEST_UNKNOWN")

    fault_good = good

    # --- authorization
    def challenge(self, text):
        self.error(401, "UNAUTHORIZED", [("WWW-Authenticate", text)])

    def bearer(self, service):
        self.challenge('Bearer realm="http://127.0.0.1:%d/token",service="%s",'
                       'scope="repository:%s:pull"' % (ports["token"], service, self.name))

    def fault_token(self):
        """Each token serves five requests: then it has ended, whatever was promised."""
        given = self.headers.get("Authorization", "")
        with lock:
            left = tokens.get(given[7:], 0)
            if left > 0:
                tokens[given[7:]] = left - 1
        return self.good() if left > 0 else self.bearer("anonymous")

    fault_token_shared = fault_token

    def fault_token_truncate(self):
        """A long answer takes several requests, and more of them than a token serves."""
        given = self.headers.get("Authorization", "")
        with lock:
            left = tokens.get(given[7:], 0)
            tokens[given[7:]] = max(left - 2, 0)
        return self.fault_truncate_often() if left > 0 else self.bearer("anonymous")

    def fault_token_user(self):
        return self.good() if self.headers.get("Authorization", "")[7:] in tokens \
            else self.bearer("user")

    def fault_token_identity(self):
        return self.good() if self.headers.get("Authorization", "")[7:] in tokens \
            else self.bearer("identity")

    def fault_token_given(self):
        """Only a token that was not had from the token server will do."""
        return self.good() if self.headers.get("Authorization") == "Bearer given" \
            else self.bearer("anonymous")

    def fault_token_brief(self):
        return self.good() if self.headers.get("Authorization", "")[7:] in tokens \
            else self.bearer("brief")

    def fault_token_useless(self):
        self.bearer("anonymous")

    def fault_token_away(self):
        return self.good() if self.headers.get("Authorization", "")[7:] in tokens \
            else self.bearer("away")

    def fault_token_broken(self):
        self.bearer(self.name.split("/")[1])

    def fault_basic(self):
        wanted = "Basic " + base64.b64encode(b"user:pass:word").decode()
        if self.headers.get("Authorization") == wanted:
            return self.good()
        self.challenge('Negotiate, Basic realm="a, \\"b\\""')

    def fault_basic_echo(self):
        given = self.headers.get("Authorization")
        if not given:
            return self.challenge('Basic realm="x"')
        text = base64.b64decode(given[6:]).decode()
        body = json.dumps({"errors": [{"code": "DENIED", "message": "you sent " + text + given}]})
        self.answer(403, body.encode(), [("Content-Type", "application/json")])

    def fault_forbidden(self):
        self.error(403, "DENIED")

    def fault_strange_challenge(self):
        self.challenge("Negotiate")

    # --- redirects
    def to_storage(self, signature):
        self.answer(307, b"<a>", [("Location", "http://127.0.0.1:%d/%s/%s?signature=%s" % (
            ports["storage"], self.name, self.target, signature))])

    def fault_redirect(self):
        wanted = "Basic " + base64.b64encode(b"user:pass:word").decode()
        if self.headers.get("Authorization") != wanted:
            return self.challenge("Basic realm=x")
        self.to_storage("secret%d" % count("signature" + self.name))

    def fault_redirect_head(self):
        if self.command == "HEAD":
            return self.to_storage("bad")
        self.good()

    def fault_redirect_refused(self):
        self.to_storage("bad")

    def fault_redirect_moved(self):
        self.to_storage("alive" if count("moved" + self.name) else "dying")

    def fault_redirect_loop(self):
        self.answer(302, b"", [("Location", self.path)])

    def fault_redirect_file(self):
        self.answer(302, b"", [("Location", "file:///etc/passwd")])

    def fault_redirect_user(self):
        self.answer(302, b"", [("Location", "http://a:b@127.0.0.1:%d/" % ports["storage"])])

    def fault_redirect_plain(self):
        self.answer(302, b"", [("Location", "http://127.0.0.1:%d/x?signature=s" %
                                ports["storage"])])

    # --- transport
    def fault_reset_once(self):
        return self.good() if count("reset" + self.path) else self.reset()

    def fault_reset(self):
        self.reset()

    def fault_truncate_once(self):
        if count("truncate" + self.path):
            return self.good()
        data = BLOBS[self.target]
        wanted = re.match(r"bytes=(\d+)-(\d+)$", self.headers.get("Range", ""))
        first, last = (int(wanted[1]), int(wanted[2])) if wanted else (0, len(data) - 1)
        self.answer(206 if wanted else 200, data[first:first + 1000],
                    [("Content-Range", "bytes %d-%d/%d" % (first, last, len(data)))],
                    length=last - first + 1)
        self.close_connection = True

    def fault_truncate_often(self):
        """A million bytes an answer."""
        data = BLOBS[self.target]
        wanted = re.match(r"bytes=(\d+)-(\d+)$", self.headers.get("Range", ""))
        first, last = (int(wanted[1]), int(wanted[2])) if wanted else (0, len(data) - 1)
        self.answer(206 if wanted else 200, data[first:min(first + 1000000, last + 1)],
                    [("Content-Range", "bytes %d-%d/%d" % (first, last, len(data)))],
                    length=last - first + 1)
        self.close_connection = True

    def fault_stall_once(self):
        if count("stall" + self.path):
            return self.good()
        self.fault_stall()

    def fault_stall(self):
        self.send_response(206)
        self.send_header("Content-Range", self.headers.get("Range", "").replace("=", " ") +
                         "/300000")
        first, last = re.match(r"bytes=(\d+)-(\d+)$", self.headers["Range"]).groups()
        self.send_header("Content-Length", str(int(last) - int(first) + 1))
        self.end_headers()
        self.wfile.write(pattern(300000)[int(first):int(first) + 1])
        time.sleep(600)

    def fault_silence(self):
        time.sleep(600)

    def fault_busy_once(self):
        if count("busy" + self.path):
            return self.good()
        self.error(429, "TOOMANYREQUESTS", [("Retry-After", "1")])

    def fault_busy_until(self):
        if count("busy" + self.path):
            return self.good()
        soon = email.utils.formatdate(time.time() + 2, usegmt=True)
        self.error(503, "UNAVAILABLE", [("Retry-After", soon)])

    def fault_busy_long(self):
        self.error(503, "UNAVAILABLE", [("Retry-After", "100000")])

    def fault_away_for_long(self):
        if count("away" + self.path) >= 5:
            return self.good()
        self.error(503, "UNAVAILABLE")

    def fault_failing(self):
        self.error(500, "UNKNOWN")

    def fault_headers(self):
        self.send_response(200)
        self.flush_headers()
        try:
            for i in range(100000):
                self.wfile.write(b"X-%d: %s\r\n" % (i, b"y" * 1000))
        except OSError:
            pass
        self.close_connection = True

    def fault_header_without_end(self):
        self.send_response(200)
        self.flush_headers()
        try:
            self.wfile.write(b"X: " + b"y" * 1000000)
        except OSError:
            pass
        self.close_connection = True

    def fault_garbage(self):
        self.wfile.write(b"\x00\xff\x13\r\n\r\n")
        self.close_connection = True

    # --- ranges and bodies
    def fault_ignores_ranges(self):
        self.serve_range(BLOBS[self.target], ranges=False)

    def fault_wrong_range_once(self):
        if count("wrong" + self.path):
            return self.good()
        self.fault_wrong_range()

    def fault_wrong_range(self):
        self.answer(206, b"x" * 100, [("Content-Range", "bytes 0-99/300000")])

    def fault_wrong_start(self):
        first, last = re.match(r"bytes=(\d+)-(\d+)$", self.headers["Range"]).groups()
        self.answer(206, b"x" * (int(last) - int(first) + 1), [
            ("Content-Range", "bytes %d-%s/300000" % (int(first) - 1, last))])

    def fault_multipart(self):
        self.answer(206, b"--x\r\nContent-Range: bytes 1000-5999/300000\r\n\r\n" + b"x" * 5000 +
                    b"\r\n--x--\r\n", [("Content-Type", "multipart/byteranges; boundary=x")])

    def fault_marked_as_gzip(self):
        first, last = map(int, re.match(r"bytes=(\d+)-(\d+)$", self.headers["Range"]).groups())
        self.answer(206, BLOBS[self.target][first:last + 1], [
            ("Content-Range", "bytes %d-%d/300000" % (first, last)), ("Content-Encoding", "gzip")])

    def fault_gzipped(self):
        first, last = map(int, re.match(r"bytes=(\d+)-(\d+)$", self.headers["Range"]).groups())
        self.answer(206, gzip.compress(BLOBS[self.target][first:last + 1]), [
            ("Content-Range", "bytes %d-%d/300000" % (first, last)), ("Content-Encoding", "gzip")])

    def fault_refuses_ranges(self):
        self.error(416, "RANGE")

    def fault_too_long(self):
        """More than was asked for, without saying how much."""
        first, last = map(int, re.match(r"bytes=(\d+)-(\d+)$", self.headers["Range"]).groups())
        self.send_response(206)
        self.send_header("Content-Range", "bytes %d-%d/300000" % (first, last))
        self.send_header("Connection", "close")
        self.end_headers()
        try:
            self.wfile.write(BLOBS[self.target][first:last + 1])
            while True:
                self.wfile.write(b"x" * 65536)
        except OSError:
            self.close_connection = True

    def fault_no_content_range(self):
        self.answer(206, b"x" * 100)

    def fault_short_whole(self):
        self.answer(200, b"x" * 50)

    def fault_other_bytes_once(self):
        return self.good() if count("other" + self.path) else self.answer(200, b"not it")

    def fault_flipped(self):
        data = bytearray(BLOBS[self.target])
        data[0] ^= 1
        self.serve_range(bytes(data))

    def fault_drip(self):
        """A byte now and then, so that the connection is never quite silent."""
        first, last = map(int, re.match(r"bytes=(\d+)-(\d+)$", self.headers["Range"]).groups())
        self.send_response(206)
        self.send_header("Content-Range", "bytes %d-%d/300000" % (first, last))
        self.send_header("Content-Length", str(last - first + 1))
        self.end_headers()
        try:
            for value in pattern(300000)[first:last + 1]:
                self.wfile.write(bytes([value]))
                time.sleep(0.05)
        except OSError:
            self.close_connection = True

    def fault_lacks(self):
        self.error(404, "BLOB_UNKNOWN")

    def fault_other_bytes(self):
        self.answer(200, b"not it", [("Content-Type", MANIFEST)])

    def fault_large(self):
        self.answer(200, b" " * (5 << 20), [("Content-Type", MANIFEST)])

    def fault_large_chunked(self):
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            while True:
                self.wfile.write(b"10000\r\n" + b" " * 65536 + b"\r\n")
        except OSError:
            self.close_connection = True

    def fault_proxy_page(self):
        self.answer(404, b"<html>default backend</html>", [("Content-Type", "text/html")])

    def fault_no_head(self):
        if self.command == "HEAD":
            return self.answer(405)
        self.good()

    def fault_silent_head(self):
        if self.command == "HEAD":
            return self.answer(200)
        self.good()

    # --- referrers
    def fault_referrers(self):
        if self.kind != "referrers":
            return self.error(404, "MANIFEST_UNKNOWN")
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
        headers = [("Content-Type", INDEX)]
        page = int(query.get("page", ["1"])[0])
        if "paged" in self.name and page < 3:
            headers.append(("Link", "</v2/%s/referrers/%s?page=%d>; rel=\"next\"" % (
                self.name, self.target, page + 1)))
        if "endless" in self.name:
            headers.append(("Link", "<%s>; rel=\"next\"" % self.path))
        body = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [
            {"digest": "page%d" % page, "artifactType": query.get("artifactType", ["-"])[0]}]})
        self.answer(200, body.encode(), headers)

    def fault_referrers_tag(self):
        if self.kind == "referrers":
            if "html" in self.name:
                return self.answer(200, b"<html>welcome</html>")
            return self.answer(404, b"404 page not found\n")
        if re.match(r"sha256-[0-9a-f]{64}$", self.target):
            body = b"{}" if "broken" in self.name else INDEX_BODY
            return self.answer(200, body, [("Content-Type", INDEX)])
        self.error(404, "MANIFEST_UNKNOWN")

    def fault_referrers_subject(self):
        """The fallback tag is taken for the digest."""
        if self.kind == "manifests":
            return self.answer(200, BODY, [("Content-Type", MANIFEST)])
        self.answer(404, b"404 page not found\n")

    def fault_referrers_none(self):
        self.error(404, "MANIFEST_UNKNOWN")

    # --- uploads
    def fault_upload_elsewhere(self):
        given = self.headers.get("Authorization")
        if not given:
            return self.challenge('Basic realm="x"')
        if self.command == "POST":
            return self.answer(202, b"", [("Location", "http://127.0.0.1:%d/upload?state=secret" %
                                           ports["storage"])])
        self.error(404, "BLOB_UNKNOWN")

    def fault_upload_reset(self):
        """Twice, because libcurl itself repeats what failed on a connection that it had kept."""
        if self.command == "POST":
            return self.answer(202, b"", [("Location", "/v2/%s/blobs/uploads/x?s=1" % self.name)])
        if self.command == "PUT":
            return self.answer(201) if count("put" + self.name) >= 2 else self.reset()
        self.error(404, "BLOB_UNKNOWN")

    def fault_upload_busy(self):
        self.error(404 if self.command == "HEAD" else 503, "UNAVAILABLE")

    def fault_manifest_met_another(self):
        if count("met" + self.name):
            return self.answer(201)
        self.error(400, "DIGEST_INVALID")

    def fault_upload_lost_answer(self):
        if self.command == "POST":
            return self.answer(202, b"", [("Location", "uploads/y")])
        if self.command == "PUT":
            return self.reset()
        self.answer(200)


class SecureRegistry(Registry):
    role = "secure"


class Mirror(Registry):
    role = "mirror"


class Storage(Handler):
    role = "storage"

    def handle_request(self):
        path, _, query = self.path.partition("?")
        if self.command == "PUT":
            return self.answer(201)
        name = path.rsplit("/", 1)[0].lstrip("/")
        if query.endswith("dying") and count("dying" + name):
            return self.reset()
        # The first signature serves three requests, the next ones all.
        ended = query.endswith("secret0") and count("storage" + name) >= 3
        if ended or "bad" in query:
            return self.answer(403, b"<Error>expired signature=" + query.encode() + b"</Error>")
        data = BLOBS.get(path.rsplit("/", 1)[1])
        return self.serve_range(data) if data else self.answer(404)


class Tokens(Handler):
    role = "token"

    def handle_request(self):
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
        if self.command == "POST":
            query = urllib.parse.parse_qs(self.sent.decode())
        service = query["service"][0]
        given = self.headers.get("Authorization", "")
        if service == "user" and given != \
                "Basic " + base64.b64encode(b"user:pass:word").decode():
            return self.error(401, "UNAUTHORIZED")
        if service == "identity" and query.get("refresh_token") != ["the identity"]:
            return self.error(401, "UNAUTHORIZED")
        if service == "garbage":
            return self.answer(200, b"{]")
        if service == "newline":
            return self.answer(200, json.dumps({"token": "a\r\nX-Injected: b"}).encode())
        if service == "large":
            return self.answer(200, b" " * (2 << 20))
        if service == "failing" or (service == "away" and count("token away") < 5):
            return self.error(500, "UNKNOWN")
        time.sleep(0.05)
        token = "issued-%d" % count("token")
        with lock:
            tokens[token] = 5
        lifetime = 3 if service == "brief" else 300
        key = "access_token" if service == "user" else "token"
        self.answer(200, json.dumps({key: token, "expires_in": lifetime}).encode())


def serve(role, handler, context=None):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    if context:
        server.socket = context.wrap_socket(server.socket, server_side=True,
                                            do_handshake_on_connect=False)
    server.handle_error = lambda *args: None
    ports[role] = server.server_address[1]
    threading.Thread(target=server.serve_forever, daemon=True).start()


def main():
    global log
    log = open(sys.argv[1], "w")
    serve("registry", Registry)
    serve("storage", Storage)
    serve("token", Tokens)
    serve("mirror", Mirror)
    ports["secure"] = 0
    if len(sys.argv) > 3:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(sys.argv[2], sys.argv[3])
        serve("secure", SecureRegistry, context)
    print(*(ports[role] for role in ("registry", "storage", "token", "secure", "mirror")),
          flush=True)
    sys.stdin.read()  # until the test closes it, or is gone


main()
