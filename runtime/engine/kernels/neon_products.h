/* neon_products.h - matmul of the quantized types in groups of 16 rows: whole tiles of tokens
 * over panels, single rows for the rest. Included by a set that has, beside neon_panel.h's and
 * neon_rows.h's,
 *   arrange(batch, act, token, first, count, step): blocks of columns of TOKENS rows of
 * activations tiles_of(f): a function that has the sums of a few groups go on, in out, by those
 * blocks QE_THREES: where it is faster so, rows_by_tokens of q4_0 and q8_0 */

static void products_by_tiles(const qe_format *f, const qe_matmul *m, uint32_t from,
                              uint32_t groups)
{
    const uint32_t blocks = qe_ceil(m->columns, 32) / 32;
    const size_t bytes = qe_group_bytes(f, 16, m->columns),
                 span = qe_group_bytes(f, 16, 32 * SPAN) - 16u * f->row_head;
    tiles_function *const multiply = tiles_of(f);
    panel panels[GROUPS][SPAN];
    batch x[SPAN];
    for (uint32_t t = 0; t < m->tokens / TOKENS * TOKENS; t++)
        memset(m->out + t * m->out_stride + from * 16, 0, groups * 16 * sizeof(float));
    for (uint32_t b = 0; b < blocks; b += SPAN) {
        const uint32_t now = blocks - b < SPAN ? blocks - b : SPAN;
        for (uint32_t i = 0; i < groups; i++)
            unpack(f, m->w + (from + i) * bytes + 16 * f->row_head + b / SPAN * span, now,
                   panels[i]);
        for (uint32_t t = 0; t + TOKENS <= m->tokens; t += TOKENS) {
            arrange(x, &m->act, t, b, now, f->step);
            multiply(panels, groups, now, x, m->out + t * m->out_stride + from * 16,
                     m->out_stride);
        }
    }
    for (uint32_t i = 0; i < groups && f->step == QE_STEP_ROW; i++)
        scale_rows(m->w + (from + i) * bytes, m->tokens / TOKENS * TOKENS,
                   m->out + (from + i) * 16, m->out_stride);
}

static void products(const qe_matmul *m, uint32_t first, uint32_t count)
{
    const qe_format *f = qe_format_of(m->type);
    const uint32_t blocks = qe_ceil(m->columns, 32) / 32, end = first + count;
    const size_t stride = m->out_stride;
    for (uint32_t from = first; m->tokens >= TOKENS && from < end; from += GROUPS)
        products_by_tiles(f, m, from, end - from < GROUPS ? end - from : GROUPS);
    for (uint32_t group = first; group < end; group++) {
        const uint8_t *w = m->w + group * qe_group_bytes(f, 16, m->columns);
        uint32_t t = m->tokens / TOKENS * TOKENS;
        float *out = m->out + t * stride + group * 16;
#if defined(QE_THREES)
        for (; t + 3 <= m->tokens && m->type == QE_Q4_0; t += 3, out += 3 * stride)
            rows_by_tokens(w, 1, blocks, &m->act, t, 3, out, stride);
        for (; t + 3 <= m->tokens && m->type == QE_Q8_0; t += 3, out += 3 * stride)
            rows_by_tokens(w, 0, blocks, &m->act, t, 3, out, stride);
        for (; t < m->tokens && m->type == QE_Q4_0; t++, out += stride)
            rows_by_tokens(w, 1, blocks, &m->act, t, 1, out, stride);
        for (; t < m->tokens && m->type == QE_Q8_0; t++, out += stride)
            rows_by_tokens(w, 0, blocks, &m->act, t, 1, out, stride);
#endif
        for (; t < m->tokens; t++, out += stride)
            row(f, w, blocks, &m->act, t, out);
    }
}
