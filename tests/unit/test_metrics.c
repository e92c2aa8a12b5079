/* What monitoring is told: Prometheus' text, health, and clients that misbehave. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/file.h"
#include "snapshotter/metrics.h"

static const char *unhealthy_reason;

static json_t *make_status(void *context)
{
    (void)context;
    return json_pack("{s:{s:s, s:i}, s:{s:i, s:i, s:I, s:i}, s:{s:i, s:i},"
                     " s:[{s:s, s:s, s:i, s:f}], s:{s:i, s:i},"
                     " s:[{s:s, s:s, s:s, s:I, s:i, s:i},"
                     " {s:s, s:s, s:s, s:i}, {s:s, s:s, s:s, s:i}, {s:s}]}",
                     "daemon", "version", "1\"2\\3\n4", "open_files", 7, "server", "starts", 2,
                     "hangs", 1, "bytes_fetched", (json_int_t)1 << 40, "reads_waiting", 3, "cache",
                     "on_disk", 11, "limit", 0, "calls", "method", "Prepare", "code", "OK", "count",
                     5, "seconds", 0.25, "decisions", "lazy", 4, "no index", 6, "images", "state",
                     "mounted", "name", "r/a:\"1\"", "reference", "r/a@sha256:12", "bytes_fetched",
                     (json_int_t)5000, "oldest_wait_ms", 2500, "reads_waiting", 1, "state",
                     "mounted", "name", "r/a:\"1\"", "reference", "r/a@sha256:34", "bytes_fetched",
                     7, "state", "failed", "name", "r/a:\"1\"", "reference", "r/a@sha256:34",
                     "bytes_fetched", 8, "state", "failed");
}

static char *why_unhealthy(void *context)
{
    (void)context;
    return unhealthy_reason ? strdup(unhealthy_reason) : NULL;
}

static char *formatted_with(const json_t *status, bool images)
{
    struct buffer text = { 0 };
    assert_int_equal(metrics_format(status, images, &text), 0);
    assert_int_equal(buffer_append_u8(&text, 0), 0);
    return (char *)text.data;
}

static char *formatted(const json_t *status)
{
    return formatted_with(status, true);
}

static void assert_line(const char *text, const char *line)
{
    char *whole = format_text("\n%s\n", line);
    if (!strstr(text, whole)) fail_msg("no line '%s' in:\n%s", line, text);
    free(whole);
}

static void a_status_is_told_in_prometheus_terms(void **state)
{
    (void)state;
    json_t *status = make_status(NULL);
    char *text = formatted(status);
    assert_line(text, "sluice_build_info{version=\"1\\\"2\\\\3\\n4\"} 1");
    assert_line(text, "process_open_fds 7");
    assert_line(text, "# TYPE sluice_server_starts_total counter");
    assert_line(text, "sluice_server_starts_total 2");
    assert_line(text, "sluice_server_hangs_total 1");
    assert_line(text, "sluice_fetched_bytes_total 1099511627776");
    assert_line(text, "sluice_reads_waiting 3");
    assert_line(text, "sluice_cache_limit_bytes 0");
    assert_line(text, "sluice_snapshotter_calls_total{method=\"Prepare\",code=\"OK\"} 5");
    assert_line(text,
                "sluice_snapshotter_call_seconds_total{method=\"Prepare\",code=\"OK\"} 0.250000");
    assert_line(text, "sluice_decisions_total{decision=\"no index\"} 6");
    assert_line(text, "sluice_lazy_images{state=\"mounted\"} 2");
    assert_line(text, "sluice_lazy_images{state=\"other\"} 2");
    free(text);
    json_decref(status);
}

/* One name may mean several images, of which each is told once. */
static void images_have_metrics_of_their_own(void **state)
{
    (void)state;
    static const char first[] = "{image=\"r/a:\\\"1\\\"\",digest=\"sha256:12\"}";
    json_t *status = make_status(NULL);
    char *text = formatted(status), *all = formatted_with(status, false);
    char *fetched = format_text("sluice_image_fetched_bytes_total%s 5000", first);
    char *waited = format_text("sluice_image_oldest_wait_seconds%s 2.500", first);
    assert_line(text, fetched);
    assert_line(text, waited);
    assert_non_null(strstr(text, "sha256:34\"} 7\n"));
    assert_null(strstr(text, "sha256:34\"} 8\n"));
    assert_null(strstr(all, "sluice_image_"));
    free(fetched);
    free(waited);
    free(all);
    free(text);
    json_decref(status);
}

/* Each metric has one head, before its values: a second one makes Prometheus refuse all. */
static void every_metric_has_one_head(void **state)
{
    (void)state;
    json_t *status = make_status(NULL);
    char *text = formatted(status);
    for (const char *line = text; line && *line; line = strchr(line, '\n'), line += line != NULL) {
        char name[100];
        if (sscanf(line, "# TYPE %99s", name) != 1) continue;
        char *head = format_text("# TYPE %s ", name);
        const char *first = strstr(text, head);
        assert_ptr_equal(first, line);
        assert_null(strstr(first + 1, head));
        free(head);
    }
    free(text);
    json_decref(status);
}

static void what_a_status_lacks_is_left_out(void **state)
{
    (void)state;
    json_t *status = json_object();
    char *text = formatted(status);
    assert_null(strstr(text, "sluice_fetched_bytes_total"));
    assert_line(text, "sluice_lazy_images{state=\"mounted\"} 0");
    free(text);
    json_decref(status);
}

/* ---- over HTTP ---- */

static unsigned free_port(void)
{
    struct sockaddr_in address = { .sin_family = AF_INET,
                                   .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t length = sizeof address;
    int descriptor = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(descriptor, (struct sockaddr *)&address, length), 0);
    assert_int_equal(getsockname(descriptor, (struct sockaddr *)&address, &length), 0);
    close(descriptor);
    return ntohs(address.sin_port);
}

