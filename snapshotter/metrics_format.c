/*
 * Names as Prometheus wants them: base units, "_total" for what only grows
 * (https://prometheus.io/docs/practices/naming/).
 */
#include "snapshotter/metrics.h"

#include <string.h>
#include <time.h>
#include <unistd.h>

#include "snapshotter/metrics_text-internal.h"

static const struct metric counters[] = {
    { "bytes_fetched", "sluice_fetched_bytes_total", "counter",
      "Bytes of blobs fetched from registries.", 0 },
    { "window_bytes_fetched", "sluice_window_fetched_bytes_total", "counter",
      "Bytes of gzip windows fetched from registries.", 0 },
    { "chunks_fetched", "sluice_fetched_chunks_total", "counter",
      "Chunks fetched, decoded and verified.", 0 },
    { "bytes_decoded", "sluice_decoded_bytes_total", "counter", "Bytes that chunks decoded to.",
      0 },
    { "bytes_served", "sluice_served_bytes_total", "counter", "Bytes that readers were given.", 0 },
    { "reads_hit", "sluice_read_hits_total", "counter", "Reads answered from the cache.", 0 },
    { "reads_missed", "sluice_read_misses_total", "counter",
      "Reads that had to wait for a registry.", 0 },
    { "errors", "sluice_read_errors_total", "counter", "Reads that ended in an error.", 0 },
    { "chunks_damaged", "sluice_damaged_chunks_total", "counter",
      "Chunks whose digest was wrong, on disk or in an answer.", 0 },
    { "store_errors", "sluice_store_errors_total", "counter",
      "Chunks that were served but could not be stored.", 0 },
    { "reads_waiting", "sluice_reads_waiting", "gauge", "Reads that wait for a registry now.", 0 },
    { "oldest_wait_ms", "sluice_oldest_wait_seconds", "gauge",
      "How long the oldest of them has waited.", 1000 },
    { "chunks_in_flight", "sluice_chunks_in_flight", "gauge", "Chunks being fetched now.", 0 },
};

static const struct metric caches[] = {
    { "on_disk", "sluice_cache_bytes", "gauge", "What the cache takes on disk.", 0 },
    { "limit", "sluice_cache_limit_bytes", "gauge", "What it may take; 0: not bounded.", 0 },
};

static const struct metric servers[] = {
    { "starts", "sluice_server_starts_total", "counter",
      "Starts of the process that serves images.", 0 },
    { "hangs", "sluice_server_hangs_total", "counter",
      "Servers of images that were killed because they did not answer any more.", 0 },
    { "resident_bytes", "sluice_server_resident_memory_bytes", "gauge",
      "Resident memory of the process that serves images.", 0 },
};

/* ---- calls of containerd's ---- */

static int add_operation(struct buffer *to, const struct metric *metric, const json_t *operation)
{
    const char *method = json_optional_text(operation, "method");
    const char *code = json_optional_text(operation, "code");
    const json_t *value = json_object_get(operation, metric->field);
    if (!method || !code || !json_is_number(value)) return 0;
    if (metrics_add(to, "%s{", metric->name) < 0 || metrics_add_label(to, "method", method) < 0 ||
        buffer_append_u8(to, ',') < 0 || metrics_add_label(to, "code", code) < 0 ||
        buffer_append_u8(to, '}') < 0)
        return -1;
    return metrics_add_value(to, metric, value);
}

static int add_operations(struct buffer *to, const json_t *operations)
{
    static const struct metric metrics[] = {
        { "count", "sluice_snapshotter_calls_total", "counter",
          "Calls of the snapshots service, by method and gRPC status.", 0 },
        { "seconds", "sluice_snapshotter_call_seconds_total", "counter",
          "Time that those calls took.", 0 },
    };
    for (size_t m = 0; m < sizeof metrics / sizeof *metrics; m++) {
        size_t i;
        const json_t *operation;
        if (json_array_size(operations) == 0) return 0;
        if (metrics_add_head(to, metrics[m].name, metrics[m].type, metrics[m].help) < 0) return -1;
        json_array_foreach(operations, i, operation)
        {
            if (add_operation(to, &metrics[m], operation) < 0) return -1;
        }
    }
    return 0;
}

/* ---- images ---- */

static int add_image_states(struct buffer *to, const json_t *images)
{
    size_t i, mounted = 0;
    const json_t *image;
    json_array_foreach(images, i, image)
    {
        const char *state = json_optional_text(image, "state");
        mounted += state && strcmp(state, "mounted") == 0;
    }
    if (metrics_add_head(to, "sluice_lazy_images", "gauge", "Lazy images on this node, by state.") <
        0)
        return -1;
    return metrics_add(
        to,
        "sluice_lazy_images{state=\"mounted\"} %zu\nsluice_lazy_images{state=\"other\"} "
        "%zu\n",
        mounted, json_array_size(images) - mounted);
}

static int add_decisions(struct buffer *to, const json_t *decisions)
{
    const char *reason;
    const json_t *count;
    if (json_object_size(decisions) == 0) return 0;
    if (metrics_add_head(to, "sluice_decisions_total", "counter",
                         "Images that were asked for, by what was decided: lazy, or why not.") < 0)
        return -1;
    json_object_foreach((json_t *)decisions, reason, count)
    {
        if (metrics_add(to, "sluice_decisions_total{") < 0 ||
            metrics_add_label(to, "decision", reason) < 0 ||
            metrics_add(to, "} %lld\n", (long long)json_integer_value(count)) < 0)
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
    if (metrics_add_head(to, "sluice_build_info", "gauge", "Always 1.") < 0 ||
        metrics_add(to, "sluice_build_info{") < 0 ||
        metrics_add_label(to, "version", version ? version : "") < 0 ||
        metrics_add(to, "} 1\n") < 0)
        return -1;
    if (metrics_add_head(to, "process_cpu_seconds_total", "counter",
                         "Processor time of the daemon itself.") < 0 ||
        metrics_add(to, "process_cpu_seconds_total %.2f\n",
                    (double)used.tv_sec + (double)used.tv_nsec / 1e9) < 0)
        return -1;
    static const struct metric own[] = {
        { "resident_bytes", "process_resident_memory_bytes", "gauge",
          "Resident memory of the daemon itself.", 0 },
        { "open_files", "process_open_fds", "gauge", "Descriptors that the daemon has open.", 0 },
        { "started", "process_start_time_seconds", "gauge", "When it started, Unix time.", 0 },
    };
    return metrics_add_all(to, daemon, own, sizeof own / sizeof *own);
}

int metrics_format(const json_t *status, bool images, struct buffer *ret)
{
    const json_t *list = json_object_get(status, "images");
    if (add_process(ret, json_object_get(status, "daemon")) < 0 ||
        metrics_add_all(ret, json_object_get(status, "server"), servers,
                        sizeof servers / sizeof *servers) < 0 ||
        metrics_add_all(ret, json_object_get(status, "server"), counters,
                        sizeof counters / sizeof *counters) < 0 ||
        metrics_add_all(ret, json_object_get(status, "cache"), caches,
                        sizeof caches / sizeof *caches) < 0 ||
        add_operations(ret, json_object_get(status, "calls")) < 0 ||
        add_decisions(ret, json_object_get(status, "decisions")) < 0 ||
        add_image_states(ret, list) < 0)
        return -1;
    return images ? metrics_add_images(ret, list) : 0;
}
