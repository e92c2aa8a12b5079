/* Lazy layers: what is asked of their source, what becomes of its answers, and which directories
 * containers get above them. */
#include "tests/unit/snapshot_fixture.h"

#include <pthread.h>
#include <stdio.h>

#include "snapshotter/pull_labels.h"
#include "tests/unit/full_disk.h"

#define A "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define B "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
#define C "cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc"

/* A source that does as it is told, and remembers. */
struct source {
    struct lazy_source functions;
    pthread_mutex_t lock;
    int answer; /* of want() */
    bool gone;  /* what was wanted is gone before it is used */
    bool ill;   /* path() fails */
    struct lazy_use use;
    unsigned wanted, used, unused, started;
    uint64_t last_unused;
    char parent_chain_id[80];
    bool had_manifest;
    /* Called by want(), as something that happens meanwhile. */
    void (*meanwhile)(struct snapshots *snapshots);
    struct snapshots *snapshots;
};

static struct source source;

static int start(void *context, const struct lazy_use *uses, size_t count, struct error **error)
{
    (void)context, (void)uses, (void)error;
    source.started = (unsigned)count;
    return 0;
}

static int want(void *context, const struct lazy_layer *layer, struct lazy_use *ret,
                struct error **error)
{
    (void)context;
    pthread_mutex_lock(&source.lock);
    source.wanted++;
    snprintf(source.parent_chain_id, sizeof source.parent_chain_id, "%s",
             layer->parent_chain_id ? layer->parent_chain_id : "");
    source.had_manifest = layer->has_manifest;
    *ret = source.use;
    int answer = source.answer;
    pthread_mutex_unlock(&source.lock);
    if (source.meanwhile) source.meanwhile(source.snapshots);
    return answer < 0 ? error_set(error, ERROR_UNREACHABLE, "no decision") : answer;
}

static bool used(void *context, const struct lazy_use *use)
{
    (void)context;
    assert_int_equal(use->image, source.use.image);
    source.used++;
    return !source.gone;
}

static void unused(void *context, uint64_t image)
{
    (void)context;
    source.unused++;
    source.last_unused = image;
}

static char *path(void *context, const struct lazy_use *use, struct error **error)
{
    (void)context;
    if (!source.ill) {
        char *made = format_text("%s/lazy/%llu-%u", source.snapshots->root,
                                 (unsigned long long)use->image, use->layers);
        assert_int_equal(directory_make(made, 0700, NULL), 0);
        return made;
    }
    error_set(error, ERROR_UNREACHABLE, "the registry is away");
    return NULL;
}

static int set_up(void **state)
{
    snapshots_set_up(state);
    struct snapshots *snapshots = *state;
    source = (struct source){
        .functions = { .start = start, .want = want, .used = used, .unused = unused, .path = path },
        .lock = PTHREAD_MUTEX_INITIALIZER,
        .answer = 1,
        .use = { 7, 1 },
        .snapshots = snapshots
    };
    snapshots->options.lazy = &source.functions;
    snapshots_reopen(snapshots);
    return 0;
}

/* A Prepare of a pull, as CRI makes it, for the layer with this chain ID. */
static int pull(struct snapshots *snapshots, const char *key, const char *parent,
                const char *chain_id)
{
    char *reference = format_text(LABEL_SNAPSHOT_REF "=sha256:%s", chain_id);
    struct labels labels =
        labels_of(reference, "containerd.io/snapshot/cri.image-ref=registry/image:1",
                  "containerd.io/snapshot/cri.manifest-digest=sha256:" C,
                  "containerd.io/snapshot/cri.layer-digest=sha256:" B,
                  "containerd.io/snapshot/more=kept", NULL);
    int result = try_prepare(snapshots, key, parent, &labels);
    labels_free(&labels);
    free(reference);
    return result;
}

static int take_one(void *context, const struct snapshot_info *info, struct error **error)
{
    (void)error;
    char **name = context;
    free(*name);
    *name = strdup(info->name);
    return 0;
}

/* As containerd looks for what was said to exist. */
static char *found_by_containerd(struct snapshots *snapshots, const char *chain_id,
                                 const char *parent)
{
    char *name = NULL;
    char *filter = format_text("labels.\"containerd.io/snapshot.ref\"==sha256:%s,parent==\"%s\"",
                               chain_id, parent);
    const char *const filters[] = { filter };
    assert_int_equal(snapshotter_list(snapshots->snapshotter, filters, 1, take_one, &name, NULL),
                     0);
    free(filter);
    return name;
}

