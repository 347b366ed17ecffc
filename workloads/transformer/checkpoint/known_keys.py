"""Keys of a section on quantisation that are read or that change no byte; any other is named in a note."""

from __future__ import annotations

from typing import Final

__all__ = ["KNOWN"]

KNOWN: Final = frozenset((
    "_load_in_4bit", "_load_in_8bit", "act_bits", "act_data_type", "act_dynamic", "act_group_aware",
    "act_group_size", "act_sym", "activation_scale_ub", "activation_scheme", "activations", "algo_config", "amp",
    "autoround_version", "axis", "backend", "batch_size", "bits", "block_name_to_quantize",
    "bnb_4bit_compute_dtype", "bnb_4bit_quant_storage", "bnb_4bit_quant_type", "bnb_4bit_use_double_quant",
    "cache_block_outputs", "checkpoint_format", "compression_config", "config_groups", "custom_mode",
    "damp_percent", "data_type", "dataset", "dequantize", "desc_act", "do_fuse", "dynamic", "enable_minmax_tuning",
    "enable_quanted_input", "exclude", "exclude_modules", "exllama_config", "exllama_version", "export",
    "extra_config", "fmt", "format", "fuse_max_seq_len", "global_compression_ratio", "global_quant_config",
    "gradient_accumulate_steps", "group_size", "ignore", "ignored_layers", "include_input_output_embeddings",
    "is_marlin_format", "iters", "kv_cache_quant_algo", "kv_cache_quant_config", "kv_cache_scheme",
    "layer_quant_config", "layer_type_quant_config", "linear_class", "llm_int8_enable_fp32_cpu_offload",
    "llm_int8_has_fp16_weight", "llm_int8_skip_modules", "llm_int8_threshold", "lm_head", "load_in_4bit",
    "load_in_8bit", "low_gpu_mem_usage", "lr", "max_input_length", "meta", "minmax_lr", "mode",
    "model_file_base_name", "model_name_or_path", "module_name_preceding_first_block",
    "modules_in_block_to_quantize", "modules_to_fuse", "modules_to_not_convert", "moe_quant_algo", "nbits",
    "nsamples", "offload_meta", "pack_dtype", "pack_method", "packing_format", "pad_token_id", "producer",
    "q_group_size", "quant_algo", "quant_config", "quant_method", "quant_mode", "quant_mode_kwargs", "quant_type",
    "quant_type_kwargs", "quantization_mode", "quantization_status", "quantized_layers", "quantizer",
    "rms_norm_eps", "scale_dtype", "scale_fmt", "seqlen", "shared_layers", "skip_modules", "softmax_quant_spec",
    "sparsity_config", "static_groups", "super_bits", "super_group_size", "swap_weights", "sym",
    "to_quant_block_names", "tokenizer", "transform_config", "true_sequential", "untie_embedding_weights",
    "use_cuda_fp16", "use_exllama", "use_rms_norm", "version", "view_as_float", "w_bit", "weight_block_size",
    "weights", "zero_point",
))  # fmt: skip
