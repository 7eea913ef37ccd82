/* characters.c - a step of a normalizer that works on characters: a mapping of each, and for
 * Unicode's normal forms (UAX 15) marks in canonical order and composition. The algorithms; the
 * tables are the image's.
 */
#include "unicode.h"
#include "vocab_internal.h"

/* Words of the step: the mapping is two words an entry, sorted by code point. */
enum { OP, ARGUMENT, MAPPING, MAPPING_COUNT };

enum {
    HANGUL = 0xAC00,
    LEADING = 0x1100,
    VOWEL = 0x1161,
    TRAILING = 0x11A7,
    VOWELS = 21,
    TRAILINGS = 28,
    HANGULS = 11172,
    LEADINGS = 19,
    FEW_MARKS = 16 /* are put in order by insertion */
};

/* The characters of a text: a code point, its combining class above it, and above that how many
 * characters of the text it stands for, at most three: the first one of a decomposition stands
 * for one, the others for none, what is composed for their sum. */
typedef struct {
    uint32_t *values;
    size_t count, max;
    uint32_t stands; /* for what is put next, where it belongs */
} characters;

#define CODE_POINT(value) ((value) & 0x1FFFFF)
#define CLASS(value) ((value) >> 21 & 0xFF)
#define STANDS(value) ((value) >> 29)
#define STANDS_FOR_ONE (1U << 29)

/* The entry of `words` words whose first word, shifted, is the key; NULL when there is none. */
static const uint8_t *look_up(const uint8_t *array, uint32_t count, uint32_t words,
                              unsigned shift, uint32_t key)
{
    uint32_t low = 0, high = count;
    while (low < high) {
        uint32_t half = low + (high - low) / 2;
        const uint8_t *entry = array + (size_t)half * words * 4;
        uint32_t found = qe_vocab_load(entry, 0) >> shift;
        if (found == key)
            return entry;
        if (found < key)
            low = half + 1;
        else
            high = half;
    }
    return NULL;
}

static int put(const qe_vocab *vocab, characters *out, uint32_t code_point, int order)
{
    if (out->count == out->max)
        return QE_ERR_SPACE;
    code_point &= 0x1FFFFF;
    if (order) {
        const uint8_t *entry = look_up(vocab->classes, vocab->class_count, 1, 8, code_point);
        code_point |= entry ? (uint32_t)entry[0] << 21 : 0;
    }
    out->values[out->count++] = code_point | out->stands;
    out->stands = 0;
    return QE_OK;
}

/* An entry is code point << 5 | length, then the one character, or its place in the pool. */
static int put_mapped(const qe_vocab *vocab, const uint8_t *mapping, uint32_t mappings,
                      characters *out, uint32_t code_point, int order)
{
    if (order && code_point - HANGUL < HANGULS) {
        uint32_t index = code_point - HANGUL, trailing = index % TRAILINGS;
        int error = put(vocab, out, LEADING + index / TRAILINGS / VOWELS, 0);
        error = error ? error : put(vocab, out, VOWEL + index / TRAILINGS % VOWELS, 0);
        return error || !trailing ? error : put(vocab, out, TRAILING + trailing, 0);
    }
    const uint8_t *entry = look_up(mapping, mappings, 2, 5, code_point);
    if (!entry)
        return put(vocab, out, code_point, order);
    uint32_t count = qe_vocab_load(entry, 0) & 31, where = qe_vocab_load(entry, 1);
    if (count == 1)
        return put(vocab, out, where, order);
    if (where > vocab->pool_count || count > vocab->pool_count - where)
        return QE_ERR_IMAGE;
    int error = QE_OK;
    for (uint32_t i = 0; i < count && !error; i++)
        error = put(vocab, out, qe_vocab_load(vocab->pool, (size_t)where + i), order);
    return error;
}

/* Sorts a run of marks by class, equal ones in their order: many of them by counting, so that a
 * text of nothing else costs time in its length. Uses the memory behind the characters. */
static int order_run(characters *c, uint32_t *run, size_t count)
{
    if (count <= FEW_MARKS) {
        for (size_t i = 1; i < count; i++) {
            uint32_t value = run[i];
            size_t at = i;
            for (; at > 0 && CLASS(run[at - 1]) > CLASS(value); at--)
                run[at] = run[at - 1];
            run[at] = value;
        }
        return QE_OK;
    }
    if (c->max - c->count < count + 256)
        return QE_ERR_SPACE;
    uint32_t *starts = c->values + c->count, *sorted = starts + 256, sum = 0;
    memset(starts, 0, 256 * sizeof *starts);
    for (size_t i = 0; i < count; i++)
        starts[CLASS(run[i])]++;
    for (int i = 0; i < 256; i++) {
        uint32_t here = starts[i];
        starts[i] = sum;
        sum += here;
    }
    for (size_t i = 0; i < count; i++)
        sorted[starts[CLASS(run[i])]++] = run[i];
    memcpy(run, sorted, count * sizeof *run);
    return QE_OK;
}

