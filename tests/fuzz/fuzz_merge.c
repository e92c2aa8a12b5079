/*
 * Fed: a few words that make up to four layers (layer_script.h); bytes of a
 * format would hardly ever get past it.
 *
 * Holds: such layers merge into an image that is accepted and makes itself
 * again, or are refused with a reason.
 */
#include "tests/fuzz/layer_script.h"
#include "tests/fuzz/merge_and_rebuild.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length)
{
    struct script script = { data, length };
    struct entry_table *tables[SCRIPT_LAYERS];
    struct merge_layer layers[SCRIPT_LAYERS];
    for (size_t i = 0; i < SCRIPT_LAYERS; i++) {
        EXPECT(tables[i] = entry_table_new());
        layers[i] = (struct merge_layer){ tables[i], SCRIPT_STREAM_LENGTH, { { (uint8_t)i } } };
    }
    size_t layer = 0;
    while (script.length > 0) {
        if (script_byte(&script) > 230 && layer + 1 < SCRIPT_LAYERS) layer++;
        script_add_entry(&script, tables[layer]);
    }
    (void)merge_and_rebuild(layers, layer + 1);
    for (size_t i = 0; i < SCRIPT_LAYERS; i++)
        entry_table_free(tables[i]);
    return 0;
}
