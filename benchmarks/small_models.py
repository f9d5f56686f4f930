"""The configurations of small models, one for each shape of cache that mlx-lm has."""

from typing import Any

BYTES = 256  # token ids below this are the byte of that value
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>")  # ids from 256 on

COMMON: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10_000.0,
    "attention_bias": False,
    "tie_word_embeddings": False,
}
MIXTURE: dict[str, Any] = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "norm_topk_prob": True,
}
# One small model per shape of cache. Whatever a class does not know, its `from_dict` drops.
SMALL_CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {},
    # A rotating cache of 32 tokens, and a full one.
    "gemma3_text": {"sliding_window": 32, "sliding_window_pattern": 2, "query_pre_attn_scalar": 16},
    "qwen3_moe": MIXTURE,
    # A state of fixed size, and no cache that grows.
    "mamba2": {
        "num_heads": 8,
        "head_dim": 16,
        "intermediate_size": 128,
        "state_size": 16,
        "n_groups": 1,
        "conv_kernel": 4,
        "use_bias": False,
        "use_conv_bias": True,
        "layer_norm_epsilon": 1e-5,
        "time_step_limit": [0.0, 100.0],
        "time_step_rank": "auto",
    },
    # A fixed state in one layer, a growing cache in the other.
    "granitemoehybrid": {
        "layer_types": ["mamba", "attention"],
        "embedding_multiplier": 1.0,
        "attention_multiplier": 0.25,
        "residual_multiplier": 1.0,
        "logits_scaling": 1.0,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "shared_intermediate_size": 32,
        "mamba_n_heads": 8,
        "mamba_d_head": 16,
        "mamba_proj_bias": False,
        "mamba_d_state": 16,
        "mamba_d_conv": 4,
        "mamba_n_groups": 1,
        "mamba_conv_bias": True,
    },
    # Multi-head latent attention: a cache of low rank.
    "deepseek_v3": {
        "num_key_value_heads": 4,
        "moe_intermediate_size": 32,
        "n_routed_experts": 4,
        "n_shared_experts": 1,
        "num_experts_per_tok": 2,
        "first_k_dense_replace": 1,
        "q_lora_rank": 32,
        "kv_lora_rank": 32,
        "qk_rope_head_dim": 16,
        "qk_nope_head_dim": 16,
        "v_head_dim": 16,
    },
    # A rotating cache and a full one, with attention sinks.
    "gpt_oss": {
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "sliding_window": 32,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    # Gated delta nets in three layers of four.
    "qwen3_next": MIXTURE
    | {
        "num_hidden_layers": 4,
        "full_attention_interval": 4,
        "shared_expert_intermediate_size": 32,
        "linear_num_value_heads": 4,
        "linear_num_key_heads": 2,
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 16,
        "linear_conv_kernel_dim": 4,
        "partial_rotary_factor": 0.5,
    },
}
# Those whose jobs run one at a time.
ALONE_CONFIGS: dict[str, dict[str, Any]] = {
    # Three layers that forget all but the last 32 tokens, and one that forgets nothing.
    "llama4": {
        "num_hidden_layers": 4,
        "attention_chunk_size": 32,
        "interleave_moe_layer_step": 2,
        "intermediate_size_mlp": 128,
        "num_experts_per_tok": 1,
        "num_local_experts": 4,
        "rope_scaling": None,
        "use_qk_norm": True,
        "text_config": {},
    },
    # Layers that have keys of their own, then some that use the last one's; the embeddings are the output projection.
    "afm7": {
        "vocab_size": BYTES + len(SPECIAL_TOKENS),
        "hidden_dim": 64,
        "num_layers": 4,
        "num_kv_reuse_layers": 2,
        "num_heads": 4,
        "num_kv_heads": 2,
    },
    # A window, groups of tokens pooled to one, and what waits for its group to close, all in one cache of its own.
    "deepseek_v41": {
        "num_hidden_layers": 4,
        "head_dim": 32,
        "q_lora_rank": 32,
        "qk_rope_head_dim": 16,
        "o_groups": 2,
        "o_lora_rank": 32,
        "moe_intermediate_size": 32,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "sliding_window": 16,
        "compress_ratios": (1, 4, 4, 16),
        "kv_source_layer_ids": (0, 1, 1, 3),
        "index_source_layer_ids": (0, 1, 3),
        "index_n_heads": 2,
        "index_head_dim": 16,
        "index_topk": 8,
        "hc_mult": 2,
    },
}
