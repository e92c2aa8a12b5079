#include "node/node.h"

#include <malloc.h>

/* Buffers of a chunk or more go back to the system when they are freed, instead of growing the
 * heap; and threads share few heaps. */
static void bound_heap(void)
{
    mallopt(M_MMAP_THRESHOLD, 128 << 10);
    mallopt(M_ARENA_MAX, 2);
    mallopt(M_TRIM_THRESHOLD, 1 << 20);
}

int node_open(struct node *ret, const struct node_options *options, struct error **error)
{
    struct registry_options registry = { .plain_http = options->plain_http,
                                         .hosts_directory = options->hosts_directory,
                                         .credentials = options->credentials,
                                         .credentials_context = options->credentials_context };
    struct data_path_options path = { .read_timeout_ms = options->read_timeout_seconds * 1000,
                                      .neighbours = true };
    *ret = (struct node){ 0 };
    bound_heap();
    ret->client = registry_client_new(&registry, error);
    if (!ret->client ||
        node_cache_open(&ret->cache, options->cache, &options->cache_limits, error) < 0 ||
        data_path_new(&ret->path, ret->client, ret->cache, &path, error) < 0)
        return -1;
    return shared_layers_new(&ret->layers, ret->path, error);
}

void node_close(struct node *node)
{
    shared_layers_free(node->layers);
    data_path_free(node->path);
    registry_client_free(node->client);
    if (node->cache) cache_free(node->cache);
    *node = (struct node){ 0 };
}
