#include "fetcher/answer_error-internal.h"

#include <errno.h>
#include <jansson.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "fetcher/authorization-internal.h"
#include "fetcher/url-internal.h"

#define QUOTED_LIMIT 200 /* of the registry's own words */

static bool speaks_plain_http(const struct request *request, CURLcode code)
{
    return code == CURLE_SSL_CONNECT_ERROR &&
           (strstr(request->exchange.detail, "wrong version number") ||
            strstr(request->exchange.detail, "packet length too long") ||
            strstr(request->exchange.detail, "unknown protocol"));
}

bool transport_is_hopeless(const struct request *request, CURLcode code)
{
    switch (code) {
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_CERTPROBLEM:
    case CURLE_URL_MALFORMAT:
    case CURLE_UNSUPPORTED_PROTOCOL:
    case CURLE_OUT_OF_MEMORY:
    case CURLE_WRITE_ERROR: /* the headers passed their bound */
        return true;
    default:
        return speaks_plain_http(request, code);
    }
}

static const char *connect_reason(const struct exchange *exchange)
{
    switch (exchange->os_error) {
    case ECONNREFUSED:
        return "connection refused";
    case ENETUNREACH:
    case EHOSTUNREACH:
        return "no route to the host";
    default:
        return exchange->os_error ? strerror((int)exchange->os_error) : "cannot connect";
    }
}

static const char *transport_reason(const struct exchange *exchange, CURLcode code)
{
    switch (code) {
    case CURLE_COULDNT_RESOLVE_HOST:
        return "the host's name cannot be resolved";
    case CURLE_COULDNT_RESOLVE_PROXY:
        return "the proxy's name cannot be resolved";
    case CURLE_COULDNT_CONNECT:
        return connect_reason(exchange);
    case CURLE_OPERATION_TIMEDOUT:
        return exchange->answer.status ? "the answer stalled" : "no answer in time";
    case CURLE_GOT_NOTHING:
        return "the connection was closed without an answer";
    case CURLE_PARTIAL_FILE:
        return "the answer ended early";
    case CURLE_SEND_ERROR:
    case CURLE_RECV_ERROR:
        return "the connection broke";
    case CURLE_UNSUPPORTED_PROTOCOL:
    case CURLE_WEIRD_SERVER_REPLY:
        return "the answer is not HTTP";
    case CURLE_WRITE_ERROR:
        return "the answer has too many headers";
    case CURLE_OUT_OF_MEMORY: /* libcurl says so of a header above a bound of its own, too */
        return "there is no memory for it, or the answer has a header that is too long";
    default:
        return curl_easy_strerror(code);
    }
}

static bool is_bad_answer(CURLcode code)
{
    return code == CURLE_WRITE_ERROR || code == CURLE_OUT_OF_MEMORY;
}

/* Says so where it was not the registry itself that failed. */
static void name_redirect(const struct request *request, struct error **error)
{
    char host[URL_HOST_LIMIT];
    if (!request->current_url || url_same_origin(request->current_url, request->url)) return;
    error_prefix(error, "redirected to %s", url_host(request->current_url, host));
}

int transport_error(const struct request *request, CURLcode code, struct error **error)
{
    const struct exchange *exchange = &request->exchange;
    if (code == CURLE_PEER_FAILED_VERIFICATION || code == CURLE_SSL_CONNECT_ERROR ||
        code == CURLE_SSL_CERTPROBLEM || code == CURLE_SSL_CACERT_BADFILE)
        error_set(error, ERROR_UNREACHABLE, "TLS: %s",
                  exchange->detail[0] ? exchange->detail : curl_easy_strerror(code));
    else
        error_set(error, is_bad_answer(code) ? ERROR_INVALID : ERROR_UNREACHABLE, "%s",
                  transport_reason(exchange, code));
    name_redirect(request, error);
    if (speaks_plain_http(request, code))
        error_hint(error, "if it speaks plain HTTP, say --plain-http");
    return -1;
}

bool status_is_transient(long status)
{
    if (status == 408 || status == 429) return true;
    return status >= 500 && status != 501 && status != 505;
}

