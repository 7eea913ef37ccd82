/* spm.c - SentencePiece-style BPE: the whole text is one word of characters, any pair whose
 * text is a token may merge, the token with the best score first; what is left over goes as
 * bytes.
 */
#include "unicode.h"
#include "vocab_internal.h"

uint32_t qe_spm_pair(const qe_merging *m, uint32_t left, uint32_t middle, uint32_t *merged)
{
    const qe_vocab *vocab = m->vocab;
    size_t bytes = (size_t)m->lengths[left] + m->lengths[middle];
    uint32_t id = qe_vocab_find(vocab, m->text + left, bytes);
    if (id >= vocab->token_count)
        return QE_VOCAB_NONE;
    *merged = id;
    return qe_vocab_load(vocab->priorities, id);
}

/* By SentencePiece's rules: the bytes of a character if all have a token, or else the unknown
 * token, once for a run of such characters. */
static int put_unknown(const qe_merging *m, const uint8_t *text, uint32_t bytes,
                       qe_id_sink *sink)
{
    const qe_vocab *vocab = m->vocab;
    int are_known = 1, error = QE_OK;
    for (uint32_t i = 0; i < bytes; i++)
        are_known &= qe_vocab_load(vocab->byte_tokens, text[i]) < vocab->token_count;
    if (!are_known) {
        int is_run =
            text != m->text && sink->count > 0 && sink->ids[sink->count - 1] == vocab->unknown;
        return vocab->unknown == QE_VOCAB_NONE || is_run ? QE_OK
                                                         : qe_sink_put(sink, vocab->unknown);
    }
    for (uint32_t i = 0; i < bytes && !error; i++)
        error = qe_vocab_put_byte(vocab, text[i], sink);
    return error;
}

static int put_symbol(const qe_merging *m, uint32_t at, qe_id_sink *sink)
{
    static const uint8_t space[3] = {0xE2, 0x96, 0x81};
    uint32_t bytes = m->lengths[at];
    uint32_t id = m->ids[at];
    if (id == QE_VOCAB_NONE) /* a character that never merged */
        id = qe_vocab_find(m->vocab, m->text + at, bytes);
    if (id != QE_VOCAB_NONE)
        return qe_sink_put(sink, id);
    if (m->vocab->flags & QE_VOCAB_FOLDER)
        return put_unknown(m, m->text + at, bytes, sink);
    const uint8_t *from = m->text + at;
    if (*from == ' ') {
        from = space;
        bytes = sizeof space;
    }
    for (uint32_t i = 0; i < bytes; i++) {
        int error = qe_vocab_put_byte(m->vocab, from[i], sink);
        if (error)
            return error;
    }
    return QE_OK;
}

int qe_spm_encode(qe_merging *m, const uint8_t *text, size_t bytes, qe_id_sink *sink)
{
    m->text = text;
    m->count = (uint32_t)bytes;
    for (uint32_t at = 0; at < m->count;) {
        uint32_t code_point;
        uint32_t length = (uint32_t)qe_utf8_read(text + at, bytes - at, &code_point);
        if (length == 0) /* half a sequence: a special token was cut out of it */
            length = 1;
        m->ids[at] = QE_VOCAB_NONE;
        m->lengths[at] = length;
        m->starts[at + length - 1] = at;
        at += length;
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
