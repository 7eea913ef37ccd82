# The class of an opened image.

cdef class Image:
    """A mapped and opened image; what opening has checked nobody can change any more."""

    cdef qe_image image
    cdef qe_file file

    def __cinit__(self, bytes path not None):
        cdef int error
        cdef const char *name = path
        with nogil:
            error = qe_host_image_open(&self.image, &self.file, name)
        if error > 0:
            raise OSError(error, "cannot map")
        checked(error)

    def __dealloc__(self):
        qe_host_image_close(&self.file)

    def touched(self, bint settle=False):
        """qe_host_image_touched: 0 unless somebody has written into the file meanwhile."""
        return qe_host_image_touched(&self.file, settle)

    @property
    def config(self):
        cdef qe_config c = self.image.config
        return {"dim": c.dim, "layers": c.layers, "heads": c.heads, "kv_heads": c.kv_heads,
                "head_size": c.head_size, "ffn": c.ffn, "vocab_size": c.vocab_size,
                "trained_context": c.trained_context, "norm_eps": c.norm_eps,
                "tied": bool(c.tied)}

    @property
    def plan(self):
        cdef qe_session_options o = self.image.plan
        return {"board": (<bytes>self.image.board).decode("utf-8", "replace"),
                "context": o.context, "batch": o.batch, "threads": o.threads, "kv": o.kv,
                "arena_bytes": self.image.plan_arena_bytes}

    @property
    def id(self):
        return PyBytes_FromStringAndSize(<char *>self.image.id, 32)

    @property
    def bytes(self):
        return self.image.bytes

    @property
    def mapped_bytes(self):
        """The file's: the image's, and what follows it."""
        return self.file.bytes

    def read(self, uint64_t offset, uint64_t count):
        """Bytes of the mapped file, what follows the image too; fewer at its end."""
        if offset >= self.file.bytes:
            return b""
        if count > self.file.bytes - offset:
            count = self.file.bytes - offset
        return PyBytes_FromStringAndSize(<const char *>self.file.base + offset, count)

    def signature(self, bytes key not None):
        """The counter of the image's signature by an Ed25519 key of 32 bytes; None when it has
        none, or another's."""
        cdef uint32_t counter = 0
        cdef int found
        cdef const uint8_t *raw = <const uint8_t *><const char *>key
        if len(key) != 32:
            raise ValueError("a key of Ed25519 has 32 bytes")
        with nogil:
            found = qe_image_signature(&self.image, self.file.base + self.image.bytes,
                                       self.file.bytes - self.image.bytes, raw, &counter)
        return counter if found == QE_SIGNED else None

    @property
    def rope_context(self):
        return self.image.rope_context

    @property
    def vocab(self):
        return describe_vocab(&self.image.vocab)

    def section(self, uint32_t kind):
        """A copy of a section's bytes, or None."""
        cdef uint64_t n = 0
        cdef const uint8_t *p = qe_image_section(&self.image, kind, &n)
        return None if p == NULL else PyBytes_FromStringAndSize(<const char *>p, n)

    def section_bytes(self, uint32_t kind):
        cdef uint64_t n
        return None if qe_image_section(&self.image, kind, &n) == NULL else n

    def golden(self):
        """(prompt's ids, expected ids, SHA-256 of the logits in hexadecimal), or None."""
        cdef qe_golden g
        if qe_image_golden(&self.image, &g) != 0:
            return None
        return ([g.prompt[i] for i in range(g.prompt_count)],
                [g.expected[i] for i in range(g.expected_count)],
                PyBytes_FromStringAndSize(<const char *>g.digest, 32).hex())

    def tensors(self):
        """(kind, layer, type, layout, rows, columns, bytes) of each tensor."""
        cdef qe_tensor t
        found = []
        for i in range(qe_image_tensor_count(&self.image)):
            t = qe_image_tensor(&self.image, i)
            found.append((t.kind, t.layer, t.type, t.layout, t.rows, t.columns, t.bytes))
        return found

    def verify(self, uint32_t first, uint32_t count):
        cdef int32_t n
        with nogil:
            n = qe_image_verify(&self.image, first, count)
        return checked(n)

    def session_size(self, uint32_t context, uint32_t batch, uint32_t threads, uint32_t kv):
        cdef qe_session_options o
        o.context, o.batch, o.threads, o.kv = context, batch, threads, kv
        return qe_session_size(&self.image.config, &o)

    def encode(self, bytes text not None, bint special=False, bint bos=False):
        return encode(&self.image.vocab, text, (1 if bos else 0) | (4 if special else 0), NULL, 0)

    def decode(self, token, bint special=False):
        return decode(&self.image.vocab, PyNumber_Index(token), special)

    def is_stop(self, uint32_t token):
        return bool(qe_vocab_is_stop(&self.image.vocab, token))
