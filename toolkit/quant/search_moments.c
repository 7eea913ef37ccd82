/* search_moments.c - see search_spread.h: second moments of a matrix's inputs, and their
 * factors. */
#include "search_quad.h"
#include "search_spread.h"

static size_t band_at(uint32_t band)
{
    return (size_t)512 * band * (band + 1);
}

size_t qs_triangle(uint32_t columns)
{
    return band_at(columns / 32);
}

void qs_add_products(const float *x, uint32_t tokens, size_t stride, uint32_t columns,
                     float *sums)
{
    for (uint32_t i = 0; i < columns; i += 4) {
        const uint32_t width = 32 * (i / 32 + 1);
        float *row = sums + band_at(i / 32) + (size_t)(i % 32) * width;
        for (uint32_t k = 0; k < width; k += 8) {
            quad low[4], high[4];
            const float *at = x;
            for (int r = 0; r < 4; r++)
                low[r] = high[r] = all(0);
            for (uint32_t t = 0; t < tokens; t++, at += stride) {
                const quad a = quad_at(at + k), b = quad_at(at + k + 4);
                for (int r = 0; r < 4; r++) {
                    const quad xi = all(at[i + (uint32_t)r]);
                    low[r] += xi * a;
                    high[r] += xi * b;
                }
            }
            for (uint32_t r = 0; r < 4; r++) {
                float *to = row + r * width + k;
                quad_to(to, quad_at(to) + low[r]);
                quad_to(to + 4, quad_at(to + 4) + high[r]);
            }
        }
    }
}

static float *row_of(float *triangle, uint32_t i)
{
    return triangle + band_at(i / 32) + (size_t)(i % 32) * 32 * (i / 32 + 1);
}

/* row -= part * other, of count numbers */
static void subtract(float *restrict row, const float *restrict other, float part,
                     uint32_t count)
{
    for (uint32_t k = 0; k < count; k++)
        row[k] -= part * other[k];
}

void qs_factor(const int8_t *correlations, const float *roots, uint32_t columns, float kept,
               float *factors, float *weights)
{
    const size_t numbers = qs_triangle(columns);
    const float part = kept / 127, least = (1 - kept) / 2;
    for (size_t n = 0; n < numbers; n++)
        factors[n] = part * (float)correlations[n];
    for (uint32_t i = 0; i < columns; i++)
        row_of(factors, i)[i] = 1;
    for (uint32_t i = columns; i-- > 0;) { /* H = L^T D L from its last column on */
        float *row = row_of(factors, i);
        const float d = row[i] > least ? row[i] : least, inv = 1 / d;
        for (uint32_t k = 0; k < i; k++)
            subtract(row_of(factors, k), row, row[k] * inv, k + 1);
        const float scale = roots[i] > 0 ? inv / roots[i] : 0;
        weights[i] = d * roots[i] * roots[i];
        for (uint32_t k = 0; k < i; k++)
            row[k] *= scale * roots[k];
        for (uint32_t k = i; k < 32 * (i / 32 + 1); k++)
            row[k] = 0;
    }
}
