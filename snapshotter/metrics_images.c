/*
 * Metrics of each lazy image, by name and digest of its manifest: there are no more than a node has
 * lazy images, and they end with the image. Layers that images share are counted with each, so that
 * sums over images say nothing of bytes.
 */
#include <string.h>

#include "base/cleanup.h"
#include "snapshotter/metrics_text-internal.h"

static const struct metric metrics[] = {
    { "bytes_fetched", "sluice_image_fetched_bytes_total", "counter",
      "Bytes of blobs fetched of the image's layers, also for other images that have them.", 0 },
    { "bytes_served", "sluice_image_served_bytes_total", "counter",
      "Bytes that readers of the image were given.", 0 },
    { "reads_hit", "sluice_image_read_hits_total", "counter",
      "Reads of the image answered from the cache.", 0 },
    { "reads_missed", "sluice_image_read_misses_total", "counter",
      "Reads of the image that had to wait for a registry.", 0 },
    { "errors", "sluice_image_read_errors_total", "counter",
      "Reads of the image that ended in an error.", 0 },
    { "reads_waiting", "sluice_image_reads_waiting", "gauge", "Reads of the image that wait now.",
      0 },
    { "oldest_wait_ms", "sluice_image_oldest_wait_seconds", "gauge",
      "How long the oldest of them has waited.", 1000 },
    { "bytes_present", "sluice_image_present_bytes", "gauge",
      "Bytes of the image's layers on this node, decoded.", 0 },
    { "stream_bytes", "sluice_image_size_bytes", "gauge", "Bytes of the image's layers, decoded.",
      0 },
};

static const char *manifest_of(const json_t *image)
{
    const char *reference = json_optional_text(image, "reference");
    const char *at = reference ? strrchr(reference, '@') : NULL;
    return at ? at + 1 : "";
}

static bool is_same(const json_t *one, const json_t *other)
{
    const char *name = json_optional_text(one, "name");
    const char *other_name = json_optional_text(other, "name");
    return name && other_name && strcmp(name, other_name) == 0 &&
           strcmp(manifest_of(one), manifest_of(other)) == 0;
}

/* Two values with the same labels make Prometheus refuse all. */
static bool is_told(const json_t *images, const json_t *image)
{
    size_t i;
    const json_t *other;
    json_array_foreach(images, i, other)
    {
        if (is_same(image, other)) return true;
    }
    return false;
}

static json_t *distinct(const json_t *images)
{
    size_t i;
    json_t *image, *list = json_array();
    json_array_foreach(images, i, image)
    {
        if (json_optional_text(image, "name") && !is_told(list, image))
            json_array_append(list, image);
    }
    return list;
}

static int add_metric(struct buffer *to, const struct metric *metric, const json_t *images)
{
    size_t i;
    const json_t *image;
    if (metrics_add_head(to, metric->name, metric->type, metric->help) < 0) return -1;
    json_array_foreach(images, i, image)
    {
        const json_t *value = json_object_get(image, metric->field);
        if (!json_is_number(value)) continue;
        if (metrics_add(to, "%s{", metric->name) < 0 ||
            metrics_add_label(to, "image", json_optional_text(image, "name")) < 0 ||
            buffer_append_u8(to, ',') < 0 ||
            metrics_add_label(to, "digest", manifest_of(image)) < 0 ||
            buffer_append_u8(to, '}') < 0 || metrics_add_value(to, metric, value) < 0)
            return -1;
    }
    return 0;
}

int metrics_add_images(struct buffer *to, const json_t *images)
{
    cleanup_json json_t *list = distinct(images);
    if (!list) return -1;
    if (json_array_size(list) == 0) return 0;
    for (size_t i = 0; i < sizeof metrics / sizeof *metrics; i++)
        if (add_metric(to, &metrics[i], list) < 0) return -1;
    return 0;
}
