# Texts to token ids and back, by the vocabulary of an image or by one of its own; included by
# _engine.pyx.

cdef int is_interrupted(void *context) noexcept nogil:
    """Ctrl-C in the middle of a long text; the exception is set, and raised by who asked."""
    with gil:
        try:
            PyErr_CheckSignals()
            return 0
        except BaseException as error:
            (<list>context).append(error)
            return 1


cdef encode(const qe_vocab *vocab, bytes text, uint32_t flags, uint8_t *room, uint64_t room_bytes):
    """Ids of text; room holds the ids and the scratch, NULL takes memory for the call. A text may
    need many times what most do, so less is tried first."""
    cdef size_t count = len(text), most = 3 * count + 8  # a space may become three bytes
    cdef size_t worst = qe_vocab_scratch_bytes(vocab, count), scratch = min(worst, 32 * (count + 64))
    cdef size_t ids_bytes
    cdef const uint8_t *data = <const uint8_t *><const char *>text
    cdef uint8_t *memory = room
    cdef int32_t n
    cdef qe_poll poll
    cdef list raised = []
    if worst > SIZE_MAX // 2:
        raise EngineError(QE_ERR_USAGE)
    poll.stop, poll.context = is_interrupted, <void *>raised
    try:
        while True:
            ids_bytes = (most * 4 + 63) // 64 * 64
            if room != NULL:
                if room_bytes < ids_bytes:
                    raise EngineError(QE_ERR_SPACE)
                scratch = room_bytes - ids_bytes
            else:
                memory = <uint8_t *>PyMem_Malloc(ids_bytes + scratch + 64)
                if memory == NULL:
                    raise MemoryError
            with nogil:
                n = qe_vocab_encode_polled(vocab, data, count, flags, <uint32_t *>memory, most,
                                           memory + ids_bytes, scratch, &poll)
            if raised:
                raise raised[0]
            if n != QE_ERR_SPACE or (scratch >= worst and most > worst // 20):
                checked(n)
                return [(<uint32_t *>memory)[i] for i in range(n)]
            if room == NULL:
                PyMem_Free(memory)
                memory = NULL
            scratch, most = min(4 * scratch, worst), 4 * most
    finally:
        if room == NULL:
            PyMem_Free(memory)


cdef bytes decode(const qe_vocab *vocab, uint32_t token, bint special):
    cdef uint8_t small[256]
    cdef uint8_t *out = small
    cdef size_t room = sizeof(small)
    cdef int32_t n
    if qe_vocab_longest_token_bytes(vocab) > room:
        room = qe_vocab_longest_token_bytes(vocab)
        out = <uint8_t *>PyMem_Malloc(room)
        if out == NULL:
            raise MemoryError
    try:
        n = checked(qe_vocab_decode(vocab, token, special, out, room))
        return PyBytes_FromStringAndSize(<char *>out, n)
    finally:
        if out != small:
            PyMem_Free(out)


cdef describe_vocab(const qe_vocab *v):
    bos, eos = (None if at == NONE else at for at in (qe_vocab_bos(v), qe_vocab_eos(v)))
    return {"size": qe_vocab_token_count(v), "bos": bos, "eos": eos,
            "add_bos": bool(qe_vocab_adds_bos(v))}


cdef class Vocab:
    """A tokenizer section on its own (SPEC-vocab.md), in memory that is aligned for it."""

    cdef readonly object size, bos, eos
    cdef qe_vocab vocab
    cdef void *memory
    cdef uint64_t memory_bytes

    def __cinit__(self, bytes section not None):
        cdef size_t n = len(section)
        self.memory_bytes = n + 1
        self.memory = qe_host_arena(self.memory_bytes)
        if self.memory == NULL:
            raise MemoryError
        memcpy(self.memory, <const char *>section, n)
        checked(qe_vocab_open(&self.vocab, self.memory, n))
        facts = describe_vocab(&self.vocab)
        self.size, self.bos, self.eos = facts["size"], facts["bos"], facts["eos"]

    def __dealloc__(self):
        if self.memory != NULL:
            qe_host_arena_free(self.memory, self.memory_bytes)

    def encode(self, bytes text not None, bint special=False, bint bos=False):
        return encode(&self.vocab, text, (1 if bos else 0) | (4 if special else 0), NULL, 0)

    def decode(self, token, bint special=False):
        return decode(&self.vocab, PyNumber_Index(token), special)

    def is_stop(self, uint32_t token):
        return bool(qe_vocab_is_stop(&self.vocab, token))
