# What a session's observer does with what matrices are multiplied with.

cdef struct moments:  # sums of squares: (tensors, wide)
    uint32_t wide
    double *sums

cdef struct input_slot:  # of a tensor: its number among those kept, from 1, and rows held
    uint32_t number, held

cdef struct kept_rows:  # (numbers, room, wide)
    uint32_t wide, room
    input_slot *slots
    float *rows


cdef uint32_t widest_input(const qe_config *c) noexcept nogil:
    return max(c.dim, c.heads * c.head_size, c.ffn)


cdef void add_squares(void *self, uint32_t tensor, const float *x, size_t stride,
                      uint32_t columns, uint32_t tokens) noexcept nogil:
    cdef moments *m = <moments *>self
    cdef double *sums = m.sums + <size_t>tensor * m.wide
    cdef uint32_t i
    for _ in range(tokens):
        for i in range(columns):
            sums[i] += <double>x[i] * x[i]
        x += stride


cdef float *row_at(const kept_rows *k, uint32_t number, uint32_t row) noexcept nogil:
    return k.rows + (<size_t>number * k.room + row) * k.wide


cdef void keep_rows(void *self, uint32_t tensor, const float *x, size_t stride,
                    uint32_t columns, uint32_t tokens) noexcept nogil:
    cdef kept_rows *k = <kept_rows *>self
    cdef input_slot *slot = &k.slots[tensor]
    if slot.number == 0:
        return
    for _ in range(tokens):
        if slot.held < k.room:
            memcpy(row_at(k, slot.number - 1, slot.held), x, columns * sizeof(float))
        slot.held += slot.held <= k.room  # one too many says that rows are missing
        x += stride
