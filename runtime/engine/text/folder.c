/* folder.c - encodes as Hugging Face's tokenizers do for a folder's tokenizer.json, or
 * SentencePiece for its tokenizer.model: special tokens of the text as it is, the normalizer,
 * special tokens of what it gives, words, merges. SPEC-vocab.md has the rules.
 */
#include "unicode.h"
#include "vocab_internal.h"

static const uint8_t MARK[3] = {0xE2, 0x96, 0x81}; /* U+2581 */

uint64_t qe_folder_scratch_bytes(const qe_vocab *vocab, size_t text_bytes)
{
    uint64_t made = text_bytes, room = 16, copied;
    if (vocab->step_count) { /* what a step reads and what it writes, and marks in order */
        made = made * vocab->growth + vocab->growth_bytes;
        room += 2 * made + 8 * made + 1024 + 8;
    }
    copied = made;
    if (vocab->traits & ~(uint32_t)QE_TRAIT_FUSE_UNKNOWN) {
        copied = (vocab->traits & QE_TRAIT_MARKS ? 3 * made : made) + sizeof MARK;
        room += copied;
    }
    return room + 5 * 4 * (copied + 1);
}

/* The piece with the space before it, and spaces as marks; the room shrinks by it. */
static int copy_piece(const qe_vocab *vocab, int is_first, qe_room *room, const uint8_t **text,
                      size_t *bytes)
{
    const int marks = (vocab->traits & QE_TRAIT_MARKS) != 0;
    const uint8_t *from = *text, *space = marks ? MARK : (const uint8_t *)" ";
    const size_t space_bytes = marks ? sizeof MARK : 1;
    int prefix = (vocab->traits & QE_TRAIT_PREFIX_ALWAYS) != 0 ||
                 ((vocab->traits & QE_TRAIT_PREFIX_FIRST) != 0 && is_first);
    if (from[0] == ' ' ||
        (marks && *bytes >= sizeof MARK && memcmp(from, MARK, sizeof MARK) == 0)) {
        prefix = 0;
    }
    if (!prefix && !marks)
        return QE_OK;
    size_t written = 0;
    for (size_t i = 0; i < *bytes || prefix;) {
        if (room->bytes - written < sizeof MARK)
            return QE_ERR_SPACE;
        if (prefix || (marks && from[i] == ' ')) {
            memcpy(room->base + written, space, space_bytes);
            written += space_bytes;
            i += !prefix;
            prefix = 0;
        } else {
            room->base[written++] = from[i++];
        }
    }
    *text = room->base;
    *bytes = written;
    room->base += written;
    room->bytes -= written;
    return QE_OK;
}

static int is_mark(const uint8_t *text, size_t bytes)
{
    return bytes >= sizeof MARK && memcmp(text, MARK, sizeof MARK) == 0;
}

/* The end of a word that begins at every mark but goes on to the next one. */
static size_t next_marked(const uint8_t *text, size_t bytes, size_t start)
{
    size_t at = start + 1;
    while (at < bytes && !is_mark(text + at, bytes - at))
        at++;
    return at;
}

static int encode_word(qe_merging *m, const uint8_t *text, size_t bytes, size_t most,
                       qe_id_sink *sink)
{
    int error = bytes > most ? QE_ERR_SPACE : qe_work_did(m->work, bytes + 1);
    if (error)
        return error;
    return m->vocab->kind == QE_VOCAB_SPM ? qe_spm_encode(m, text, bytes, sink)
                                          : qe_folder_word(m, text, bytes, sink);
}

static int encode_piece(qe_merging *m, int is_first, qe_room room, const uint8_t *text,
                        size_t bytes, qe_id_sink *sink)
{
    const qe_vocab *vocab = m->vocab;
    int error = copy_piece(vocab, is_first, &room, &text, &bytes);
    if (error)
        return error;
    size_t slack = (size_t)(-(uintptr_t)room.base) & 3;
    size_t words = room.bytes < slack ? 0 : (room.bytes - slack) / (5 * 4);
    size_t most = words < bytes ? words : bytes;
    m->ids = (uint32_t *)(room.base + slack);
    m->lengths = m->ids + most;
    m->starts = m->lengths + most;
    m->priorities = m->starts + most;
    m->tree = m->priorities + most;
    if (vocab->pretokenizer == QE_PRE_NONE || vocab->pretokenizer == QE_PRE_MARKS) {
        for (size_t start = 0; start < bytes && !error;) {
            size_t end =
                vocab->pretokenizer == QE_PRE_NONE ? bytes : next_marked(text, bytes, start);
            error = encode_word(m, text + start, end - start, most, sink);
            start = end;
        }
        return error;
    }
    qe_words cut;
    qe_words_start(&cut, vocab, text, bytes);
    for (size_t start = 0, end; !error && (end = qe_words_next(&cut)) != 0; start = end)
        error = encode_word(m, text + start, end - start, most, sink);
    return error;
}

/* A piece between the special tokens of the text as it is. The library knows from where in the
 * text every character comes, and its first word is the one that comes from the beginning. */
