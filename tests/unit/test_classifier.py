"""What MLX and dying processes say, and what fault that is."""

from __future__ import annotations

import signal

import pytest

from scheduler.blame import Fault
from workers.classifier import classify_death, classify_text

METAL = "[METAL] Command buffer execution failed: "
CALLBACK = "kIOGPUCommandBufferCallbackError"

CORPUS = [
    # Metal's allocator (mlx backend/metal/allocator.cpp)
    (
        "RuntimeError: [metal::malloc] Attempting to allocate 137438953472 bytes which is greater than"
        " the maximum allowed buffer size of 77309411328 bytes.",
        Fault.BUFFER_TOO_LARGE,
    ),
    ("RuntimeError: [metal::malloc] Resource limit (499000) exceeded.", Fault.RESOURCE_LIMIT),
    ("RuntimeError: [metal::malloc] Unable to allocate 8589934592 bytes.", Fault.OUT_OF_MEMORY),
    # Metal's completion handler (mlx backend/metal/eval.cpp; the words are the driver's)
    (f"RuntimeError: {METAL}Insufficient Memory (00000008:{CALLBACK}OutOfMemory)", Fault.OUT_OF_MEMORY),
    (f"{METAL}Caused GPU Timeout Error (00000002:{CALLBACK}Timeout)", Fault.GPU_TIMEOUT),
    (f"{METAL}Caused GPU Hang Error (00000003:{CALLBACK}Hang)", Fault.GPU_TIMEOUT),
    (f"{METAL}Impacting Interactivity (0000000e:{CALLBACK}ImpactingInteractivity)", Fault.GPU_TIMEOUT),
    (
        f"{METAL}Ignored (for causing prior/excessive GPU errors) (00000004:{CALLBACK}SubmissionsIgnored)",
        Fault.VICTIM,
    ),
    (f"{METAL}Discarded (victim of GPU error/recovery) (00000005:{CALLBACK}InnocentVictim)", Fault.VICTIM),
    (f"{METAL}Caused GPU Address Fault Error (0000000b:{CALLBACK}PageFault)", Fault.BUG),
    # the common allocator (mlx allocator.cpp, up to 0.30 and later)
    ("RuntimeError: [malloc_or_wait] Unable to allocate 9000000000 bytes.", Fault.OUT_OF_MEMORY),
    ("RuntimeError: [malloc] Unable to allocate 9000000000 bytes.", Fault.OUT_OF_MEMORY),
    # CUDA (mlx backend/cuda/utils.cpp: "{call} failed: {cudaGetErrorString}"; allocator.cpp)
    ("RuntimeError: cudaMallocAsync(&data, size, stream) failed: out of memory", Fault.OUT_OF_MEMORY),
    ("RuntimeError: cudaMalloc(&data, size) failed: out of memory", Fault.OUT_OF_MEMORY),
    ("RuntimeError: cudaMallocManaged(&data_, small_pool_size) failed: out of memory", Fault.OUT_OF_MEMORY),
    ("RuntimeError: cudaMallocManaged failed: out of memory.", Fault.OUT_OF_MEMORY),
    ("RuntimeError: cudaGraphInstantiate(&exec, graph, nullptr) failed: out of memory", Fault.OUT_OF_MEMORY),
    ("RuntimeError: cudaGraphLaunch(exec, stream) failed: out of memory", Fault.OUT_OF_MEMORY),
    ("RuntimeError: cuModuleLoadDataEx(&module, ptx) failed: out of memory", Fault.OUT_OF_MEMORY),
    ("RuntimeError: cublasLtCreate(&handle) failed: CUBLAS_STATUS_ALLOC_FAILED", Fault.OUT_OF_MEMORY),
    ("RuntimeError: cudaEventSynchronize(event) failed: an illegal memory access was encountered", Fault.BUG),
    ("RuntimeError: cudaStreamSynchronize(stream) failed: unspecified launch failure", Fault.BUG),
    ("RuntimeError: cudaGetDevice(&device) failed: no CUDA-capable device is detected", Fault.BUG),
    # the runtimes
    ("std::bad_alloc", Fault.OUT_OF_MEMORY),
    ("MemoryError: ", Fault.OUT_OF_MEMORY),
    ("OSError: [Errno 12] Cannot allocate memory", Fault.OUT_OF_MEMORY),
    (
        "terminate called after throwing an instance of 'std::bad_alloc'\n  what():  std::bad_alloc",
        Fault.OUT_OF_MEMORY,
    ),
    (
        "libc++abi: terminating due to uncaught exception of type std::runtime_error: "
        f"{METAL}Insufficient Memory (00000008:{CALLBACK}OutOfMemory)",
        Fault.OUT_OF_MEMORY,
    ),
    (
        "libc++abi: terminating due to uncaught exception of type std::runtime_error: "
        f"{METAL}Caused GPU Timeout Error (00000002:{CALLBACK}Timeout)",
        Fault.GPU_TIMEOUT,
    ),
    # plain bugs, memory nowhere
    ("OverflowError: Python integer 4294967296 out of bounds for int32", Fault.BUG),
    ("ValueError: [reshape] Cannot reshape array of size 6 into shape (4,2).", Fault.BUG),
    ("ValueError: [matmul] Last dimension of first input with shape (2,3) must match", Fault.BUG),
    ("IndexError: list index out of range", Fault.BUG),
    ("RuntimeError: There is no Stream(gpu, 0) in current thread.", Fault.BUG),
    ("", Fault.BUG),
]


