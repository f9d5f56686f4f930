"""The only place that generates: MetalWorker, the engine process, and what guards its memory."""

from workers.generation_job import GenerationJob
from workers.metal_worker import MetalWorker

__all__ = ["GenerationJob", "MetalWorker"]
