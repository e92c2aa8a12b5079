#include "fetcher/exchange-internal.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/cleanup.h"
#include "fetcher/url-internal.h"

#define HEADER_LINES_LIMIT 256
#define HEADER_BYTES_LIMIT (256u << 10)
#define HEADER_VALUE_LIMIT (16u << 10) /* a header of ours that is longer did not come */
#define RECEIVE_BYTES      (128L << 10)
#define SLOW_BYTES_SECOND  256L /* slower is a stall: one byte a second could go on for years */
#define HURRY_BYTES_SECOND                                                \
    (16L << 10) /* slower is too slow where there is somebody else to ask \
                 */

static void answer_clear(struct answer *answer)
{
    free(answer->location);
    free(answer->content_type);
    free(answer->content_range);
    free(answer->content_digest);
    free(answer->link);
    for (size_t i = 0; i < ANSWER_CHALLENGES; i++)
        free(answer->challenges[i]);
    *answer = (struct answer){ .content_length = -1 };
}

static void keep_challenge(struct answer *answer, char **value)
{
    for (size_t i = 0; i < ANSWER_CHALLENGES; i++) {
        if (answer->challenges[i]) continue;
        answer->challenges[i] = take_pointer(value);
        return;
    }
}

/* libcurl tells the length only after the headers' end. Digits only; -1: no length. */
static int64_t parse_length(const char *value)
{
    int64_t length = 0;
    if (!*value || strlen(value) > 18) return -1;
    for (; *value; value++) {
        if (*value < '0' || *value > '9') return -1;
        length = length * 10 + (*value - '0');
    }
    return length;
}

/* The first of two headers of the same name counts. */
static void keep_header(struct answer *answer, const char *name, size_t name_length, char **value)
{
    const struct {
        const char *name;
        char **place;
    } kept[] = {
        { "Location", &answer->location },
        { "Content-Type", &answer->content_type },
        { "Content-Range", &answer->content_range },
        { "Docker-Content-Digest", &answer->content_digest },
        { "Link", &answer->link },
    };
    for (size_t i = 0; i < sizeof kept / sizeof *kept; i++) {
        if (name_length != strlen(kept[i].name) ||
            strncasecmp(name, kept[i].name, name_length) != 0)
            continue;
        if (!*kept[i].place) *kept[i].place = take_pointer(value);
        return;
    }
    if (name_length == 16 && strncasecmp(name, "WWW-Authenticate", 16) == 0)
        keep_challenge(answer, value);
    else if (name_length == 11 && strncasecmp(name, "OCI-Subject", 11) == 0)
        answer->subject_known = true;
    else if (name_length == 14 && strncasecmp(name, "Content-Length", 14) == 0)
        answer->content_length = parse_length(*value);
}

static void take_header_line(struct answer *answer, const char *line, size_t length)
{
    const char *colon = memchr(line, ':', length);
    if (!colon) return;
    const char *value = colon + 1, *end = line + length;
    while (value < end && (*value == ' ' || *value == '\t'))
        value++;
    while (end > value && strchr(" \t\r\n", end[-1]))
        end--;
    size_t value_length = (size_t)(end - value);
    if (value_length > HEADER_VALUE_LIMIT || memchr(value, '\0', value_length)) return;
    cleanup_free char *copy = strndup(value, value_length);
    if (copy) keep_header(answer, line, (size_t)(colon - line), &copy);
}

static void split_content_type(struct answer *answer)
{
    char *end = answer->content_type + strcspn(answer->content_type, "; \t\r");
    const char *semicolon = strchr(end, ';');
    if (semicolon) answer->content_parameters = semicolon + 1;
    *end = '\0';
}

