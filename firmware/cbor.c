/* cbor.c - see cbor.h. */
#include "cbor.h"

#include <string.h>

enum { INDEFINITE = 31, BREAK = 0xFF, MOST_DEPTH = 8 };

/* Reads the head of an item: type and value, or a count. 0 when it is broken. `open` tells an
 * array or map of indefinite length. */
static int head(const uint8_t **at, const uint8_t *end, cbor_item *item, int *open)
{
    if (*at >= end)
        return 0;
    const uint8_t first = *(*at)++, small = first & 31;
    item->type = (enum cbor_type)(first >> 5);
    item->value = small;
    *open = 0;
    if (small < 24)
        return 1;
    if (small == INDEFINITE) {
        *open = 1;
        return item->type == CBOR_ARRAY || item->type == CBOR_MAP;
    }
    if (small > 27 || (size_t)(end - *at) < (size_t)1 << (small - 24))
        return 0;
    uint64_t value = 0;
    for (int n = 1 << (small - 24); n; n--)
        value = value << 8 | *(*at)++;
    if (item->type == CBOR_SIMPLE) /* a float: of no use here, but not broken */
        value = small;
    item->value = (uint32_t)value;
    return value <= UINT32_MAX;
}

/* Skips what follows an item's head. */
static int skip_rest(const uint8_t **at, const uint8_t *end, const cbor_item *item, int open,
                     int depth)
{
    if (item->type == CBOR_BYTES || item->type == CBOR_TEXT) {
        if ((size_t)(end - *at) < item->value)
            return 0;
        *at += item->value;
        return 1;
    }
    if (item->type != CBOR_ARRAY && item->type != CBOR_MAP && item->type != CBOR_TAG)
        return 1;
    if (depth == MOST_DEPTH)
        return 0;
    const uint32_t each = item->type == CBOR_MAP ? 2 : 1;
    const uint32_t most = item->type == CBOR_TAG ? 1 : item->value;
    for (uint32_t n = 0; open || n < most; n++) {
        if (open && *at < end && **at == BREAK) {
            (*at)++;
            return 1;
        }
        for (uint32_t i = 0; i < each; i++) {
            cbor_item inner;
            int inner_open;
            if (!head(at, end, &inner, &inner_open) ||
                !skip_rest(at, end, &inner, inner_open, depth + 1))
                return 0;
        }
    }
    return 1;
}

/* Reads an item whole. Of an open array the count is UINT32_MAX. */
static int take(const uint8_t **at, const uint8_t *end, cbor_item *item)
{
    int open;
    if (!head(at, end, item, &open))
        return 0;
    item->data = *at;
    item->end = end;
    const int ok = skip_rest(at, end, item, open, 0);
    if (open)
        item->value = UINT32_MAX;
    return ok;
}

int cbor_find(const uint8_t *map, size_t bytes, const char *key, cbor_item *item)
{
    const uint8_t *at = map, *end = map + bytes;
    const size_t length = strlen(key);
    cbor_item whole;
    int open;
    if (!head(&at, end, &whole, &open) || whole.type != CBOR_MAP)
        return 0;
    for (uint32_t n = 0; open || n < whole.value; n++) {
        cbor_item name;
        if (at < end && *at == BREAK)
            return 0;
        if (!take(&at, end, &name) || !take(&at, end, item))
            return 0;
        if (name.type == CBOR_TEXT && name.value == length &&
            memcmp(name.data, key, length) == 0)
            return 1;
    }
    return 0;
}

int cbor_is_map(const uint8_t *map, size_t bytes)
{
    const uint8_t *at = map;
    cbor_item whole;
    return take(&at, map + bytes, &whole) && whole.type == CBOR_MAP && at == map + bytes;
}

int cbor_get_uint(const uint8_t *map, size_t bytes, const char *key, uint32_t low,
                  uint32_t high, uint32_t *value)
{
    cbor_item item;
    if (!cbor_find(map, bytes, key, &item))
        return 1;
    *value = item.value;
    return item.type == CBOR_UINT && item.value >= low && item.value <= high;
}