@pytest.mark.parametrize(("text", "fault"), CORPUS, ids=range(len(CORPUS)))
def test_every_text_has_its_fault(text: str, fault: Fault) -> None:
    """MLX's texts on Metal, CUDA and CPU, memory or not."""
    assert classify_text(text) is fault


def test_memory_words_elsewhere_in_a_text_decide_nothing() -> None:
    """Sizes and shapes are spoken of in many errors that are not about memory running out."""
    for text in (
        "ValueError: memory limit must be positive",
        "KeyError: 'memory'",
        "AllocationWarning: slow",
    ):
        assert classify_text(text) is Fault.BUG


GIB = 1 << 30


@pytest.mark.parametrize(
    ("exit_code", "words", "active", "cpu", "fault"),
    [
        (-signal.SIGSEGV, "", 9 * GIB, True, Fault.OUT_OF_MEMORY),
        (-signal.SIGSEGV, "", 5 * GIB, True, Fault.OUT_OF_MEMORY),
        (-signal.SIGSEGV, "", GIB, True, Fault.BUG),
        (-signal.SIGSEGV, "", 9 * GIB, False, Fault.BUG),
        (-signal.SIGKILL, "", 0, True, Fault.OUT_OF_MEMORY),
        (-signal.SIGKILL, "", 0, False, Fault.OUT_OF_MEMORY),
        (-signal.SIGABRT, "", 9 * GIB, True, Fault.BUG),
        (
            -signal.SIGABRT,
            f"libc++abi: … {METAL}Insufficient Memory (8:{CALLBACK}OutOfMemory)",
            0,
            False,
            Fault.OUT_OF_MEMORY,
        ),
        (
            -signal.SIGABRT,
            f"libc++abi: … {METAL}Discarded (5:{CALLBACK}InnocentVictim)",
            0,
            False,
            Fault.VICTIM,
        ),
        (-signal.SIGABRT, "what():  std::bad_alloc", 0, True, Fault.OUT_OF_MEMORY),
        (-signal.SIGSEGV, "Fatal Python error: Segmentation fault", 9 * GIB, True, Fault.OUT_OF_MEMORY),
        (-signal.SIGBUS, "", 9 * GIB, True, Fault.BUG),
        (1, "MemoryError", 0, True, Fault.OUT_OF_MEMORY),
        (1, "KeyError: 'model'", 9 * GIB, True, Fault.BUG),
        (0, "", 9 * GIB, True, Fault.BUG),
    ],
)
def test_a_death_is_told_by_code_words_and_account(
    exit_code: int, words: str, active: int, cpu: bool, fault: Fault
) -> None:
    """On the CPU a failed allocation is a segmentation fault; only the account tells it from a bug."""
    assert classify_death(exit_code, words, active, 10 * GIB, cpu=cpu) is fault
