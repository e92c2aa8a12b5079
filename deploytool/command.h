/* What the subcommands of `sluice` share: exit codes, options, output. */
#ifndef SLUICE_DEPLOYTOOL_COMMAND_H
#define SLUICE_DEPLOYTOOL_COMMAND_H

#include <getopt.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/exit_code.h"
#include "fetcher/registry.h"
#include "index/image_manifest.h"

struct command {
    const char *name;
    const char *arguments; /* "REF DIR" */
    const char *summary;
    const char *help; /* options and an example */
    enum exit_code (*run)(int argc, char **argv);
};

extern const struct command index_command, inspect_command, mount_command, umount_command,
    status_command, cache_command, profile_command, convert_command, fetch_command;

/* Long options with these values are understood by command_option() for every command that lists
 * them in its table. */
enum common_option {
    OPTION_HELP = 'h',
    OPTION_VERBOSE = 'v',
    OPTION_PLATFORM = 256,
    OPTION_PLAIN_HTTP,
    OPTION_HOSTS_DIR,
    OPTION_JSON,
    OPTION_OWN, /* a command's own options start here */
};
#define COMMON_OPTIONS                               \
    { "help", no_argument, NULL, OPTION_HELP },      \
    {                                                \
        "verbose", no_argument, NULL, OPTION_VERBOSE \
    }
/* Of a command that is about an image in a registry. */
#define IMAGE_OPTIONS                                                         \
    COMMON_OPTIONS, { "platform", required_argument, NULL, OPTION_PLATFORM }, \
        { "plain-http", no_argument, NULL, OPTION_PLAIN_HTTP },               \
    {                                                                         \
        "hosts-dir", required_argument, NULL, OPTION_HOSTS_DIR                \
    }
#define JSON_LONG                              \
    {                                          \
        "json", no_argument, NULL, OPTION_JSON \
    }

struct common_options {
    struct platform platform;
    bool platform_asked;
    bool plain_http;
    const char *hosts_directory; /* NULL: where containerd and docker have theirs */
    bool json;
};
void common_options_init(struct common_options *options);
/* For image_parse(). */
static inline const struct platform *common_platform(const struct common_options *options)
{
    return options->platform_asked ? &options->platform : NULL;
}

/* What to do after an option was looked at: go on, or leave with *ret_exit. `option` is what
 * getopt_long() gave; one that is not common is a usage error here, said on standard error. */
bool command_option(const struct command *command, struct common_options *options, int option,
                    enum exit_code *ret_exit);
/* Usage error: one line on standard error, with how to get help. Returns EXIT_USAGE. */
enum exit_code command_usage(const struct command *command, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* Checks that `least` to `most` arguments are left behind the options. */
bool command_arguments(const struct command *command, int argc, int least, int most,
                       enum exit_code *ret_exit);
/* The value of an option: a decimal number from 1 to `most`. False: it is none. */
bool command_number(const char *text, unsigned most, unsigned *ret);
/* Prints the error as one line on standard error and frees it. Returns EXIT_FAILED. */
enum exit_code command_failed(struct error *error);
/* Flushes standard output: EXIT_OK, or EXIT_FAILED where it cannot be written. */
enum exit_code command_finish(void);

/* "3.0 MB" (powers of ten, as registries count), in `text`. */
#define SIZE_TEXT_SIZE 24
char *format_size(uint64_t bytes, char text[SIZE_TEXT_SIZE]);
/* "12,345" in `text`. */
#define COUNT_TEXT_SIZE 32
char *format_count(uint64_t count, char text[COUNT_TEXT_SIZE]);
/* The ending of what is counted. */
static inline const char *plural(uint64_t count)
{
    return count == 1 ? "" : "s";
}

#endif
