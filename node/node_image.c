#include "node/node_image.h"

#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "node/node_image-internal.h"

#define MEMORY_LENGTH_MAX (64u << 10)
/* A node that knows what a tag last meant does not wait longer to hear what it means now. */
#define TAG_PATIENCE_MS 3000u

/* ---- what a name last meant on this node ---- */

struct memory {
    struct digest target, manifest, index;
    char media_type[128];
};

char *node_image_memory_name(const struct image *image)
{
    char platform[PLATFORM_TEXT_SIZE];
    /* What was found without asking for a platform may be another's. */
    return format_text("image %s %s%s", image->name, image->platform_asked ? "" : "any or ",
                       platform_format(&image->platform, platform));
}

static bool recall(struct cache *cache, const struct image *image, struct memory *ret)
{
    cleanup_free char *name = node_image_memory_name(image);
    cleanup_buffer struct buffer text = { 0 };
    if (!name || cache_recall(cache, name, MEMORY_LENGTH_MAX, &text, NULL) < 0) return false;
    cleanup_json json_t *root = json_read_object(text.data, text.length, "memory", NULL);
    const char *media_type = root ? json_optional_text(root, "media_type") : NULL;
    if (!media_type || strlen(media_type) >= sizeof ret->media_type) return false;
    strcpy(ret->media_type, media_type);
    return json_field_digest(root, "target", &ret->target, NULL) == 0 &&
           json_field_digest(root, "manifest", &ret->manifest, NULL) == 0 &&
           json_field_digest(root, "index", &ret->index, NULL) == 0;
}

static int remember(struct cache *cache, const struct node_image *node, struct error **error)
{
    const struct image *image = &node->image;
    char target[DIGEST_TEXT_SIZE], manifest[DIGEST_TEXT_SIZE], index[DIGEST_TEXT_SIZE];
    cleanup_free char *name = node_image_memory_name(image);
    cleanup_json json_t *root = json_pack(
        "{s:s, s:s, s:s, s:s, s:s}", "name", image->name, "target",
        digest_format(&image->target, target), "manifest", digest_format(&image->digest, manifest),
        "media_type", image->media_type, "index", digest_format(&node->index_digest, index));
    cleanup_free char *text = root ? json_dumps(root, JSON_COMPACT) : NULL;
    if (!name || !text) return error_set_memory(error);
    return cache_remember(cache, name, text, strlen(text), error);
}

/* ---- manifests ---- */

/* One that the cache cannot keep (a full disk) costs fetching it again at the next mount, and
 * nothing else. */
static void keep_manifest(struct loader *loader, const struct digest *digest,
                          const struct buffer *body)
{
    struct error *reason = NULL;
    if (cache_put_blob(loader->cache, digest, body->data, body->length, &reason) == 0) return;
    log_warning("%s; going on without keeping it", error_message(reason));
    error_free(reason);
}

/* A manifest by digest: from the cache, else from the registry (and then kept). */
static int load_manifest(struct loader *loader, const struct digest *digest, struct buffer *ret,
                         struct error **error)
{
    char text[DIGEST_TEXT_SIZE];
    struct registry_manifest manifest = { 0 };
    if (cache_get_blob(loader->cache, digest, REGISTRY_MANIFEST_LIMIT, ret, NULL) == 0) return 0;
    if (registry_get_manifest(loader->client, &loader->node->image.repository,
                              digest_format(digest, text), &manifest, error) < 0)
        return -1;
    buffer_free(ret);
    *ret = manifest.body;
    manifest.body = (struct buffer){ 0 };
    registry_manifest_free(&manifest);
    keep_manifest(loader, digest, ret);
    return 0;
}

/* Whether the node's memory of the name still holds. 1: use it, 0: ask the registry for all, -1. */
static int is_current(struct loader *loader, const struct memory *known, struct error **error)
{
    const struct image *image = &loader->node->image;
    char text[DIGEST_TEXT_SIZE];
    struct digest now;
    struct error *reason = NULL;
    if (image->reference.digest) return 1;
    if (registry_resolve_tag(loader->client, &image->repository, image->reference.tag,
                             TAG_PATIENCE_MS, &now, &reason) == 0)
        return digest_equal(&now, &known->target);
    enum error_kind kind = error_kind_of(reason);
    if (kind != ERROR_UNREACHABLE && kind != ERROR_DENIED) return error_move(error, reason);
    log_about(LOG_WARNING, image->name, "%s; using what %s last meant on this node: %s",
              error_message(reason), image->name, digest_format(&known->target, text));
    error_free(reason);
    return 1;
}

static int resolve(struct loader *loader, const struct memory *known, struct error **error)
{
    struct image *image = &loader->node->image;
    if (known) {
        cleanup_buffer struct buffer body = { 0 };
        image->target = known->target;
        if (load_manifest(loader, &known->manifest, &body, error) < 0) return -1;
        return image_set_manifest(image, &known->manifest, known->media_type, &body, error);
    }
    if (image_resolve(image, loader->client, error) < 0) return -1;
    keep_manifest(loader, &image->digest, &image->body);
    return 0;
}

