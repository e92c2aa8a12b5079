/*
 * Fed: the lines of an answer's headers, as libcurl hands them on.
 *
 * Holds: they are bounded; what is kept of them is text of one line, without
 * blanks around it.
 */
#include <curl/curl.h>

/* The status is libcurl's to tell, which has no answer here. */
static long status;

static CURLcode tell(CURL *easy, CURLINFO info, void *ret)
{
    (void)easy;
    if (info == CURLINFO_RESPONSE_CODE) *(long *)ret = status;
    if (info == CURLINFO_RETRY_AFTER) *(curl_off_t *)ret = status - 300;
    return CURLE_OK;
}
#undef curl_easy_getinfo
#define curl_easy_getinfo tell
#include "fetcher/exchange.c" // NOLINT(bugprone-suspicious-include): it is about its static parts
#include "tests/fuzz/fuzz.h"

static bool on_headers(struct exchange *exchange)
{
    EXPECT(exchange->answer.complete);
    return true;
}

static void check_text(const char *text)
{
    if (!text) return;
    size_t length = strlen(text);
    EXPECT(length <= HEADER_VALUE_LIMIT && !strpbrk(text, "\n"));
    if (length) EXPECT(!strchr(" \t", text[0]) && !strchr(" \t\r", text[length - 1]));
}

static void check_answer(const struct answer *answer)
{
    const char *const texts[] = { answer->location,      answer->content_type,
                                  answer->content_range, answer->content_digest,
                                  answer->link,          answer->challenges[0],
                                  answer->challenges[1], answer->challenges[2],
                                  answer->challenges[3] };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        check_text(texts[i]);
    EXPECT(answer->content_length >= -1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length)
{
    static const struct exchange_events events = { .headers = on_headers };
    struct exchange exchange = { .events = &events, .answer = { .content_length = -1 } };
    exchange.easy = curl_easy_init();
    status = 200;
    EXPECT(exchange.easy);
    while (length > 0) {
        const uint8_t *end = memchr(data, '\n', length);
        size_t line = end ? (size_t)(end - data) + 1 : length;
        char *copy = malloc(line); /* of its exact size: libcurl's lines end without a NUL */
        EXPECT(copy);
        memcpy(copy, data, line);
        if (line > 12 && memcmp(copy, "HTTP/", 5) == 0) status = copy[9] * 100 - 4800;
        size_t taken = on_header(copy, 1, line, &exchange);
        free(copy);
        check_answer(&exchange.answer);
        if (taken != line) break;
        data += line;
        length -= line;
    }
    EXPECT(exchange.answer.header_bytes <= HEADER_BYTES_LIMIT + length);
    curl_easy_cleanup(exchange.easy);
    exchange.easy = NULL;
    answer_clear(&exchange.answer);
    return 0;
}