/* The headers have ended: what libcurl has parsed of them, and a plain media type. */
static void complete_answer(struct exchange *exchange)
{
    struct answer *answer = &exchange->answer;
    curl_off_t seconds = 0;
    curl_easy_getinfo(exchange->easy, CURLINFO_RETRY_AFTER, &seconds);
    answer->retry_after = seconds > 0 ? (uint64_t)seconds : 0;
    if (answer->content_type) split_content_type(answer);
    answer->complete = true;
}

static size_t on_header(char *data, size_t size, size_t count, void *context)
{
    struct exchange *exchange = context;
    struct answer *answer = &exchange->answer;
    size_t length = size * count;
    answer->header_bytes += length;
    if (++answer->header_lines > HEADER_LINES_LIMIT || answer->header_bytes > HEADER_BYTES_LIMIT)
        return 0;
    if (answer->complete) return length; /* trailers of a chunked body */
    if (length > 5 && memcmp(data, "HTTP/", 5) == 0) {
        /* A new answer: what came before was a 1xx one. */
        size_t lines = answer->header_lines, bytes = answer->header_bytes;
        answer_clear(answer);
        answer->header_lines = lines;
        answer->header_bytes = bytes;
        curl_easy_getinfo(exchange->easy, CURLINFO_RESPONSE_CODE, &answer->status);
        return length;
    }
    bool blank = length <= 2 && (data[0] == '\r' || data[0] == '\n');
    if (!blank) {
        take_header_line(answer, data, length);
        return length;
    }
    curl_easy_getinfo(exchange->easy, CURLINFO_RESPONSE_CODE, &answer->status);
    if (answer->status < 200) return length;
    complete_answer(exchange);
    return exchange->events->headers(exchange) ? length : 0;
}

static size_t on_body(char *data, size_t size, size_t count, void *context)
{
    struct exchange *exchange = context;
    return exchange->events->body(exchange, (const uint8_t *)data, size * count);
}

static void set_method(const struct exchange *exchange)
{
    CURL *easy = exchange->easy;
    if (strcmp(exchange->method, "HEAD") == 0) {
        curl_easy_setopt(easy, CURLOPT_NOBODY, 1L);
    } else if (strcmp(exchange->method, "GET") == 0) {
        curl_easy_setopt(easy, CURLOPT_HTTPGET, 1L);
    } else {
        curl_easy_setopt(easy, CURLOPT_POST, 1L);
        curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, exchange->method);
        curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)exchange->body_length);
        curl_easy_setopt(easy, CURLOPT_POSTFIELDS, exchange->body_length ? exchange->body : "");
    }
}

static void set_bounds(const struct exchange *exchange)
{
    CURL *easy = exchange->easy;
    long stall = (long)exchange->settings->stall_seconds;
    /* A registry that has taken a large blob hashes and stores it before it answers. */
    if (exchange->body_length > (1u << 20)) stall *= 4;
    curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT, (long)exchange->settings->connect_seconds);
    curl_easy_setopt(easy, CURLOPT_LOW_SPEED_LIMIT,
                     exchange->hurry_seconds ? HURRY_BYTES_SECOND : SLOW_BYTES_SECOND);
    if (exchange->hurry_seconds) stall = (long)exchange->hurry_seconds;
    curl_easy_setopt(easy, CURLOPT_LOW_SPEED_TIME, stall);
    curl_easy_setopt(easy, CURLOPT_BUFFERSIZE, RECEIVE_BYTES);
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    /* Otherwise ending an exchange waits for its name lookup, and all others with it. */
    curl_easy_setopt(easy, CURLOPT_QUICK_EXIT, 1L);
}

