# cython: language_level=3, boundscheck=False, binding=False, auto_pickle=False
"""Binds the C engine and its host half, one to one: no policy, no defaults; the GIL is released
around everything that takes time.  What the functions mean is said in qedge.h and host.h."""

from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_CheckSignals
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.number cimport PyNumber_Index
from libc.stdint cimport SIZE_MAX, int32_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

cdef extern from *:  # the limited API of 3.10 has no other; headers since 3.13 leave it out
    """PyAPI_FUNC(int) PyObject_AsWriteBuffer(PyObject *, void **, Py_ssize_t *);"""
    int PyObject_AsWriteBuffer(object, void **, Py_ssize_t *) except -1

include "_engine.pxi"

from qedge.runtime.errors import UsageError

cdef uint32_t NONE = 0xFFFFFFFF


class EngineError(Exception):
    """A negative result of the engine: `code` is one of qedge.h's QE_ERR_*."""

    def __init__(self, int code):
        super().__init__((<bytes>qe_error_text(code)).decode())
        self.code = code


# The numbers of the image, by the names that people see; engine/qedge.h is their home.
SECTIONS = {
    "config": QE_SECTION_CONFIG, "plan": QE_SECTION_PLAN, "vocabulary": QE_SECTION_VOCAB,
    "chat template": QE_SECTION_TEMPLATE, "rope": QE_SECTION_ROPE,
    "tensors": QE_SECTION_TENSORS, "weights": QE_SECTION_WEIGHTS,
    "golden": QE_SECTION_GOLDEN, "provenance": QE_SECTION_PROVENANCE, "chat": QE_SECTION_CHAT,
}
KV_TYPES = {"f32": QE_KV_F32, "f16": QE_KV_F16, "q8_0": QE_KV_Q8_0}
TYPES = {
    "f32": QE_F32, "f16": QE_F16, "bf16": QE_BF16,
    "q4_0": QE_Q4_0, "q4_1": QE_Q4_1, "q5_0": QE_Q5_0, "q5_1": QE_Q5_1, "q8_0": QE_Q8_0,
    "q2_K": QE_Q2_K, "q3_K": QE_Q3_K, "q4_K": QE_Q4_K, "q5_K": QE_Q5_K, "q6_K": QE_Q6_K,
    "iq4_nl": QE_IQ4_NL, "iq4_xs": QE_IQ4_XS, "mxfp4": QE_MXFP4,
    "tq2_0": QE_TQ2_0, "q1_0": QE_Q1_0, "q2_0": QE_Q2_0,
    "a2": QE_A2, "a3": QE_A3, "a4": QE_A4, "a5": QE_A5, "a6": QE_A6,
}
ROLES = {
    "token_embd": QE_EMBED, "output_norm": QE_OUT_NORM, "output": QE_OUTPUT,
    "attn_norm": QE_ATTN_NORM, "attn_q": QE_Q, "attn_k": QE_K, "attn_v": QE_V,
    "attn_output": QE_O, "ffn_norm": QE_FFN_NORM, "ffn_gate": QE_GATE, "ffn_up": QE_UP,
    "ffn_down": QE_DOWN,
}
ERR_CONTEXT, ERR_TEXT, ERR_SPACE = QE_ERR_CONTEXT, QE_ERR_TEXT, QE_ERR_SPACE
ERR_NUMERIC, ERR_USAGE = QE_ERR_NUMERIC, QE_ERR_USAGE


cdef int checked(int result) except -1:
    if result < 0:
        raise EngineError(result)
    return result


def kernel_sets():
    """The kernel sets of this build, fastest first: (name, whether this machine can run it)."""
    cdef int usable = 0
    cdef uint32_t i = 0, features = qe_host_features()
    found = []
    while True:
        name = qe_kernels_list(i, features, &usable)
        if name == NULL:
            return found
        found.append(((<bytes>name).decode(), bool(usable)))
        i += 1


def wrong_kernels():
    """A kernel set of this machine that computes something else than plain C, or None."""
    cdef uint64_t saved = qe_host_float_enter()
    cdef const char *name = qe_kernels_wrong(qe_host_features())
    qe_host_float_leave(saved)
    return None if name == NULL else (<bytes>name).decode()


def cpus():
    """CPUs worth a worker: that this process may run on, one a core, the fastest cores only."""
    cdef uint32_t chosen[64]
    return qe_host_cpus(chosen, 64)


def end_when_cut(bytes text not None, int code, bytes unfinished=b""):
    """qe_host_end_when_cut, for programs: 0 or an errno value."""
    return qe_host_end_when_cut(text, code, unfinished)


def session_size(dict config, uint32_t context, uint32_t batch, uint32_t threads, uint32_t kv):
    """qe_session_size for a configuration that is not in an image yet; 0 when out of range."""
    cdef qe_config c
    cdef qe_session_options o
    memset(&c, 0, sizeof(c))
    c.dim, c.layers, c.ffn = config["dim"], config["layers"], config["ffn"]
    c.heads, c.kv_heads = config["heads"], config["kv_heads"]
    c.head_size, c.vocab_size = config["head_size"], config["vocab_size"]
    o.context, o.batch, o.threads, o.kv = context, batch, threads, kv
    return qe_session_size(&c, &o)


