#include "snapshotter/metrics_text-internal.h"

#include <stdarg.h>
#include <stdio.h>

#include "base/cleanup.h"

int metrics_add(struct buffer *to, const char *format, ...)
{
    va_list arguments;
    cleanup_free char *text = NULL;
    va_start(arguments, format);
    int length = vasprintf(&text, format, arguments);
    va_end(arguments);
    if (length < 0) {
        text = NULL;
        return -1;
    }
    return buffer_append(to, text, (size_t)length);
}

int metrics_add_head(struct buffer *to, const char *name, const char *type, const char *help)
{
    return metrics_add(to, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

int metrics_add_label(struct buffer *to, const char *name, const char *value)
{
    if (metrics_add(to, "%s=\"", name) < 0) return -1;
    for (const char *i = value; *i; i++) {
        int result = *i == '\n'                ? buffer_append(to, "\\n", 2)
                     : *i == '"' || *i == '\\' ? metrics_add(to, "\\%c", *i)
                                               : buffer_append_u8(to, (uint8_t)*i);
        if (result < 0) return -1;
    }
    return buffer_append_u8(to, '"');
}

int metrics_add_value(struct buffer *to, const struct metric *metric, const json_t *value)
{
    if (metric->divisor != 0)
        return metrics_add(to, " %.3f\n", json_number_value(value) / metric->divisor);
    return json_is_integer(value) ? metrics_add(to, " %lld\n", (long long)json_integer_value(value))
                                  : metrics_add(to, " %.6f\n", json_real_value(value));
}

int metrics_add_all(struct buffer *to, const json_t *object, const struct metric *metrics,
                    size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const json_t *value = json_object_get(object, metrics[i].field);
        if (!json_is_number(value)) continue;
        if (metrics_add_head(to, metrics[i].name, metrics[i].type, metrics[i].help) < 0 ||
            metrics_add(to, "%s", metrics[i].name) < 0 ||
            metrics_add_value(to, &metrics[i], value) < 0)
            return -1;
    }
    return 0;
}
