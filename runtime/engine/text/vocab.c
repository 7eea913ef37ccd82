/* vocab.c - opens a packed vocabulary and finds strings in it. SPEC-vocab.md has the bytes.
 * Opening checks extents only; whoever reads an index from a table checks it.
 */
#include "vocab_internal.h"

/* The header: 32-bit words, in the order of SPEC-vocab.md. */
enum {
    WORD_MAGIC,
    WORD_VERSION,
    WORD_HEADER_BYTES,
    WORD_SECTION_BYTES,
    WORD_KIND,
    WORD_PRETOKENIZER,
    WORD_FLAGS,
    WORD_TOKEN_COUNT,
    WORD_SYMBOL_COUNT,
    WORD_MERGE_COUNT,
    WORD_SPECIAL_COUNT,
    WORD_STOP_COUNT,
    WORD_INDEX_SLOTS,
    WORD_INDEX_PROBES,
    WORD_LONGEST_KEY_BYTES,
    WORD_LONGEST_TOKEN_BYTES,
    WORD_BOS,
    WORD_EOS,
    WORD_UNKNOWN,
    WORD_STRING_BYTES,
    WORD_OFFSETS,
    WORD_ATTRIBUTES,
    WORD_BYTE_TOKENS,
    WORD_SPECIALS,
    WORD_STOPS,
    WORD_PRIORITIES,
    WORD_INDEX,
    WORD_MERGE_STARTS,
    WORD_MERGES,
    WORD_STRINGS,
    WORD_RULES,       /* the offset of the rules block, zero for none */
    HEADER_WORDS = 32 /* the last one is zero */
};

/* The rules block: arrays are a count and an offset. */
enum {
    RULE_TRAITS,
    RULE_STEPS,
    RULE_RAW = 3,
    RULE_NORMAL = 5,
    RULE_CLASSES = 7,
    RULE_PAIRS = 9,
    RULE_POOL = 11,
    RULE_GROWTH = 13,
    RULE_GROWTH_BYTES = 14
};

enum { MAGIC = 0x56424F56 /* "VOBV" */, VERSION = 1 };

/* Bounds that keep every product of a count within 32 bits. */
enum { COUNT_MAX = 1 << 24, PROBES_MAX = 64, GROWTH_MAX = 1 << 16 };

/* One extent of the section: count entries of entry_bytes, or nothing at all. */
static int take(const qe_vocab *vocab, uint32_t word, uint32_t count, uint32_t entry_bytes,
                const uint8_t **array)
{
    uint32_t offset = qe_vocab_load(vocab->base, word);
    uint64_t bytes = (uint64_t)count * entry_bytes;
    if (offset % 4 != 0 || offset > vocab->bytes || bytes > vocab->bytes - offset)
        return QE_ERR_IMAGE;
    *array = vocab->base + offset;
    return QE_OK;
}

/* A pre-tokenizer goes with the kind of its words: bytes, characters, or a whole piece. */
static int knows_words(const qe_vocab *v)
{
    const int is_folder = (v->flags & QE_VOCAB_FOLDER) != 0;
    switch (v->kind) {
    case QE_VOCAB_BPE:
        return v->pretokenizer < QE_PRE_MARKS && (is_folder || v->pretokenizer != QE_PRE_NONE);
    case QE_VOCAB_SPM: return v->pretokenizer == QE_PRE_NONE;
    case QE_VOCAB_CHARACTERS:
        return is_folder && (v->pretokenizer == QE_PRE_NONE || v->pretokenizer == QE_PRE_MARKS);
    default: return 0;
    }
}

static int read_header(qe_vocab *v)
{
    const uint8_t *base = v->base;
    v->kind = qe_vocab_load(base, WORD_KIND);
    v->pretokenizer = qe_vocab_load(base, WORD_PRETOKENIZER);
    v->flags = qe_vocab_load(base, WORD_FLAGS);
    v->token_count = qe_vocab_load(base, WORD_TOKEN_COUNT);
    v->symbol_count = qe_vocab_load(base, WORD_SYMBOL_COUNT);
    v->merge_count = qe_vocab_load(base, WORD_MERGE_COUNT);
    v->special_count = qe_vocab_load(base, WORD_SPECIAL_COUNT);
    v->stop_count = qe_vocab_load(base, WORD_STOP_COUNT);
    v->index_slots = qe_vocab_load(base, WORD_INDEX_SLOTS);
    v->index_probes = qe_vocab_load(base, WORD_INDEX_PROBES);
    v->longest_key_bytes = qe_vocab_load(base, WORD_LONGEST_KEY_BYTES);
    v->longest_token_bytes = qe_vocab_load(base, WORD_LONGEST_TOKEN_BYTES);
    v->bos = qe_vocab_load(base, WORD_BOS);
    v->eos = qe_vocab_load(base, WORD_EOS);
    v->unknown = qe_vocab_load(base, WORD_UNKNOWN);
    v->string_bytes = qe_vocab_load(base, WORD_STRING_BYTES);
    if ((v->flags & ~(uint32_t)QE_VOCAB_FLAGS) != 0 || !knows_words(v))
        return QE_ERR_VERSION;
    if (v->token_count == 0 || v->symbol_count > COUNT_MAX || v->merge_count > COUNT_MAX ||
        v->token_count > v->symbol_count || v->special_count > v->token_count ||
        v->stop_count > v->token_count || v->index_slots > COUNT_MAX ||
        (v->index_slots & (v->index_slots - 1)) != 0 || v->index_probes > PROBES_MAX ||
        v->index_probes > v->index_slots || v->longest_key_bytes > v->string_bytes ||
        v->longest_token_bytes > v->string_bytes) {
        return QE_ERR_IMAGE;
    }
    return QE_OK;
}

