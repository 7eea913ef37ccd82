/* encode.c - qe_vocab_encode: checks the text and carves the scratch. By llama.cpp's rules it
 * takes the special tokens out of the text and hands the pieces between them to bpe.c or spm.c;
 * the rules of a folder are folder.c's.
 */
#include "unicode.h"
#include "vocab_internal.h"

/* What a byte of the text belongs to. */
enum { RAW, SPECIAL_FIRST, SPECIAL_REST, STRIPPED };

size_t qe_vocab_scratch_bytes(const qe_vocab *vocab, size_t text_bytes)
{
    if (text_bytes > QE_VOCAB_TEXT_MAX)
        return SIZE_MAX;
    if (vocab->flags & QE_VOCAB_FOLDER) {
        uint64_t bytes = qe_folder_scratch_bytes(vocab, text_bytes);
        return bytes > SIZE_MAX ? SIZE_MAX : (size_t)bytes;
    }
    /* five arrays of words, a map of the text, a piece with its space prefix, alignment */
    return (text_bytes + 1) * (5 * 4 + 1 + 1) + 3;
}

static int is_utf8(const uint8_t *text, size_t bytes)
{
    for (size_t at = 0; at < bytes;) {
        uint32_t code_point;
        size_t length = text[at] < 0x80 ? 1 : qe_utf8_read(text + at, bytes - at, &code_point);
        if (length == 0)
            return 0;
        at += length;
    }
    return 1;
}

