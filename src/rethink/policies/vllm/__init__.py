"""Sampling with vLLM (extra `vllm`), colocated with the trainer or on separate servers. `open_vllm` is in `start`.

Nothing is imported here: vLLM's processes load the plugin in this package and need nothing else.
"""
