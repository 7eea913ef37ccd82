/* vocab_internal.h - what the tokenizer's own files share; nobody else includes it. */
#ifndef QEDGE_VOCAB_INTERNAL_H
#define QEDGE_VOCAB_INTERNAL_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "../qedge.h"
#include "vocab.h"

enum { QE_VOCAB_BPE = 1, QE_VOCAB_SPM = 2, QE_VOCAB_CHARACTERS = 3 };

enum {
    QE_PRE_NONE = 0,
    QE_PRE_GPT2 = 1,
    QE_PRE_SMOLLM = 2,
    QE_PRE_LLAMA3 = 3,
    QE_PRE_QWEN2 = 4,
    QE_PRE_DEEPSEEK_CODER = 5,
    QE_PRE_TEKKEN = 6,
    QE_PRE_O200K = 7,
    QE_PRE_MARKS = 8, /* a word begins at every U+2581 */
    QE_PRE_COUNT
};

enum {
    QE_VOCAB_ADD_BOS = 1,
    QE_VOCAB_ADD_EOS = 2,
    QE_VOCAB_ADD_SPACE_PREFIX = 4,
    QE_VOCAB_IGNORE_MERGES = 8,
    QE_VOCAB_FOLDER = 16, /* the rules block says how to encode, as tokenizer.json does */
    QE_VOCAB_SORTED = 32, /* the rules block has the special tokens sorted, and no more */
    QE_VOCAB_FLAGS = 63
};

/* What the rules block says besides its arrays. */
enum {
    QE_TRAIT_FUSE_UNKNOWN = 1,  /* neighbouring unknown characters are one unknown token */
    QE_TRAIT_PREFIX_FIRST = 2,  /* a space before the text, unless it begins with one */
    QE_TRAIT_PREFIX_ALWAYS = 4, /* and before every piece between special tokens */
    QE_TRAIT_MARKS = 8,         /* spaces of a piece become U+2581 */
    QE_TRAITS = 15
};

/* The steps of a normalizer: six words, of which `op` is the first. */
enum {
    QE_STEP_PREPEND = 1,
    QE_STEP_REPLACE = 2,
    QE_STEP_STRIP = 3,
    QE_STEP_CHARACTERS = 4,
    QE_STEP_SENTENCEPIECE = 5,
    QE_STEP_WORDS = 6, /* words of a step */
    QE_STEPS_MAX = 64,
    QE_RULE_WORDS = 16 /* words of the rules block */
};

/* Arguments of the steps. */
enum {
    QE_STRIP_LEFT = 1,
    QE_STRIP_RIGHT = 2,
    QE_CHARACTERS_ORDER = 1,   /* decompose Hangul too, and put marks in order */
    QE_CHARACTERS_COMPOSE = 2, /* and compose again */
    QE_SENTENCEPIECE_PREFIX = 1,
    QE_SENTENCEPIECE_SQUEEZE = 2,    /* spaces: none around the text, one between words */
    QE_SENTENCEPIECE_PREFIX_ONCE = 4 /* the prefix before the text's first piece only */
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
    QE_TOKEN_RSTRIP = 16,
    QE_TOKEN_SINGLE_WORD = 32, /* these two in a special table only */
    QE_TOKEN_SPECIAL = 64
};

/* How much a long call has done since the caller was asked. */
typedef struct qe_work {
    const qe_poll *poll;
    size_t done;
} qe_work;

/* Done between two questions; and, in a loop over symbols, between two reports of it. */
enum { QE_WORK_BYTES = 1 << 18, QE_WORK_STEP = 4096 };

static inline int qe_work_did(qe_work *work, size_t bytes)
{
    work->done += bytes;
    if (work->done < QE_WORK_BYTES)
        return QE_OK;
    work->done = 0;
    return work->poll && work->poll->stop(work->poll->context) ? QE_ERR_STOPPED : QE_OK;
}

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
    qe_work *work;
} qe_merging;

/* Where encoded ids go: tokens, and nothing else, whatever a damaged section says. */
typedef struct qe_id_sink {
    uint32_t *ids;
    size_t count, max;
    uint32_t token_count;
} qe_id_sink;

/* Cuts a text into the words of the vocabulary's pre-tokenizer. */
typedef struct qe_words {
    const uint8_t *text;
    size_t position, end;
    size_t cuts[4]; /* ends of the enclosing pieces, outermost first */
    uint32_t pretokenizer;
    int is_folder; /* the rules of Hugging Face's tokenizers where llama.cpp's differ */
} qe_words;

/* Memory that is used up from its beginning. */
typedef struct qe_room {
    uint8_t *base;
    size_t bytes;
} qe_room;

