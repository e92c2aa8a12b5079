/*
 * Fed: a configuration as Kubernetes has it, in YAML or JSON.
 *
 * Holds: it is an object of bounded depth, or there is a reason.
 */
#include "base/yaml.h"
#include "tests/fuzz/fuzz.h"

static unsigned depth_of(const json_t *value)
{
    unsigned deepest = 0, depth;
    const char *key;
    json_t *member;
    size_t i;
    json_object_foreach((json_t *)value, key, member)
    {
        depth = depth_of(member);
        if (depth > deepest) deepest = depth;
    }
    json_array_foreach(value, i, member)
    {
        depth = depth_of(member);
        if (depth > deepest) deepest = depth;
    }
    return 1 + deepest;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length)
{
    struct error *error = NULL;
    json_t *root = yaml_read_object(data, length, "it", &error);
    if (root) {
        EXPECT(json_is_object(root) && depth_of(root) < 3000);
    } else {
        expect_error(error);
    }
    error_free(error);
    json_decref(root);
    return 0;
}
