"""Sampling with vLLM (extra `vllm`): colocated with the trainer, or on servers of its own. `open_vllm` is in `start`.

Nothing is imported here, since vLLM's own processes load the plugin in this package, and need none of the rest.
"""
