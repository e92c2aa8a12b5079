/*
 * OCI distribution client: https://github.com/opencontainers/distribution-spec (1.1).
 *
 * One client owns one thread that runs libcurl's multi interface; no thread
 * waits per request. All functions may be called from any thread except that
 * thread (that is: not from a range_done callback, apart from
 * registry_fetch_range() and its like, which may). Connections are kept and used
 * again. Authentication (anonymous, basic, bearer token), credentials (docker
 * config and helpers), retries with back-off and jitter, and redirects (without
 * the Authorization header to other hosts) are handled inside. Errors never
 * show credentials or the query of a redirect. What a blob was redirected to is
 * remembered for some minutes, so that a range costs one request, not two.
 *
 * Certificates are checked against the system's; SSL_CERT_FILE and SSL_CERT_DIR
 * name others, as for curl and docker. The variables http_proxy, https_proxy and
 * no_proxy count, except for loopback.
 */
#ifndef SLUICE_FETCHER_REGISTRY_H
#define SLUICE_FETCHER_REGISTRY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/buffer.h"
#include "base/digest.h"
#include "base/error.h"
#include "fetcher/credentials.h"

struct registry_client;

/*
 * Finds what is to be shown to a registry for a repository, as credentials_write() writes it.
 * Called on a thread of its own; may wait, but not once `cancel_descriptor` is readable. 0, or -1
 * with the error set. It is asked again whenever the registry refuses what it gave.
 */
typedef int registry_credentials(void *context, const struct credentials_question *question,
                                 int cancel_descriptor, struct buffer *ret, struct error **error);

struct registry_options {
    bool plain_http; /* speak HTTP to every registry, not only to loopback */
    /* Who serves which registry: a directory as containerd's certs.d; NULL: containerd's and
     * docker's own (hosts-internal.h). */
    const char *hosts_directory;
    registry_credentials *credentials; /* NULL: credentials_search(), by this process */
    void *credentials_context;
    unsigned connections;     /* per host at the most; 0: 8 */
    unsigned attempts;        /* per request, the first included; 0: 4 */
    unsigned connect_seconds; /* 0: 5 */
    unsigned stall_seconds;   /* (nearly) no byte for so long is a failure; 0: 15 */
    unsigned mirror_seconds;  /* until a host must answer where another can be asked; 0: 5 */
    unsigned aside_seconds;   /* so long a host that failed is asked last; 0: 30 */
};

/* `options` may be NULL. */
struct registry_client *registry_client_new(const struct registry_options *options,
                                            struct error **error);
/* Ends every request (their callbacks come with ERROR_CANCELLED), then the thread. Calls that
 * other threads are in return first; none may begin any more. NULL is fine. */
void registry_client_free(struct registry_client *client);

/* Where a call goes. The strings are borrowed for the time of the call. */
struct repository {
    const char *registry; /* as struct image_reference */
    const char *name;     /* image_reference.repository */
};

#define REGISTRY_MANIFEST_LIMIT (4u << 20) /* the distribution specification's 4 MiB */

struct registry_manifest {
    struct buffer body;
    char *media_type;     /* of the answer; owned */
    struct digest digest; /* of the body; checked when asked by digest */
};
void registry_manifest_free(struct registry_manifest *manifest);

/* `target` is a tag or a digest. ERROR_NOT_FOUND where the registry says so with authority. */
int registry_get_manifest(struct registry_client *client, const struct repository *repository,
                          const char *target, struct registry_manifest *ret, struct error **error);

/* What a tag means now (HEAD, falling back to GET where the answer has no Docker-Content-Digest).
 * With `patience_ms` other than 0, for who has another answer at hand, an answer must come within
 * that time, and a failure is tried again once only. */
int registry_resolve_tag(struct registry_client *client, const struct repository *repository,
                         const char *tag, unsigned patience_ms, struct digest *ret,
                         struct error **error);

/* `target` is a tag or the digest of `data`. `ret_subject_known`, when not NULL, says whether the
 * registry answered with OCI-Subject (it then keeps the referrers list itself). */
int registry_put_manifest(struct registry_client *client, const struct repository *repository,
                          const char *target, const char *media_type, const void *data,
                          size_t length, bool *ret_subject_known, struct error **error);

/* The list of referrers of `subject` as an OCI image index (JSON) in `ret`: by the Referrers API,
 * else by the fallback tag "sha256-<hex>". An empty list is an answer too (ret->length is 0).
 * `artifact_type` (or NULL) is asked for as a filter; the caller must filter again. */
int registry_get_referrers(struct registry_client *client, const struct repository *repository,
                           const struct digest *subject, const char *artifact_type,
                           struct buffer *ret, struct error **error);

/* For who has pushed a referrer, or is about to: asks the host that pushes go to and no other.
 * 1: it lists referrers by the Referrers API, 0: it has no such interface, -1: error. */
int registry_has_referrers_api(struct registry_client *client, const struct repository *repository,
                               const struct digest *subject, struct error **error);
