/* vocab.h - the tokenizer: text to token ids and back, over a packed section used in place.
 * Part of qedge.h, which includes it; SPEC-vocab.md describes the section and the algorithms.
 * It does not know chat templates, and nothing in it trusts the section: every index is checked
 * where it is used, so any bytes give an error or wrong ids, never a read outside the section.
 */
#ifndef QEDGE_VOCAB_H
#define QEDGE_VOCAB_H

#include <stddef.h>
#include <stdint.h>

/* No such token: what qe_vocab_bos and qe_vocab_eos return when the vocabulary has none. */
#define QE_VOCAB_NONE UINT32_MAX

/* Token texts sorted by their bytes, to find the longest one at a place of a text. */
typedef struct qe_special_table {
    const uint8_t *entries;
    uint32_t count;
} qe_special_table;

/* An open vocabulary: the header, decoded. Fields are private; the functions below read them.
 */
typedef struct qe_vocab {
    const uint8_t *base;
    size_t bytes;
    uint32_t kind, pretokenizer, flags;
    uint32_t token_count, symbol_count, merge_count, special_count, stop_count;
    uint32_t index_slots, index_probes, longest_key_bytes, longest_token_bytes;
    uint32_t bos, eos, unknown;
    const uint8_t *offsets, *attributes, *byte_tokens, *specials, *stops;
    const uint8_t *priorities, *index, *merge_starts, *merges, *strings;
    uint32_t string_bytes;
    /* the rules block (SPEC-vocab.md, section 5), if there is one */
    uint32_t traits, growth, growth_bytes;
    uint32_t step_count, class_count, pair_count, pool_count;
    const uint8_t *steps, *classes, *pairs, *pool;
    qe_special_table raw, normal;
} qe_vocab;

/* Opens a tokenizer section in place, in constant time. QE_ERR_IMAGE when the header or an
 * extent is broken, QE_ERR_VERSION for an unknown version, kind, pre-tokenizer or flag. */
int qe_vocab_open(qe_vocab *vocab, const void *section, size_t bytes);

/* Bytes of scratch that encoding any text of text_bytes needs; SIZE_MAX when the text is longer
 * than QE_VOCAB_TEXT_MAX. Without a rules block encode with one byte less returns QE_ERR_SPACE;
 * with one it does so when this text needs more, which is seldom: a normalizer that may make
 * a text eleven times as long seldom does. */
size_t qe_vocab_scratch_bytes(const qe_vocab *vocab, size_t text_bytes);

/* The longest text that one call encodes. */
#define QE_VOCAB_TEXT_MAX ((size_t)1 << 26)

enum {
    QE_ENCODE_BOS = 1,    /* begin with BOS where the vocabulary asks for it (add_bos) */
    QE_ENCODE_EOS = 2,    /* end with EOS where the vocabulary asks for it (add_eos) */
    QE_ENCODE_SPECIAL = 4 /* control tokens written in the text become their ids */
};

/* Asked now and then during a long call: non-zero ends it with QE_ERR_STOPPED. */
typedef struct qe_poll {
    int (*stop)(void *context);
    void *context;
} qe_poll;

/* Encodes UTF-8 text and returns the number of ids written, or QE_ERR_TEXT (not UTF-8),
 * QE_ERR_SPACE (more than max_ids, or scratch too small), QE_ERR_USAGE (longer than
 * QE_VOCAB_TEXT_MAX) or QE_ERR_IMAGE. User-defined tokens are matched with any flags. */
int32_t qe_vocab_encode(const qe_vocab *vocab, const uint8_t *text, size_t text_bytes,
                        uint32_t flags, uint32_t *ids, size_t max_ids, void *scratch,
                        size_t scratch_bytes);

/* The same; poll may be NULL. */
int32_t qe_vocab_encode_polled(const qe_vocab *vocab, const uint8_t *text, size_t text_bytes,
                               uint32_t flags, uint32_t *ids, size_t max_ids, void *scratch,
                               size_t scratch_bytes, const qe_poll *poll);

/* Writes the bytes that a token stands for in generated text and returns their count, or
 * QE_ERR_SPACE when they are more than max, QE_ERR_USAGE when id is not a token, QE_ERR_IMAGE.
 * Control and unknown tokens give 0 bytes unless special is non-zero; unused ones always do.
 * One token may be a part of a UTF-8 sequence. */
int32_t qe_vocab_decode(const qe_vocab *vocab, uint32_t id, int special, uint8_t *out,
                        size_t max);

/* A part of them: at most max bytes from byte `start` on; 0 when there are none left. With it a
 * buffer of any size takes a token of any length. */
int32_t qe_vocab_decode_at(const qe_vocab *vocab, uint32_t id, int special, uint32_t start,
                           uint8_t *out, size_t max);

/* Non-zero when id ends generation (end of sequence, end of turn, ...). */
int qe_vocab_is_stop(const qe_vocab *vocab, uint32_t id);

uint32_t qe_vocab_token_count(const qe_vocab *vocab);
uint32_t qe_vocab_bos(const qe_vocab *vocab); /* QE_VOCAB_NONE when there is none */
uint32_t qe_vocab_eos(const qe_vocab *vocab);
/* Bytes that qe_vocab_decode writes at most. */
uint32_t qe_vocab_longest_token_bytes(const qe_vocab *vocab);
int qe_vocab_adds_bos(const qe_vocab *vocab);
int qe_vocab_adds_eos(const qe_vocab *vocab);
int qe_vocab_adds_space_prefix(const qe_vocab *vocab);

#endif
