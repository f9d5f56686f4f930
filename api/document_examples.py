"""Examples in the OpenAPI document, by route: requests as clients send them, and answers to them."""

from __future__ import annotations

from typing import Any, Final

_MODEL: Final = "mlx-community/Qwen3-4B-4bit"
_CHAT: Final = [{"role": "user", "content": "Why is the sky blue?"}]
_JOB: Final = "job_01jd3x0v5f8k2m4n6p8r0s2t4v"

REQUESTS: Final[dict[tuple[str, str], dict[str, dict[str, Any]]]] = {
    ("POST", "/v1/jobs"): {
        "prompt": {"model": _MODEL, "prompt": "Once upon a time", "max_tokens": 100},
        "chat": {
            "model": _MODEL,
            "messages": _CHAT,
            "max_tokens": 400,
            "temperature": 0.7,
            "seed": 7,
            "priority": "interactive",
            "metadata": {"session": "42"},
        },
    },
    ("POST", "/v1/chat/completions"): {
        "waiting": {"model": _MODEL, "messages": _CHAT},
        "streaming": {
            "model": _MODEL,
            "messages": _CHAT,
            "stream": True,
            "stream_options": {"include_usage": True},
        },
    },
    ("POST", "/v1/completions"): {
        "waiting": {"model": _MODEL, "prompt": "Once upon a time", "max_tokens": 100}
    },
    ("POST", "/v1/responses"): {
        "waiting": {"model": _MODEL, "input": "Why is the sky blue?"},
        "background": {"model": _MODEL, "input": "Why is the sky blue?", "background": True},
    },
    ("POST", "/v1/batches"): {
        "batch": {
            "input_file_id": "file-01jd3x0v5f8k2m4n6p8r0s2t4v",
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
        },
    },
}
"""By method and path."""

ANSWERS: Final[dict[tuple[str, str, int], dict[str, Any]]] = {
    ("POST", "/v1/jobs", 202): {
        "id": _JOB,
        "object": "job",
        "status": "queued",
        "model": _MODEL,
        "priority": "standard",
        "created_at": 1764000000.0,
        "started_at": None,
        "completed_at": None,
        "attempt": 0,
        "retry_of": None,
        "progress": None,
        "queue": {"position": 3, "eta_seconds": 12.4},
        "memory": {
            "estimated_bytes": 16777216,
            "reserved_bytes": 0,
            "peak_bytes": None,
            "footprint_ratio": None,
            "budget_bytes": None,
        },
        "metadata": {},
        "result": None,
        "error": None,
        "webhook": None,
    },
    ("GET", "/v1/jobs/{job_id}/result", 200): {
        "id": _JOB,
        "object": "job.result",
        "status": "completed",
        "model": _MODEL,
        "text": "Because short waves are scattered more than long ones.",
        "finish_reason": "stop",
        "usage": {"prompt_tokens": 14, "completion_tokens": 11, "total_tokens": 25},
    },
}
"""By method, path and status."""
