"""A certificate authority of the tests' own, made with openssl."""

import os
import subprocess


class Authority:
    """`certificate` is its own; issue() makes certificates for the loopback and for `names`, or
    for a client."""

    def __init__(self, directory, names=()):
        os.makedirs(directory, exist_ok=True)
        self.directory = directory
        self.names = names
        self.key = os.path.join(directory, "authority.key")
        self.certificate = os.path.join(directory, "authority.crt")
        self._openssl("req", "-x509", *self._new_key(self.key), "-days", "2",
                      "-subj", "/CN=authority of the tests", "-out", self.certificate)

    def issue(self, name):
        """(certificate path, key path)"""
        key = os.path.join(self.directory, name + ".key")
        request = os.path.join(self.directory, name + ".csr")
        certificate = os.path.join(self.directory, name + ".cert")
        extensions = os.path.join(self.directory, name + ".ext")
        # 0.0.0.0 leads to this machine, too, and is no loopback address by name.
        with open(extensions, "w", encoding="ascii") as file:
            names = ["IP:127.0.0.1", "IP:0.0.0.0", *("DNS:" + name for name in self.names)]
            file.write(f"subjectAltName={','.join(names)}\n")
        self._openssl("req", *self._new_key(key), "-subj", "/CN=" + name, "-out", request)
        self._openssl("x509", "-req", "-in", request, "-CA", self.certificate, "-CAkey", self.key,
                      "-CAcreateserial", "-days", "2", "-extfile", extensions, "-out", certificate)
        return certificate, key

    @staticmethod
    def _new_key(path):
        return ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                "-keyout", path)

    @staticmethod
    def _openssl(*arguments):
        subprocess.run(["openssl", *arguments], check=True, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL)