int cbor_get_bool(const uint8_t *map, size_t bytes, const char *key, int *value)
{
    cbor_item item;
    if (!cbor_find(map, bytes, key, &item))
        return 1;
    *value = item.value == 21;
    return item.type == CBOR_SIMPLE && (item.value == 20 || item.value == 21);
}

int cbor_next(cbor_item *array, cbor_item *element)
{
    if (!array->value || array->data >= array->end || *array->data == BREAK)
        return 0;
    array->value--;
    return take(&array->data, array->end, element);
}

uint32_t cbor_uint(const uint8_t *map, size_t bytes, const char *key, uint32_t otherwise)
{
    cbor_item item;
    if (!cbor_find(map, bytes, key, &item))
        return otherwise;
    if (item.type == CBOR_SIMPLE && (item.value == 20 || item.value == 21))
        return item.value - 20; /* false, true */
    return item.type == CBOR_UINT ? item.value : otherwise;
}

const uint8_t *cbor_bytes(const uint8_t *map, size_t bytes, const char *key, uint32_t *count)
{
    cbor_item item;
    if (!cbor_find(map, bytes, key, &item) ||
        (item.type != CBOR_BYTES && item.type != CBOR_TEXT))
        return NULL;
    *count = item.value;
    return item.data;
}

static void put(cbor_writer *w, const void *bytes, size_t count)
{
    if ((size_t)(w->end - w->at) < count) {
        w->full = 1;
        return;
    }
    memcpy(w->at, bytes, count);
    w->at += count;
}

static void put_head(cbor_writer *w, enum cbor_type type, uint64_t value)
{
    uint8_t bytes[9] = {(uint8_t)(type << 5)};
    uint32_t log = value < 24            ? 0
                   : value <= 0xFF       ? 1
                   : value <= 0xFFFF     ? 2
                   : value <= UINT32_MAX ? 3
                                         : 4;
    if (!log) {
        bytes[0] |= (uint8_t)value;
        put(w, bytes, 1);
        return;
    }
    const size_t count = (size_t)1 << (log - 1);
    bytes[0] |= (uint8_t)(23 + log);
    for (size_t i = 0; i < count; i++)
        bytes[1 + i] = (uint8_t)(value >> 8 * (count - 1 - i));
    put(w, bytes, 1 + count);
}

static void put_byte(cbor_writer *w, uint8_t byte)
{
    put(w, &byte, 1);
}

void cbor_put_map(cbor_writer *w)
{
    put_byte(w, CBOR_MAP << 5 | INDEFINITE);
}

void cbor_put_array(cbor_writer *w)
{
    put_byte(w, CBOR_ARRAY << 5 | INDEFINITE);
}

void cbor_put_end(cbor_writer *w)
{
    put_byte(w, BREAK);
}

void cbor_put_text(cbor_writer *w, const char *text)
{
    put_head(w, CBOR_TEXT, strlen(text));
    put(w, text, strlen(text));
}

void cbor_put_uint(cbor_writer *w, uint64_t value)
{
    put_head(w, CBOR_UINT, value);
}

void cbor_put_bool(cbor_writer *w, int value)
{
    put_head(w, CBOR_SIMPLE, value ? 21 : 20);
}

void cbor_put_bytes(cbor_writer *w, const void *bytes, size_t count)
{
    put_head(w, CBOR_BYTES, count);
    put(w, bytes, count);
}

void cbor_pair_text(cbor_writer *w, const char *key, const char *text)
{
    cbor_put_text(w, key);
    cbor_put_text(w, text);
}

void cbor_pair_uint(cbor_writer *w, const char *key, uint64_t value)
{
    cbor_put_text(w, key);
    cbor_put_uint(w, value);
}

void cbor_pair_bool(cbor_writer *w, const char *key, int value)
{
    cbor_put_text(w, key);
    cbor_put_bool(w, value);
}

void cbor_pair_bytes(cbor_writer *w, const char *key, const void *bytes, size_t count)
{
    cbor_put_text(w, key);
    cbor_put_bytes(w, bytes, count);
}
