#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/parallel.h"
#include "deploytool/index_publish.h"

#define PUSHES_AT_ONCE 4
/* The fallback tag is read, changed and written without a lock; somebody else may do the same. */
#define FALLBACK_ATTEMPTS 6

struct push {
    const struct image *image;
    struct registry_client *client;
    const struct built_part **parts;
    size_t count;
    bool *pushed;
};

static int collect_part(void *context, const struct built_part *part)
{
    struct push *push = context;
    push->parts[push->count++] = part;
    return 0;
}

static int push_blob(const struct image *image, struct registry_client *client,
                     const struct digest *digest, const void *data, size_t length, bool *ret_pushed,
                     struct error **error)
{
    int present = registry_has_blob(client, &image->repository, digest, error);
    if (present < 0) return -1;
    char text[DIGEST_TEXT_SIZE];
    *ret_pushed = !present;
    log_info("part %s, %zu bytes: %s", digest_format(digest, text), length,
             present ? "is in the registry already" : "is pushed");
    if (present) return 0;
    return registry_put_blob(client, &image->repository, digest, data, length, error);
}

static int push_part(void *context, size_t position, struct error **error)
{
    struct push *push = context;
    const struct built_part *part = push->parts[position];
    return push_blob(push->image, push->client, &part->part.digest, part->blob.data,
                     part->blob.length, &push->pushed[position], error);
}

static int push_parts(const struct image *image, struct registry_client *client,
                      const struct built_index *index, struct publish_result *ret,
                      struct error **error)
{
    size_t most = 2 + 3 * index->different_count;
    cleanup_free const struct built_part **parts = calloc(most, sizeof *parts);
    cleanup_free bool *pushed = calloc(most, sizeof *pushed);
    struct push push = { image, client, parts, 0, pushed };
    if (!parts || !pushed) return error_set_memory(error);
    built_index_each_part(index, collect_part, &push);
    if (parallel_run(push.count, PUSHES_AT_ONCE, push_part, &push, error) < 0) return -1;
    for (size_t i = 0; i < push.count; i++) {
        if (pushed[i]) {
            ret->parts_pushed++;
            ret->bytes_pushed += parts[i]->blob.length;
        } else {
            ret->parts_present++;
        }
    }
    struct digest empty;
    bool config_pushed;
    digest_of(EMPTY_CONFIG, strlen(EMPTY_CONFIG), &empty);
    return push_blob(image, client, &empty, EMPTY_CONFIG, strlen(EMPTY_CONFIG), &config_pushed,
                     error);
}

/* The referrers tag schema of the distribution specification 1.1: an image index under the tag
 * sha256-<hex of the subject>. */
static char *fallback_tag(const struct digest *subject, char tag[DIGEST_TEXT_SIZE])
{
    digest_format(subject, tag);
    tag[strlen("sha256")] = '-';
    return tag;
}

static int attach_by_tag(const struct image *image, struct registry_client *client,
                         const struct digest *subject, const struct index_referrer *index,
                         struct error **error)
{
    char tag[DIGEST_TEXT_SIZE];
    fallback_tag(subject, tag);
    for (unsigned attempt = 0; attempt < FALLBACK_ATTEMPTS; attempt++) {
        cleanup_buffer struct buffer list = { 0 }, changed = { 0 };
        struct digest listed;
        if (registry_get_fallback_list(client, &image->repository, subject, &list, error) < 0)
            return -1;
        /* Also the reading back after the push of the round before. */
        if (index_referrer_find(list.data, list.length, &listed) &&
            digest_equal(&listed, &index->digest))
            return 0;
        if (attempt > 0) {
            log_info("tag %s was changed by somebody else at the same time; trying again", tag);
            usleep(50000u << attempt);
        }
        if (index_referrer_add(list.data, list.length, index, &changed, error) < 0)
            return error_prefix(error, "%s: tag %s", image->name, tag);
        if (registry_put_manifest(client, &image->repository, tag, MEDIA_TYPE_OCI_INDEX,
                                  changed.data, changed.length, NULL, error) < 0)
            return -1;
    }
    error_set(error, ERROR_UNREACHABLE,
              "%s: tag %s (the list of referrers) lost our entry %d times; somebody else keeps "
              "writing it",
              image->name, tag, FALLBACK_ATTEMPTS);
    return error_hint(error, "run the command again");
}

int index_push_manifest(const struct image *image, struct registry_client *client,
                        const struct index_artifact *artifact, const struct buffer *manifest,
                        struct error **error)
{
    char text[DIGEST_TEXT_SIZE];
    bool subject_known;
    struct index_referrer index = { .size = manifest->length, .revision = artifact->revision };
    digest_of(manifest->data, manifest->length, &index.digest);
    if (registry_put_manifest(client, &image->repository, digest_format(&index.digest, text),
                              MEDIA_TYPE_OCI_MANIFEST, manifest->data, manifest->length,
                              &subject_known, error) < 0)
        return error_prefix(error, "push index");
    /* Some only say so. */
    int listed = subject_known ? registry_has_referrers_api(client, &image->repository,
                                                            &artifact->subject, error)
                               : 0;
    if (listed < 0) return error_prefix(error, "push index");
    if (listed) {
        log_info("%s lists the index by the Referrers API", image->repository.registry);
        return 0;
    }
    log_info("%s has no Referrers API; the index is listed under a tag",
             image->repository.registry);
    return attach_by_tag(image, client, &artifact->subject, &index, error);
}

int index_push(const struct image *image, struct registry_client *client,
               const struct built_index *index, struct publish_result *ret, struct error **error)
{
    *ret = (struct publish_result){ 0 };
    if (push_parts(image, client, index, ret, error) < 0) return error_prefix(error, "push index");
    return index_push_manifest(image, client, &index->artifact, &index->manifest, error);
}

int index_push_profile(const struct image *image, struct registry_client *client,
                       struct index_artifact *artifact, const struct buffer *profile,
                       struct digest *ret, struct error **error)
{
    cleanup_buffer struct buffer blob = { 0 }, manifest = { 0 };
    struct index_part part = { .content_size = profile->length };
    bool pushed;
    if (index_part_compress(profile->data, profile->length, &blob, error) < 0) return -1;
    digest_of(profile->data, profile->length, &part.content_digest);
    digest_of(blob.data, blob.length, &part.digest);
    part.size = blob.length;
    artifact->profile = part;
    if (artifact->revision < INDEX_REVISION_MAX) artifact->revision++;
    if (index_artifact_encode(artifact, &manifest, error) < 0) return -1;
    digest_of(manifest.data, manifest.length, ret);
    if (push_blob(image, client, &part.digest, blob.data, blob.length, &pushed, error) < 0)
        return error_prefix(error, "push profile");
    return index_push_manifest(image, client, artifact, &manifest, error);
}

int index_parts_present(const struct image *image, struct registry_client *client,
                        const struct index_artifact *artifact, struct error **error)
{
    int present = registry_has_blob(client, &image->repository, &artifact->metadata.digest, error);
    for (size_t i = 0; present == 1 && i < artifact->layer_count; i++) {
        const struct index_layer *layer = &artifact->layers[i];
        const struct index_part *const parts[] = { &layer->chunks, &layer->entries,
                                                   &layer->windows };
        for (size_t k = 0; present == 1 && k < 3; k++)
            if (parts[k]->size)
                present = registry_has_blob(client, &image->repository, &parts[k]->digest, error);
    }
    if (present == 1 && artifact->profile.size)
        present = registry_has_blob(client, &image->repository, &artifact->profile.digest, error);
    return present;
}
