#include <errno.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "fetcher/reference.h"
#include "snapshotter/layer_store-internal.h"

/* Inode numbers: a place has four in a row, from its number's fourfold on; the root has 1, where no
 * place is. Nothing is cached by the kernel: what a name means here changes with images. */
enum store_file { FILE_PLACE, FILE_DIFF, FILE_INFO, FILE_BLOB, FILES };

#define USE "use"
/* Of a name in base64: an image's name may have 255 + 128 + 71 bytes and a registry. */
#define NAME_MAX_BASE64 1024u

/* ---- places; under the lock ---- */

static struct store_place *find_place(struct layer_store *store, fuse_ino_t inode)
{
    struct store_place *place;
    TAILQ_FOREACH(place, &store->places, entry)
    {
        if (place->number == inode / FILES) return place;
    }
    return NULL;
}

static void free_place(struct layer_store *store, struct store_place *place)
{
    TAILQ_REMOVE(&store->places, place, entry);
    free(place->image);
    free(place->path);
    free(place->info);
    free(place);
}

static bool is_place(const struct store_place *place, const char *image, const struct digest *blob)
{
    return place->is_layer == (blob != NULL) && strcmp(place->image, image) == 0 &&
           (!blob || digest_equal(&place->blob, blob));
}

/* `blob` NULL: the image's. NULL: out of memory. */
static struct store_place *get_place(struct layer_store *store, const char *image,
                                     const struct digest *blob)
{
    struct store_place *place;
    TAILQ_FOREACH(place, &store->places, entry)
    {
        if (is_place(place, image, blob)) return place;
    }
    place = calloc(1, sizeof *place);
    char *name = strdup(image);
    if (!place || !name) {
        free(place);
        free(name);
        return NULL;
    }
    place->number = ++store->last_number;
    place->image = name;
    place->is_layer = blob != NULL;
    if (blob) place->blob = *blob;
    TAILQ_INSERT_HEAD(&store->places, place, entry);
    return place;
}

/* What is asked of a place without the lock. */
struct asked {
    bool found, is_layer;
    char *image;
    struct digest blob;
    struct lazy_use use;
};

static struct asked ask(struct layer_store *store, fuse_ino_t inode)
{
    struct asked asked = { 0 };
    pthread_mutex_lock(&store->lock);
    const struct store_place *place = find_place(store, inode);
    if (place && inode % FILES == FILE_PLACE) {
        asked.is_layer = place->is_layer;
        asked.image = strdup(place->image);
        asked.blob = place->blob;
        asked.use = place->use;
        asked.found = asked.image != NULL;
    }
    pthread_mutex_unlock(&store->lock);
    return asked;
}

/* ---- attributes ---- */

static struct stat attributes_of(const struct store_place *place, fuse_ino_t inode)
{
    struct stat attributes = { .st_ino = inode, .st_mode = S_IFDIR | 0755, .st_nlink = 1 };
    if (!place) return attributes;
    switch ((enum store_file)(inode % FILES)) {
    case FILE_DIFF:
        attributes.st_mode = S_IFLNK | 0777;
        attributes.st_size = place->path ? (off_t)strlen(place->path) : 0;
        break;
    case FILE_INFO:
        attributes.st_mode = S_IFREG | 0444;
        attributes.st_size = place->info ? (off_t)strlen(place->info) : 0;
        break;
    case FILE_BLOB:
        attributes.st_mode = S_IFREG | 0444;
        attributes.st_size = (off_t)place->blob_length;
        break;
    default:
        break;
    }
    return attributes;
}

static void get_attributes(fuse_req_t request, fuse_ino_t inode, struct fuse_file_info *file)
{
    (void)file;
    struct layer_store *store = fuse_server_context(request);
    pthread_mutex_lock(&store->lock);
    const struct store_place *place = find_place(store, inode);
    struct stat attributes = attributes_of(place, inode);
    pthread_mutex_unlock(&store->lock);
    if (!place && inode != FUSE_ROOT_ID)
        fuse_reply_err(request, ESTALE);
    else
        fuse_reply_attr(request, &attributes, 0);
}

/* Under the lock: one more lookup of the place. */
static struct fuse_entry_param entry_of(struct store_place *place, enum store_file file)
{
    struct fuse_entry_param entry = { .ino = place->number * FILES + file };
    entry.attr = attributes_of(place, entry.ino);
    place->lookups++;
    return entry;
}

/* ---- names ---- */