static int order_marks(characters *c)
{
    for (size_t at = 0; at < c->count;) {
        size_t end = at;
        while (end < c->count && CLASS(c->values[end]) != 0)
            end++;
        int error = order_run(c, c->values + at, end - at);
        if (error)
            return error;
        at = end + 1;
    }
    return QE_OK;
}

/* What two characters make together, or 0. */
static uint32_t composite(const qe_vocab *vocab, uint32_t first, uint32_t second)
{
    if (first - LEADING < LEADINGS && second - VOWEL < VOWELS)
        return HANGUL + ((first - LEADING) * VOWELS + (second - VOWEL)) * TRAILINGS;
    if (first - HANGUL < HANGULS && (first - HANGUL) % TRAILINGS == 0 &&
        second - TRAILING - 1 < TRAILINGS - 1) {
        return first + second - TRAILING;
    }
    /* pairs are (first, second, composite), by first and then by second */
    uint32_t low = 0, high = vocab->pair_count;
    while (low < high) {
        uint32_t half = low + (high - low) / 2;
        const uint8_t *entry = vocab->pairs + (size_t)half * 12;
        uint32_t a = qe_vocab_load(entry, 0), b = qe_vocab_load(entry, 1);
        if (a == first && b == second)
            return CODE_POINT(qe_vocab_load(entry, 2));
        if (a < first || (a == first && b < second))
            low = half + 1;
        else
            high = half;
    }
    return 0;
}

static void compose(const qe_vocab *vocab, characters *c)
{
    size_t count = 0, starter = 0;
    int has_starter = 0,
        last = -1; /* the class before, since the starter; -1 right behind it */
    for (size_t i = 0; i < c->count; i++) {
        uint32_t value = c->values[i], made = 0;
        int class = (int)CLASS(value);
        if (has_starter && last < class)
            made = composite(vocab, CODE_POINT(c->values[starter]), CODE_POINT(value));
        if (made) {
            uint32_t stands = STANDS(c->values[starter]) + STANDS(value);
            c->values[starter] = made | (stands < 3 ? stands : 3) << 29;
            continue;
        }
        if (class == 0) {
            starter = count;
            has_starter = 1;
            last = -1;
        } else {
            last = class;
        }
        c->values[count++] = value;
    }
    c->count = count;
}

static size_t write_utf8(uint8_t *out, uint32_t value)
{
    if (value < 0x80) {
        out[0] = (uint8_t)value;
        return 1;
    }
    size_t bytes = value < 0x800 ? 2 : value < 0x10000 ? 3 : 4;
    for (size_t i = bytes - 1; i > 0; i--) {
        out[i] = (uint8_t)(0x80 | (value & 0x3F));
        value >>= 6;
    }
    out[0] = (uint8_t)((0xF00 >> bytes & 0xFF) | value);
    return bytes;
}

int qe_step_characters(const qe_vocab *vocab, const uint8_t *step, const uint8_t *text,
                       size_t bytes, const qe_room *room, qe_work *work, size_t *written,
                       size_t *origin)
{
    uint32_t argument = qe_vocab_load(step, ARGUMENT), offset = qe_vocab_load(step, MAPPING);
    uint32_t mappings = qe_vocab_load(step, MAPPING_COUNT);
    if (offset % 4 != 0 || offset > vocab->bytes || mappings > (vocab->bytes - offset) / 8)
        return QE_ERR_IMAGE;
    size_t origins = 0,
           stood = 0; /* characters of the origin; of the text, in what is written */
    int order = (argument & QE_CHARACTERS_ORDER) != 0, error = QE_OK;
    uintptr_t slack = (uintptr_t)(-(uintptr_t)room->base) & 3;
    if (room->bytes < slack)
        return QE_ERR_SPACE;
    characters c = {(uint32_t *)(room->base + slack), 0, (room->bytes - slack) / 4, 0};
    for (size_t at = 0; at < bytes && !error;) {
        uint32_t code_point;
        size_t length = qe_utf8_read(text + at, bytes - at, &code_point);
        if (length == 0) /* half a sequence: a special token was cut out of it */
            return QE_ERR_IMAGE;
        c.stands = STANDS_FOR_ONE;
        origins += at < *origin;
        error = put_mapped(vocab, vocab->base + offset, mappings, &c, code_point, order);
        error = error ? error : qe_work_did(work, 16);
        at += length;
    }
    if (order && !error)
        error = order_marks(&c);
    if (error)
        return error;
    if (argument & QE_CHARACTERS_COMPOSE)
        compose(vocab, &c);
    /* in place: a character's bytes are at most four, and begin below what is not read yet */
    *origin = 0;
    for (size_t i = 0; i < c.count; i++) {
        uint32_t stands = STANDS(c.values[i]);
        int is_origin = stands == 0 || stood < origins;
        size_t before = *written;
        *written += write_utf8(room->base + *written, CODE_POINT(c.values[i]));
        stood += is_origin ? stands : origins;
        *origin = is_origin && *origin == before ? *written : *origin;
    }
    return QE_OK;
}
