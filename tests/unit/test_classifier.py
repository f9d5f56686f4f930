"""What MLX and dying processes say, and what fault that is."""

from __future__ import annotations

import signal

import pytest

from scheduler.blame import Blame, Fault
from workers.classifier import OTHER, TEXTS, Known, Recovery, classify_death, classify_text

METAL = "[METAL] Command buffer execution failed: "
CALLBACK = "kIOGPUCommandBufferCallbackError"

FRESH, NEW = Recovery.FRESH_BATCH, Recovery.NEW_PROCESS
OOM, TOO_LARGE, LIMIT = Fault.OUT_OF_MEMORY, Fault.BUFFER_TOO_LARGE, Fault.RESOURCE_LIMIT
VICTIM, TIMEOUT, BUG = Fault.VICTIM, Fault.GPU_TIMEOUT, Fault.BUG
ABORTED = "libc++abi: terminating due to uncaught exception of type std::runtime_error: "
ALLOCATING = (
    "RuntimeError: [metal::malloc] Attempting to allocate 137438953472 bytes which is greater than the"
)

CORPUS = [
    # Metal's allocator (mlx backend/metal/allocator.cpp); the limit's number is not always said
    (f"{ALLOCATING} maximum allowed buffer size of 77309411328 bytes.", TOO_LARGE, FRESH),
    (f"{ALLOCATING} maximum allowed buffer size", TOO_LARGE, FRESH),
    ("RuntimeError: [metal::malloc] Resource limit (499000) exceeded.", LIMIT, NEW),
    ("RuntimeError: [metal::malloc] Resource limit exceeded", LIMIT, NEW),
    ("RuntimeError: [metal::malloc] Unable to allocate 8589934592 bytes.", OOM, FRESH),
    # Metal's completion handler (mlx backend/metal/eval.cpp; the words are the driver's)
    (f"RuntimeError: {METAL}Insufficient Memory (00000008:{CALLBACK}OutOfMemory)", OOM, NEW),
    (f"RuntimeError: {METAL}Insufficient Memory ({CALLBACK}OutOfMemory)", OOM, NEW),
    (f"{METAL}Zu wenig Speicher (00000008:{CALLBACK}OutOfMemory)", OOM, NEW),
    (f"{METAL}Caused GPU Timeout Error (00000002:{CALLBACK}Timeout)", TIMEOUT, NEW),
    (f"{METAL}Caused GPU Hang Error (00000003:{CALLBACK}Hang)", TIMEOUT, NEW),
    (f"{METAL}Caused GPU Hang Error (IOAF code 3)", TIMEOUT, NEW),
    (f"{METAL}Impacting Interactivity (0000000e:{CALLBACK}ImpactingInteractivity)", TIMEOUT, NEW),
    (f"{METAL}Internal Error (0000000e:Internal Error)", TIMEOUT, NEW),  # mlx#1335
    (
        f"{METAL}Ignored (for causing prior/excessive GPU errors) (00000004:{CALLBACK}SubmissionsIgnored)",
        VICTIM,
        NEW,
    ),
    (
        f"{METAL}Ignored (for causing prior/excessive GPU errors)"
        " (00000004:kIOAccelCommandBufferCallbackErrorSubmissionsIgnored)",
        VICTIM,
        NEW,
    ),
    (f"{METAL}Discarded (victim of GPU error/recovery) (00000005:{CALLBACK}InnocentVictim)", VICTIM, NEW),
    (f"{METAL}Innocent Victim ({CALLBACK}InnocentVictim)", VICTIM, NEW),
    (
        f"{METAL}Insufficient Permission (to submit GPU work from background)"
        f" (00000006:{CALLBACK}BackgroundExecutionNotPermitted)",
        VICTIM,
        NEW,
    ),
    (f"{METAL}Access Revoked ({CALLBACK}AccessRevoked)", VICTIM, NEW),
    (f"{METAL}Blacklisted ({CALLBACK}Blacklisted)", VICTIM, NEW),
    (f"{METAL}Device Removed ({CALLBACK}DeviceRemoved)", VICTIM, NEW),
    (f"{METAL}Memoryless ({CALLBACK}Memoryless)", LIMIT, NEW),
    (f"{METAL}Caused GPU Address Fault Error (0000000b:{CALLBACK}PageFault)", BUG, NEW),
    (f"{METAL}Invalid Resource (00000009:{CALLBACK}InvalidResource)", BUG, NEW),  # mlx-vlm#270
    (f"{METAL}Invalid Input (0000000a:{CALLBACK}InvalidInput)", BUG, NEW),
    (f"{METAL}Protection Violation (00000010:{CALLBACK}ProtectionViolation)", BUG, NEW),
    (f"{METAL}Stack Overflow (00000011:{CALLBACK}StackOverflow)", BUG, NEW),
    (f"{METAL}something of a later macOS (000000ff:{CALLBACK}Other)", BUG, NEW),
    ("RuntimeError: [Event::wait] Timed out", TIMEOUT, NEW),
    ("RuntimeError: [metal::Device] Unable to create new command buffer", LIMIT, NEW),
    ("RuntimeError: [metal::Device] Failed to make new command queue.", LIMIT, NEW),
    # the common allocator (mlx allocator.cpp, up to 0.30 and later)
    ("RuntimeError: [malloc_or_wait] Unable to allocate 9000000000 bytes.", OOM, FRESH),
    ("RuntimeError: [malloc] Unable to allocate 9000000000 bytes.", OOM, FRESH),
    # CUDA (mlx backend/cuda/utils.cpp: "{call} failed: {cudaGetErrorString}"; allocator.cpp)
    ("RuntimeError: [malloc_async] Unable to allocate 9000000000 bytes.", OOM, FRESH),
    ("RuntimeError: cudaMallocAsync(&data, size, stream) failed: out of memory", OOM, FRESH),
    ("RuntimeError: cudaMalloc(&data, size) failed: out of memory", OOM, FRESH),
    ("RuntimeError: cudaMallocManaged(&data_, small_pool_size) failed: out of memory", OOM, FRESH),
    ("RuntimeError: cudaMallocManaged failed: out of memory.", OOM, FRESH),
    ("RuntimeError: cudaGraphInstantiate(&exec, graph, nullptr) failed: out of memory", OOM, FRESH),
    ("RuntimeError: cudaGraphLaunch(exec, stream) failed: out of memory", OOM, FRESH),
    ("RuntimeError: cuModuleLoadDataEx(&module, ptx) failed: out of memory", OOM, FRESH),
    ("RuntimeError: CUDA error: out of memory", OOM, FRESH),
    ("RuntimeError: nvrtcCompileProgram(prog) failed: NVRTC_ERROR_OUT_OF_MEMORY", OOM, FRESH),
    ("RuntimeError: cublasLtCreate(&handle) failed: CUBLAS_STATUS_ALLOC_FAILED", OOM, FRESH),
    ("RuntimeError: cublasLtMatmul( handle_, matmul_desc_, alpha_ptr) failed with code: 3.", OOM, FRESH),
    ("RuntimeError: cublasLtMatmul( handle_, matmul_desc_, alpha_ptr) failed with code: 13.", BUG, FRESH),
    ("RuntimeError: CUDNN_BACKEND_OPERATION: cudnnFinalize Failed: CUDNN_STATUS_ALLOC_FAILED", OOM, FRESH),
    ("RuntimeError: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED", OOM, FRESH),
    (
        "RuntimeError: cudaEventSynchronize(event) failed: an illegal memory access was encountered",
        BUG,
        NEW,
    ),
    ("RuntimeError: cudaMallocManaged failed: an illegal memory access was encountered.", BUG, NEW),  # #2821
    ("RuntimeError: cudaStreamSynchronize(stream) failed: unspecified launch failure", BUG, NEW),
    ("RuntimeError: cudaGraphLaunch(exec, s) failed: device-side assert triggered", BUG, NEW),
    ("RuntimeError: cudaGraphLaunch(exec, s) failed: misaligned address", BUG, NEW),
    ("RuntimeError: cudaDeviceSynchronize() failed: the launch timed out and was terminated", TIMEOUT, NEW),
    ("RuntimeError: cudaGraphLaunch(exec, s) failed: uncorrectable ECC error encountered", VICTIM, NEW),
    ("RuntimeError: cudaSetDevice(0) failed: CUDA-capable device(s) is/are busy or unavailable", VICTIM, NEW),
    ("RuntimeError: cudaGetDevice(&device) failed: no CUDA-capable device is detected", BUG, FRESH),
    ("RuntimeError: cudaMemcpyAsync(out, encoder.stream()) failed: invalid argument", BUG, FRESH),
    # the host's libraries and runtimes
    ("OpenBLAS: malloc failed in dgemm", OOM, FRESH),
    ("OpenBLAS error: Memory allocation still failed after 10 retries, giving up.", OOM, FRESH),
    (
        "OpenBLAS : Program is Terminated. Because you tried to allocate too many memory regions.",
        LIMIT,
        NEW,
    ),
    (
        "OpenBLAS blas_thread_init: pthread_create failed for thread 1 of 2: Resource temporarily unavailable",
        OOM,
        FRESH,
    ),
    ("libgomp: Out of memory allocating 4096 bytes", OOM, FRESH),
    ("libgomp: Thread creation failed: Resource temporarily unavailable", OOM, FRESH),
    ("std::bad_alloc", OOM, FRESH),
    ("MemoryError: ", OOM, FRESH),
    ("numpy._core._exceptions._ArrayMemoryError: Unable to allocate 8.00 GiB for an array", OOM, FRESH),
    ("OSError: [Errno 12] Cannot allocate memory", OOM, FRESH),
    (
        "terminate called after throwing an instance of 'std::bad_alloc'\n  what():  std::bad_alloc",
        OOM,
        FRESH,
    ),
    (f"{ABORTED}{METAL}Insufficient Memory (00000008:{CALLBACK}OutOfMemory)", OOM, NEW),
    (f"{ABORTED}{METAL}Caused GPU Timeout Error (00000002:{CALLBACK}Timeout)", TIMEOUT, NEW),
    # plain bugs, memory nowhere
    ("BlockingIOError: [Errno 11] Resource temporarily unavailable", BUG, FRESH),
    ("OverflowError: Python integer 4294967296 out of bounds for int32", BUG, FRESH),
    ("ValueError: [reshape] Cannot reshape array of size 6 into shape (4,2).", BUG, FRESH),
    ("ValueError: [matmul] Last dimension of first input with shape (2,3) must match", BUG, FRESH),
    ("ValueError: cannot create std::vector larger than max_size()", BUG, FRESH),
    ("RuntimeError: [metal::Device] Unable to load kernel sdpa_vector", BUG, FRESH),
    ("RuntimeError: [Event::stream] Cannot access stream on invalid event.", BUG, FRESH),
    ("RuntimeError: std::bad_array_new_length", BUG, FRESH),
    ("IndexError: list index out of range", BUG, FRESH),
    ("RuntimeError: There is no Stream(gpu, 0) in current thread.", BUG, FRESH),
    ("", BUG, FRESH),
]