static void test_a_lazy_layer(void **state)
{
    struct snapshots *snapshots = *state;
    struct snapshot_usage usage;
    assert_int_equal(pull(snapshots, "extract", "", A), ERROR_EXISTS);
    assert_int_equal(source.wanted, 1);
    assert_true(source.had_manifest);
    assert_int_equal(source.unused, 0);
    char *name = found_by_containerd(snapshots, A, "");
    assert_string_equal(name, "sha256:" A);
    struct snapshot_info info = stat_of(snapshots, name);
    assert_int_equal(info.kind, SNAPSHOT_COMMITTED);
    assert_string_equal(labels_get(&info.labels, "containerd.io/snapshot/more"), "kept");
    assert_int_equal(info.labels.count, 5);
    snapshot_info_free(&info);
    assert_int_equal(try_stat(snapshots, "extract"), ERROR_NOT_FOUND);
    assert_int_equal(snapshotter_usage(snapshots->snapshotter, name, &usage, NULL), 0);
    assert_int_equal(usage.size + usage.inodes, 0);

    /* Another namespace that pulls it asks nobody. */
    assert_int_equal(pull(snapshots, "other", "", A), ERROR_EXISTS);
    assert_int_equal(source.wanted, 1);

    assert_int_equal(try_prepare(snapshots, "container", name, &no_labels), 0);
    assert_mounts(snapshots, "container",
                  "overlay overlay workdir=ROOT/snapshots/2/work,upperdir=ROOT/snapshots/2/fs,"
                  "lowerdir=ROOT/lazy/7-1");
    assert_int_equal(try_view(snapshots, "view", name), 0);
    assert_mounts(snapshots, "view", "bind ROOT/lazy/7-1 ro,rbind");
    struct stat found;
    char *upper = upper_of(snapshots, "container");
    assert_int_equal(stat(upper, &found), 0);
    assert_int_equal(found.st_mode & 07777, 0755);
    free(upper);
    free(name);
}

/* A lazy snapshot shows all that is below it: whatever that was, nothing else is mounted. */
static void test_chains(void **state)
{
    struct snapshots *snapshots = *state;
    struct labels first = labels_of(LABEL_SNAPSHOT_REF "=sha256:" A, NULL);
    commit_layer(snapshots, "first", "", &first);
    source.use.layers = 2;
    assert_int_equal(pull(snapshots, "extract", "first", B), ERROR_EXISTS);
    assert_string_equal(source.parent_chain_id, "sha256:" A);
    source.use.layers = 3;
    assert_int_equal(pull(snapshots, "extract", "sha256:" B, C), ERROR_EXISTS);
    assert_string_equal(source.parent_chain_id, "sha256:" B);
    commit_layer(snapshots, "fourth", "sha256:" C, &no_labels);
    commit_layer(snapshots, "fifth", "fourth", &no_labels);
    assert_int_equal(try_prepare(snapshots, "a", "fifth", &no_labels), 0);
    assert_mounts(snapshots, "a",
                  "overlay overlay workdir=ROOT/snapshots/6/work,upperdir=ROOT/snapshots/6/fs,"
                  "lowerdir=ROOT/snapshots/5/fs:ROOT/snapshots/4/fs:ROOT/lazy/7-3");
    assert_int_equal(try_view(snapshots, "v", "sha256:" B), 0);
    assert_mounts(snapshots, "v", "bind ROOT/lazy/7-2 ro,rbind");

    /* Above a layer whose chain ID nobody knows, none can be lazy. */
    commit_layer(snapshots, "unknown", "", &no_labels);
    unsigned before = source.wanted;
    assert_int_equal(pull(snapshots, "above", "unknown", B), 0);
    assert_int_equal(source.wanted, before);
    labels_free(&first);
}

/* The same layer above another snapshot is another one to containerd, with a name of its own. */
static void test_the_same_layer_above_two_parents(void **state)
{
    struct snapshots *snapshots = *state;
    struct labels first = labels_of(LABEL_SNAPSHOT_REF "=sha256:" A, NULL);
    commit_layer(snapshots, "ns1 first", "", &first);
    commit_layer(snapshots, "ns2 first", "", &first);
    assert_int_equal(pull(snapshots, "one", "ns1 first", B), ERROR_EXISTS);
    assert_int_equal(pull(snapshots, "two", "ns2 first", B), ERROR_EXISTS);
    char *one = found_by_containerd(snapshots, B, "ns1 first");
    char *two = found_by_containerd(snapshots, B, "ns2 first");
    assert_string_not_equal(one, two);
    assert_int_equal(source.unused, 0);
    assert_int_equal(try_remove(snapshots, one), 0);
    assert_int_equal(source.unused, 0);
    assert_int_equal(try_remove(snapshots, two), 0);
    assert_int_equal(source.unused, 1);
    assert_int_equal(source.last_unused, 7);
    free(one);
    free(two);
    labels_free(&first);
}

