/* special.c - special tokens in a text: a table of their texts, sorted, finds the longest one
 * at a place; the matcher takes them out of a text as Hugging Face's tokenizers do. llama.cpp's
 * way, the longest tokens of the whole text first, is encode.c's.
 */
#include "unicode.h"
#include "vocab_internal.h"

/* Bytes that are compared at once: a token may be as long as its author likes. */
enum { BLOCK = 64 };

/* Words of a table's entry. */
enum { STRING, BYTES, ID, SHORTER, ENTRY_BYTES = 16, BYTES_MAX = (1 << 24) - 1 };

int qe_special_read(const qe_vocab *vocab, const qe_special_table *table, uint32_t index,
                    qe_special *special)
{
    if (index >= table->count)
        return 0;
    const uint8_t *entry = table->entries + (size_t)index * ENTRY_BYTES;
    uint32_t start = qe_vocab_load(entry, STRING), word = qe_vocab_load(entry, BYTES);
    special->bytes = word & BYTES_MAX;
    special->attributes = word >> 24;
    special->id = qe_vocab_load(entry, ID);
    /* 1 and up, of an entry that is sorted before this one: the way down ends */
    uint32_t shorter = qe_vocab_load(entry, SHORTER);
    special->shorter = shorter != 0 && shorter <= index ? shorter - 1 : QE_VOCAB_NONE;
    if (special->bytes == 0 || start > vocab->string_bytes ||
        special->bytes > vocab->string_bytes - start || special->id >= vocab->token_count) {
        return 0;
    }
    special->string = vocab->strings + start;
    return 1;
}

/* A binary search for the last entry that is not sorted behind the text. What is equal at both
 * ends of the interval is equal between them, so a byte is compared once. Every entry that the
 * text begins with is that one, or one of those that it begins with itself. */
uint32_t qe_special_longest(const qe_vocab *vocab, const qe_special_table *table,
                            const uint8_t *text, size_t bytes)
{
    uint32_t low = 0, high = table->count;
    size_t low_equal = 0, high_equal = 0;
    qe_special special;
    while (low < high) {
        uint32_t half = low + (high - low) / 2;
        if (!qe_special_read(vocab, table, half, &special))
            return QE_VOCAB_NONE;
        size_t most = special.bytes < bytes ? special.bytes : bytes;
        size_t equal = low_equal < high_equal ? low_equal : high_equal;
        equal = equal < most ? equal : most;
        while (most - equal >= BLOCK &&
               memcmp(special.string + equal, text + equal, BLOCK) == 0) {
            equal += BLOCK;
        }
        while (equal < most && special.string[equal] == text[equal])
            equal++;
        if (equal == special.bytes || (equal < bytes && special.string[equal] < text[equal])) {
            low = half + 1;
            low_equal = equal;
        } else {
            high = half;
            high_equal = equal;
        }
    }
    uint32_t index = low - 1; /* with low 0 it is beyond every table */
    while (qe_special_read(vocab, table, index, &special)) {
        if (special.bytes <= low_equal)
            return index;
        index = special.shorter;
    }
    return QE_VOCAB_NONE;
}

void qe_special_first_bytes(const qe_vocab *vocab, const qe_special_table *table,
                            uint8_t bits[32])
{
    qe_special special;
    memset(bits, 0, 32);
    for (uint32_t i = 0; i < table->count; i++)
        if (qe_special_read(vocab, table, i, &special))
            bits[special.string[0] >> 3] |= (uint8_t)(1 << (special.string[0] & 7));
}

void qe_matcher_start(qe_matcher *m, const qe_vocab *vocab, const qe_special_table *table,
                      const uint8_t *text, size_t bytes, int no_special)
{
    memset(m, 0, sizeof *m);
    m->vocab = vocab;
    m->table = table;
    m->text = text;
    m->bytes = bytes;
    m->no_special = no_special;
    qe_special_first_bytes(vocab, table, m->first_bytes);
}

