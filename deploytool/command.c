#include "deploytool/command.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"

void common_options_init(struct common_options *options)
{
    *options = (struct common_options){ 0 };
}

static void print_help(const struct command *command)
{
    printf("usage: sluice %s %s [OPTION...]\n\n%s\n\n%s", command->name, command->arguments,
           command->summary, command->help);
}

bool command_option(const struct command *command, struct common_options *options, int option,
                    enum exit_code *ret_exit)
{
    struct error *error = NULL;
    switch (option) {
    case OPTION_HELP:
        print_help(command);
        *ret_exit = command_finish();
        return false;
    case OPTION_VERBOSE:
        log_set_level(log_enabled(LOG_INFO) ? LOG_DEBUG : LOG_INFO);
        return true;
    case OPTION_PLATFORM:
        if (platform_parse(&options->platform, optarg, &error) == 0) {
            options->platform_asked = true;
            return true;
        }
        *ret_exit = command_usage(command, "--platform: %s", error_message(error));
        error_free(error);
        return false;
    case OPTION_PLAIN_HTTP:
        options->plain_http = true;
        return true;
    case OPTION_HOSTS_DIR:
        options->hosts_directory = optarg;
        return true;
    case OPTION_JSON:
        options->json = true;
        return true;
    default: /* getopt has said what is wrong */
        *ret_exit = EXIT_USAGE;
        fprintf(stderr, "see 'sluice %s --help'\n", command->name);
        return false;
    }
}

enum exit_code command_usage(const struct command *command, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "sluice %s: ", command->name);
    vfprintf(stderr, format, arguments);
    fprintf(stderr, "; see 'sluice %s --help'\n", command->name);
    va_end(arguments);
    return EXIT_USAGE;
}

bool command_arguments(const struct command *command, int argc, int least, int most,
                       enum exit_code *ret_exit)
{
    int count = argc - optind;
    if (count >= least && count <= most) return true;
    *ret_exit =
        command_usage(command, count < least ? "%s: argument missing" : "%s: too many arguments",
                      command->arguments);
    return false;
}

bool command_number(const char *text, unsigned most, unsigned *ret)
{
    char *end;
    errno = 0;
    unsigned long number = strtoul(text, &end, 10);
    if (errno || *end || text[0] < '0' || text[0] > '9' || number < 1 || number > most)
        return false;
    *ret = (unsigned)number;
    return true;
}

enum exit_code command_failed(struct error *error)
{
    fprintf(stderr, "sluice: %s\n", error_message(error));
    error_free(error);
    return EXIT_FAILED;
}

enum exit_code command_finish(void)
{
    if (fflush(stdout) == 0 && !ferror(stdout)) return EXIT_OK;
    fprintf(stderr, "sluice: write to standard output: %m\n");
    return EXIT_FAILED;
}

char *format_size(uint64_t bytes, char text[SIZE_TEXT_SIZE])
{
    static const char *const units[] = { "B", "kB", "MB", "GB", "TB", "PB", "EB" };
    double value = (double)bytes;
    size_t unit = 0;
    while (value >= 999.5 && unit < 6) {
        value /= 1000;
        unit++;
    }
    snprintf(text, SIZE_TEXT_SIZE, "%.*f %s", unit && value < 99.95 ? 1 : 0, value, units[unit]);
    return text;
}

char *format_count(uint64_t count, char text[COUNT_TEXT_SIZE])
{
    char digits[COUNT_TEXT_SIZE];
    int length = snprintf(digits, sizeof digits, "%llu", (unsigned long long)count);
    char *out = text;
    for (int i = 0; i < length; i++) {
        if (i > 0 && (length - i) % 3 == 0) *out++ = ',';
        *out++ = digits[i];
    }
    *out = '\0';
    return text;
}
