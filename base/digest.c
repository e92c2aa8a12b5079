#include "base/digest.h"

#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

static const char PREFIX[] = "sha256:";

static int hex_value(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return -1;
}

int digest_parse(struct digest *ret, const char *text, struct error **error)
{
    if (strncmp(text, PREFIX, sizeof PREFIX - 1) != 0) {
        if (strncmp(text, "sha512:", 7) == 0 || strncmp(text, "sha384:", 7) == 0)
            return error_set(error, ERROR_UNSUPPORTED,
                             "digest '%.20s...': only sha256 is supported", text);
        return error_set(error, ERROR_INVALID, "'%.80s' is not a digest (sha256:<64 hex digits>)",
                         text);
    }
    const char *hex = text + sizeof PREFIX - 1;
    if (strlen(hex) != 2 * (size_t)DIGEST_BYTES)
        return error_set(error, ERROR_INVALID, "'%.80s' is not a digest (sha256:<64 hex digits>)",
                         text);
    for (size_t i = 0; i < DIGEST_BYTES; i++) {
        int high = hex_value(hex[2 * i]), low = hex_value(hex[2 * i + 1]);
        if (high < 0 || low < 0)
            return error_set(error, ERROR_INVALID,
                             "'%.80s' is not a digest (sha256:<64 hex digits>)", text);
        ret->bytes[i] = (uint8_t)(high << 4 | low);
    }
    return 0;
}

char *digest_format_hex(const struct digest *digest, char text[DIGEST_HEX_SIZE])
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < DIGEST_BYTES; i++) {
        text[2 * i] = digits[digest->bytes[i] >> 4];
        text[2 * i + 1] = digits[digest->bytes[i] & 15];
    }
    text[2 * DIGEST_BYTES] = '\0';
    return text;
}

char *digest_format(const struct digest *digest, char text[DIGEST_TEXT_SIZE])
{
    memcpy(text, PREFIX, sizeof PREFIX - 1);
    digest_format_hex(digest, text + sizeof PREFIX - 1);
    return text;
}

bool digest_equal(const struct digest *left, const struct digest *right)
{
    return memcmp(left->bytes, right->bytes, DIGEST_BYTES) == 0;
}

/* OpenSSL can fail here only for lack of memory or of the algorithm itself;
 * going on with an undefined digest would be worse than stopping. */
static void require(int succeeded)
{
    if (!succeeded) abort();
}

void digest_of(const void *data, size_t length, struct digest *ret)
{
    require(EVP_Digest(data, length, ret->bytes, NULL, EVP_sha256(), NULL));
}

struct digest_stream {
    EVP_MD_CTX *context;
};

struct digest_stream *digest_stream_new(void)
{
    struct digest_stream *stream = malloc(sizeof *stream);
    if (!stream) return NULL;
    stream->context = EVP_MD_CTX_new();
    if (!stream->context) {
        free(stream);
        return NULL;
    }
    require(EVP_DigestInit_ex(stream->context, EVP_sha256(), NULL));
    return stream;
}

void digest_stream_update(struct digest_stream *stream, const void *data, size_t length)
{
    require(EVP_DigestUpdate(stream->context, data, length));
}

void digest_stream_finish(struct digest_stream *stream, struct digest *ret)
{
    require(EVP_DigestFinal_ex(stream->context, ret->bytes, NULL));
    require(EVP_DigestInit_ex(stream->context, EVP_sha256(), NULL));
}

void digest_stream_free(struct digest_stream *stream)
{
    if (!stream) return;
    EVP_MD_CTX_free(stream->context);
    free(stream);
}

/* ---- many ---- */

static int compare(const void *left, const void *right)
{
    return memcmp(left, right, sizeof(struct digest));
}

void digests_sort(struct digest *digests, size_t count)
{
    if (count > 0) qsort(digests, count, sizeof *digests, compare);
}

bool digests_have(const struct digest *sorted, size_t count, const struct digest *digest)
{
    return count > 0 && bsearch(digest, sorted, count, sizeof *sorted, compare) != NULL;
}
