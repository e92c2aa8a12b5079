/*
 * Lines for people about what a long-running process does. Goes to standard
 * error, or to a file once log_open() was called. Thread safe. Never log
 * credentials, tokens or query strings of redirects (they carry signatures).
 */
#ifndef SLUICE_BASE_LOG_H
#define SLUICE_BASE_LOG_H

#include <stdbool.h>

#include "base/error.h"

enum log_level { LOG_ERROR, LOG_WARNING, LOG_INFO, LOG_DEBUG };

enum log_format {
    LOG_FORMAT_TEXT,
    LOG_FORMAT_JSON,    /* each line an object: "time", "level", "program", "message", "image" */
    LOG_FORMAT_JOURNAL, /* text behind its level as sd-daemon(3) has it: "<6>" */
};

/* Shows this level and the more severe ones; starts at LOG_WARNING. */
void log_set_level(enum log_level level);
enum log_level log_get_level(void);
/* True where a line of `level` would be shown (for costly arguments). */
int log_enabled(enum log_level level);
/* From now on lines go to `path` (made with mode 0600, appended), with a time stamp. */
int log_open(const char *path, struct error **error);

/* What lines begin with; "sluice" at first. Borrowed. */
void log_set_program(const char *name);
/* LOG_FORMAT_TEXT at first. */
void log_set_format(enum log_format format);
enum log_format log_get_format(void);
/* Whether standard error goes to systemd's journal (systemd.exec(5), $JOURNAL_STREAM). */
bool log_is_journal(void);

/* Writes one line; control characters are shown as '?'. At most 50 lines of
 * LOG_ERROR and LOG_WARNING a second are written, then one line tells how many were left out. */
void log_line(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* A line about an image, which JSON has as "image"; the text names it where it matters. */
void log_about(enum log_level level, const char *image, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#define log_error(...)   log_line(LOG_ERROR, __VA_ARGS__)
#define log_warning(...) log_line(LOG_WARNING, __VA_ARGS__)
#define log_info(...)    log_line(LOG_INFO, __VA_ARGS__)
#define log_debug(...)   log_line(LOG_DEBUG, __VA_ARGS__)

#endif
