/* A copy of an image's manifest that names the image's index. */
#include <string.h>

#include "base/cleanup.h"
#include "base/json.h"
#include "deploytool/index_publish.h"

static json_t *annotated(const struct image *image, const struct digest *index,
                         struct error **error)
{
    char text[DIGEST_TEXT_SIZE];
    cleanup_json json_t *root =
        json_read_object(image->body.data, image->body.length, "image manifest", error);
    if (!root) return NULL;
    json_t *annotations = json_object_get(root, "annotations");
    if (!json_is_object(annotations)) {
        annotations = json_object();
        if (json_object_set_new(root, "annotations", annotations) < 0) {
            error_set_memory(error);
            return NULL;
        }
    }
    if (json_object_set_new(annotations, ANNOTATION_INDEX,
                            json_string(digest_format(index, text))) < 0) {
        error_set_memory(error);
        return NULL;
    }
    return json_incref(root);
}

int index_annotate(const struct image *image, struct registry_client *client,
                   const struct digest *index, const char *tag, struct digest *ret,
                   struct error **error)
{
    cleanup_json json_t *root = annotated(image, index, error);
    if (!root) return -1;
    cleanup_free char *body = json_dumps(root, JSON_COMPACT);
    if (!body) return error_set_memory(error);
    size_t length = strlen(body);
    digest_of(body, length, ret);
    if (registry_put_manifest(client, &image->repository, tag, image->media_type, body, length,
                              NULL, error) < 0)
        return error_prefix(error, "push the manifest that names the index");
    return 0;
}