/* A stretch of text: a piece without special tokens, or the one token `id`. */
typedef struct qe_piece {
    size_t start, end;
    uint32_t id;
} qe_piece;

/* Finds special tokens as Hugging Face's tokenizers do: leftmost, then longest. */
typedef struct qe_matcher {
    const qe_vocab *vocab;
    const qe_special_table *table;
    const uint8_t *text;
    size_t bytes;
    size_t at;               /* the search goes on here */
    size_t done;             /* the text before it is in pieces */
    size_t spaces, nonspace; /* white space that was measured last */
    qe_piece next;           /* a token that waits for the piece before it to be taken */
    int has_next, no_special;
    uint8_t first_bytes[32]; /* a bit for each byte that a token begins with */
} qe_matcher;

static inline uint32_t qe_vocab_load(const uint8_t *array, size_t index)
{
    const uint8_t *p = array + 4 * index;
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static inline int qe_sink_put(qe_id_sink *sink, uint32_t id)
{
    if (id >= sink->token_count)
        return QE_ERR_IMAGE;
    if (sink->count >= sink->max)
        return QE_ERR_SPACE;
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
 * lengths and starts of the first symbols; fills the rest. QE_OK or QE_ERR_STOPPED. */
int qe_merging_run(qe_merging *merging);

/* What merging the symbols at left and at middle gives: its priority, or QE_VOCAB_NONE for no
 * such pair. */
uint32_t qe_bpe_pair(const qe_merging *merging, uint32_t left, uint32_t middle,
                     uint32_t *merged);
uint32_t qe_spm_pair(const qe_merging *merging, uint32_t left, uint32_t middle,
                     uint32_t *merged);

/* Encode text without special tokens. `merging` brings arrays for every byte of it. */
int qe_bpe_encode(qe_merging *merging, const uint8_t *text, size_t bytes, qe_id_sink *sink);
int qe_spm_encode(qe_merging *merging, const uint8_t *text, size_t bytes, qe_id_sink *sink);

/* The same by a folder's rules: one word, of bytes or of characters. */
int qe_folder_word(qe_merging *merging, const uint8_t *text, size_t bytes, qe_id_sink *sink);

/* Encodes a text by the rules block. */
int qe_folder_encode(qe_merging *merging, const uint8_t *text, size_t bytes, uint32_t flags,
                     qe_room room, qe_id_sink *sink);
/* The scratch that any text of this length needs for it. */
uint64_t qe_folder_scratch_bytes(const qe_vocab *vocab, size_t text_bytes);

/* Runs the normalizer over a piece; what comes out lies at the beginning of the room, or is the
 * piece itself. Its first `origin` bytes come from the text's first character. */
int qe_normalize(const qe_vocab *vocab, const qe_room *room, int is_first, qe_work *work,
                 const uint8_t **text, size_t *bytes, size_t *origin);
/* Steps of it that have a file of their own. A step writes from room->base on and gives the
 * number of bytes; the text may lie below the room, never in it. */
int qe_step_characters(const qe_vocab *vocab, const uint8_t *step, const uint8_t *text,
                       size_t bytes, const qe_room *room, qe_work *work, size_t *written,
                       size_t *origin);
int qe_step_sentencepiece(const qe_vocab *vocab, const uint8_t *step, const uint8_t *text,
                          size_t bytes, int is_first, const qe_room *room, qe_work *work,
                          size_t *written);

/* The longest entry of a table that the text begins with; its index, or QE_VOCAB_NONE. */
uint32_t qe_special_longest(const qe_vocab *vocab, const qe_special_table *table,
                            const uint8_t *text, size_t bytes);
/* An entry's text, id, attributes and the next shorter entry that it begins with. */
typedef struct qe_special {
    const uint8_t *string;
    uint32_t bytes, id, attributes, shorter;
} qe_special;
int qe_special_read(const qe_vocab *vocab, const qe_special_table *table, uint32_t index,
                    qe_special *special);
/* Sets a bit for each byte that an entry begins with. */
void qe_special_first_bytes(const qe_vocab *vocab, const qe_special_table *table,
                            uint8_t bits[32]);

void qe_matcher_start(qe_matcher *matcher, const qe_vocab *vocab, const qe_special_table *table,
                      const uint8_t *text, size_t bytes, int no_special);
/* The next piece: 1, or 0 when no text is left, or QE_ERR_STOPPED. */
int qe_matcher_next(qe_matcher *matcher, qe_work *work, qe_piece *piece);

void qe_words_start(qe_words *words, const qe_vocab *vocab, const uint8_t *text, size_t bytes);
/* The end of the next word, which begins at words->position; 0 when no text is left. */
size_t qe_words_next(qe_words *words);

#endif