static void test_ordinary_answers(void **state)
{
    struct snapshots *snapshots = *state;
    source.answer = 0;
    assert_int_equal(pull(snapshots, "extract", "", A), 0);
    assert_mounts(snapshots, "extract", "bind ROOT/snapshots/1/fs rw,rbind");
    source.answer = -1;
    assert_int_equal(pull(snapshots, "failed", "", A), ERROR_UNREACHABLE);
    assert_int_equal(try_stat(snapshots, "failed"), ERROR_NOT_FOUND);
    source.answer = 1;
    source.gone = true;
    unsigned before = source.wanted;
    assert_int_equal(pull(snapshots, "gone", "", A), 0);
    assert_int_equal(source.unused, source.wanted - before);
    assert_int_equal(try_stat(snapshots, "sha256:" A), ERROR_NOT_FOUND);
}

static void test_nothing_is_asked_without_labels(void **state)
{
    struct snapshots *snapshots = *state;
    struct labels some[] = {
        labels_of(LABEL_SNAPSHOT_REF "=sha256:" A, NULL),
        labels_of("containerd.io/snapshot/cri.image-ref=i",
                  "containerd.io/snapshot/cri.layer-digest=sha256:" B, NULL),
        labels_of(LABEL_SNAPSHOT_REF "=sha256:" A, "containerd.io/snapshot/cri.image-ref=i", NULL),
        labels_of(LABEL_SNAPSHOT_REF "=sha256:" A, "containerd.io/snapshot/cri.image-ref=i",
                  "containerd.io/snapshot/cri.layer-digest=sha512:ab", NULL),
        labels_of(LABEL_SNAPSHOT_REF "=../../x", "containerd.io/snapshot/cri.image-ref=i",
                  "containerd.io/snapshot/cri.layer-digest=sha256:" B, NULL),
    };
    for (size_t i = 0; i < sizeof some / sizeof *some; i++) {
        char key[8];
        snprintf(key, sizeof key, "%zu", i);
        assert_int_equal(try_prepare(snapshots, key, "", &some[i]), 0);
        labels_free(&some[i]);
    }
    assert_int_equal(try_view(snapshots, "view", ""), 0);
    assert_int_equal(source.wanted, 0);
    assert_int_equal(source.unused, 0);
}

static void test_words_of_other_clients(void **state)
{
    (void)state;
    struct lazy_layer layer;
    struct digest expected;
    struct labels labels = labels_of(LABEL_SNAPSHOT_REF "=sha256:" A,
                                     "containerd.io/snapshot/remote/stargz.reference=r/i:t",
                                     "containerd.io/snapshot/remote/stargz.digest=sha256:" B,
                                     "containerd.io/snapshot/remote/stargz.layers=sha256:" B, NULL);
    assert_true(pull_labels_read(&labels, NULL, &layer));
    assert_string_equal(layer.image_name, "r/i:t");
    assert_false(layer.has_manifest);
    assert_null(layer.parent_chain_id);
    assert_int_equal(digest_parse(&expected, "sha256:" B, NULL), 0);
    assert_true(digest_equal(&layer.layer, &expected));
    assert_string_equal(layer.chain_id, "sha256:" A);
    labels_free(&labels);
}

static void test_what_cannot_be_mounted(void **state)
{
    struct snapshots *snapshots = *state;
    struct error *error = NULL;
    struct mount_list mounts = { 0 };
    assert_int_equal(pull(snapshots, "extract", "", A), ERROR_EXISTS);
    assert_int_equal(try_prepare(snapshots, "before", "sha256:" A, &no_labels), 0);
    source.ill = true;
    assert_int_equal(try_prepare(snapshots, "after", "sha256:" A, &no_labels), ERROR_UNREACHABLE);
    assert_int_equal(try_stat(snapshots, "after"), ERROR_NOT_FOUND);
    int result = snapshotter_mounts(snapshots->snapshotter, "before", &mounts, &error);
    assert_int_equal(kind_and_free(result, error), ERROR_UNREACHABLE);
    source.ill = false;
    snapshots->options.lazy = NULL;
    snapshots_reopen(snapshots);
    assert_int_equal(try_view(snapshots, "after", "sha256:" A), ERROR_UNREACHABLE);
    assert_int_equal(try_remove(snapshots, "before"), 0);
    assert_int_equal(try_remove(snapshots, "sha256:" A), 0);
}

