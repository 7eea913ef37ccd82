/* bpe.c - byte-level BPE: words of the pre-tokenizer, bytes to symbols, merges by rank.
 * Strings are raw bytes here; the alphabet that writes bytes as letters is undone by the
 * packer.
 */
#include "vocab_internal.h"

/* Merges are grouped by the left symbol and sorted by the right one inside a group. */
uint32_t qe_bpe_pair(const qe_merging *m, uint32_t left, uint32_t middle, uint32_t *merged)
{
    const qe_vocab *vocab = m->vocab;
    uint32_t left_id = m->ids[left], right_id = m->ids[middle];
    if (left_id >= vocab->symbol_count)
        return QE_VOCAB_NONE;
    uint32_t low = qe_vocab_load(vocab->merge_starts, left_id);
    uint32_t high = qe_vocab_load(vocab->merge_starts, (size_t)left_id + 1);
    if (high > vocab->merge_count)
        return QE_VOCAB_NONE;
    while (low < high) {
        uint32_t half = low + (high - low) / 2;
        const uint8_t *entry = vocab->merges + (size_t)half * 12;
        uint32_t right = qe_vocab_load(entry, 0);
        if (right == right_id) {
            *merged = qe_vocab_load(entry, 2);
            return qe_vocab_load(entry, 1);
        }
        if (right < right_id)
            low = half + 1;
        else
            high = half;
    }
    return QE_VOCAB_NONE;
}

/* A symbol that is no token (a merge whose result is not in the vocabulary) goes as its bytes.
 */
static int put_symbol(const qe_merging *m, uint32_t at, qe_id_sink *sink)
{
    uint32_t id = m->ids[at];
    if (id < m->vocab->token_count)
        return qe_sink_put(sink, id);
    for (uint32_t i = 0; i < m->lengths[at]; i++) {
        int error = qe_vocab_put_byte(m->vocab, m->text[at + i], sink);
        if (error)
            return error;
    }
    return QE_OK;
}

static int encode_word(qe_merging *m, qe_id_sink *sink)
{
    const qe_vocab *vocab = m->vocab;
    if (vocab->flags & QE_VOCAB_IGNORE_MERGES) {
        uint32_t id = qe_vocab_find(vocab, m->text, m->count);
        if (id != QE_VOCAB_NONE)
            return qe_sink_put(sink, id);
    }
    for (uint32_t i = 0; i < m->count;) {
        uint32_t end = m->count - i > QE_WORK_STEP ? i + QE_WORK_STEP : m->count;
        int error = qe_work_did(m->work, end - i);
        if (error)
            return error;
        for (; i < end; i++) {
            m->ids[i] = qe_vocab_load(vocab->byte_tokens, m->text[i]);
            m->lengths[i] = 1;
            m->starts[i] = i;
        }
    }
    int error = qe_merging_run(m);
    if (error)
        return error;
    for (uint32_t at = 0; at < m->count; at += m->lengths[at]) {
        error = put_symbol(m, at, sink);
        if (error)
            return error;
    }
    return QE_OK;
}

int qe_bpe_encode(qe_merging *m, const uint8_t *text, size_t bytes, qe_id_sink *sink)
{
    qe_words words;
    size_t start = 0, end;
    qe_words_start(&words, m->vocab, text, bytes);
    while ((end = qe_words_next(&words)) != 0) {
        m->text = text + start;
        m->count = (uint32_t)(end - start);
        int error = encode_word(m, sink);
        if (error)
            return error;
        start = end;
    }
    return QE_OK;
}
