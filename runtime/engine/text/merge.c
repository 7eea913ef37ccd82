/* merge.c - merges the symbols of one word, best pair first. Short words are scanned; long ones
 * keep a tournament tree over their positions, so a word of n bytes costs n log n.
 */
#include "vocab_internal.h"

/* A scan beats the tree up to about here. */
enum { SCAN_BYTES = 40 };

static uint32_t pair(const qe_merging *m, uint32_t left, uint32_t *merged)
{
    uint32_t middle = left + m->lengths[left];
    if (middle >= m->count)
        return QE_VOCAB_NONE;
    return m->vocab->kind == QE_VOCAB_SPM ? qe_spm_pair(m, left, middle, merged)
                                          : qe_bpe_pair(m, left, middle, merged);
}

static uint32_t better(const qe_merging *m, uint32_t a, uint32_t b)
{
    uint32_t pa = m->priorities[a], pb = m->priorities[b];
    return pa < pb || (pa == pb && a < b) ? a : b;
}

/* Children of node i are 2i and 2i+1; a child of count or more is the leaf of a position. */
static uint32_t winner(const qe_merging *m, uint32_t child)
{
    return child >= m->count ? child - m->count : m->tree[child];
}

static void play(const qe_merging *m, uint32_t node)
{
    m->tree[node] = better(m, winner(m, 2 * node), winner(m, 2 * node + 1));
}

static void replay(const qe_merging *m, uint32_t position)
{
    for (uint32_t node = (position + m->count) / 2; node > 0; node /= 2)
        play(m, node);
}

/* Joins the symbol at left with the next one; non-zero when it did. */
static int join(qe_merging *m, uint32_t left, int use_tree)
{
    uint32_t merged = QE_VOCAB_NONE;
    if (pair(m, left, &merged) == QE_VOCAB_NONE)
        return 0;
    uint32_t middle = left + m->lengths[left];
    m->ids[left] = merged;
    m->lengths[left] += m->lengths[middle];
    m->starts[left + m->lengths[left] - 1] = left;
    m->priorities[middle] = QE_VOCAB_NONE;
    m->priorities[left] = pair(m, left, &merged);
    if (left > 0) {
        uint32_t before = m->starts[left - 1];
        m->priorities[before] = pair(m, before, &merged);
        if (use_tree)
            replay(m, before);
    }
    if (use_tree) {
        replay(m, middle);
        replay(m, left);
    }
    return 1;
}

int qe_merging_run(qe_merging *m)
{
    uint32_t count = m->count, merged;
    if (count < 2)
        return QE_OK;
    memset(m->priorities, 0xFF, (size_t)count * 4);
    for (uint32_t at = 0, told = 0; at < count; at += m->lengths[at]) {
        m->priorities[at] = pair(m, at, &merged);
        if (at - told >= QE_WORK_STEP) {
            int error = qe_work_did(m->work, 2 * QE_WORK_STEP);
            if (error)
                return error;
            told = at;
        }
    }
    if (count <= SCAN_BYTES) {
        for (;;) {
            uint32_t best = 0;
            for (uint32_t at = 0; at < count; at += m->lengths[at])
                if (m->priorities[at] < m->priorities[best])
                    best = at;
            if (m->priorities[best] == QE_VOCAB_NONE || !join(m, best, 0))
                return QE_OK;
        }
    }
    for (uint32_t node = count - 1; node > 0; node--) {
        play(m, node);
        int error = node % QE_WORK_STEP ? QE_OK : qe_work_did(m->work, QE_WORK_STEP);
        if (error)
            return error;
    }
    while (m->priorities[m->tree[1]] != QE_VOCAB_NONE && join(m, m->tree[1], 1)) {
        int error =
            qe_work_did(m->work, 16); /* about what a byte costs elsewhere, times that */
        if (error)
            return error;
    }
    return QE_OK;
}