@pytest.mark.parametrize(("text", "fault", "recovery"), CORPUS, ids=range(len(CORPUS)))
def test_every_text_has_its_fault_and_its_cure(text: str, fault: Fault, recovery: Recovery) -> None:
    """MLX's texts on Metal, CUDA and CPU, memory or not."""
    row = classify_text(text)
    assert (row.fault, row.recovery) == (fault, recovery)


@pytest.mark.parametrize("row", TEXTS, ids=lambda row: row.pattern)
def test_every_row_is_needed(row: Known) -> None:
    """Some text of the corpus is decided by it, and it says who says so."""
    assert any(classify_text(text) is row for text, _, _ in CORPUS)
    assert row.source


@pytest.mark.parametrize("fault", Fault)
def test_a_fault_is_laid_to_the_job_or_to_somebody_else(fault: Fault) -> None:
    """A victim's alone to somebody else."""
    assert (fault.blame is Blame.SOMEBODY_ELSE) == (fault is Fault.VICTIM)


def test_memory_words_elsewhere_in_a_text_decide_nothing() -> None:
    """Sizes and shapes are spoken of in many errors that are not about memory running out."""
    for text in (
        "ValueError: memory limit must be positive",
        "KeyError: 'memory'",
        "AllocationWarning: slow",
    ):
        assert classify_text(text) is OTHER


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
        (-signal.SIGABRT, "", 0, False, Fault.BUG),
        (-signal.SIGBUS, "", 9 * GIB, True, Fault.BUG),
        (-signal.SIGILL, "", 9 * GIB, True, Fault.BUG),
        (-signal.SIGFPE, "", 9 * GIB, True, Fault.BUG),
        (-signal.SIGSYS, "", 9 * GIB, True, Fault.BUG),
        (-signal.SIGTERM, "", 9 * GIB, True, Fault.VICTIM),
        (-signal.SIGINT, "", 9 * GIB, True, Fault.VICTIM),
        (-signal.SIGHUP, "", 0, False, Fault.VICTIM),
        (137, "", 0, True, Fault.OUT_OF_MEMORY),
        (139, "", 9 * GIB, True, Fault.OUT_OF_MEMORY),
        (139, "", GIB, True, Fault.BUG),
        (134, "", 9 * GIB, True, Fault.BUG),
        (143, "", 0, True, Fault.VICTIM),
        (255, "", 9 * GIB, True, Fault.BUG),
        (1, "MemoryError", 0, True, Fault.OUT_OF_MEMORY),
        (1, 'Traceback …\n  File "batch.py", line 9, in step\nMemoryError', 0, True, Fault.OUT_OF_MEMORY),
        (-signal.SIGKILL, "ValueError: it was survived", 0, True, Fault.OUT_OF_MEMORY),
        (1, "KeyError: 'model'", 9 * GIB, True, Fault.BUG),
        (0, "", 9 * GIB, True, Fault.BUG),
    ],
)
def test_a_death_is_told_by_code_words_and_account(
    exit_code: int, words: str, active: int, cpu: bool, fault: Fault
) -> None:
    """On the CPU a failed allocation is a segmentation fault; only the account tells it from a bug."""
    assert classify_death(exit_code, words, active, 10 * GIB, cpu=cpu) is fault