static struct metrics_listener *listener;
static unsigned port;

static int start(void **state)
{
    (void)state;
    const struct metrics_source source = { .status = make_status, .unhealthy = why_unhealthy };
    char address[32];
    port = free_port();
    snprintf(address, sizeof address, "127.0.0.1:%u", port);
    return metrics_listener_start(&listener, address, &source, NULL);
}

static int stop(void **state)
{
    (void)state;
    metrics_listener_stop(listener);
    return 0;
}

static int connect_to_it(void)
{
    struct sockaddr_in address = { .sin_family = AF_INET,
                                   .sin_port = htons((uint16_t)port),
                                   .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    int descriptor = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(descriptor, (struct sockaddr *)&address, sizeof address), 0);
    return descriptor;
}

static void ask(const char *request, char *ret, size_t size)
{
    int descriptor = connect_to_it();
    assert_int_equal(write_fully(descriptor, request, strlen(request)), 0);
    size_t length = 0;
    ssize_t count;
    while (length + 1 < size && (count = read(descriptor, ret + length, size - 1 - length)) > 0)
        length += (size_t)count;
    ret[length] = 0;
    close(descriptor);
}

#define REQUEST(method, path) method " " path " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"

static void metrics_and_health_are_served(void **state)
{
    (void)state;
    char answer[16384];
    ask(REQUEST("GET", "/metrics"), answer, sizeof answer);
    assert_non_null(strstr(answer, "200 OK"));
    assert_non_null(strstr(answer, "text/plain; version=0.0.4"));
    assert_non_null(strstr(answer, "\nsluice_reads_waiting 3\n"));
    ask(REQUEST("GET", "/healthz"), answer, sizeof answer);
    assert_non_null(strstr(answer, "200 OK"));
    unhealthy_reason = "the server does not start";
    ask(REQUEST("GET", "/healthz"), answer, sizeof answer);
    unhealthy_reason = NULL;
    assert_non_null(strstr(answer, "503"));
    assert_non_null(strstr(answer, "the server does not start\n"));
}

static void other_requests_are_refused(void **state)
{
    (void)state;
    char answer[4096];
    ask(REQUEST("GET", "/"), answer, sizeof answer);
    assert_non_null(strstr(answer, "404"));
    ask(REQUEST("DELETE", "/metrics"), answer, sizeof answer);
    assert_non_null(strstr(answer, "405"));
    ask("nonsense\r\n\r\n", answer, sizeof answer);
    assert_null(strstr(answer, "200 OK"));
}

static void clients_that_say_nothing_do_not_stop_others_for_ever(void **state)
{
    (void)state;
    int silent[8];
    char answer[16384];
    for (size_t i = 0; i < sizeof silent / sizeof *silent; i++)
        silent[i] = connect_to_it();
    ask(REQUEST("GET", "/healthz"), answer, sizeof answer);
    assert_non_null(strstr(answer, "200 OK"));
    for (size_t i = 0; i < sizeof silent / sizeof *silent; i++)
        close(silent[i]);
}

static void what_is_no_address_is_an_error(void **state)
{
    (void)state;
    static const char *const wrong[] = {
        "", "127.0.0.1", "localhost:9000", "[::1:9000", "1.2.3.4:no", "::1", "127.0.0.1:99999999"
    };
    const struct metrics_source source = { .status = make_status, .unhealthy = why_unhealthy };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct metrics_listener *started;
        struct error *error = NULL;
        if (metrics_listener_start(&started, wrong[i], &source, &error) == 0)
            fail_msg("'%s' was taken", wrong[i]);
        error_free(error);
    }
}

/* Another program's port must not keep images from being served. */
static void an_address_that_is_taken_is_tried_again(void **state)
{
    (void)state;
    const struct metrics_source source = { .status = make_status, .unhealthy = why_unhealthy };
    struct sockaddr_in place = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t length = sizeof place;
    char address[32], answer[16384];
    int other = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(other, (struct sockaddr *)&place, length), 0);
    assert_int_equal(getsockname(other, (struct sockaddr *)&place, &length), 0);
    assert_int_equal(listen(other, 1), 0);
    port = ntohs(place.sin_port);
    snprintf(address, sizeof address, "127.0.0.1:%u", port);
    assert_int_equal(metrics_listener_start(&listener, address, &source, NULL), 0);
    char *problem = metrics_listener_problem(listener);
    assert_non_null(problem);
    assert_non_null(strstr(problem, address));
    free(problem);
    close(other);
    while ((problem = metrics_listener_problem(listener))) {
        free(problem);
        usleep(10000);
    }
    ask(REQUEST("GET", "/healthz"), answer, sizeof answer);
    assert_non_null(strstr(answer, "200 OK"));
    metrics_listener_stop(listener);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_status_is_told_in_prometheus_terms),
        cmocka_unit_test(images_have_metrics_of_their_own),
        cmocka_unit_test(every_metric_has_one_head),
        cmocka_unit_test(what_a_status_lacks_is_left_out),
        cmocka_unit_test_setup_teardown(metrics_and_health_are_served, start, stop),
        cmocka_unit_test_setup_teardown(other_requests_are_refused, start, stop),
        cmocka_unit_test_setup_teardown(clients_that_say_nothing_do_not_stop_others_for_ever, start,
                                        stop),
        cmocka_unit_test(what_is_no_address_is_an_error),
        cmocka_unit_test(an_address_that_is_taken_is_tried_again),
    };
    return cmocka_run_group_tests_name("metrics", tests, NULL, NULL);
}
