"""The recipes of real size, and the model family of each (`support.families`, `support.vision_models`)."""

from __future__ import annotations

MATH_RECIPES = [
    f"{arm}-{model}" for model in ("qwen3-4b", "olmo3-7b") for arm in ("thinktwice", "grpo", "drgrpo", "dapo")
]
RRR_RECIPES = {
    "rrr-qwen2.5-1.5b": ("rrr-countdown-data", "qwen2"),
    "rrr-qwen2.5-3b": ("rrr-countdown-data", "qwen2"),
    "rrr-qwen2.5-7b": ("rrr-countdown-data", "qwen2-7b"),
    "rrr-calls-qwen2-1.5b": ("rrr-calls-data", "qwen2"),
    "rrr-calls-qwen2-7b": ("rrr-calls-data", "qwen2-7b"),
}
FAMILY = {
    **{name: "qwen3" if "qwen3" in name else "olmo3" for name in MATH_RECIPES},
    **{name: family for name, (_, family) in RRR_RECIPES.items()},
    "thinktuning-llama3.2-3b": "llama3",
    "gsr-qwen2.5-7b": "qwen2-7b",
    **dict.fromkeys(("vlrethinker-qwen2.5-vl-7b", "ton-qwen2.5-vl-3b-start", "ton-qwen2.5-vl-3b"), "Qwen2.5-VL"),
}
DATA_RECIPES = {"rrr-countdown-data", "rrr-calls-data", "gsr-qwen2.5-7b-data", "ton-qwen2.5-vl-3b-data"}
PROTOCOL_RECIPES = {"thinktwice-protocol", "thinktwice-cross"}
