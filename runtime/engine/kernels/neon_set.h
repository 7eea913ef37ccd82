/* neon_set.h - what the AArch64 kernel sets share. A set includes it after it has defined
 *   rows_by_tokens(w, q4, blocks, act, token, tokens, out, stride): 16 rows of a q4_0 or q8_0
 *     tile row against 1 or 3 activation rows; q4 and tokens are constants after inlining
 *   values_by_heads(values, tiles, head_size, heads, uq, du, stride, out, out_stride): mix_q8
 *     for 16 values of a block and 1 or 3 heads
 *   products(m, first, count): matmul of quantized types in layout 16
 * and neon_base.h before that. Equal to portable.c. */

/* A key tile of whole blocks has the bytes of a q8_0 weight tile. */
static void score_q8(const uint8_t *k, uint32_t tiles, uint32_t head_size, const qe_act *q,
                     uint32_t heads, float *scores, size_t stride)
{
    if (head_size % 32) {
        qe_portable_score_q8(k, tiles, head_size, q, heads, scores, stride);
        return;
    }
    for (uint32_t tile = 0; tile < tiles; tile++, k += qe_key_tile_bytes(head_size)) {
        float *out = scores + tile * 16;
        uint32_t h = 0;
        for (; h + 3 <= heads; h += 3)
            rows_by_tokens(k, 0, head_size / 32, q, h, 3, out + h * stride, stride);
        for (; h < heads; h++)
            rows_by_tokens(k, 0, head_size / 32, q, h, 1, out + h * stride, stride);
    }
}

static void mix_q8(const uint8_t *v, uint32_t tiles, uint32_t head_size, uint32_t c,
                   uint32_t width, uint32_t heads, const int8_t *uq, const float *du,
                   size_t stride, float *out, size_t out_stride)
{
    if (head_size % 32) {
        qe_portable_mix_q8(v, tiles, head_size, c, width, heads, uq, du, stride, out,
                           out_stride);
        return;
    }
    v += head_size / 32 * 64 + c * 128;
    for (uint32_t i = 0; i < 2; i++, v += 64, out += 16) {
        uint32_t h = 0;
        for (; h + 3 <= heads; h += 3)
            values_by_heads(v, tiles, head_size, 3, uq + h * stride, du + h * (stride / 32),
                            stride, out + h * out_stride, out_stride);
        for (; h < heads; h++)
            values_by_heads(v, tiles, head_size, 1, uq + h * stride, du + h * (stride / 32),
                            stride, out + h * out_stride, out_stride);
    }
}

static void matmul(const qe_matmul *m, uint32_t first, uint32_t count)
{
    if (!common_matmul(m, first, count))
        products(m, first, count);
}

const qe_kernels QE_SET = {
    .name = QE_SET_NAME,
    .quantize = quantize,
    .matmul = matmul,
    .rmsnorm = rmsnorm,
    .silu_mul = silu_mul,
    .score_q8 = score_q8,
    .softmax = softmax,
    .weigh_q8 = weigh_q8,
    .mix_q8 = mix_q8,
    .score_f16 = score_f16,
    .mix_f16 = mix_f16,
    .score_f32 = score_f32,
    .mix_f32 = mix_f32,
    .weights = weights,
    .order = order,
    .survey = survey,
    .pick = pick,
    .first_largest = first_largest,
};