IGNORED = f"{METAL}Ignored (for causing prior errors) (00000004:{CALLBACK}SubmissionsIgnored)"
RAN_OUT = f"{METAL}Insufficient Memory (00000008:{CALLBACK}OutOfMemory)"
TIMED_OUT = f"{METAL}Caused GPU Timeout Error (00000002:{CALLBACK}Timeout)"


@pytest.mark.parametrize(
    ("lines", "fault"),
    [
        ((RAN_OUT, TIMED_OUT), Fault.GPU_TIMEOUT),
        ((TIMED_OUT, RAN_OUT), Fault.OUT_OF_MEMORY),
        ((RAN_OUT, "Fatal Python error: Aborted", "Current thread:"), Fault.OUT_OF_MEMORY),
        ((RAN_OUT, IGNORED, IGNORED), Fault.OUT_OF_MEMORY),
        ((IGNORED, IGNORED), Fault.VICTIM),
    ],
)
def test_the_last_known_line_tells_but_what_follows_from_an_error_does_not(
    lines: tuple[str, ...], fault: Fault
) -> None:
    """Earlier ones were survived; submissions that were ignored were so for what was said before."""
    assert classify_death(-signal.SIGABRT, "\n".join(lines), 0, 10 * GIB, cpu=False) is fault


def test_a_limited_address_space_tells_a_segmentation_fault() -> None:
    """Stacks and arenas fill it before the account does; a GPU's build does not die of that."""
    for cpu, fault in ((True, Fault.OUT_OF_MEMORY), (False, Fault.BUG)):
        assert classify_death(-signal.SIGSEGV, "", 0, 10 * GIB, cpu=cpu, limited=True) is fault
