/* search_quad.h - inside search: four lanes of float, what SSE2 and NEON have. Left to itself a
 * compiler sums across lanes that lie in an array. */
#ifndef QEDGE_SEARCH_QUAD_H
#define QEDGE_SEARCH_QUAD_H

typedef float quad __attribute__((vector_size(16)));

static inline quad all(float x)
{
    const quad q = {x, x, x, x};
    return q;
}

static inline quad quad_at(const float *p)
{
    const quad q = {p[0], p[1], p[2], p[3]};
    return q;
}

static inline void quad_to(float *p, quad q)
{
    for (int i = 0; i < 4; i++)
        p[i] = q[i];
}

#endif