/* The classes of the character that ends at a position, and where it begins. */
static unsigned class_before(const uint8_t *text, size_t position, size_t *start)
{
    size_t at = position - 1;
    while (at > 0 && position - at < 4 && (text[at] & 0xC0) == 0x80)
        at--;
    uint32_t code_point;
    *start = at;
    return qe_utf8_read(text + at, position - at, &code_point) == position - at
               ? qe_unicode_class(code_point)
               : 0;
}

static unsigned class_after(const uint8_t *text, size_t position, size_t bytes, size_t *end)
{
    uint32_t code_point;
    size_t length = qe_utf8_read(text + position, bytes - position, &code_point);
    *end = position + (length ? length : 1);
    return length ? qe_unicode_class(code_point) : 0;
}

/* \w: letters, marks, digits, connectors and a few more. */
static int is_word(unsigned class)
{
    if (class & (QE_UNICODE_LETTER | QE_UNICODE_MARK))
        return 1;
    return class & QE_UNICODE_NUMBER ? !(class & QE_UNICODE_ODD)
                                     : (class & QE_UNICODE_ODD) != 0;
}

static int is_single_word(const qe_matcher *m, size_t start, size_t end)
{
    size_t beyond;
    return (start == 0 || !is_word(class_before(m->text, start, &beyond))) &&
           (end == m->bytes || !is_word(class_after(m->text, end, m->bytes, &beyond)));
}

/* The end of the white space that begins at a position. A run of it is read once, however many
 * tokens there are in it. */
static size_t end_of_spaces(qe_matcher *m, size_t position)
{
    if (position < m->spaces || position > m->nonspace) {
        m->spaces = m->nonspace = position;
        while (m->nonspace < m->bytes) {
            size_t end;
            if (!(class_after(m->text, m->nonspace, m->bytes, &end) & QE_UNICODE_SPACE))
                break;
            m->nonspace = end;
        }
    }
    return m->nonspace;
}

/* The pieces of a found token: itself, and the text before it. White space that a token takes
 * may have tokens in it; they are tokens, too, unless they take white space that is gone. Zero
 * when nothing is left of it. */
static int take(qe_matcher *m, const qe_special *special, size_t start, qe_piece *piece)
{
    size_t stop = start + special->bytes, before;
    if (special->attributes & QE_TOKEN_LSTRIP) {
        while (start > m->done && (class_before(m->text, start, &before) & QE_UNICODE_SPACE))
            start = before;
        start = start > m->done ? start : m->done;
    }
    if (special->attributes & QE_TOKEN_RSTRIP)
        stop = end_of_spaces(m, stop);
    const int has_piece = m->done < start, has_token = start < stop;
    m->next = (qe_piece){start, stop, special->id};
    m->has_next = has_piece && has_token;
    *piece = has_piece ? (qe_piece){m->done, start, QE_VOCAB_NONE} : m->next;
    m->done = stop; /* not always forward */
    return has_piece || has_token;
}

int qe_matcher_next(qe_matcher *m, qe_work *work, qe_piece *piece)
{
    if (m->has_next) {
        m->has_next = 0;
        *piece = m->next;
        return 1;
    }
    while (m->at < m->bytes) {
        size_t at = m->at++;
        uint8_t byte = m->text[at];
        if (!(m->first_bytes[byte >> 3] & 1 << (byte & 7)))
            continue;
        int error = qe_work_did(work, 8);
        if (error)
            return error;
        qe_special special;
        uint32_t found = qe_special_longest(m->vocab, m->table, m->text + at, m->bytes - at);
        if (!qe_special_read(m->vocab, m->table, found, &special))
            continue;
        m->at = at + special.bytes; /* also when it is not taken */
        if ((m->no_special && (special.attributes & QE_TOKEN_SPECIAL)) ||
            ((special.attributes & QE_TOKEN_SINGLE_WORD) && !is_single_word(m, at, m->at))) {
            continue;
        }
        if (take(m, &special, at, piece))
            return 1;
    }
    if (m->done >= m->bytes)
        return 0;
    *piece = (qe_piece){m->done, m->bytes, QE_VOCAB_NONE};
    m->done = m->bytes;
    return 1;
}
