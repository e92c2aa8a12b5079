#include "fetcher/absences-internal.h"

#include <string.h>

#include "base/clock.h"
#include "fetcher/host-internal.h"

static struct digest digest_of_path(const char *path)
{
    struct digest digest;
    digest_of(path, strlen(path), &digest);
    return digest;
}

void absences_note(struct absences *absences, const struct registry_host *host, const char *path,
                   uint64_t milliseconds)
{
    struct absence *absence = &absences->kept[absences->next];
    absences->next = (absences->next + 1) % ABSENCES_KEPT;
    *absence = (struct absence){ host, digest_of_path(path), clock_ms() + milliseconds };
}

uint32_t absences_find(const struct absences *absences, const struct registry *registry,
                       const char *path)
{
    struct digest digest = digest_of_path(path);
    uint64_t now = clock_ms();
    uint32_t found = 0;
    for (size_t i = 0; i < ABSENCES_KEPT; i++) {
        const struct absence *absence = &absences->kept[i];
        if (!absence->host || absence->until <= now || !digest_equal(&absence->path, &digest))
            continue;
        unsigned position = absence->host->position;
        if (position < registry->count && registry->hosts[position] == absence->host)
            found |= UINT32_C(1) << position;
    }
    return found;
}