/* The image's name that is meant, in fresh memory; NULL: none is. */
static char *decode_name(const char *name)
{
    unsigned char text[NAME_MAX_BASE64 + 4], again[NAME_MAX_BASE64 + 8];
    struct image_reference reference;
    size_t length = strlen(name), padding = 0;
    if (length == 0 || length > NAME_MAX_BASE64 || length % 4 != 0) return NULL;
    while (padding < 2 && name[length - 1 - padding] == '=')
        padding++;
    int decoded = EVP_DecodeBlock(text, (const unsigned char *)name, (int)length);
    if (decoded < 0) return NULL;
    size_t count = (size_t)decoded - padding;
    text[count] = 0;
    /* One name for each image, or uses would be counted apart. */
    EVP_EncodeBlock(again, text, (int)count);
    if (strcmp((const char *)again, name) != 0 || memchr(text, 0, count) ||
        image_reference_parse(&reference, (const char *)text, NULL) < 0)
        return NULL;
    image_reference_free(&reference);
    return strdup((const char *)text);
}

static void look_up_image(fuse_req_t request, struct layer_store *store, const char *name)
{
    cleanup_free char *image = decode_name(name);
    struct fuse_entry_param entry = { 0 };
    if (image) {
        pthread_mutex_lock(&store->lock);
        struct store_place *place = get_place(store, image, NULL);
        if (place) entry = entry_of(place, FILE_PLACE);
        pthread_mutex_unlock(&store->lock);
    }
    if (entry.ino)
        fuse_reply_entry(request, &entry);
    else
        fuse_reply_err(request, ENOENT);
}

static void look_up_layer(fuse_req_t request, struct layer_store *store, const struct asked *image,
                          const char *name)
{
    struct digest blob;
    struct lazy_use use;
    struct fuse_entry_param entry = { 0 };
    if (digest_parse(&blob, name, NULL) == 0 &&
        layer_store_find(store, image->image, &blob, &use)) {
        pthread_mutex_lock(&store->lock);
        struct store_place *place = get_place(store, image->image, &blob);
        if (place) {
            place->use = use;
            entry = entry_of(place, FILE_PLACE);
        }
        pthread_mutex_unlock(&store->lock);
    }
    if (entry.ino)
        fuse_reply_entry(request, &entry);
    else
        fuse_reply_err(request, ENOENT);
}

/* Under the lock. */
static void take_layer(struct store_place *place, struct store_layer *layer)
{
    free(place->path);
    free(place->info);
    place->path = layer->path;
    place->info = layer->info;
    place->blob_length = layer->blob_length;
}

static void look_up_file(fuse_req_t request, struct layer_store *store, const struct asked *layer,
                         fuse_ino_t parent, const char *name)
{
    static const char *const names[FILES] = { "", "diff", "info", "blob" };
    struct store_layer shown;
    struct fuse_entry_param entry = { 0 };
    size_t file = FILE_DIFF;
    while (file < FILES && strcmp(names[file], name) != 0)
        file++;
    int failure = file < FILES
                      ? layer_store_show(store, layer->image, &layer->blob, &layer->use, &shown)
                      : ENOENT;
    if (failure) {
        fuse_reply_err(request, failure);
        return;
    }
    pthread_mutex_lock(&store->lock);
    /* It stays while the kernel asks about it. */
    struct store_place *place = find_place(store, parent);
    if (place) {
        take_layer(place, &shown);
        entry = entry_of(place, (enum store_file)file);
    } else {
        free(shown.path);
        free(shown.info);
    }
    pthread_mutex_unlock(&store->lock);
    if (entry.ino)
        fuse_reply_entry(request, &entry);
    else
        fuse_reply_err(request, ESTALE);
}

static void lookup(fuse_req_t request, fuse_ino_t parent, const char *name)
{
    struct layer_store *store = fuse_server_context(request);
    if (parent == FUSE_ROOT_ID) {
        look_up_image(request, store, name);
        return;
    }
    struct asked asked = ask(store, parent);
    if (!asked.found)
        fuse_reply_err(request, ENOENT);
    else if (asked.is_layer)
        look_up_file(request, store, &asked, parent, name);
    else
        look_up_layer(request, store, &asked, name);
    free(asked.image);
}

