/* `sluice`: the command for people and for CI. */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "deploytool/command.h"
#include "node/broker.h"

static const struct command *const commands[] = {
    &index_command, &inspect_command, &mount_command,   &umount_command, &status_command,
    &cache_command, &profile_command, &convert_command, &fetch_command
};
#define COMMAND_COUNT (sizeof commands / sizeof *commands)

static void print_help(FILE *to)
{
    fputs("usage: sluice [-v] COMMAND ...\n\n"
          "Containers that start before their image has arrived: mounts an OCI image from an\n"
          "index of a few megabytes and fetches only what is read.\n\n",
          to);
    for (size_t i = 0; i < COMMAND_COUNT; i++)
        fprintf(to, "  %-8s %-10s %s\n", commands[i]->name, commands[i]->arguments,
                commands[i]->summary);
    fputs("\n  -v, --verbose  tell more (twice: debug)\n"
          "  --version      print the version\n"
          "  -h, --help     this text; 'sluice COMMAND --help' for a command\n\n"
          "example: sluice index localhost:5000/python:3.11 &&\n"
          "         sluice mount localhost:5000/python:3.11 /mnt\n",
          to);
}

/* -v, -vv, ... and --verbose. */
static bool take_verbose(const char *option)
{
    size_t count = strspn(option + 1, "v");
    if (strcmp(option, "--verbose") == 0)
        count = 1;
    else if (count == 0 || option[1 + count] != '\0')
        return false;
    while (count-- > 0)
        log_set_level(log_enabled(LOG_INFO) ? LOG_DEBUG : LOG_INFO);
    return true;
}

static enum exit_code run(const struct command *command, int argc, char **argv)
{
    /* What getopt_long() begins its messages with. */
    char name[32];
    snprintf(name, sizeof name, "sluice %s", command->name);
    argv[0] = name;
    return command->run(argc, argv);
}

int main(int argc, char **argv)
{
    /* Output to a closed pipe must be an error that is said, not a silent end. */
    signal(SIGPIPE, SIG_IGN);
    if (argc > 0 && strcmp(argv[0], BROKER_NAME) == 0) return broker_main(argc, argv);
    int first = 1;
    for (; first < argc && argv[first][0] == '-'; first++) {
        const char *option = argv[first];
        if (take_verbose(option)) continue;
        if (strcmp(option, "--version") == 0) {
            puts("sluice " SLUICE_VERSION);
            return command_finish();
        } else if (strcmp(option, "-h") == 0 || strcmp(option, "--help") == 0) {
            print_help(stdout);
            return command_finish();
        } else {
            fprintf(stderr, "sluice: unknown option '%s'; see 'sluice --help'\n", option);
            return EXIT_USAGE;
        }
    }
    if (first == argc) {
        print_help(stderr);
        return EXIT_USAGE;
    }
    for (size_t i = 0; i < COMMAND_COUNT; i++)
        if (strcmp(argv[first], commands[i]->name) == 0)
            return run(commands[i], argc - first, argv + first);
    fprintf(stderr, "sluice: unknown command '%s'; see 'sluice --help'\n", argv[first]);
    return EXIT_USAGE;
}