static void test_what_is_there_at_the_start(void **state)
{
    struct snapshots *snapshots = *state;
    assert_int_equal(pull(snapshots, "x", "", A), ERROR_EXISTS);
    source.use.layers = 2;
    assert_int_equal(pull(snapshots, "x", "sha256:" A, B), ERROR_EXISTS);
    source.use = (struct lazy_use){ UINT64_MAX, UINT32_MAX };
    assert_int_equal(pull(snapshots, "x", "", C), ERROR_EXISTS);
    snapshots_reopen(snapshots);
    assert_int_equal(source.started, 3);
    assert_int_equal(try_remove(snapshots, "sha256:" C), 0);
    assert_true(source.last_unused == UINT64_MAX);
    snapshots_reopen(snapshots);
    assert_int_equal(source.started, 2);
}

static void pull_it_too(struct snapshots *snapshots)
{
    source.meanwhile = NULL;
    assert_int_equal(pull(snapshots, "faster", "", A), ERROR_EXISTS);
}

static void remove_parent(struct snapshots *snapshots)
{
    source.meanwhile = NULL;
    assert_int_equal(try_remove(snapshots, "parent"), 0);
}

static void remove_last(struct snapshots *snapshots)
{
    source.meanwhile = NULL;
    assert_int_equal(try_remove(snapshots, "sha256:" C), 0);
    assert_int_equal(source.unused, 1);
}

static void test_what_happens_meanwhile(void **state)
{
    struct snapshots *snapshots = *state;
    source.meanwhile = pull_it_too;
    assert_int_equal(pull(snapshots, "x", "", A), ERROR_EXISTS);
    assert_int_equal(source.unused, 0);
    assert_int_equal(source.used, 1);

    struct labels labels = labels_of(LABEL_SNAPSHOT_REF "=sha256:" B, NULL);
    commit_layer(snapshots, "parent", "", &labels);
    labels_free(&labels);
    source.meanwhile = remove_parent;
    assert_int_equal(pull(snapshots, "x", "parent", C), ERROR_NOT_FOUND);

    /* The last snapshot of an image goes while another is about to use it. */
    assert_int_equal(try_remove(snapshots, "sha256:" A), 0);
    assert_int_equal(pull(snapshots, "x", "", C), ERROR_EXISTS);
    source.unused = 0;
    source.meanwhile = remove_last;
    assert_int_equal(pull(snapshots, "x", "", B), ERROR_EXISTS);
    assert_int_equal(source.unused, 1);
}

/* Held back by who has the disk, a lazy layer fails, and its image is given back. */
static void test_a_full_disk(void **state)
{
    struct snapshots *snapshots = *state;
    const struct rlimit before = full_disk_begin(0);
    int result = pull(snapshots, "x", "", A);
    full_disk_end(before);
    assert_int_equal(result, ERROR_SYSTEM);
    assert_int_equal(source.unused, 1);
    assert_int_equal(try_stat(snapshots, "sha256:" A), ERROR_NOT_FOUND);
    assert_int_equal(pull(snapshots, "x", "", A), ERROR_EXISTS);
}

#define THREADS 8

static void *pull_often(void *argument)
{
    for (int i = 0; i < 20; i++) {
        if (pull(argument, "x", "", A) != ERROR_EXISTS) abort();
        int removed = try_remove(argument, "sha256:" A);
        if (removed != 0 && removed != ERROR_NOT_FOUND) abort();
    }
    return NULL;
}

static void test_threads(void **state)
{
    struct snapshots *snapshots = *state;
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, pull_often, snapshots), 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    try_remove(snapshots, "sha256:" A);
    char *left = found_by_containerd(snapshots, A, "");
    assert_null(left);
    assert_true(source.unused > 0);
}

#define LAZY_TEST(function) cmocka_unit_test_setup_teardown(function, set_up, snapshots_tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        LAZY_TEST(test_a_lazy_layer),
        LAZY_TEST(test_chains),
        LAZY_TEST(test_the_same_layer_above_two_parents),
        LAZY_TEST(test_ordinary_answers),
        LAZY_TEST(test_nothing_is_asked_without_labels),
        cmocka_unit_test(test_words_of_other_clients),
        LAZY_TEST(test_what_cannot_be_mounted),
        LAZY_TEST(test_what_is_there_at_the_start),
        LAZY_TEST(test_what_happens_meanwhile),
        LAZY_TEST(test_a_full_disk),
        LAZY_TEST(test_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