static int is_token_or_none(const qe_vocab *vocab, uint32_t id)
{
    return id < vocab->token_count || id == QE_VOCAB_NONE;
}

/* An array of the rules block: its count and its extent. */
static int take_counted(const qe_vocab *v, const uint8_t *rules, uint32_t word,
                        uint32_t entry_bytes, uint32_t *count, const uint8_t **array)
{
    uint32_t offset = qe_vocab_load(rules, word + 1);
    *count = qe_vocab_load(rules, word);
    if (offset % 4 != 0 || offset > v->bytes || *count > (v->bytes - offset) / entry_bytes)
        return QE_ERR_IMAGE;
    *array = v->base + offset;
    return QE_OK;
}

static int read_rules(qe_vocab *v)
{
    uint32_t offset = qe_vocab_load(v->base, WORD_RULES);
    if ((v->flags & (QE_VOCAB_FOLDER | QE_VOCAB_SORTED)) == 0)
        return offset == 0 ? QE_OK : QE_ERR_IMAGE;
    if (offset % 4 != 0 || offset < HEADER_WORDS * 4 || offset > v->bytes ||
        v->bytes - offset < QE_RULE_WORDS * 4) {
        return QE_ERR_IMAGE;
    }
    const uint8_t *rules = v->base + offset;
    v->traits = qe_vocab_load(rules, RULE_TRAITS);
    v->growth = qe_vocab_load(rules, RULE_GROWTH);
    v->growth_bytes = qe_vocab_load(rules, RULE_GROWTH_BYTES);
    if ((v->traits & ~(uint32_t)QE_TRAITS) != 0)
        return QE_ERR_VERSION;
    if (take_counted(v, rules, RULE_STEPS, QE_STEP_WORDS * 4, &v->step_count, &v->steps) ||
        take_counted(v, rules, RULE_RAW, 16, &v->raw.count, &v->raw.entries) ||
        take_counted(v, rules, RULE_NORMAL, 16, &v->normal.count, &v->normal.entries) ||
        take_counted(v, rules, RULE_CLASSES, 4, &v->class_count, &v->classes) ||
        take_counted(v, rules, RULE_PAIRS, 12, &v->pair_count, &v->pairs) ||
        take_counted(v, rules, RULE_POOL, 4, &v->pool_count, &v->pool) ||
        v->growth > GROWTH_MAX) {
        return QE_ERR_IMAGE;
    }
    for (uint32_t i = 0; i < v->step_count; i++) {
        uint32_t op = qe_vocab_load(v->steps + (size_t)i * 4 * QE_STEP_WORDS, 0);
        if (i >= QE_STEPS_MAX || op < QE_STEP_PREPEND || op > QE_STEP_SENTENCEPIECE)
            return QE_ERR_VERSION;
    }
    return QE_OK;
}

int qe_vocab_open(qe_vocab *v, const void *section, size_t bytes)
{
    memset(v, 0, sizeof *v);
    v->base = section;
    if (section == NULL || bytes < HEADER_WORDS * 4 ||
        qe_vocab_load(v->base, WORD_MAGIC) != MAGIC) {
        return QE_ERR_IMAGE;
    }
    if (qe_vocab_load(v->base, WORD_VERSION) != VERSION)
        return QE_ERR_VERSION;
    v->bytes = qe_vocab_load(v->base, WORD_SECTION_BYTES);
    if (qe_vocab_load(v->base, WORD_HEADER_BYTES) != HEADER_WORDS * 4 || v->bytes > bytes)
        return QE_ERR_IMAGE;
    int error = read_header(v);
    if (error)
        return error;
    int is_spm = v->kind == QE_VOCAB_SPM;
    if (take(v, WORD_OFFSETS, v->symbol_count + 1, 4, &v->offsets) ||
        take(v, WORD_ATTRIBUTES, v->token_count, 1, &v->attributes) ||
        take(v, WORD_BYTE_TOKENS, 256, 4, &v->byte_tokens) ||
        take(v, WORD_SPECIALS, v->special_count, 4, &v->specials) ||
        take(v, WORD_STOPS, v->stop_count, 4, &v->stops) ||
        take(v, WORD_PRIORITIES, is_spm ? v->token_count : 0, 4, &v->priorities) ||
        take(v, WORD_INDEX, v->index_slots, 4, &v->index) ||
        take(v, WORD_MERGE_STARTS, is_spm ? 0 : v->symbol_count + 1, 4, &v->merge_starts) ||
        take(v, WORD_MERGES, v->merge_count, 12, &v->merges) ||
        take(v, WORD_STRINGS, v->string_bytes, 1, &v->strings)) {
        return QE_ERR_IMAGE;
    }
    if (!is_token_or_none(v, v->bos) || !is_token_or_none(v, v->eos) ||
        !is_token_or_none(v, v->unknown)) {
        return QE_ERR_IMAGE;
    }
    return read_rules(v);
}

