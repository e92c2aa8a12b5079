"""The manual, the completion and --help name the same commands and options."""

import os
import re

from tools import workplace
from tools.testcase import EndToEnd

COMMANDS = ("index", "inspect", "mount", "umount", "status")


def text_of(*path):
    with open(os.path.join(workplace.PROJECT, *path), encoding="utf-8") as file:
        return file.read()


class Manual(EndToEnd):
    """Read from the files of the source tree."""

    needs_mount = False

    def options_of(self, *command):
        return set(re.findall(r"--[a-z][a-z-]+", self.sluice(*command, "--help").stdout))

    def page(self, name):
        return text_of("docs/man", name + ".1").replace("\\-", "-")

    def test_each_option_is_in_the_manual_page(self):
        self.assertEqual({option for option in self.options_of() if option not in
                          self.page("sluice")}, set())
        for command in COMMANDS:
            with self.subTest(command):
                page = self.page("sluice-" + command)
                missing = {option for option in self.options_of(command) if option not in page}
                self.assertEqual(missing, set())

    def test_the_manual_page_names_no_other_option(self):
        for command in COMMANDS:
            with self.subTest(command):
                listed = set(re.findall(r"^\.(?:B|BI|BR).*?(--[a-z-]+)",
                                        self.page("sluice-" + command), re.MULTILINE))
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
