"""The manual, the completion and --help name the same commands and options."""

import json
import os
import re

from tools import images, workplace
from tools.testcase import EndToEnd, fields_of

COMMANDS = ("index", "inspect", "profile", "mount", "umount", "status", "cache", "convert",
            "fetch")


def text_of(*path):
    with open(os.path.join(workplace.PROJECT, *path), encoding="utf-8") as file:
        return file.read()


def page(name):
    return text_of("docs/man", name + ".1").replace("\\-", "-")


class Manual(EndToEnd):
    """Read from the files of the source tree."""

    needs_mount = False

    def options_of(self, *command):
        return set(re.findall(r"--[a-z][a-z-]+", self.sluice(*command, "--help").stdout))

    def test_each_option_is_in_the_manual_page(self):
        self.assertEqual({option for option in self.options_of() if option not in
                          page("sluice")}, set())
        for command in COMMANDS:
            with self.subTest(command):
                text = page("sluice-" + command)
                missing = {option for option in self.options_of(command) if option not in text}
                self.assertEqual(missing, set())

    def test_the_manual_page_names_no_other_option(self):
        for command in COMMANDS:
            with self.subTest(command):
                listed = set(re.findall(r"^\.(?:B|BI|BR).*?(--[a-z-]+)",
                                        page("sluice-" + command), re.MULTILINE))
                self.assertEqual(listed - self.options_of(command) - {"--help"}, set())

    def test_the_completion_knows_each_option(self):
        completion = text_of("packaging/completion/sluice.bash")
        for command in COMMANDS:
            with self.subTest(command):
                words = re.search(rf"^    {command}\)\s+options='([^']*)'", completion,
                                  re.MULTILINE)[1]
                self.assertEqual(self.options_of(command) - set(words.split()), set())

    def test_each_command_is_in_the_overview(self):
        overview = self.sluice("--help").stdout
        for command in COMMANDS:
            self.assertRegex(overview, rf"(?m)^  {command} ")


class ManualOfJson(EndToEnd):
    """What --json prints is described."""

    def test_each_field_is_in_the_manual_page(self):
        image = images.small()
        reference = self.push(image.layout, image.tag, "small")
        texts = {"index": self.sluice("index", "--json", reference).stdout,
                 "inspect": self.sluice("inspect", "--json", reference).stdout}
        record = os.path.join(self.directory, "record")
        self.unmount(self.mount(reference, "--record", record, name="recording"))
        texts["profile"] = self.sluice("profile", "--json", "--from", record, reference).stdout
        texts["inspect"] = self.sluice("inspect", "--profile", "--json", reference).stdout
        point = self.mount(reference, cache=self.cache + "-fresh")
        self.wait_until(lambda: "chunks" in self.status(point)["profile"], "the profile is played")
        texts["status"] = self.sluice("status", "--json", point).stdout
        texts["cache"] = self.sluice("cache", "ls", "--json", "--cache", self.cache).stdout
        self.unmount(point)
        texts["convert"] = self.sluice("convert", "--json", "--level", 1, reference,
                                       self.reference("small", "converted")).stdout
        for command, text in texts.items():
            with self.subTest(command):
                words = set(re.findall(r"\w+", page("sluice-" + command)))
                self.assertEqual(fields_of(json.loads(text)) - words, set())
