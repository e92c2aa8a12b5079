#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/json.h"
#include "base/log.h"
#include "deploytool/command.h"
#include "deploytool/containerd_store.h"
#include "node/image.h"

enum { OPTION_ADDRESS = OPTION_OWN, OPTION_NAMESPACE };

struct fetch {
    struct common_options common;
    struct containerd_store store;
    struct registry_client *client;
    struct image image;      /* its manifest is containerd's, whatever the name means by now */
    struct buffer held;      /* digests of the blobs that containerd has, a line each */
    size_t fetched, present; /* blobs */
    uint64_t bytes;
};

/* ---- which image containerd has ---- */

static int read_manifest(struct fetch *fetch, const struct digest *digest, struct buffer *ret,
                         struct error **error)
{
    return containerd_store_read(&fetch->store, digest, REGISTRY_MANIFEST_LIMIT, ret, error);
}

/* By the name as it was typed, or in full. */
static int find_image(struct fetch *fetch, const char *name, struct digest *ret,
                      struct error **error)
{
    struct error *first = NULL;
    if (containerd_store_image(&fetch->store, name, ret, &first) == 0) return 0;
    if (error_kind_of(first) != ERROR_NOT_FOUND || strcmp(name, fetch->image.name) == 0)
        return error_move(error, first);
    error_free(first);
    return containerd_store_image(&fetch->store, fetch->image.name, ret, error);
}

static int read_image(struct fetch *fetch, const char *name, struct error **error)
{
    cleanup_buffer struct buffer body = { 0 };
    struct digest digest;
    if (find_image(fetch, name, &digest, error) < 0 ||
        read_manifest(fetch, &digest, &body, error) < 0)
        return -1;
    if (manifest_is_image_index("", body.data, body.length)) {
        if (image_index_select(body.data, body.length, &fetch->image.platform, &digest, error) < 0)
            return -1;
        buffer_free(&body);
        if (read_manifest(fetch, &digest, &body, error) < 0) return -1;
    }
    return image_set_manifest(&fetch->image, &digest, "", &body, error);
}

/* ---- fetching ---- */

static ssize_t read_stream(void *context, void *data, size_t capacity, struct error **error)
{
    return blob_stream_read(context, data, capacity, error);
}

static bool is_held(const struct fetch *fetch, const char *digest)
{
    return strstr((const char *)fetch->held.data, digest) != NULL;
}

static int fetch_blob(struct fetch *fetch, const struct descriptor *blob, struct error **error)
{
    char digest[DIGEST_TEXT_SIZE], size[SIZE_TEXT_SIZE];
    struct blob_stream *stream;
    digest_format(&blob->digest, digest);
    if (is_held(fetch, digest)) {
        fetch->present++;
        return 0;
    }
    log_info("fetching %s (%s)", digest, format_size(blob->size, size));
    if (registry_open_blob(fetch->client, &fetch->image.repository, &blob->digest, blob->size,
                           &stream, error) < 0)
        return -1;
    int result = containerd_store_add(&fetch->store, blob, read_stream, stream, error);
    blob_stream_close(stream);
    if (result < 0) return error_prefix(error, "blob %s", digest);
    fetch->fetched++;
    fetch->bytes += blob->size;
    return 0;
}

static int fetch_blobs(struct fetch *fetch, struct error **error)
{
    const struct image_manifest *manifest = &fetch->image.manifest;
    if (containerd_store_keep(&fetch->store, &fetch->image.digest, manifest, error) < 0 ||
        containerd_store_list(&fetch->store, &fetch->held, error) < 0)
        return -1;
    if (buffer_append_u8(&fetch->held, 0) < 0) return error_set_memory(error);
    if (fetch_blob(fetch, &manifest->config, error) < 0) return -1;
    for (size_t i = 0; i < manifest->layer_count; i++)
        if (fetch_blob(fetch, &manifest->layers[i], error) < 0) return -1;
    return 0;
}