include "_engine_text.pxi"


include "_engine_image.pxi"
include "_engine_observe.pxi"


cdef class Session:
    """A session with its arena and its workers; both are made here and only here."""

    cdef Image image
    cdef qe_session session
    cdef qe_sampler sampler
    cdef qe_sha256 sha
    cdef qe_pool *pool
    cdef const void *kernel_set
    cdef void *arena
    cdef readonly uint32_t running
    cdef readonly uint64_t arena_bytes
    cdef bint at_work  # read and written with the GIL held
    cdef moments squares
    cdef kept_rows inputs
    cdef qe_observer observer

    def __cinit__(self, Image image not None, uint32_t context, uint32_t batch, uint32_t threads,
                  uint32_t kv, uint32_t running, kernels=None, bint pin=False):
        """`threads` sizes the arena, `running` of them do the work; pin: each on its own CPU."""
        cdef qe_session_options o
        cdef bytes name
        o.context, o.batch, o.threads, o.kv = context, batch, threads, kv
        self.image = image
        self.running = running
        self.arena_bytes = qe_session_size(&image.image.config, &o)
        name = b"" if kernels is None else kernels.encode()
        self.kernel_set = qe_kernels_find(NULL if kernels is None else <const char *>name, qe_host_features())
        if self.kernel_set == NULL:
            raise EngineError(QE_ERR_KERNELS)
        if self.arena_bytes == 0 or not 1 <= running <= threads:
            raise EngineError(QE_ERR_USAGE)
        self.arena = qe_host_arena(self.arena_bytes)
        if self.arena == NULL:
            raise MemoryError
        self.pool = qe_pool_open(running, pin)
        if self.pool == NULL:
            raise MemoryError
        checked(qe_session_init(&self.session, &image.image, &o, self.kernel_set,
                                qe_pool_workers(self.pool), self.arena, self.arena_bytes))
        qe_sha256_init(&self.sha)
        self.sampler.top_p = 1
        self.sampler.repeat_penalty = 1

    def __dealloc__(self):
        PyMem_Free(self.squares.sums)
        PyMem_Free(self.inputs.rows)
        PyMem_Free(self.inputs.slots)
        if self.pool != NULL:
            qe_pool_close(self.pool)
        if self.arena != NULL:
            qe_host_arena_free(self.arena, self.arena_bytes)

    @property
    def elsewhere(self):
        """Whether another process opened this, which this one was forked from."""
        return not qe_pool_is_here(self.pool)

    cdef int check_free(self) except -1:
        if not qe_pool_is_here(self.pool):
            raise UsageError("another process opened this session, before a fork; open one here")
        if self.at_work:
            raise UsageError("another thread uses this session; give each thread its own")
        return 0

    @property
    def position(self):
        return qe_session_position(&self.session)

    @property
    def kernels(self):
        return (<bytes>qe_kernels_name(self.kernel_set)).decode()

    def encode(self, bytes text not None, bint special=False, bint bos=False):
        """Like Image.encode, with the arena as scratch: EngineError(QE_ERR_SPACE) when too long."""
        cdef uint64_t n = 0
        cdef uint8_t *room = <uint8_t *>qe_session_scratch(&self.session, &n)
        self.check_free()
        self.at_work = True
        try:
            return encode(&self.image.image.vocab, text,
                          (1 if bos else 0) | (4 if special else 0), room, n)
        finally:
            self.at_work = False

    def eval(self, tokens, out=None):
        """Appends tokens; with out, a writable float32 buffer (len(tokens), ceil(vocab, 32))."""
        self.check_free()
        self.at_work = True
        try:
            self.append(tokens, out)
        finally:
            self.at_work = False

    cdef append(self, tokens, out):
        cdef uint32_t n = len(tokens), i = 0
        cdef uint32_t *room = qe_session_tokens(&self.session)
        cdef float *rows = NULL
        cdef Py_ssize_t rows_bytes = 0
        cdef int error
        cdef uint64_t saved, need
        if n > qe_session_context(&self.session) - qe_session_position(&self.session):
            raise EngineError(QE_ERR_CONTEXT)
        for token in tokens:
            if i == n:  # it grew meanwhile
                raise EngineError(QE_ERR_USAGE)
            room[i] = PyNumber_Index(token)  # or 1.5 would be a 1
            i += 1
        n = i
        if out is not None:
            view = memoryview(out)  # holds the memory still until the end
            if view.readonly:
                raise BufferError("the rows' memory must be writable")
            PyObject_AsWriteBuffer(view, <void **>&rows, &rows_bytes)
            need = <uint64_t>n * ((self.image.image.config.vocab_size + 31) // 32 * 32) * 4
            if <uint64_t>rows_bytes < need:
                raise EngineError(QE_ERR_SPACE)
        with nogil:
            saved = qe_host_float_enter()
            error = qe_session_eval(&self.session, room, n, rows)
            qe_host_float_leave(saved)
        checked(error)

    def set_sampler(self, float temperature, uint32_t top_k, float top_p, float min_p,
                    float repeat_penalty, uint64_t seed):
        self.sampler.temperature, self.sampler.random = temperature, seed
        self.sampler.top_k, self.sampler.top_p, self.sampler.min_p = top_k, top_p, min_p
        self.sampler.repeat_penalty = repeat_penalty

    def sample(self):
        cdef int32_t token
        cdef uint64_t saved
        self.check_free()
        self.at_work = True
        with nogil:
            saved = qe_host_float_enter()
            token = qe_session_sample(&self.session, &self.sampler)
            qe_host_float_leave(saved)
        self.at_work = False
        return checked(token)

    def rewind(self, uint32_t position):
        self.check_free()
        checked(qe_session_rewind(&self.session, position))

    def logits(self):
        """A copy of the last token's logits: float32 bytes."""
        self.check_free()
        return PyBytes_FromStringAndSize(<const char *>qe_session_logits(&self.session),
                                         4 * self.image.image.config.vocab_size)

    def observe(self):
        """Begins to add up the squares of what matrices are multiplied with, from nothing."""
        cdef const qe_config *c = &self.image.image.config
        cdef size_t size
        self.check_free()
        self.squares.wide = widest_input(c)
        size = qe_image_tensor_count(&self.image.image) * <size_t>self.squares.wide
        if self.squares.sums == NULL:
            self.squares.sums = <double *>PyMem_Malloc(size * sizeof(double))
            if self.squares.sums == NULL:
                raise MemoryError
        memset(self.squares.sums, 0, size * sizeof(double))
        self.observer.self, self.observer.input = &self.squares, add_squares
        qe_session_observe(&self.session, &self.observer)

    def observed(self, uint32_t tensor):
        """The sums since observe() for a tensor by its number: float64 bytes, one a column."""
        cdef qe_tensor t
        self.check_free()
        if self.squares.sums == NULL or tensor >= qe_image_tensor_count(&self.image.image):
            raise EngineError(QE_ERR_USAGE)
        t = qe_image_tensor(&self.image.image, tensor)
        return PyBytes_FromStringAndSize(
            <const char *>(self.squares.sums + <size_t>tensor * self.squares.wide),
            sizeof(double) * min(t.columns, self.squares.wide))

    def keep_inputs(self, tensors, uint32_t tokens):
        """Begins to keep what the matrices with these numbers are multiplied with, so many
        tokens at most, and ends observe()."""
        cdef uint32_t count = qe_image_tensor_count(&self.image.image), number
        cdef size_t size
        self.check_free()
        if any(not 0 <= tensor < count for tensor in tensors):
            raise EngineError(QE_ERR_USAGE)
        qe_session_observe(&self.session, NULL)
        PyMem_Free(self.inputs.rows)
        PyMem_Free(self.inputs.slots)
        self.inputs.rows, self.inputs.slots = NULL, NULL
        self.inputs.wide, self.inputs.room = widest_input(&self.image.image.config), tokens
        size = <size_t>len(tensors) * tokens * self.inputs.wide
        self.inputs.rows = <float *>PyMem_Malloc(size * sizeof(float))
        self.inputs.slots = <input_slot *>PyMem_Malloc(count * sizeof(input_slot))
        if self.inputs.rows == NULL or self.inputs.slots == NULL:
            raise MemoryError
        memset(self.inputs.slots, 0, count * sizeof(input_slot))
        for number, tensor in enumerate(tensors):
            self.inputs.slots[<uint32_t>tensor].number = number + 1
        self.observer.self, self.observer.input = &self.inputs, keep_rows
        qe_session_observe(&self.session, &self.observer)

    def inputs_of(self, uint32_t tensor):
        """What keep_inputs kept of a matrix since this was last asked: float32 bytes, (tokens,
        columns)."""
        cdef uint32_t columns, held, row
        cdef input_slot *slot
        cdef bytes found
        cdef char *to
        self.check_free()
        if self.inputs.slots == NULL or tensor >= qe_image_tensor_count(&self.image.image):
            raise EngineError(QE_ERR_USAGE)
        slot = &self.inputs.slots[tensor]
        if slot.number == 0 or slot.held > self.inputs.room:
            raise EngineError(QE_ERR_USAGE)
        columns = qe_image_tensor(&self.image.image, tensor).columns
        held, slot.held = slot.held, 0
        found = PyBytes_FromStringAndSize(NULL, sizeof(float) * <size_t>held * columns)
        to = found
        for row in range(held):
            memcpy(to + sizeof(float) * <size_t>row * columns,
                   row_at(&self.inputs, slot.number - 1, row), sizeof(float) * columns)
        return found

    def hash_reset(self):
        qe_sha256_init(&self.sha)

    def hash_logits(self):
        with nogil:
            qe_sha256_update(&self.sha, qe_session_logits(&self.session),
                             4 * <size_t>self.image.image.config.vocab_size)

    def hash_digest(self):
        cdef uint8_t digest[32]
        qe_sha256_digest(&self.sha, digest)
        return PyBytes_FromStringAndSize(<char *>digest, 32)