/* The list under the fallback tag, as registry_get_referrers(). */
int registry_get_fallback_list(struct registry_client *client, const struct repository *repository,
                               const struct digest *subject, struct buffer *ret,
                               struct error **error);

/* A whole blob of at most `limit` bytes into memory, verified. `ret` is set. */
int registry_get_blob(struct registry_client *client, const struct repository *repository,
                      const struct digest *digest, size_t limit, struct buffer *ret,
                      struct error **error);
/* 1: the registry has it (the host that pushes go to, not a mirror), 0: it has not, -1: error. */
int registry_has_blob(struct registry_client *client, const struct repository *repository,
                      const struct digest *digest, struct error **error);
/* POST, then one PUT. */
int registry_put_blob(struct registry_client *client, const struct repository *repository,
                      const struct digest *digest, const void *data, size_t length,
                      struct error **error);

/*
 * A blob read forward as a stream through a small bounded buffer (back-pressure
 * by pausing the transfer). A connection that breaks is resumed by a range at
 * the offset reached. The bytes are not verified here: the reader hashes. Opening
 * does not wait: what the registry says against it is the error of the first
 * read. A stream that is open keeps one of the connections to its host, even
 * while nobody reads from it. A stream may outlive its client: reading then ends with
 * ERROR_CANCELLED.
 */
struct blob_stream;
int registry_open_blob(struct registry_client *client, const struct repository *repository,
                       const struct digest *digest, uint64_t length, struct blob_stream **ret,
                       struct error **error);
/* At most `capacity` bytes; waits until at least one is there. 0 exactly at `length`, -1 on error.
 */
ssize_t blob_stream_read(struct blob_stream *stream, void *data, size_t capacity,
                         struct error **error);
/* May be called at any time; ends the transfer. */
void blob_stream_close(struct blob_stream *stream);

/*
 * How long a range is tried: `timeout_ms` altogether, retries and waiting for a connection included
 * (0: no such bound). For `retry_ms` of it a registry that is away, overloaded or breaks off is
 * asked again and again, with pauses of at most 2 seconds, or as long as it asks for; only wrong
 * answers are counted as attempts. 0: all are.
 */
struct range_time {
    unsigned timeout_ms;
    unsigned retry_ms;
};

/*
 * Bytes [offset, offset + length) of a blob, asynchronously. `done` is called exactly once, on the
 * client's thread, and must not wait: with `body` (exactly `length` bytes; the callee may take
 * body->data and zero the struct, else it is freed) or with body NULL and `error` (owned by the
 * callee). The bytes are not verified here. `repository` and `digest` are copied. Only where there
 * is no memory to begin with, `done` is called at once, by the caller.
 */
typedef void range_done(void *context, struct buffer *body, struct error *error);
void registry_fetch_range(struct registry_client *client, const struct repository *repository,
                          const struct digest *digest, uint64_t offset, size_t length,
                          struct range_time time, range_done *done, void *context);

/* The same, handed out while it comes: `part` gets the bytes piece by piece, in their order and
 * each once, whatever attempts it takes; `done` then has an empty body. On the client's thread;
 * must not wait; `data` is valid during the call only. */
typedef void range_part(void *context, const void *data, size_t length);
void registry_stream_range(struct registry_client *client, const struct repository *repository,
                           const struct digest *digest, uint64_t offset, size_t length,
                           struct range_time time, range_part *part, range_done *done,
                           void *context);

/* One of several ranges, answered as by registry_stream_range(), or registry_fetch_range() where
 * `part` is NULL. */
struct registry_range {
    uint64_t offset;
    size_t length;
    range_part *part;
    range_done *done;
    void *context;
};
#define REGISTRY_RANGES_MAX 64u

/*
 * Several ranges of a blob, at most REGISTRY_RANGES_MAX: by one request, if the host answers such
 * (RFC 9110 section 14.6), else by one after the other; of two that overlap, one comes with another
 * request. They are asked for in this order, may come in any, and each is done as soon as it is
 * there. `time` is for one request
 * and its retries. `ranges` is copied.
 */
void registry_fetch_ranges(struct registry_client *client, const struct repository *repository,
                           const struct digest *digest, const struct registry_range *ranges,
                           size_t count, struct range_time time);
/* Whether that is one request, as far as is known: false for some minutes after any host gave one
 * range only. */
bool registry_takes_ranges(struct registry_client *client);

/* Bytes [offset, offset + length) of the blob, as fetched lately, were not what they should be:
 * where another host can be asked, the one they came from is left out for a while. From any thread.
 */
void registry_report_damage(struct registry_client *client, const struct digest *digest,
                            uint64_t offset, uint64_t length);

struct registry_statistics {
    uint64_t requests;       /* HTTP requests sent, retries and token requests included */
    uint64_t bytes_received; /* body bytes of answers */
    uint64_t retries;
};
void registry_client_statistics(struct registry_client *client, struct registry_statistics *ret);

#endif