static int is_ascii_space(uint8_t c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static int is_raw(const uint8_t *map, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        if (map[i] != RAW)
            return 0;
    return 1;
}

/* Marks a token at a place, and the white space around it that it takes: where the text goes
 * on behind it. */
static size_t mark_special(const uint8_t *text, size_t bytes, uint8_t *map, size_t at,
                           uint32_t string_bytes, unsigned attributes)
{
    if (attributes & QE_TOKEN_LSTRIP)
        for (size_t i = at; i > 0 && map[i - 1] == RAW && is_ascii_space(text[i - 1]); i--)
            map[i - 1] = STRIPPED;
    map[at] = SPECIAL_FIRST;
    memset(map + at + 1, SPECIAL_REST, string_bytes - 1);
    at += string_bytes;
    if (attributes & QE_TOKEN_RSTRIP)
        while (at < bytes && map[at] == RAW && is_ascii_space(text[at]))
            map[at++] = STRIPPED;
    return at;
}

/* Marks every occurrence of one special token in what is still raw, from the left. */
static int claim(const uint8_t *text, size_t bytes, uint8_t *map, const uint8_t *string,
                 uint32_t string_bytes, unsigned attributes, qe_work *work)
{
    size_t at = 0, told = 0;
    while (bytes - at >= string_bytes) {
        if (at - told >= 4096) {
            int error = qe_work_did(work, at - told);
            if (error)
                return error;
            told = at;
        }
        if (text[at] != string[0] || memcmp(text + at, string, string_bytes) != 0 ||
            !is_raw(map + at, string_bytes)) {
            at++;
            continue;
        }
        at = mark_special(text, bytes, map, at, string_bytes, attributes);
    }
    return QE_OK;
}

/* The list is sorted longest first, then by id: the order in which tokens claim their text. */
static int claim_specials(const qe_vocab *vocab, const uint8_t *text, size_t bytes,
                          uint8_t *map, uint32_t flags, qe_work *work)
{
    uint8_t is_present[256] = {
        0}; /* most texts have no byte that a special token begins with */
    for (size_t i = 0; i < bytes; i++)
        is_present[text[i]] = 1;
    for (uint32_t i = 0; i < vocab->special_count; i++) {
        uint32_t id = qe_vocab_load(vocab->specials, i), string_bytes = 0;
        const uint8_t *string = qe_vocab_string(vocab, id, &string_bytes);
        if (string == NULL || string_bytes == 0 || id >= vocab->token_count ||
            !is_present[string[0]]) {
            continue;
        }
        unsigned attributes = vocab->attributes[id];
        if ((attributes & QE_TOKEN_TYPE) == QE_TOKEN_USER_DEFINED ||
            (flags & QE_ENCODE_SPECIAL)) {
            int error = claim(text, bytes, map, string, string_bytes, attributes, work);
            if (error)
                return error;
        }
    }
    return QE_OK;
}

/* The first entry from index on, to shorter ones, that may be claimed. */
static uint32_t claimable(const qe_vocab *vocab, uint32_t index, uint32_t flags,
                          qe_special *special)
{
    while (qe_special_read(vocab, &vocab->raw, index, special)) {
        if (!(special->attributes & QE_TOKEN_SPECIAL) || (flags & QE_ENCODE_SPECIAL))
            return index;
        index = special->shorter;
    }
    return QE_VOCAB_NONE;
}

/* The same with many tokens, that are sorted: `found` has the entry that each place of the text
 * begins with, the longest that is left. Every length goes through the text once, longest
 * first; what is in the way is at least as long, so it covers an end of what it is in the way
 * of. */
static int claim_sorted(const qe_vocab *vocab, const uint8_t *text, size_t bytes, uint8_t *map,
                        uint32_t *found, uint32_t flags, qe_work *work)
{
    uint8_t first_bytes[32];
    qe_special special;
    uint32_t length = 0;
    qe_special_first_bytes(vocab, &vocab->raw, first_bytes);
    for (size_t i = 0; i < bytes; i++) {
        found[i] = QE_VOCAB_NONE;
        if (!(first_bytes[text[i] >> 3] & 1 << (text[i] & 7)))
            continue;
        int error = qe_work_did(work, 8);
        if (error)
            return error;
        uint32_t index = qe_special_longest(vocab, &vocab->raw, text + i, bytes - i);
        found[i] = claimable(vocab, index, flags, &special);
        if (found[i] != QE_VOCAB_NONE && special.bytes > length)
            length = special.bytes;
    }
    while (length > 0) {
        uint32_t next = 0; /* the longest that is shorter */
        int error = qe_work_did(work, bytes);
        if (error)
            return error;
        for (size_t i = 0; i < bytes; i++) {
            if (found[i] == QE_VOCAB_NONE)
                continue;
            if (map[i] != RAW || !qe_special_read(vocab, &vocab->raw, found[i], &special)) {
                found[i] = QE_VOCAB_NONE;
                continue;
            }
            if (special.bytes == length) {
                if (map[i + length - 1] == RAW) {
                    (void)mark_special(text, bytes, map, i, length, special.attributes);
                    found[i] = QE_VOCAB_NONE;
                    continue;
                }
                found[i] = claimable(vocab, special.shorter, flags, &special);
            }
            if (found[i] != QE_VOCAB_NONE && special.bytes > next)
                next = special.bytes;
        }
        length = next;
    }
    return QE_OK;
}

static uint32_t find_special(const qe_vocab *vocab, const uint8_t *text, size_t bytes)
{
    qe_special special;
    if (vocab->flags & QE_VOCAB_SORTED) {
        uint32_t index = qe_special_longest(vocab, &vocab->raw, text, bytes);
        return qe_special_read(vocab, &vocab->raw, index, &special) ? special.id
                                                                    : QE_VOCAB_NONE;
    }
    for (uint32_t i = 0; i < vocab->special_count; i++) {
        uint32_t id = qe_vocab_load(vocab->specials, i), string_bytes = 0;
        const uint8_t *string = qe_vocab_string(vocab, id, &string_bytes);
        if (string && id < vocab->token_count && string_bytes == bytes &&
            memcmp(string, text, bytes) == 0) {
            return id;
        }
    }
    return QE_VOCAB_NONE;
}

static int encode_piece(qe_merging *merging, const uint8_t *text, size_t bytes, int prefix,
                        uint8_t *copy, qe_id_sink *sink)
{
    if (merging->vocab->kind == QE_VOCAB_BPE)
        return qe_bpe_encode(merging, text, bytes, sink);
    if (prefix && qe_vocab_adds_space_prefix(merging->vocab)) {
        copy[0] = ' ';
        memcpy(copy + 1, text, bytes);
        return qe_spm_encode(merging, copy, bytes + 1, sink);
    }
    return qe_spm_encode(merging, text, bytes, sink);
}

static int encode_pieces(qe_merging *merging, const uint8_t *text, size_t bytes,
                         const uint8_t *map, uint8_t *copy, qe_id_sink *sink)
{
    int after_special = 1; /* the text's beginning counts as one */
    for (size_t at = 0; at < bytes;) {
        int error = QE_OK;
        size_t end = at + 1;
        if (map[at] == RAW) {
            while (end < bytes && map[end] == RAW)
                end++;
            error = encode_piece(merging, text + at, end - at, after_special, copy, sink);
            after_special = 0;
        } else if (map[at] == SPECIAL_FIRST) {
            while (end < bytes && map[end] == SPECIAL_REST)
                end++;
            error = qe_sink_put(sink, find_special(merging->vocab, text + at, end - at));
            after_special = 1;
        }
        if (error)
            return error;
        at = end;
    }
    return QE_OK;
}

/* All of a text by llama.cpp's rules: scratch is qe_vocab_scratch_bytes of it. */
static int encode_text(qe_merging *merging, const uint8_t *text, size_t text_bytes,
                       uint32_t flags, void *scratch, qe_id_sink *sink)
{
    const qe_vocab *vocab = merging->vocab;
    size_t words = text_bytes + 1;
    uint32_t *array = (uint32_t *)(((uintptr_t)scratch + 3) & ~(uintptr_t)3);
    merging->ids = array;
    merging->lengths = array + words;
    merging->starts = array + 2 * words;
    merging->priorities = array + 3 * words;
    merging->tree = array + 4 * words;
    uint8_t *map = (uint8_t *)(array + 5 * words);
    memset(map, RAW, text_bytes);
    int error = vocab->flags & QE_VOCAB_SORTED
                    ? claim_sorted(vocab, text, text_bytes, map, array, flags, merging->work)
                    : claim_specials(vocab, text, text_bytes, map, flags, merging->work);
    return error ? error : encode_pieces(merging, text, text_bytes, map, map + words, sink);
}

int32_t qe_vocab_encode_polled(const qe_vocab *vocab, const uint8_t *text, size_t text_bytes,
                               uint32_t flags, uint32_t *ids, size_t max_ids, void *scratch,
                               size_t scratch_bytes, const qe_poll *poll)
{
    const int is_folder = (vocab->flags & QE_VOCAB_FOLDER) != 0;
    if (text_bytes > QE_VOCAB_TEXT_MAX)
        return QE_ERR_USAGE;
    if (!is_folder && scratch_bytes < qe_vocab_scratch_bytes(vocab, text_bytes))
        return QE_ERR_SPACE;
    if (!is_utf8(text, text_bytes))
        return QE_ERR_TEXT;
    qe_work work = {poll, 0};
    qe_merging merging = {.vocab = vocab, .work = &work};
    qe_id_sink sink = {ids, 0, max_ids, vocab->token_count};
    int error = QE_OK;
    if ((flags & QE_ENCODE_BOS) && qe_vocab_adds_bos(vocab) && vocab->bos != QE_VOCAB_NONE)
        error = qe_sink_put(&sink, vocab->bos);
    if (!error && text_bytes) {
        const qe_room room = {scratch, scratch_bytes};
        error = is_folder ? qe_folder_encode(&merging, text, text_bytes, flags, room, &sink)
                          : encode_text(&merging, text, text_bytes, flags, scratch, &sink);
    }
    if (!error && (flags & QE_ENCODE_EOS) && qe_vocab_adds_eos(vocab) &&
        vocab->eos != QE_VOCAB_NONE) {
        error = qe_sink_put(&sink, vocab->eos);
    }
    return error ? error : (int32_t)sink.count;
}

int32_t qe_vocab_encode(const qe_vocab *vocab, const uint8_t *text, size_t text_bytes,
                        uint32_t flags, uint32_t *ids, size_t max_ids, void *scratch,
                        size_t scratch_bytes)
{
    return qe_vocab_encode_polled(vocab, text, text_bytes, flags, ids, max_ids, scratch,
                                  scratch_bytes, NULL);
}
