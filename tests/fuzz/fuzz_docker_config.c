/*
 * Fed: docker's config.json.
 *
 * Holds: credentials are found, or not, or there is a reason that quotes
 * nothing of the file; what is found is whole: a token, or user and password.
 */
#include <sys/mman.h>
#include <unistd.h>

#include "fetcher/docker_config-internal.h"
#include "tests/fuzz/fuzz.h"

/* Longer words of the file that nobody may see. Registry names are no secret. */
static void expect_no_quote(const struct error *error, const char *text)
{
    const char *message = error_message(error);
    for (const char *at = text; strlen(at) >= 24; at++) {
        char word[25];
        memcpy(word, at, 24);
        word[24] = 0;
        EXPECT(!strstr(message, word));
    }
}

static void check_registry(const struct docker_config *config, const char *registry,
                           const char *text)
{
    struct credentials credentials;
    struct error *error = NULL;
    const char *helper = docker_config_helper(config, registry);
    EXPECT(!helper || *helper);
    int result = docker_config_credentials(config, registry, &credentials, &error);
    if (result > 0) EXPECT(credentials_are_known(&credentials));
    if (result < 0) {
        expect_error(error);
        expect_no_quote(error, text);
    }
    if (result <= 0) EXPECT(!credentials.user && !credentials.password);
    credentials_free(&credentials);
    error_free(error);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length)
{
    char path[64], *text = text_of_bytes(data, length);
    struct error *error = NULL;
    int descriptor = memfd_create("config.json", MFD_CLOEXEC);
    EXPECT(descriptor >= 0 && write(descriptor, data, length) == (ssize_t)length);
    snprintf(path, sizeof path, "/proc/self/fd/%d", descriptor);
    struct docker_config *config = docker_config_read(path, &error);
    if (config) {
        check_registry(config, "docker.io", text);
        check_registry(config, "registry.example.com", text);
        check_registry(config, "localhost:5000", text);
        check_registry(config, "[::1]:5000", text);
    } else {
        expect_error(error);
        expect_no_quote(error, text);
    }
    docker_config_free(config);
    error_free(error);
    close(descriptor);
    free(text);
    return 0;
}