static int fetch_image(struct fetch *fetch, const char *name, struct error **error)
{
    if (image_parse(&fetch->image, name, common_platform(&fetch->common), error) < 0 ||
        read_image(fetch, name, error) < 0)
        return -1;
    struct registry_options registry = { .plain_http = fetch->common.plain_http,
                                         .hosts_directory = fetch->common.hosts_directory };
    fetch->client = registry_client_new(&registry, error);
    return fetch->client ? fetch_blobs(fetch, error) : -1;
}

/* ---- the command ---- */

static int print_result(const struct fetch *fetch, struct error **error)
{
    char manifest[DIGEST_TEXT_SIZE], size[SIZE_TEXT_SIZE];
    digest_format(&fetch->image.digest, manifest);
    if (!fetch->common.json) {
        printf("%s: %zu blob%s fetched (%s), %zu there\n", fetch->image.name, fetch->fetched,
               plural(fetch->fetched), format_size(fetch->bytes, size), fetch->present);
        return 0;
    }
    cleanup_json json_t *root =
        json_pack("{s:s, s:s, s:I, s:I, s:I}", "reference", fetch->image.name, "manifest_digest",
                  manifest, "blobs_fetched", (json_int_t)fetch->fetched, "bytes_fetched",
                  (json_int_t)fetch->bytes, "blobs_present", (json_int_t)fetch->present);
    if (!root) return error_set_memory(error);
    json_dumpf(root, stdout, JSON_INDENT(2));
    putchar('\n');
    return 0;
}

static enum exit_code fetch_and_print(struct fetch *fetch, const char *name)
{
    struct error *error = NULL;
    enum exit_code code = EXIT_FAILED;
    if (fetch_image(fetch, name, &error) < 0 || print_result(fetch, &error) < 0)
        command_failed(error);
    else
        code = command_finish();
    registry_client_free(fetch->client);
    image_free(&fetch->image);
    buffer_free(&fetch->held);
    return code;
}

static enum exit_code run(int argc, char **argv)
{
    static const struct option options[] = {
        IMAGE_OPTIONS,
        JSON_LONG,
        { "address", required_argument, NULL, OPTION_ADDRESS },
        { "namespace", required_argument, NULL, OPTION_NAMESPACE },
        { 0 },
    };
    struct fetch fetch = { 0 };
    enum exit_code code;
    int option;
    common_options_init(&fetch.common);
    while ((option = getopt_long(argc, argv, "hv", options, NULL)) != -1) {
        if (option == OPTION_ADDRESS)
            fetch.store.address = optarg;
        else if (option == OPTION_NAMESPACE)
            fetch.store.name_space = optarg;
        else if (!command_option(&fetch_command, &fetch.common, option, &code))
            return code;
    }
    if (!command_arguments(&fetch_command, argc, 1, 1, &code)) return code;
    return fetch_and_print(&fetch, argv[optind]);
}

const struct command fetch_command = {
    .name = "fetch",
    .arguments = "REF",
    .summary = "bring the blobs of a lazy image into containerd",
    .help = "For what needs an image whole: 'ctr images push' and 'export', 'nerdctl save'.\n\n"
            "  --namespace NS  of containerd, in which the image is (default; k8s.io for pods)\n"
            "  --address SOCKET  of containerd (/run/containerd/containerd.sock)\n"
            "  --platform OS/ARCH[/VARIANT]  of a multi-platform image (this machine's)\n"
            "  --plain-http    speak HTTP (loopback registries: always)\n"
            "  --hosts-dir DIR mirrors and certificates (/etc/containerd/certs.d, then\n"
            "                  /etc/docker/certs.d)\n"
            "  --json          print what was done as JSON\n"
            "  -v, --verbose   tell more\n\n"
            "example: sluice fetch --namespace k8s.io registry.example.com/team/app:1.2\n",
    .run = run,
};
