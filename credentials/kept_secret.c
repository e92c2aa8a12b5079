#include "credentials/kept_secret.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/cleanup.h"

#define LENGTH_MAX (256u << 10)

struct kept_secret {
    struct digest fingerprint;
    struct buffer text; /* credentials_write(), on the pages */
};

static int copy_to_pages(struct kept_secret *secret, const struct buffer *text,
                         struct error **error)
{
    if (text->length > LENGTH_MAX)
        return error_set(error, ERROR_INVALID, "the credentials are longer than %u bytes",
                         LENGTH_MAX);
    void *pages =
        mmap(NULL, text->length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED) return error_set_errno(error, errno, "keep credentials");
    /* Both are precautions: that a system has neither is no reason to do without credentials. */
    madvise(pages, text->length, MADV_DONTDUMP);
    mlock(pages, text->length);
    memcpy(pages, text->data, text->length);
    secret->text = (struct buffer){ pages, text->length, text->length };
    return 0;
}

struct kept_secret *kept_secret_new(const struct credentials *credentials, struct error **error)
{
    cleanup_secret struct buffer text = { 0 };
    struct credentials shown = *credentials;
    shown.problem = NULL;
    struct kept_secret *secret = calloc(1, sizeof *secret);
    if (!secret || credentials_fingerprint(&shown, &secret->fingerprint) < 0) {
        free(secret);
        error_set_memory(error);
        return NULL;
    }
    if (credentials_write(&shown, &text, error) < 0 || copy_to_pages(secret, &text, error) < 0) {
        free(secret);
        return NULL;
    }
    return secret;
}

void kept_secret_free(struct kept_secret *secret)
{
    if (!secret) return;
    explicit_bzero(secret->text.data, secret->text.length);
    munmap(secret->text.data, secret->text.length);
    free(secret);
}

const struct digest *kept_secret_fingerprint(const struct kept_secret *secret)
{
    return &secret->fingerprint;
}

int kept_secret_read(const struct kept_secret *secret, struct credentials *ret,
                     struct error **error)
{
    return credentials_read(&secret->text, ret, error);
}
