/*
 * Names as Prometheus wants them: base units, "_total" for what only grows
 * (https://prometheus.io/docs/practices/naming/).
 */
#include "snapshotter/metrics.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"

struct metric {
    const char *field; /* in the status's object */
    const char *name, *type, *help;
};

static const struct metric counters[] = {
    { "bytes_fetched", "sluice_fetched_bytes_total", "counter",
      "Bytes of blobs fetched from registries." },
    { "window_bytes_fetched", "sluice_window_fetched_bytes_total", "counter",
      "Bytes of gzip windows fetched from registries." },
    { "chunks_fetched", "sluice_fetched_chunks_total", "counter",
      "Chunks fetched, decoded and verified." },
    { "bytes_decoded", "sluice_decoded_bytes_total", "counter", "Bytes that chunks decoded to." },
    { "bytes_served", "sluice_served_bytes_total", "counter", "Bytes that readers were given." },
    { "reads_hit", "sluice_read_hits_total", "counter", "Reads answered from the cache." },
    { "reads_missed", "sluice_read_misses_total", "counter",
      "Reads that had to wait for a registry." },
    { "errors", "sluice_read_errors_total", "counter", "Reads that ended in an error." },
    { "chunks_damaged", "sluice_damaged_chunks_total", "counter",
      "Chunks whose digest was wrong, on disk or in an answer." },
    { "store_errors", "sluice_store_errors_total", "counter",
      "Chunks that were served but could not be stored." },
    { "reads_waiting", "sluice_reads_waiting", "gauge", "Reads that wait for a registry now." },
    { "chunks_in_flight", "sluice_chunks_in_flight", "gauge", "Chunks being fetched now." },
};

static const struct metric caches[] = {
    { "on_disk", "sluice_cache_bytes", "gauge", "What the cache takes on disk." },
    { "limit", "sluice_cache_limit_bytes", "gauge", "What it may take; 0: not bounded." },
};

static const struct metric servers[] = {
    { "starts", "sluice_server_starts_total", "counter",
      "Starts of the process that serves images." },
    { "resident_bytes", "sluice_server_resident_memory_bytes", "gauge",
      "Resident memory of the process that serves images." },
};

static int add(struct buffer *to, const char *format, ...) __attribute__((format(printf, 2, 3)));

static int add(struct buffer *to, const char *format, ...)
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

