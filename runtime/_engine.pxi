# What _engine.pyx binds, as engine/qedge.h and host/host.h have it. A .pxd beside it would be
# ignored: the module lies in another package than its folder says.

cdef extern from "host/host.h" nogil:
    enum:
        QE_SECTION_CONFIG, QE_SECTION_PLAN, QE_SECTION_VOCAB, QE_SECTION_TEMPLATE
        QE_SECTION_ROPE, QE_SECTION_TENSORS, QE_SECTION_WEIGHTS, QE_SECTION_GOLDEN
        QE_SECTION_PROVENANCE, QE_SECTION_CHAT
        QE_KV_F32, QE_KV_F16, QE_KV_Q8_0
        QE_F32, QE_F16, QE_BF16, QE_Q4_0, QE_Q4_1, QE_Q5_0, QE_Q5_1, QE_Q8_0
        QE_Q2_K, QE_Q3_K, QE_Q4_K, QE_Q5_K, QE_Q6_K, QE_IQ4_NL, QE_IQ4_XS, QE_MXFP4
        QE_TQ2_0, QE_Q1_0, QE_Q2_0, QE_A2, QE_A3, QE_A4, QE_A5, QE_A6
        QE_EMBED, QE_OUT_NORM, QE_OUTPUT, QE_ATTN_NORM, QE_Q, QE_K, QE_V, QE_O
        QE_FFN_NORM, QE_GATE, QE_UP, QE_DOWN
        QE_ERR_CONTEXT, QE_ERR_TEXT, QE_ERR_SPACE, QE_ERR_NUMERIC, QE_ERR_USAGE
    ctypedef struct qe_config:
        uint32_t dim, layers, heads, kv_heads, head_size, ffn, vocab_size, trained_context, tied
        float norm_eps
    ctypedef struct qe_session_options:
        uint32_t context, batch, threads, kv
    ctypedef struct qe_vocab:
        pass
    ctypedef struct qe_image:
        qe_config config
        qe_session_options plan
        uint64_t plan_arena_bytes, bytes
        char board[33]
        uint8_t id[32]
        uint32_t rope_context
        qe_vocab vocab
    ctypedef struct qe_tensor:
        uint32_t kind, layer, type, layout, rows, columns
        uint64_t bytes
    ctypedef struct qe_golden:
        const uint32_t *prompt
        const uint32_t *expected
        uint32_t prompt_count, expected_count
        const uint8_t *digest
    ctypedef struct qe_workers:
        pass
    ctypedef struct qe_observer:
        void *self
        void (*input)(void *, uint32_t, const float *, size_t, uint32_t, uint32_t) noexcept nogil
    ctypedef struct qe_session:
        pass
    void qe_session_observe(qe_session *, const qe_observer *)
    ctypedef struct qe_sampler:
        float temperature, top_p, min_p, repeat_penalty
        uint32_t top_k
        uint64_t random
    ctypedef struct qe_sha256:
        pass
    ctypedef struct qe_pool:
        pass
    enum: QE_ERR_SPACE, QE_ERR_USAGE, QE_ERR_KERNELS, QE_ERR_CONTEXT

    int qe_image_open(qe_image *, const void *, uint64_t)
    int32_t qe_image_verify(const qe_image *, uint32_t, uint32_t)
    int qe_image_golden(const qe_image *, qe_golden *)
    const uint8_t *qe_image_section(const qe_image *, uint32_t, uint64_t *)
    qe_tensor qe_image_tensor(const qe_image *, uint32_t)
    uint32_t qe_image_tensor_count(const qe_image *)
    enum: QE_SIGNED
    int qe_image_signature(const qe_image *, const void *, uint64_t, const uint8_t *, uint32_t *)
    uint32_t qe_session_position(const qe_session *)
    uint32_t qe_session_context(const qe_session *)
    uint64_t qe_session_size(const qe_config *, const qe_session_options *)
    int qe_session_init(qe_session *, const qe_image *, const qe_session_options *, const void *,
                        const qe_workers *, void *, uint64_t)
    int qe_session_eval(qe_session *, const uint32_t *, uint32_t, float *)
    uint32_t *qe_session_tokens(const qe_session *)
    const float *qe_session_logits(const qe_session *)
    int qe_session_rewind(qe_session *, uint32_t)
    void *qe_session_scratch(const qe_session *, uint64_t *)
    int32_t qe_session_sample(qe_session *, qe_sampler *)
    const void *qe_kernels_find(const char *, uint32_t)
    const char *qe_kernels_name(const void *)
    const char *qe_kernels_list(uint32_t, uint32_t, int *)
    const char *qe_kernels_wrong(uint32_t)
    const char *qe_error_text(int)
    void qe_sha256_init(qe_sha256 *)
    void qe_sha256_update(qe_sha256 *, const void *, size_t)
    void qe_sha256_digest(const qe_sha256 *, uint8_t *)

    int qe_vocab_open(qe_vocab *, const void *, size_t)
    size_t qe_vocab_scratch_bytes(const qe_vocab *, size_t)
    int32_t qe_vocab_encode(const qe_vocab *, const uint8_t *, size_t, uint32_t, uint32_t *, size_t,
                            void *, size_t)
    ctypedef struct qe_poll:
        int (*stop)(void *) noexcept nogil
        void *context
    int32_t qe_vocab_encode_polled(const qe_vocab *, const uint8_t *, size_t, uint32_t, uint32_t *,
                                   size_t, void *, size_t, const qe_poll *)
    int32_t qe_vocab_decode(const qe_vocab *, uint32_t, int, uint8_t *, size_t)
    int qe_vocab_is_stop(const qe_vocab *, uint32_t)
    uint32_t qe_vocab_token_count(const qe_vocab *)
    uint32_t qe_vocab_bos(const qe_vocab *)
    uint32_t qe_vocab_eos(const qe_vocab *)
    uint32_t qe_vocab_longest_token_bytes(const qe_vocab *)
    int qe_vocab_adds_bos(const qe_vocab *)

    uint32_t qe_host_features()
    uint32_t qe_host_cpus(uint32_t *, uint32_t)
    ctypedef struct qe_file:
        const uint8_t *base
        uint64_t bytes
    int qe_host_image_open(qe_image *, qe_file *, const char *)
    void qe_host_image_close(qe_file *)
    int qe_host_image_touched(qe_file *, int)
    int qe_host_end_when_cut(const char *, int, const char *)
    void *qe_host_arena(uint64_t)
    void qe_host_arena_free(void *, uint64_t)
    uint64_t qe_host_float_enter()
    void qe_host_float_leave(uint64_t)
    qe_pool *qe_pool_open(uint32_t, int)
    void qe_pool_close(qe_pool *)
    int qe_pool_is_here(const qe_pool *)
    const qe_workers *qe_pool_workers(qe_pool *)