static int encode_raw(qe_merging *m, int is_first, int no_special, qe_room room,
                      const uint8_t *text, size_t bytes, qe_id_sink *sink)
{
    const qe_vocab *vocab = m->vocab;
    size_t origin;
    int more, error = qe_normalize(vocab, &room, is_first, m->work, &text, &bytes, &origin);
    if (error)
        return error;
    if (text == room.base) {
        room.base += bytes;
        room.bytes -= bytes;
    }
    qe_matcher matcher;
    qe_piece piece;
    qe_matcher_start(&matcher, vocab, &vocab->normal, text, bytes, no_special);
    while ((more = qe_matcher_next(&matcher, m->work, &piece)) > 0) {
        error = piece.id != QE_VOCAB_NONE
                    ? qe_sink_put(sink, piece.id)
                    : encode_piece(m, is_first && piece.start < origin, room,
                                   text + piece.start, piece.end - piece.start, sink);
        if (error)
            return error;
    }
    return more;
}

int qe_folder_encode(qe_merging *m, const uint8_t *text, size_t bytes, uint32_t flags,
                     qe_room room, qe_id_sink *sink)
{
    const int no_special = !(flags & QE_ENCODE_SPECIAL);
    int more, error;
    qe_matcher matcher;
    qe_piece piece;
    qe_matcher_start(&matcher, m->vocab, &m->vocab->raw, text, bytes, no_special);
    while ((more = qe_matcher_next(&matcher, m->work, &piece)) > 0) {
        error = piece.id != QE_VOCAB_NONE
                    ? qe_sink_put(sink, piece.id)
                    : encode_raw(m, piece.start == 0, no_special, room, text + piece.start,
                                 piece.end - piece.start, sink);
        if (error)
            return error;
    }
    return more;
}

/* The symbols of a word: those of its bytes, or of its characters, which without a symbol go as
 * the symbols of their bytes, or are unknown. They need no text: what merges is a pair of ids.
 */
typedef struct {
    qe_merging *merging;
    uint32_t count;
    int unknown; /* an unknown character waits to be written */
} symbols;

static void add(symbols *s, uint32_t id)
{
    qe_merging *m = s->merging;
    m->ids[s->count] = id;
    m->lengths[s->count] = 1;
    m->starts[s->count] = s->count;
    s->count++;
}

static void add_known(symbols *s, uint32_t id)
{
    if (s->unknown) {
        add(s, s->merging->vocab->unknown);
        s->unknown = 0;
    }
    add(s, id);
}

/* The library writes an unknown character when the next known one comes, or the word's end; a
 * character of bytes does not count as one. So does this. */
static void add_unknown(symbols *s)
{
    const qe_vocab *vocab = s->merging->vocab;
    if (vocab->unknown == QE_VOCAB_NONE)
        return;
    if (s->unknown && !(vocab->traits & QE_TRAIT_FUSE_UNKNOWN))
        add(s, vocab->unknown);
    s->unknown = 1;
}

static void add_character(symbols *s, const uint8_t *text, size_t bytes)
{
    const qe_vocab *vocab = s->merging->vocab;
    uint32_t id = qe_vocab_find(vocab, text, bytes), of_bytes[4];
    if (id != QE_VOCAB_NONE) {
        add_known(s, id);
        return;
    }
    for (size_t i = 0; i < bytes; i++) {
        of_bytes[i] = qe_vocab_load(vocab->byte_tokens, text[i]);
        if (of_bytes[i] >= vocab->token_count) {
            add_unknown(s);
            return;
        }
    }
    for (size_t i = 0; i < bytes; i++)
        add(s, of_bytes[i]);
}

int qe_folder_word(qe_merging *m, const uint8_t *text, size_t bytes, qe_id_sink *sink)
{
    const qe_vocab *vocab = m->vocab;
    if (vocab->flags & QE_VOCAB_IGNORE_MERGES) {
        uint32_t id = qe_vocab_find(vocab, text, bytes);
        if (id != QE_VOCAB_NONE)
            return qe_sink_put(sink, id);
    }
    symbols s = {m, 0, 0};
    for (size_t at = 0; at < bytes;) {
        size_t length = 1;
        if (vocab->kind == QE_VOCAB_BPE) {
            uint32_t id = qe_vocab_load(vocab->byte_tokens, text[at]);
            if (id < vocab->token_count)
                add_known(&s, id);
            else
                add_unknown(&s);
        } else {
            uint32_t code_point;
            length = qe_utf8_read(text + at, bytes - at, &code_point);
            length = length ? length : 1; /* half a sequence: a token was cut out of it */
            add_character(&s, text + at, length);
        }
        at += length;
    }
    if (s.unknown)
        add(&s, vocab->unknown);
    m->count = s.count;
    int error = qe_merging_run(m);
    for (uint32_t at = 0; at < s.count && !error; at += m->lengths[at])
        if (m->ids[at] < vocab->token_count)
            error = qe_sink_put(sink, m->ids[at]);
    return error;
}
