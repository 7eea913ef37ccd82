/* cbor.h - the part of CBOR (RFC 8949) that the link's messages need: one map of text keys to
 * integers, booleans, byte strings, texts and arrays. Reading never goes past the end that it
 * was given, and skips values of any type; writing past the end only sets `full`. */
#ifndef QF_CBOR_H
#define QF_CBOR_H

#include <stddef.h>
#include <stdint.h>

enum cbor_type {
    CBOR_UINT,
    CBOR_NEGATIVE,
    CBOR_BYTES,
    CBOR_TEXT,
    CBOR_ARRAY,
    CBOR_MAP,
    CBOR_TAG,
    CBOR_SIMPLE
}; /* the major types, in their order */

typedef struct {
    enum cbor_type type;
    uint32_t value;      /* integer, simple value, or count of bytes or elements */
    const uint8_t *data; /* bytes, text: the string; array: its first element */
    const uint8_t *end;  /* array: where the message ends */
} cbor_item;

/* Looks a key up in the map at `map`. Returns 1 and the item, or 0 when the map has no such
 * key, is not a map or is broken. Integers of more than 32 bits and strings of indefinite
 * length count as broken. */
int cbor_find(const uint8_t *map, size_t bytes, const char *key, cbor_item *item);

/* Whether these bytes are one map, whole, and nothing behind it. */
int cbor_is_map(const uint8_t *map, size_t bytes);

/* The next element of an array; 0 after the last. */
int cbor_next(cbor_item *array, cbor_item *element);

/* The integer or boolean of a key. Where it is absent, *value stays what it was; 0 when it is
 * of another type or out of its range. */
int cbor_get_uint(const uint8_t *map, size_t bytes, const char *key, uint32_t low,
                  uint32_t high, uint32_t *value);
int cbor_get_bool(const uint8_t *map, size_t bytes, const char *key, int *value);

/* The same, for messages of others that are read as they come: `otherwise` where it is absent,
 * of another type or, but for booleans, no integer. */
uint32_t cbor_uint(const uint8_t *map, size_t bytes, const char *key, uint32_t otherwise);

/* The bytes of a byte string or a text; NULL where there is none. */
const uint8_t *cbor_bytes(const uint8_t *map, size_t bytes, const char *key, uint32_t *count);

typedef struct {
    uint8_t *at, *end;
    int full; /* something did not fit */
} cbor_writer;

void cbor_put_map(cbor_writer *w); /* of indefinite length, as arrays: cbor_put_end closes it */
void cbor_put_array(cbor_writer *w);
void cbor_put_end(cbor_writer *w);
void cbor_put_text(cbor_writer *w, const char *text);
void cbor_put_uint(cbor_writer *w, uint64_t value);
void cbor_put_bool(cbor_writer *w, int value);
void cbor_put_bytes(cbor_writer *w, const void *bytes, size_t count);

/* A key and its value. */
void cbor_pair_text(cbor_writer *w, const char *key, const char *text);
void cbor_pair_uint(cbor_writer *w, const char *key, uint64_t value);
void cbor_pair_bool(cbor_writer *w, const char *key, int value);
void cbor_pair_bytes(cbor_writer *w, const char *key, const void *bytes, size_t count);

#endif
