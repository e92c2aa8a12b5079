#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"

#define LINES_PER_SECOND 50

static _Atomic int shown_level = LOG_WARNING;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int descriptor = STDERR_FILENO;
static time_t current_second;
static unsigned lines_in_second, left_out;

void log_set_level(enum log_level level)
{
    atomic_store(&shown_level, level);
}

int log_enabled(enum log_level level)
{
    return (int)level <= atomic_load(&shown_level);
}

int log_open(const char *path, struct error **error)
{
    int opened = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (opened < 0) return error_set_errno(error, errno, "open log file '%s'", path);
    pthread_mutex_lock(&lock);
    if (descriptor != STDERR_FILENO) close(descriptor);
    descriptor = opened;
    pthread_mutex_unlock(&lock);
    return 0;
}

/* One write a line, so that lines of several processes do not mix. A log that
 * cannot be written is not worth failing for. */
static void write_line(enum log_level level, const char *message)
{
    static const char *const names[] = { "error", "warning", "info", "debug" };
    char stamp[40] = "";
    cleanup_free char *line = NULL;
    if (descriptor != STDERR_FILENO) {
        time_t now = time(NULL);
        struct tm parts;
        strftime(stamp, sizeof stamp, "%Y-%m-%dT%H:%M:%SZ ", gmtime_r(&now, &parts));
    }
    int length = asprintf(&line, "%ssluice: %s: %s\n", stamp, names[level], message);
    if (length < 0) {
        line = NULL;
        return;
    }
    for (int i = 0; i < length - 1; i++)
        if ((unsigned char)line[i] < 0x20 || line[i] == 0x7f) line[i] = '?';
    ssize_t written = write(descriptor, line, (size_t)length);
    (void)written;
}

/* Called with the lock held: false when this second has had its share. */
static bool within_rate(void)
{
    time_t now = time(NULL);
    if (now != current_second) {
        if (left_out) {
            char message[64];
            snprintf(message, sizeof message, "%u lines left out", left_out);
            write_line(LOG_WARNING, message);
        }
        current_second = now;
        lines_in_second = 0;
        left_out = 0;
    }
    if (lines_in_second < LINES_PER_SECOND) {
        lines_in_second++;
        return true;
    }
    left_out++;
    return false;
}

void log_line(enum log_level level, const char *format, ...)
{
    if (!log_enabled(level)) return;
    cleanup_free char *message = NULL;
    va_list arguments;
    va_start(arguments, format);
    int length = vasprintf(&message, format, arguments);
    va_end(arguments);
    if (length < 0) {
        message = NULL;
        return;
    }
    pthread_mutex_lock(&lock);
    if (level > LOG_WARNING || within_rate()) write_line(level, message);
    pthread_mutex_unlock(&lock);
}
