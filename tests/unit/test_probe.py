"""Models whose caches the probe cannot account for."""

from __future__ import annotations

import pytest
from mlx_lm.models import llama4

from scheduler.errors import ModelUnsupported
from workers.caches import cache_groups
from workers.models import LoadedModel

CHUNKED = {
    "attention_bias": False,
    "attention_chunk_size": 32,
    "head_dim": 8,
    "hidden_size": 16,
    "interleave_moe_layer_step": 1,
    "intermediate_size": 16,
    "intermediate_size_mlp": 16,
    "max_position_embeddings": 256,
    "model_type": "llama4_text",
    "num_attention_heads": 2,
    "num_experts_per_tok": 1,
    "num_hidden_layers": 4,
    "num_key_value_heads": 1,
    "num_local_experts": 2,
    "rms_norm_eps": 1e-5,
    "rope_scaling": None,
    "rope_theta": 10_000.0,
    "use_qk_norm": False,
    "vocab_size": 32,
}


def test_a_model_with_chunked_caches_is_refused_by_name() -> None:
    """Llama 4's layers forget by chunks, which mlx-lm cannot do for rows of a batch; its own class says so."""
    model = llama4.Model(llama4.ModelArgs.from_dict({"model_type": "llama4", "text_config": CHUNKED}))
    loaded = LoadedModel("scout", model, None, 256, 32)
    with pytest.raises(ModelUnsupported, match=r"scout .* cannot share a batch: ChunkedKVCache"):
        cache_groups(loaded)
