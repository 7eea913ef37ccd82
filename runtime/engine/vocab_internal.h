/* vocab_internal.h - what the tokenizer's own files share; nobody else includes it. */
#ifndef QEDGE_VOCAB_INTERNAL_H
#define QEDGE_VOCAB_INTERNAL_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "qedge.h"
#include "vocab.h"

enum { QE_VOCAB_BPE = 1, QE_VOCAB_SPM = 2 };

enum {
    QE_PRE_NONE = 0,
    QE_PRE_GPT2 = 1,
    QE_PRE_SMOLLM = 2,
    QE_PRE_LLAMA3 = 3,
    QE_PRE_QWEN2 = 4,
    QE_PRE_DEEPSEEK_CODER = 5
};

enum {
    QE_VOCAB_ADD_BOS = 1,
    QE_VOCAB_ADD_EOS = 2,
    QE_VOCAB_ADD_SPACE_PREFIX = 4,
    QE_VOCAB_IGNORE_MERGES = 8,
    QE_VOCAB_FLAGS = 15
};

/* A token's attribute byte: the type in the low three bits, then what it strips around it. */
enum {
    QE_TOKEN_TYPE = 7,
    QE_TOKEN_NORMAL = 1,
    QE_TOKEN_UNKNOWN = 2,
    QE_TOKEN_CONTROL = 3,
    QE_TOKEN_USER_DEFINED = 4,
    QE_TOKEN_UNUSED = 5,
    QE_TOKEN_BYTE = 6,
    QE_TOKEN_LSTRIP = 8,
    QE_TOKEN_RSTRIP = 16
};

/* A word in the making. Symbols are runs of bytes of text; a symbol is named by the position of
 * its first byte. Arrays have `count` entries and live in the caller's scratch. */
typedef struct qe_merging {
    const qe_vocab *vocab;
    const uint8_t *text;
    uint32_t count;       /* bytes of text */
    uint32_t *ids;        /* at a symbol's first byte: its id (QE_VOCAB_NONE: not a token) */
    uint32_t *lengths;    /* at a symbol's first byte: its bytes */
    uint32_t *starts;     /* at a symbol's last byte: its first byte */
    uint32_t *priorities; /* at a symbol's first byte: of merging with the next, 0 first */
    uint32_t *tree;       /* tree[1..count-1]: winners of a tournament of priorities */
} qe_merging;

/* Where encoded ids go. */
typedef struct qe_id_sink {
    uint32_t *ids;
    size_t count, max;
} qe_id_sink;

/* Cuts a text into the words of the vocabulary's pre-tokenizer. */
typedef struct qe_words {
    const uint8_t *text;
    size_t position, end;
    size_t cuts[4]; /* ends of the enclosing pieces, outermost first */
    uint32_t pretokenizer;
} qe_words;

static inline uint32_t qe_vocab_load(const uint8_t *array, size_t index)
{
    const uint8_t *p = array + 4 * index;
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static inline int qe_sink_put(qe_id_sink *sink, uint32_t id)
{
    if (sink->count >= sink->max) {
        return QE_ERR_SPACE;
    }
    sink->ids[sink->count++] = id;
    return QE_OK;
}

/* The stored string of a symbol; NULL when id or its extent is out of range. */
const uint8_t *qe_vocab_string(const qe_vocab *vocab, uint32_t id, uint32_t *bytes);

/* The token whose string is this text, or QE_VOCAB_NONE. In an SPM vocabulary a space of the
 * text is read as U+2581. */
uint32_t qe_vocab_find(const qe_vocab *vocab, const uint8_t *text, size_t bytes);

/* Puts the token of one byte; a byte without a token gives the unknown token, or nothing. */
int qe_vocab_put_byte(const qe_vocab *vocab, uint8_t byte, qe_id_sink *sink);

/* Merges pairs until none is left: lowest priority first, leftmost among equals. Needs ids,
 * lengths and starts of the first symbols; fills the rest. */
void qe_merging_run(qe_merging *merging);

/* What merging the symbols at left and at middle gives: its priority, or QE_VOCAB_NONE for no
 * such pair. */
uint32_t qe_bpe_pair(const qe_merging *merging, uint32_t left, uint32_t middle,
                     uint32_t *merged);
uint32_t qe_spm_pair(const qe_merging *merging, uint32_t left, uint32_t middle,
                     uint32_t *merged);

/* Encode text without special tokens. `merging` brings arrays for every byte of it. */
int qe_bpe_encode(qe_merging *merging, const uint8_t *text, size_t bytes, qe_id_sink *sink);
int qe_spm_encode(qe_merging *merging, const uint8_t *text, size_t bytes, qe_id_sink *sink);

void qe_words_start(qe_words *words, uint32_t pretokenizer, const uint8_t *text, size_t bytes);
/* The end of the next word, which begins at words->position; 0 when no text is left. */
size_t qe_words_next(qe_words *words);

#endif
