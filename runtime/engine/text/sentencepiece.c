/* sentencepiece.c - the normalizer of SentencePiece's tokenizer.model: its map of characters (a
 * double array, used as it is in the file), white space and the space before the text.
 */
#include "unicode.h"
#include "vocab_internal.h"

/* Words of the step; the offsets are into the strings. */
enum { OP, ARGUMENT, MAP, MAP_BYTES, TEXTS, TEXTS_BYTES };

typedef struct {
    const qe_vocab *vocab;
    const uint8_t *map, *texts;
    uint32_t units, texts_bytes;
} table;

/* A stretch of the text and what it is replaced by. */
typedef struct {
    const uint8_t *text;
    size_t bytes, taken;
} prefix;

static uint32_t offset_of(uint32_t unit)
{
    return (unit >> 10) << ((unit & 512) >> 6);
}

/* The longest key of the map that the text begins with: its bytes, and its value. */
static size_t longest_key(const table *t, const uint8_t *text, size_t bytes, uint32_t *value)
{
    if (t->units == 0)
        return 0;
    size_t longest = 0;
    uint32_t node = offset_of(qe_vocab_load(t->map, 0));
    for (size_t i = 0; i < bytes; i++) {
        node ^= text[i];
        if (node >= t->units)
            break;
        uint32_t unit = qe_vocab_load(t->map, node);
        if ((unit & 0x800000FF) != text[i])
            break;
        node ^= offset_of(unit);
        if (node >= t->units)
            break;
        if (unit & 256) {
            longest = i + 1;
            *value = qe_vocab_load(t->map, node) & 0x7FFFFFFF;
        }
    }
    return longest;
}

/* User-defined tokens stay as they are; then the map; then one character. */
static prefix read_prefix(const table *t, const uint8_t *text, size_t bytes)
{
    qe_special special;
    uint32_t found = qe_special_longest(t->vocab, &t->vocab->normal, text, bytes), value = 0;
    if (qe_special_read(t->vocab, &t->vocab->normal, found, &special))
        return (prefix){text, special.bytes, special.bytes};
    size_t key = longest_key(t, text, bytes, &value);
    if (key && value < t->texts_bytes) {
        size_t end = value;
        while (end < t->texts_bytes && t->texts[end] != 0)
            end++;
        return (prefix){t->texts + value, end - value, key};
    }
    uint32_t code_point;
    size_t length = qe_utf8_read(text, bytes, &code_point);
    length = length ? length : 1;
    return (prefix){text, length, length};
}

static const uint8_t MARK[3] = {0xE2, 0x96, 0x81};

static int put(const qe_room *room, size_t *written, const uint8_t *from, size_t bytes)
{
    if (bytes > room->bytes - *written)
        return QE_ERR_SPACE;
    memcpy(room->base + *written, from, bytes);
    *written += bytes;
    return QE_OK;
}

static int is_space(const prefix *p)
{
    return p->bytes == 1 && p->text[0] == ' ';
}

int qe_step_sentencepiece(const qe_vocab *vocab, const uint8_t *step, const uint8_t *text,
                          size_t bytes, int is_first, const qe_room *room, qe_work *work,
                          size_t *written)
{
    uint32_t argument = qe_vocab_load(step, ARGUMENT);
    uint32_t map = qe_vocab_load(step, MAP), map_bytes = qe_vocab_load(step, MAP_BYTES);
    uint32_t texts = qe_vocab_load(step, TEXTS), texts_bytes = qe_vocab_load(step, TEXTS_BYTES);
    if (map > vocab->string_bytes || map_bytes > vocab->string_bytes - map ||
        texts > vocab->string_bytes || texts_bytes > vocab->string_bytes - texts) {
        return QE_ERR_IMAGE;
    }
    const table t = {vocab, vocab->strings + map, vocab->strings + texts, map_bytes / 4,
                     texts_bytes};
    int squeeze = (argument & QE_SENTENCEPIECE_SQUEEZE) != 0, error = QE_OK;
    size_t at = 0;
    while (squeeze && at < bytes) {
        prefix p = read_prefix(&t, text + at, bytes - at);
        if (!is_space(&p))
            break;
        at += p.taken;
    }
    if (at < bytes && (argument & QE_SENTENCEPIECE_PREFIX) &&
        (is_first || !(argument & QE_SENTENCEPIECE_PREFIX_ONCE))) {
        error = put(room, written, MARK, sizeof MARK);
    }
    int after_space = squeeze;
    while (at < bytes && !error) {
        prefix p = read_prefix(&t, text + at, bytes - at);
        at += p.taken;
        size_t i = 0;
        while (after_space && i < p.bytes && p.text[i] == ' ')
            i++;
        if (i < p.bytes)
            after_space = squeeze && p.text[p.bytes - 1] == ' ';
        for (; i < p.bytes && !error; i++) {
            error = p.text[i] == ' ' ? put(room, written, MARK, sizeof MARK)
                                     : put(room, written, p.text + i, 1);
        }
        error = error ? error : qe_work_did(work, p.taken + 8);
    }
    while (squeeze && *written >= sizeof MARK &&
           memcmp(room->base + *written - sizeof MARK, MARK, sizeof MARK) == 0) {
        *written -= sizeof MARK;
    }
    return error;
}
