#include "node/node_cache.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/log.h"

/* A smaller cache would hold next to nothing. */
#define SIZE_LEAST ((uint64_t)8 << 20)

char *node_cache_directory(const char *given, struct error **error)
{
    const char *base = getenv("XDG_CACHE_HOME");
    const char *home = getenv("HOME");
    char *path = NULL;
    if (given)
        path = strdup(given);
    else if (geteuid() == 0)
        path = strdup(NODE_CACHE_SYSTEM);
    else if (base && base[0] == '/')
        path = format_text("%s/sluice", base);
    else if (home && home[0] == '/')
        path = format_text("%s/.cache/sluice", home);
    else {
        error_set(error, ERROR_INVALID, "there is no home directory for a cache");
        error_hint(error, "name one with --cache DIR");
        return NULL;
    }
    if (!path) error_set_memory(error);
    return path;
}

/* ---- sizes ---- */

/* What a unit stands for; 0: it is none. */
static double unit_value(const char *unit)
{
    static const char letters[] = "kmgtpe";
    if (unit[0] == '\0' || strcasecmp(unit, "b") == 0) return 1;
    const char *letter = strchr(letters, unit[0] | 0x20);
    if (!letter) return 0;
    double step = strcasecmp(unit + 1, "b") == 0                                          ? 1000
                  : !unit[1] || !strcasecmp(unit + 1, "ib") || !strcasecmp(unit + 1, "i") ? 1024
                                                                                          : 0;
    double value = 1;
    for (const char *i = letters; i <= letter; i++)
        value *= step;
    return value;
}

int parse_size(const char *text, uint64_t *ret, struct error **error)
{
    char *end = NULL;
    errno = 0;
    double number = text[0] >= '0' && text[0] <= '9' ? strtod(text, &end) : -1;
    double value = end && !errno ? number * unit_value(end) : -1;
    if (!(value >= 0 && value < 9e18) || (number > 0 && value == 0)) {
        error_set(error, ERROR_INVALID, "'%s' is no size", text);
        return error_hint(error, "write it like 500M, 20G or 1.5TiB");
    }
    *ret = (uint64_t)value;
    return 0;
}

int node_cache_parse_size(struct node_cache_limits *limits, const char *text, struct error **error)
{
    if (parse_size(text, &limits->size, error) < 0) return -1;
    if (limits->size == 0 || limits->size >= SIZE_LEAST) return 0;
    return error_set(error, ERROR_INVALID, "'%s' is less than 8M, too little to be of use", text);
}

int node_cache_parse_reserve(struct node_cache_limits *limits, const char *text,
                             struct error **error)
{
    limits->reserve_given = true;
    return parse_size(text, &limits->reserve, error);
}

/* ---- the cache ---- */

int node_cache_open(struct cache **ret, const char *directory,
                    const struct node_cache_limits *limits, struct error **error)
{
    if (cache_open(ret, directory, error) < 0) return -1;
    struct cache_limits chosen = { .size = limits->size,
                                   .reserve = limits->reserve_given ? limits->reserve
                                                                    : cache_default_reserve(*ret) };
    cache_set_limits(*ret, &chosen);
    return 0;
}

/* What the mount needs to be made again without the registry. NULL: out of memory. */
static struct digest *needed_by(const struct node_image *node, size_t *ret_count)
{
    size_t layers = node->artifact.layer_count, count = 0;
    bool merged = node_image_is_merged_here(node);
    cleanup_free char *name = node_image_memory_name(&node->image);
    struct digest *needed = calloc(2 * layers + 4, sizeof *needed);
    if (!name || !needed) {
        free(needed);
        return NULL;
    }
    digest_of(name, strlen(name), &needed[count++]);
    needed[count++] = node->image.digest;
    needed[count++] = node->index_digest;
    if (!merged) needed[count++] = node->artifact.metadata.content_digest;
    for (size_t i = 0; i < layers; i++) {
        needed[count++] = node->artifact.layers[i].chunks.content_digest;
        if (merged) needed[count++] = node->artifact.layers[i].entries.content_digest;
    }
    *ret_count = count;
    return needed;
}

void node_cache_declare(struct cache *cache, const struct node_image *node, const char *mountpoint,
                        struct cache_user **user)
{
    struct error *error = NULL;
    struct cache_use use = { .image = node->image.name, .mountpoint = mountpoint };
    cleanup_free struct digest *needed = needed_by(node, &use.needed_count);
    use.needed = needed;
    int result = needed ? cache_declare_use(cache, &use, user, &error) : error_set_memory(&error);
    if (result == 0) return;
    log_warning("%s; what the mount needs may be evicted while it is there", error_message(error));
    error_free(error);
}
