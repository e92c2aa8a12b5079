"""sluiced's configuration, as people get it wrong: one line that names what is wrong, and exit code
2; nothing is made, and nothing started."""

import os
import subprocess

from tools import workplace
from tools.testcase import EndToEnd

_ANY = ("-1", "1.5", "nan", "99999999999999999999", "[]", "{}", "{a=1}", "[[1]]", "2020-01-01")
_TEXTS = _ANY + ("5", "true")
_PATHS = _TEXTS + ("'relative'", "'../up'", '"/x\\u0000y"')
_SOCKETS = _PATHS + ("'/'", "'/%s'" % ("x" * 107))
_WORDS = _TEXTS + ("''", "'other'", "'OFF'")
_FLAGS = tuple(value for value in _ANY if value != "true") + ("5", "'true'", "''")
_DURATIONS = _TEXTS + ("''", "'5'", "'5 s'", "'-5s'", "'99999999999999999999s'", "'1s1'")
_SIZES = ("-1", "1.5", "nan", "99999999999999999999", "[]", "{}", "true", "''", "'x'", "'-5'",
          "'18446744073709551616'", "'99999999999TiB'")
_KEYS = {
    "root": _PATHS, "address": _SOCKETS, "log.level": _WORDS, "log.format": _WORDS,
    "snapshots.remap_ids": _FLAGS, "lazy.enabled": _FLAGS, "lazy.profile": _FLAGS,
    "snapshots.mount_options": ("5", "true", "''", "'volatile'", "{}", "['']", "[['a']]", "[5]"),
    "cache.directory": _PATHS, "cache.size": _SIZES + ("5",),
    "cache.reserve": _SIZES + ("5", "'101%'", "'-5%'", "'nan%'"),
    "registry.config_path": _PATHS, "lazy.trust": _WORDS, "lazy.front": _WORDS,
    "lazy.fill": _WORDS, "lazy.budget": _DURATIONS, "lazy.retry_after": _DURATIONS,
    "credentials.keep": _DURATIONS, "lazy.read_timeout": _DURATIONS + ("'0s'", "'1h'"),
    "lazy.prefetch_limit": _SIZES, "lazy.fill_rate": _SIZES, "holder.socket": _SOCKETS,
    "credentials.image_service": _SOCKETS, "credentials.containerd": _SOCKETS,
    "credentials.provider_config": _PATHS, "credentials.provider_directory": _PATHS,
    "metrics.images": _FLAGS,
    "metrics.address": _ANY[:8] + ("'x'", "':0'", "'127.0.0.1:65536'", "'localhost:80'", "'::1:'"),
}
_FILES = {
    "lazi = 1": "lazi", "[lazi]\na = 1": "lazi", "[lazy]\nenable = true": "lazy.enable",
    "lazy = 5": "lazy", "[[lazy]]\nenabled = true": "lazy", "[lazy.more]\na = 1": "lazy.more",
    "[lazy]\n[lazy]": "line 2", "root = '/a'\nroot = '/b'": "line 2", "root": "line 1",
    "[log]\nlevel = 'info'\n[log]\nformat = 'text'": "line 3", "\xff\xfe": "line 1",
    "root = " + "[" * 100000: "line 1", "+=": "line 1",
}


class Configuration(EndToEnd):
    needs_mount = False

    def expect_refusal(self, text, *words, options=()):
        path = os.path.join(self.directory, "config.toml")
        with open(path, "w", encoding="latin-1") as file:
            file.write(text)
        root = os.path.join(self.directory, "root")
        done = subprocess.run(
            [workplace.SLUICED, "--config", path, "--root", root, "--address",
             os.path.join(self.directory, "socket"), *options], env=self.environment,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=60,
            check=False)
        self.assertEqual((2, ""), (done.returncode, done.stdout), f"{text[:200]}\n{done.stderr}")
        self.assertEqual(1, done.stderr.count("\n"), f"{text[:200]}\n{done.stderr}")
        for word in words:
            self.assertIn(word, done.stderr, text[:200])
        self.assertLess(len(done.stderr), 1000)
        self.assertFalse(os.path.exists(root))

    @staticmethod
    def place(key, value, line):
        """What is no TOML is told by its line."""
        return f"line {line}: " if value[0] == '"' or len(value) == 20 else key + ": "

    def test_values(self):
        for key, values in _KEYS.items():
            table, _, name = key.rpartition(".")
            for value in values:
                self.expect_refusal((f"[{table}]\n" if table else "") + f"{name} = {value}\n",
                                    "configuration '", self.place(key, value, 2 if table else 1))

    def test_files(self):
        for text, word in _FILES.items():
            self.expect_refusal(text, "configuration '", word)

    def test_options(self):
        self.expect_refusal("", "no-such-file", options=("--config", "/no-such-file"))
        self.expect_refusal("", "--root", "absolute", options=("--root", "relative"))
        self.expect_refusal("", "--address", "absolute", options=("--address", "relative"))
        self.expect_refusal("", "level", options=("--log-level", "loud"))

    def test_check(self):
        """Says the same without a start."""
        self.expect_refusal("lazy = 5", "lazy", options=("--check",))
        path = os.path.join(self.directory, "right.toml")
        root = os.path.join(self.directory, "root")
        with open(path, "w", encoding="utf-8") as file:
            file.write("[cache]\nsize = '5G'\n")
        done = subprocess.run([workplace.SLUICED, "--check", "--config", path, "--root", root],
                              env=self.environment, stdin=subprocess.DEVNULL, capture_output=True,
                              text=True, timeout=60, check=False)
        self.assertEqual((0, "", ""), (done.returncode, done.stdout, done.stderr))
        self.assertFalse(os.path.exists(root))