const uint8_t *qe_vocab_string(const qe_vocab *vocab, uint32_t id, uint32_t *bytes)
{
    if (id >= vocab->symbol_count)
        return NULL;
    uint32_t start = qe_vocab_load(vocab->offsets, id);
    uint32_t end = qe_vocab_load(vocab->offsets, (size_t)id + 1);
    if (start > end || end > vocab->string_bytes)
        return NULL;
    *bytes = end - start;
    return vocab->strings + start;
}

/* FNV-1a, then its high half folded in: the low bits choose the slot. */
static uint32_t hash_byte(uint32_t hash, uint8_t byte)
{
    return (hash ^ byte) * 16777619U;
}

static uint32_t hash_text(const uint8_t *text, size_t bytes, int space_is_mark)
{
    uint32_t hash = 2166136261U;
    for (size_t i = 0; i < bytes; i++)
        if (space_is_mark && text[i] == ' ')
            hash = hash_byte(hash_byte(hash_byte(hash, 0xE2), 0x96), 0x81);
        else
            hash = hash_byte(hash, text[i]);
    return hash ^ hash >> 15;
}

static int equals(const uint8_t *text, size_t bytes, const uint8_t *string,
                  uint32_t string_bytes, int space_is_mark)
{
    if (!space_is_mark)
        return bytes == string_bytes && memcmp(text, string, bytes) == 0;
    size_t at = 0;
    for (size_t i = 0; i < bytes; i++) {
        if (text[i] == ' ') {
            if (string_bytes - at < 3 || string[at] != 0xE2 || string[at + 1] != 0x96 ||
                string[at + 2] != 0x81) {
                return 0;
            }
            at += 3;
        } else if (at == string_bytes || string[at++] != text[i]) {
            return 0;
        }
    }
    return at == string_bytes;
}

uint32_t qe_vocab_find(const qe_vocab *vocab, const uint8_t *text, size_t bytes)
{
    if (bytes > vocab->longest_key_bytes || vocab->index_slots == 0)
        return QE_VOCAB_NONE;
    int space_is_mark = vocab->kind == QE_VOCAB_SPM;
    uint32_t slot = hash_text(text, bytes, space_is_mark);
    for (uint32_t probe = 0; probe < vocab->index_probes; probe++, slot++) {
        uint32_t entry = qe_vocab_load(vocab->index, slot & (vocab->index_slots - 1));
        uint32_t string_bytes = 0;
        if (entry == 0 || entry > vocab->token_count)
            return QE_VOCAB_NONE;
        const uint8_t *string = qe_vocab_string(vocab, entry - 1, &string_bytes);
        if (string && equals(text, bytes, string, string_bytes, space_is_mark))
            return entry - 1;
    }
    return QE_VOCAB_NONE;
}

int qe_vocab_put_byte(const qe_vocab *vocab, uint8_t byte, qe_id_sink *sink)
{
    uint32_t id = qe_vocab_load(vocab->byte_tokens, byte);
    if (id >= vocab->token_count) {
        if (vocab->kind == QE_VOCAB_BPE || vocab->unknown == QE_VOCAB_NONE)
            return QE_OK;
        id = vocab->unknown;
    }
    return qe_sink_put(sink, id);
}

int qe_vocab_is_stop(const qe_vocab *vocab, uint32_t id)
{
    for (uint32_t i = 0; i < vocab->stop_count; i++)
        if (qe_vocab_load(vocab->stops, i) == id)
            return 1;
    return 0;
}

uint32_t qe_vocab_token_count(const qe_vocab *vocab)
{
    return vocab->token_count;
}
uint32_t qe_vocab_bos(const qe_vocab *vocab)
{
    return vocab->bos;
}
uint32_t qe_vocab_eos(const qe_vocab *vocab)
{
    return vocab->eos;
}

uint32_t qe_vocab_longest_token_bytes(const qe_vocab *vocab)
{
    return vocab->longest_token_bytes;
}

int qe_vocab_adds_bos(const qe_vocab *vocab)
{
    return (vocab->flags & QE_VOCAB_ADD_BOS) != 0;
}
int qe_vocab_adds_eos(const qe_vocab *vocab)
{
    return (vocab->flags & QE_VOCAB_ADD_EOS) != 0;
}

int qe_vocab_adds_space_prefix(const qe_vocab *vocab)
{
    return (vocab->flags & QE_VOCAB_ADD_SPACE_PREFIX) != 0;
}