static int load_artifact(struct loader *loader, struct error **error)
{
    struct node_image *node = loader->node;
    cleanup_buffer struct buffer body = { 0 };
    if (load_manifest(loader, &node->index_digest, &body, error) < 0 ||
        index_artifact_decode(&node->artifact, body.data, body.length, error) < 0)
        return error_prefix(error, "index of %s", node->image.name);
    return image_check_index(&node->image, &node->artifact, &node->index_digest, error);
}

bool node_image_is_merged_here(const struct node_image *image)
{
    return image->is_prefix || image->is_difference;
}

/* The first of them, or all. */
static int choose_layers(struct node_image *node, const struct node_image_options *options,
                         struct error **error)
{
    uint32_t layers = options->layers;
    struct index_artifact *artifact = &node->artifact;
    if (layers > artifact->layer_count)
        return error_set(error, ERROR_INVALID, "image %s has %zu layers and not %u",
                         node->image.name, artifact->layer_count, layers);
    node->is_prefix = layers > 0 && layers < artifact->layer_count;
    node->is_difference = options->difference;
    if (!node_image_is_merged_here(node)) return 0;
    if (node->is_prefix) artifact->layer_count = layers;
    artifact->profile = (struct index_part){ 0 };
    return 0;
}

/* By the image's own manifest. */
static bool is_named(const struct image *image, const struct digest *index)
{
    return image->manifest.names_index && digest_equal(&image->manifest.index, index);
}

static int load_index(struct loader *loader, const struct node_image_options *options,
                      const struct memory *known, struct error **error)
{
    struct node_image *node = loader->node;
    char manifest[DIGEST_TEXT_SIZE], index[DIGEST_TEXT_SIZE];
    struct chosen_index chosen;
    /* In the place of one that lies there may be another by now. */
    cleanup_free char *lie =
        known && !options->force ? index_refusal(loader->cache, &node->image, &known->index) : NULL;
    if (index_choose(&node->image, loader->client, options->pinned,
                     known && !lie ? &known->index : NULL, &chosen, error) < 0)
        return -1;
    if (options->pinned && !is_named(&node->image, options->pinned))
        chosen.trust = options->pinned_trust;
    if (index_trust_require(&node->image, &chosen, options->least_trust, error) < 0 ||
        index_require_truth(loader->cache, &node->image, &chosen.digest, options->force, error) < 0)
        return -1;
    node->index_digest = chosen.digest;
    node->trust = chosen.trust;
    log_about(LOG_INFO, node->image.name, "%s is %s; its index is %s (%s%s)", node->image.name,
              digest_format(&node->image.digest, manifest), digest_format(&chosen.digest, index),
              index_trust_name(chosen.trust), known ? ", known on this node" : "");
    if (load_artifact(loader, error) < 0 || choose_layers(node, options, error) < 0) return -1;
    if (options->artifact_known) options->artifact_known(options->context, node);
    return node_parts_load(loader, error);
}

static void free_index(struct node_image *node)
{
    node_parts_free(node);
    index_artifact_free(&node->artifact);
}

static int load(struct loader *loader, const struct node_image_options *options,
                struct error **error)
{
    struct node_image *node = loader->node;
    struct memory memory;
    struct memory *known = recall(loader->cache, &node->image, &memory) ? &memory : NULL;
    if (known) {
        int current = is_current(loader, known, error);
        if (current < 0) return -1;
        if (!current) known = NULL;
    }
    if (resolve(loader, known, error) < 0) return -1;
    struct error *reason = NULL;
    int result = load_index(loader, options, known, &reason);
    if (result < 0 && known && node->trust == TRUST_REFERRER &&
        error_kind_of(reason) == ERROR_NOT_FOUND) {
        /* Of the index that the node remembers something was lost here, and the registry has it no
         * more: another may have taken its place. */
        log_about(LOG_INFO, node->image.name, "%s; looking for another index",
                  error_message(reason));
        error_free(reason);
        reason = NULL;
        free_index(node);
        known = NULL;
        result = load_index(loader, options, NULL, &reason);
    }
    if (result < 0) return error_move(error, reason);
    /* A pinned index must not become what the bare name means. */
    if ((known && digest_equal(&known->index, &node->index_digest)) || options->pinned) return 0;
    if (remember(loader->cache, node, &reason) < 0) {
        log_about(LOG_WARNING, node->image.name,
                  "%s; without the registry this node will not know the image",
                  error_message(reason));
        error_free(reason);
    }
    return 0;
}

int node_image_load(struct node_image *ret, struct registry_client *client, struct cache *cache,
                    const struct node_image_options *options, struct error **error)
{
    struct loader loader = { .node = ret, .client = client, .cache = cache };
    *ret = (struct node_image){ 0 };
    if (image_parse(&ret->image, options->reference, options->platform, error) < 0) return -1;
    if (load(&loader, options, error) == 0) return 0;
    node_image_free(ret);
    return -1;
}

void node_image_free(struct node_image *image)
{
    free_index(image);
    image_free(&image->image);
    *image = (struct node_image){ 0 };
}