static void set_connection(const struct exchange *exchange)
{
    CURL *easy = exchange->easy;
    curl_easy_setopt(easy, CURLOPT_URL, exchange->url);
    curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(easy, CURLOPT_HTTP_VERSION,
                     exchange->http1 ? (long)CURL_HTTP_VERSION_1_1 : (long)CURL_HTTP_VERSION_2TLS);
    curl_easy_setopt(easy, CURLOPT_FRESH_CONNECT, exchange->fresh ? 1L : 0L);
    curl_easy_setopt(easy, CURLOPT_TCP_NODELAY, 1L);
    curl_easy_setopt(easy, CURLOPT_TCP_KEEPALIVE, 1L);
    curl_easy_setopt(easy, CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
    curl_easy_setopt(easy, CURLOPT_USERAGENT, "sluice/" SLUICE_VERSION);
    if (url_is_loopback(exchange->url)) curl_easy_setopt(easy, CURLOPT_PROXY, "");
}

static void set_trust(const struct exchange *exchange)
{
    CURL *easy = exchange->easy;
    const struct exchange_settings *settings = exchange->settings;
    if (settings->certificate_file)
        curl_easy_setopt(easy, CURLOPT_CAINFO, settings->certificate_file);
    if (settings->certificate_directory)
        curl_easy_setopt(easy, CURLOPT_CAPATH, settings->certificate_directory);
    if (settings->authorities.length > 0) {
        struct curl_blob blob = { settings->authorities.data, settings->authorities.length,
                                  CURL_BLOB_NOCOPY };
        curl_easy_setopt(easy, CURLOPT_CAINFO_BLOB, &blob);
    }
    if (settings->skip_verify) {
        curl_easy_setopt(easy, CURLOPT_SSL_VERIFYPEER, 0L);
        curl_easy_setopt(easy, CURLOPT_SSL_VERIFYHOST, 0L);
    }
    if (!exchange->identify || !settings->client_certificate) return;
    curl_easy_setopt(easy, CURLOPT_SSLCERT, settings->client_certificate);
    if (settings->client_key) curl_easy_setopt(easy, CURLOPT_SSLKEY, settings->client_key);
}

static void set_callbacks(struct exchange *exchange)
{
    CURL *easy = exchange->easy;
    curl_easy_setopt(easy, CURLOPT_HTTPHEADER, exchange->headers);
    curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(easy, CURLOPT_HEADERDATA, exchange);
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, exchange);
    curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, exchange->detail);
    curl_easy_setopt(easy, CURLOPT_PRIVATE, exchange);
}

int exchange_start(struct exchange *exchange, struct transfer_thread *thread, struct error **error)
{
    answer_clear(&exchange->answer);
    exchange->detail[0] = '\0';
    exchange->easy = curl_easy_init();
    if (!exchange->easy) return error_set_memory(error);
    set_method(exchange);
    set_bounds(exchange);
    set_connection(exchange);
    set_trust(exchange);
    set_callbacks(exchange);
    if (transfer_add(thread, exchange->easy, error) == 0) return 0;
    curl_easy_cleanup(exchange->easy);
    exchange->easy = NULL;
    return -1;
}

/* The headers may hold the credentials. */
static void free_headers(struct exchange *exchange)
{
    for (struct curl_slist *header = exchange->headers; header; header = header->next)
        explicit_bzero(header->data, strlen(header->data));
    curl_slist_free_all(exchange->headers);
    exchange->headers = NULL;
}

static void release(struct exchange *exchange)
{
    curl_easy_cleanup(exchange->easy);
    exchange->easy = NULL;
    free_headers(exchange);
}

void exchange_cancel(struct exchange *exchange, struct transfer_thread *thread)
{
    if (!exchange->easy) return;
    transfer_remove(thread, exchange->easy);
    release(exchange);
}

void exchange_resume(struct exchange *exchange)
{
    if (exchange->easy) curl_easy_pause(exchange->easy, CURLPAUSE_CONT);
}

void exchange_finished(void *private, CURLcode code)
{
    struct exchange *exchange = private;
    curl_easy_getinfo(exchange->easy, CURLINFO_OS_ERRNO, &exchange->os_error);
    release(exchange);
    exchange->events->finished(exchange, code);
}

void exchange_clear(struct exchange *exchange)
{
    answer_clear(&exchange->answer);
    free_headers(exchange);
}
