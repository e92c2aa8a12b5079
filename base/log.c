#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/json.h"

#define LINES_PER_SECOND 50

static _Atomic int shown_level = LOG_WARNING;
static const char *_Atomic program = "sluice";
static _Atomic int line_format = LOG_FORMAT_TEXT;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int descriptor = STDERR_FILENO;
static time_t current_second;
static unsigned lines_in_second, left_out;

void log_set_level(enum log_level level)
{
    atomic_store(&shown_level, level);
}

enum log_level log_get_level(void)
{
    return (enum log_level)atomic_load(&shown_level);
}

int log_enabled(enum log_level level)
{
    return (int)level <= atomic_load(&shown_level);
}

void log_set_program(const char *name)
{
    atomic_store(&program, name);
}

void log_set_format(enum log_format format)
{
    atomic_store(&line_format, format);
}

enum log_format log_get_format(void)
{
    return (enum log_format)atomic_load(&line_format);
}

bool log_is_journal(void)
{
    const char *stream = getenv("JOURNAL_STREAM");
    struct stat status;
    char text[64];
    if (!stream || fstat(STDERR_FILENO, &status) < 0) return false;
    snprintf(text, sizeof text, "%llu:%llu", (unsigned long long)status.st_dev,
             (unsigned long long)status.st_ino);
    return strcmp(text, stream) == 0;
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

static const char *level_name(enum log_level level)
{
    static const char *const names[] = { "error", "warning", "info", "debug" };
    return names[level];
}

static const char *format_time(char text[40])
{
    time_t now = time(NULL);
    struct tm parts;
    strftime(text, 40, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &parts));
    return text;
}

/* In fresh memory, with a line end; control characters are shown as '?'. -1: out of memory. */
static int format_plain(char **ret, enum log_level level, const char *message)
{
    static const char *const severities[] = { "<3>", "<4>", "<6>", "<7>" };
    char stamp[40] = "";
    bool stamped = descriptor != STDERR_FILENO;
    bool marked = !stamped && log_get_format() == LOG_FORMAT_JOURNAL;
    int length = asprintf(ret, "%s%s%s%s: %s: %s\n", marked ? severities[level] : "",
                          stamped ? format_time(stamp) : "", stamped ? " " : "",
                          atomic_load(&program), level_name(level), message);
    for (int i = 0; i < length - 1; i++)
        if ((unsigned char)(*ret)[i] < 0x20 || (*ret)[i] == 0x7f) (*ret)[i] = '?';
    return length;
}

/* `image`: or NULL. */
static int format_json(char **ret, enum log_level level, const char *image, const char *message)
{
    char stamp[40];
    cleanup_json json_t *text = json_any_text(message);
    cleanup_json json_t *about = image ? json_any_text(image) : NULL;
    cleanup_json json_t *line =
        text ? json_pack("{s:s, s:s, s:s, s:O, s:O*}", "time", format_time(stamp), "level",
                         level_name(level), "program", atomic_load(&program), "message", text,
                         "image", about)
             : NULL;
    cleanup_free char *dumped = line ? json_dumps(line, JSON_COMPACT) : NULL;
    return dumped ? asprintf(ret, "%s\n", dumped) : -1;
}

/* One write a line, so that lines of several processes do not mix. A log that
 * cannot be written is not worth failing for. */
static void write_line(enum log_level level, const char *image, const char *message)
{
    char *formatted = NULL;
    int length = log_get_format() == LOG_FORMAT_JSON
                     ? format_json(&formatted, level, image, message)
                     : format_plain(&formatted, level, message);
    if (length < 0) return;
    cleanup_free char *line = formatted;
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
            write_line(LOG_WARNING, NULL, message);
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

static void write_formatted(enum log_level level, const char *image, const char *format,
                            va_list arguments)
{
    if (!log_enabled(level)) return;
    char *formatted;
    if (vasprintf(&formatted, format, arguments) < 0) return;
    cleanup_free char *message = formatted;
    pthread_mutex_lock(&lock);
    if (level > LOG_WARNING || within_rate()) write_line(level, image, message);
    pthread_mutex_unlock(&lock);
}

void log_line(enum log_level level, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    write_formatted(level, NULL, format, arguments);
    va_end(arguments);
}

void log_about(enum log_level level, const char *image, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    write_formatted(level, image, format, arguments);
    va_end(arguments);
}
