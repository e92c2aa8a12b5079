/* Prometheus' text format, version 0.0.4. All functions append; -1: out of memory. */
#ifndef SLUICE_SNAPSHOTTER_METRICS_TEXT_INTERNAL_H
#define SLUICE_SNAPSHOTTER_METRICS_TEXT_INTERNAL_H

#include "base/buffer.h"
#include "base/json.h"

/* One that is a number in the status. */
struct metric {
    const char *field; /* in the status's object */
    const char *name, *type, *help;
    double divisor; /* of the field's unit, to have the metric's; 0: they are the same */
};

int metrics_add(struct buffer *to, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* The lines before the first value of a metric. */
int metrics_add_head(struct buffer *to, const char *name, const char *type, const char *help);
/* `name="value"`; quotes, backslashes and line ends are escaped. */
int metrics_add_label(struct buffer *to, const char *name, const char *value);
/* Space, value, line end; `value` is a number. */
int metrics_add_value(struct buffer *to, const struct metric *metric, const json_t *value);
/* Those that the object has a number of, with their heads and without labels. */
int metrics_add_all(struct buffer *to, const json_t *object, const struct metric *metrics,
                    size_t count);

/* ---- metrics_images.c ---- */

/* What is told of each lazy image. */
int metrics_add_images(struct buffer *to, const json_t *images);

#endif
