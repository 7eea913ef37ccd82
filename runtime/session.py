"""The budget rule where it is enforced: a session gets its arena, whole, or an error with the
cure."""

from __future__ import annotations

from qedge.runtime import _engine
from qedge.runtime._engine import EngineError, Image, Session, kernel_sets
from qedge.runtime.arguments import shown, whole
from qedge.runtime.errors import BudgetError, UsageError
from qedge.runtime.machine import available_bytes, cpus
from qedge.runtime.sizes import parse_size, show_size

# Beyond image and arena, measured (docs/architecture.md): what may show as resident at most,
# and what is this process's alone, which is all that a full machine or a cgroup has to give.
RESIDENT_BYTES = 26 << 20
PRIVATE_BYTES = 8 << 20


def open_session(
    image: Image,
    path: str,
    context: int | None,
    memory: str | int | None,
    threads: int | None,
    batch: int | None,
    kernels: str | None,
    allow_paging: bool,
    pin: bool,
) -> Session:
    """Takes arena and workers for a session. BudgetError when they do not fit, UsageError."""
    plan = image.plan
    context = plan["context"] if context is None else whole("context", context, 1, 1 << 62)
    batch = plan["batch"] if batch is None else whole("batch", batch, 1, 512)
    carved = plan["threads"] if threads is None else whole("threads", threads, 1, 64)
    if context > image.rope_context:
        raise BudgetError(
            f"{path}: a context of {context:,} was asked for; the image was built for "
            f"{image.rope_context:,}: choose less, or build it with --context {context}"
        )
    if kernels is not None and (kernels, True) not in kernel_sets():
        known = ", ".join(name for name, usable in kernel_sets() if usable)
        raise UsageError(f"no kernel set {shown(kernels)} on this machine; it has {known}")
    need = image.session_size(context, batch, carved, plan["kv"])
    if memory is not None and need > parse_size(memory):
        raise BudgetError(
            f"{path} needs {need:,} B of arena, the limit is {parse_size(memory):,} B; "
            f"{_cure(image, parse_size(memory), batch, carved)}"
        )
    ram = available_bytes()
    resident = image.bytes + need + PRIVATE_BYTES
    if ram is not None and resident > ram and not allow_paging:
        raise BudgetError(
            f"{path} needs {show_size(resident)} (image {show_size(image.bytes)}, arena "
            f"{show_size(need)}), this machine has {show_size(ram)} available; take a smaller "
            "format or context, or --allow-paging to run it about 100 times slower"
        )
    running = min(carved, cpus()) if threads is None else carved
    if pin and running > (cores := _engine.cpus()):
        raise UsageError(
            f"{running} threads cannot be pinned: this machine has {cores} fast cores"
        )
    try:
        return Session(image, context, batch, carved, plan["kv"], running, kernels, pin)
    except MemoryError:
        raise BudgetError(
            f"{path}: the system refuses {show_size(need)} for the arena, or its threads; "
            "take a smaller context or fewer threads"
        ) from None
    except EngineError as error:
        raise UsageError(f"{path}: {error}") from None


def _cure(image: Image, limit: int, batch: int, threads: int) -> str:
    """The longest context that fits, and the batch to take if none does."""
    for size in sorted({batch, min(batch, 16), 1}, reverse=True):
        context = longest_context(image, limit, size, threads)
        if context:
            extra = "" if size == batch else f" --batch {size}"
            return f"try --context {context}{extra}"
    return "it cannot run in that: take a smaller model"


def longest_context(image: Image, limit: int, batch: int, threads: int) -> int:
    """The longest context of at most the built one whose arena fits limit; 0 when none does."""
    low, high = 0, image.rope_context
    kv = image.plan["kv"]
    while low < high:
        middle = (low + high + 1) // 2
        if image.session_size(middle, batch, threads, kv) <= limit:
            low = middle
        else:
            high = middle - 1
    return low