static int add_head(struct buffer *to, const char *name, const char *type, const char *help)
{
    return add(to, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

/* A label's value: quotes, backslashes and line ends are escaped. */
static int add_label(struct buffer *to, const char *name, const char *value)
{
    if (add(to, "%s=\"", name) < 0) return -1;
    for (const char *i = value; *i; i++) {
        int result = *i == '\n'                ? buffer_append(to, "\\n", 2)
                     : *i == '"' || *i == '\\' ? add(to, "\\%c", *i)
                                               : buffer_append_u8(to, (uint8_t)*i);
        if (result < 0) return -1;
    }
    return buffer_append_u8(to, '"');
}

static int add_metrics(struct buffer *to, const json_t *object, const struct metric *metrics,
                       size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const json_t *value = json_object_get(object, metrics[i].field);
        if (!json_is_integer(value)) continue;
        if (add_head(to, metrics[i].name, metrics[i].type, metrics[i].help) < 0 ||
            add(to, "%s %lld\n", metrics[i].name, (long long)json_integer_value(value)) < 0)
            return -1;
    }
    return 0;
}

/* ---- calls of containerd's ---- */

static int add_operation(struct buffer *to, const char *name, const json_t *operation,
                         const char *field)
{
    const char *method = json_optional_text(operation, "method");
    const char *code = json_optional_text(operation, "code");
    const json_t *value = json_object_get(operation, field);
    if (!method || !code || !json_is_number(value)) return 0;
    if (add(to, "%s{", name) < 0 || add_label(to, "method", method) < 0 ||
        buffer_append_u8(to, ',') < 0 || add_label(to, "code", code) < 0)
        return -1;
    return json_is_integer(value) ? add(to, "} %lld\n", (long long)json_integer_value(value))
                                  : add(to, "} %.6f\n", json_real_value(value));
}

static int add_operations(struct buffer *to, const json_t *operations)
{
    static const struct metric metrics[] = {
        { "count", "sluice_snapshotter_calls_total", "counter",
          "Calls of the snapshots service, by method and gRPC status." },
        { "seconds", "sluice_snapshotter_call_seconds_total", "counter",
          "Time that those calls took." },
    };
    for (size_t m = 0; m < sizeof metrics / sizeof *metrics; m++) {
        size_t i;
        const json_t *operation;
        if (json_array_size(operations) == 0) return 0;
        if (add_head(to, metrics[m].name, metrics[m].type, metrics[m].help) < 0) return -1;
        json_array_foreach(operations, i, operation)
        {
            if (add_operation(to, metrics[m].name, operation, metrics[m].field) < 0) return -1;
        }
    }
    return 0;
}

/* ---- images ---- */

static int add_images(struct buffer *to, const json_t *images)
{
    size_t i, mounted = 0;
    const json_t *image;
    json_array_foreach(images, i, image)
    {
        const char *state = json_optional_text(image, "state");
        mounted += state && strcmp(state, "mounted") == 0;
    }
    if (add_head(to, "sluice_lazy_images", "gauge", "Lazy images on this node, by state.") < 0)
        return -1;
    return add(to,
               "sluice_lazy_images{state=\"mounted\"} %zu\nsluice_lazy_images{state=\"other\"} "
               "%zu\n",
               mounted, json_array_size(images) - mounted);
}

static int add_decisions(struct buffer *to, const json_t *decisions)
{
    const char *reason;
    const json_t *count;
    if (json_object_size(decisions) == 0) return 0;
    if (add_head(to, "sluice_decisions_total", "counter",
                 "Images that were asked for, by what was decided: lazy, or why not.") < 0)
        return -1;
    json_object_foreach((json_t *)decisions, reason, count)
    {
        if (add(to, "sluice_decisions_total{") < 0 || add_label(to, "decision", reason) < 0 ||
            add(to, "} %lld\n", (long long)json_integer_value(count)) < 0)
            return -1;
    }
    return 0;
}

/* ---- the daemon itself ---- */

static int add_process(struct buffer *to, const json_t *daemon)
{
    const char *version = json_optional_text(daemon, "version");
    struct timespec used;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
    if (add_head(to, "sluice_build_info", "gauge", "Always 1.") < 0 ||
        add(to, "sluice_build_info{") < 0 || add_label(to, "version", version ? version : "") < 0 ||
        add(to, "} 1\n") < 0)
        return -1;
    if (add_head(to, "process_cpu_seconds_total", "counter",
                 "Processor time of the daemon itself.") < 0 ||
        add(to, "process_cpu_seconds_total %.2f\n",
            (double)used.tv_sec + (double)used.tv_nsec / 1e9) < 0)
        return -1;
    static const struct metric own[] = {
        { "resident_bytes", "process_resident_memory_bytes", "gauge",
          "Resident memory of the daemon itself." },
        { "open_files", "process_open_fds", "gauge", "Descriptors that the daemon has open." },
        { "started", "process_start_time_seconds", "gauge", "When it started, Unix time." },
    };
    return add_metrics(to, daemon, own, sizeof own / sizeof *own);
}

int metrics_format(const json_t *status, struct buffer *ret)
{
    if (add_process(ret, json_object_get(status, "daemon")) < 0 ||
        add_metrics(ret, json_object_get(status, "server"), servers,
                    sizeof servers / sizeof *servers) < 0 ||
        add_metrics(ret, json_object_get(status, "server"), counters,
                    sizeof counters / sizeof *counters) < 0 ||
        add_metrics(ret, json_object_get(status, "cache"), caches, sizeof caches / sizeof *caches) <
            0 ||
        add_operations(ret, json_object_get(status, "calls")) < 0 ||
        add_decisions(ret, json_object_get(status, "decisions")) < 0)
        return -1;
    return add_images(ret, json_object_get(status, "images"));
}
