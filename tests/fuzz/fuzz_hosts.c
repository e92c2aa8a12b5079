/*
 * Fed: containerd's hosts.toml.
 *
 * Holds: there is a reason with the file's name, or one to HOSTS_LIMIT hosts with addresses of a
 * kind that is spoken to, and headers that are one line each.
 */
#include "fetcher/hosts-internal.h"
#include "fetcher/url-internal.h"
#include "tests/fuzz/fuzz.h"

static void check_host(const struct host_settings *host)
{
    EXPECT(host->capabilities && !(host->capabilities & ~(unsigned)HOST_EVERYTHING));
    if (host->api) {
        EXPECT(url_is_https(host->api) || strncmp(host->api, "http://", 7) == 0);
        EXPECT(!strpbrk(host->api, "?#\r\n"));
    }
    for (size_t i = 0; i < host->header_count; i++)
        EXPECT(strstr(host->headers[i], ": ") && !strpbrk(host->headers[i], "\r\n"));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length)
{
    struct buffer text = { 0 };
    struct host_list list = { 0 };
    struct error *error = NULL;
    if (buffer_append(&text, data, length) < 0) return 0;
    if (hosts_file_parse("/nowhere", "hosts.toml", &text, &list, &error) == 0) {
        EXPECT(list.count >= 1 && list.count <= HOSTS_LIMIT);
        for (size_t i = 0; i < list.count; i++)
            check_host(&list.hosts[i]);
    } else {
        expect_error(error);
        EXPECT(strstr(error_message(error), "'hosts.toml'"));
    }
    host_list_free(&list);
    error_free(error);
    buffer_free(&text);
    return 0;
}
