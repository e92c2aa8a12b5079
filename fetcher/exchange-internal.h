/* One HTTP request and its answer; everything on the transfer thread. */
#ifndef SLUICE_FETCHER_EXCHANGE_INTERNAL_H
#define SLUICE_FETCHER_EXCHANGE_INTERNAL_H

#include <curl/curl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/error.h"
#include "fetcher/transfer-internal.h"

#define ANSWER_CHALLENGES 4 /* WWW-Authenticate headers that are looked at */

/* The status and those headers of an answer that matter here; what did not come is NULL. */
struct answer {
    long status; /* 0: none came */
    char *location;
    char *content_type;             /* without parameters */
    const char *content_parameters; /* of it, behind the first semicolon; NULL: it has none */
    char *content_range;
    char *content_digest; /* Docker-Content-Digest */
    char *link;
    char *challenges[ANSWER_CHALLENGES];
    bool subject_known;     /* OCI-Subject came */
    int64_t content_length; /* -1: not said */
    uint64_t retry_after;   /* seconds; 0: not said */
    size_t header_lines, header_bytes;
    bool complete; /* the headers have ended */
};

/* What the client is set to; outlives its exchanges. */
struct exchange_settings {
    unsigned connect_seconds;
    unsigned stall_seconds;
    char *certificate_file; /* NULL: the system's */
    char *certificate_directory;
    struct buffer authorities;                   /* PEM; empty: those of certificate_file */
    const char *client_certificate, *client_key; /* files; NULL: none, in the certificate's file */
    bool skip_verify;
};

struct exchange;

struct exchange_events {
    /* The headers of the final answer are there. False ends the exchange. */
    bool (*headers)(struct exchange *exchange);
    /* `length`, CURL_WRITEFUNC_PAUSE (the same bytes come again after exchange_resume()), or
     * anything else to end the exchange. */
    size_t (*body)(struct exchange *exchange, const uint8_t *data, size_t length);
    void (*finished)(struct exchange *exchange, CURLcode code);
};

struct exchange {
    /* Set by the owner before each start; borrowed until the end. */
    const struct exchange_settings *settings;
    const struct exchange_events *events;
    const char *method; /* GET, HEAD, POST, PUT */
    const char *url;
    struct curl_slist *headers; /* taken over */
    const void *body;           /* of POST and PUT */
    size_t body_length;
    bool identify;          /* show the client certificate */
    unsigned hurry_seconds; /* 0: none; else others can be asked where it takes its time */
    bool fresh;             /* on a connection of its own */
    bool http1; /* not HTTP/2: a paused stream would hold up all others of its connection */

    struct answer answer;         /* valid until the next start */
    char detail[CURL_ERROR_SIZE]; /* libcurl's words about a failure, or "" */
    long os_error;                /* the errno of a failed connection, or 0 */
    CURL *easy;                   /* NULL: not running */
};

int exchange_start(struct exchange *exchange, struct transfer_thread *thread, struct error **error);
/* Ends a running exchange without `finished`; harmless for one that is not running. */
void exchange_cancel(struct exchange *exchange, struct transfer_thread *thread);
/* After a pause; may call `body` before it returns. */
void exchange_resume(struct exchange *exchange);
/* Frees the answer and headers of an exchange that is not running. */
void exchange_clear(struct exchange *exchange);

/* The transfer thread's `finished`. */
void exchange_finished(void *private, CURLcode code);

#endif