/* The first of the errors in the body: distribution specification, "Error Codes". */
struct refusal {
    json_t *root; /* owns the strings */
    const char *code, *message;
};

static struct refusal parse_refusal(const struct buffer *body)
{
    struct refusal refusal = { 0 };
    refusal.root = json_loadb((const char *)body->data, body->length, 0, NULL);
    const json_t *first = json_array_get(json_object_get(refusal.root, "errors"), 0);
    refusal.code = json_string_value(json_object_get(first, "code"));
    refusal.message = json_string_value(json_object_get(first, "message"));
    return refusal;
}

/* What was sent has its digest, so this is an accident: bytes were changed on the way, or the
 * registry has met another push of the same (quirks.c). */
static bool is_accident(const struct request *request, const struct refusal *refusal)
{
    return request->exchange.answer.status == 400 && request->body && refusal->code &&
           strcmp(refusal->code, "DIGEST_INVALID") == 0;
}

bool answer_is_transient(const struct request *request)
{
    struct refusal refusal = parse_refusal(&request->refusal);
    bool transient =
        status_is_transient(request->exchange.answer.status) || is_accident(request, &refusal);
    json_decref(refusal.root);
    return transient;
}

/* A server may echo what it was sent. */
static bool repeats_secret(const struct request *request, const char *text)
{
    const char *authorization = request->authorization;
    const char *value = authorization ? strchr(authorization, ' ') : NULL;
    if (value && strstr(text, value + 1)) return true;
    if (!request->host) return request->body != NULL || authorization != NULL;
    const struct login *login = login_find(request);
    if (!login) return false;
    const struct credentials *stored = &login->credentials;
    return (stored->password && strstr(text, stored->password)) ||
           (stored->identity_token && strstr(text, stored->identity_token));
}

/* "HTTP 404 (NAME_UNKNOWN: no such repository)" in fresh memory. */
static char *describe(const struct request *request, const struct refusal *refusal)
{
    const char *code = refusal->code, *message = refusal->message;
    if (code && repeats_secret(request, code)) code = NULL;
    if (message && (!*message || repeats_secret(request, message))) message = NULL;
    long status = request->exchange.answer.status;
    if (!code && !message) return format_text("HTTP %ld", status);
    return format_text("HTTP %ld (%.*s%s%.*s)", status, QUOTED_LIMIT, code ? code : "",
                       code && message ? ": " : "", QUOTED_LIMIT, message ? message : "");
}

/* A 404 counts where the registry itself says it: in its own form, or without
 * a body. A proxy's page says only that the proxy found no way. */
static bool has_authority(const struct request *request, const struct refusal *refusal)
{
    if (request->current_url && request->host &&
        !url_same_origin(request->current_url, request->host->api))
        return false;
    return request->refusal.length == 0 || refusal->code;
}

int answer_error(const struct request *request, struct error **error)
{
    struct refusal refusal = parse_refusal(&request->refusal);
    cleanup_free char *said = describe(request, &refusal);
    long status = request->exchange.answer.status;
    const char *text = said ? said : "out of memory";
    if (status == 401 || status == 403)
        error_set(error, ERROR_DENIED, "access denied: %s", text);
    else if (status == 404 && has_authority(request, &refusal))
        error_set(error, ERROR_NOT_FOUND, "not found: %s", text);
    else if (status == 404)
        error_set(error, ERROR_UNREACHABLE, "%s, but not as a registry says it", text);
    else if (status == 405 || status == 501)
        error_set(error, ERROR_UNSUPPORTED, "the registry does not support this: %s", text);
    else if (status == 416)
        error_set(error, ERROR_INVALID, "the range is outside the blob: %s", text);
    else if (status_is_transient(status) || is_accident(request, &refusal))
        error_set(error, ERROR_UNREACHABLE, "%s", text);
    else
        error_set(error, ERROR_INVALID, "%s", text);
    name_redirect(request, error);
    if (status == 403 && url_same_origin(request->current_url, request->url))
        authorization_hint(request, error);
    json_decref(refusal.root);
    return -1;
}