static void forget(fuse_req_t request, fuse_ino_t inode, uint64_t count)
{
    struct layer_store *store = fuse_server_context(request);
    pthread_mutex_lock(&store->lock);
    struct store_place *place = find_place(store, inode);
    if (place) {
        place->lookups = count < place->lookups ? place->lookups - count : 0;
        if (place->lookups == 0) free_place(store, place);
    }
    pthread_mutex_unlock(&store->lock);
    fuse_reply_none(request);
}

/* ---- contents ---- */

static void read_link(fuse_req_t request, fuse_ino_t inode)
{
    struct layer_store *store = fuse_server_context(request);
    cleanup_free char *path = NULL;
    pthread_mutex_lock(&store->lock);
    const struct store_place *place = find_place(store, inode);
    if (place && place->path) path = strdup(place->path);
    pthread_mutex_unlock(&store->lock);
    if (path)
        fuse_reply_readlink(request, path);
    else
        fuse_reply_err(request, EIO);
}

static void open_file(fuse_req_t request, fuse_ino_t inode, struct fuse_file_info *file)
{
    struct layer_store *store = fuse_server_context(request);
    if (inode % FILES == FILE_INFO && (file->flags & O_ACCMODE) == O_RDONLY) {
        fuse_reply_open(request, file);
        return;
    }
    pthread_mutex_lock(&store->lock);
    const struct store_place *place = find_place(store, inode);
    if (place && inode % FILES == FILE_BLOB)
        log_warning("the blob of a layer of %s is not on this node; copy the image from its "
                    "registry, as by 'skopeo copy', instead of pushing or saving it",
                    place->image);
    pthread_mutex_unlock(&store->lock);
    fuse_reply_err(request, inode % FILES == FILE_BLOB ? EOPNOTSUPP : EACCES);
}

static void read_file(fuse_req_t request, fuse_ino_t inode, size_t size, off_t offset,
                      struct fuse_file_info *file)
{
    (void)file;
    struct layer_store *store = fuse_server_context(request);
    cleanup_free char *info = NULL;
    pthread_mutex_lock(&store->lock);
    const struct store_place *place = find_place(store, inode);
    if (place && place->info) info = strdup(place->info);
    pthread_mutex_unlock(&store->lock);
    size_t length = info ? strlen(info) : 0, start = (size_t)offset;
    if (!info)
        fuse_reply_err(request, EIO);
    else if (offset < 0 || start >= length)
        fuse_reply_buf(request, NULL, 0);
    else
        fuse_reply_buf(request, info + start, size < length - start ? size : length - start);
}

/* What there is cannot be listed: it is made by asking. */
static void read_directory(fuse_req_t request, fuse_ino_t inode, size_t size, off_t offset,
                           struct fuse_file_info *file)
{
    (void)inode, (void)size, (void)offset, (void)file;
    fuse_reply_buf(request, NULL, 0);
}

/* ---- what is told ---- */

static void create(fuse_req_t request, fuse_ino_t parent, const char *name, mode_t mode,
                   struct fuse_file_info *file)
{
    (void)mode, (void)file;
    struct layer_store *store = fuse_server_context(request);
    struct asked layer = ask(store, parent);
    bool is_use = layer.found && layer.is_layer && strcmp(name, USE) == 0;
    if (is_use) layer_store_used(store, layer.image, &layer.blob, &layer.use);
    fuse_reply_err(request, is_use ? ENOENT : EACCES);
    free(layer.image);
}

static void remove_directory(fuse_req_t request, fuse_ino_t parent, const char *name)
{
    struct layer_store *store = fuse_server_context(request);
    struct digest blob;
    struct asked image = ask(store, parent);
    bool is_layer = image.found && !image.is_layer && digest_parse(&blob, name, NULL) == 0;
    if (is_layer) layer_store_unused(store, image.image, &blob);
    fuse_reply_err(request, is_layer ? ENOENT : EACCES);
    free(image.image);
}

/* ---- the connection ---- */

static void negotiate(void *context, struct fuse_conn_info *connection)
{
    const struct layer_store *store = context;
    fuse_server_negotiate(store->server, connection, 0);
}

const struct fuse_lowlevel_ops layer_store_operations = {
    .init = negotiate,
    .lookup = lookup,
    .forget = forget,
    .getattr = get_attributes,
    .readlink = read_link,
    .open = open_file,
    .read = read_file,
    .readdir = read_directory,
    .create = create,
    .rmdir = remove_directory,
};

void layer_store_forget_all(struct layer_store *store)
{
    while (!TAILQ_EMPTY(&store->places))
        free_place(store, TAILQ_FIRST(&store->places));
}
